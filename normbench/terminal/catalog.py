"""What the commands print about what there is: the norms and the data sets."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from numpy.typing import NDArray

from normbench.data import DATA, library
from normbench.data.library.fetching import SOURCES
from normbench.data.library.importing import Imported
from normbench.errors import UsageError
from normbench.files import data_folder
from normbench.norms import NORMS, NormConfig
from normbench.registry import as_override
from normbench.terminal.bars import duration
from normbench.terminal.cubes import CubeSpec, cube_figure, cube_text
from normbench.terminal.screen import Screen


def show_norms(screen: Screen, name: str | None, figure: Path | None) -> None:
    """Prints the zoo, or one norm in detail; draws what is averaged where ``figure`` asks for it.

    Raises:
        UsageError: the figure cannot be written.
    """
    if figure is not None:
        chosen = ["batch", "layer", "instance", "group"] if name is None else [name]
        cube_figure({key: _cube(key) for key in chosen}, figure)
    if name is None:
        _show_zoo(screen)
    else:
        _show_norm(screen, NORMS[name]())  # type: ignore[call-arg]
    if figure is not None:
        screen.line(f"picture: {figure}")


def _show_zoo(screen: Screen) -> None:
    screen.table(
        "Normalization layers",
        ("name", "over", "batch", "evaluation", "folds", "paper (arXiv)"),
        [
            (
                key,
                cls.axes,
                "yes" if cls.batch_dependent else "no",
                "running" if cls.evaluation == "running statistics" else "same",
                "yes" if cls.folds else "no",
                cls.cite,
            )
            for key, cls in NORMS.items()
        ],
        droppable=("paper (arXiv)", "folds", "evaluation", "batch", "over"),
    )
    screen.line("over: what one mean runs over")
    screen.line("batch: whether in training an output depends on the rest of its batch")
    screen.line("evaluation: with running statistics, or the same as training")
    screen.line("folds: into the convolution before it, in evaluation")
    screen.line("normbench norms NAME: formula, picture of the averaged axes, defaults, paper")


def _show_norm(screen: Screen, norm: NormConfig) -> None:
    screen.line(norm.title, style="bold")
    screen.line("")
    for line in norm.formula.splitlines():
        screen.line(f"  {line}")
    screen.line("")
    encoding = (screen.console.encoding or "ascii").lower()
    picture = cube_text(
        shared_with_first(norm.name),
        color=screen.console.is_terminal and not screen.console.no_color,
        ascii=not encoding.startswith("utf"),
    )
    for line in picture.splitlines():
        screen.ansi(f"  {line}")
    screen.line("")
    tensors = norm.build(8).state_dict()
    starts = {"weight": 1.0, "bias": 0.0} | norm.starts
    defaults = {f.name: getattr(norm, f.name) for f in fields(norm) if f.name != "name"}
    screen.facts(
        "",
        [
            ("one mean runs over", norm.axes),
            ("output depends on the batch", "in training" if norm.batch_dependent else "no"),
            ("evaluation", norm.evaluation),
            ("folds into a convolution", "in evaluation" if norm.folds else "no"),
            ("takes", _accepted(norm)),
            ("trains on a batch of one", _batch_of_one(norm)),
            ("its tensors", "\n".join(f"{key}, from {starts[key]:g}" for key in tensors) or "none"),
            ("defaults", "\n".join(f"norm.{key}={as_override(v)}" for key, v in defaults.items())),
            ("paper", fill(norm.paper, 48)),
            ("published", "\n".join(_published(norm))),
        ],
    )


SHAPES = {"N×C": (), "N×C×L": (4,), "N×C×H×W": (4, 4), "N×C×D×H×W": (2, 2, 2)}


def _accepted(norm: NormConfig) -> str:
    """The shapes of input that its layer takes in training, found by trying."""
    return ", ".join(name for name, space in SHAPES.items() if _trains(norm, 4, space))


def _batch_of_one(norm: NormConfig) -> str:
    if not _trains(norm, 1, (4, 4)):
        return "no"
    return "yes" if _trains(norm, 1, (1, 1)) else "yes, where there is more than one position"


def _trains(norm: NormConfig, batch: int, space: tuple[int, ...]) -> bool:
    try:
        norm.build(8).train()(torch.ones(batch, 8, *space))
    except UsageError:
        return False
    return True


SMALL = 8
"""What counts as a small batch where published results are looked for."""


def _published(norm: NormConfig) -> list[str]:
    lines = [line for each in norm.published for line in str(each).splitlines()]
    if not any(each.smallest is not None and each.smallest <= SMALL for each in norm.published):
        lines.append(f"no number at a batch of {SMALL} or less has been seen")
    return [fill(line, 48, break_on_hyphens=False) for line in lines]


def _cube(name: str) -> CubeSpec:
    cls = NORMS[name]
    groups = _pictured(name).build(6).num_groups
    axes = cls.axes if groups in (None, 1, 6) else f"{cls.axes}, G = {groups}"
    return CubeSpec(title=cls.title, subtitle=axes, shared=shared_with_first(name))


def _pictured(name: str) -> NormConfig:
    """The norm with the settings of its picture."""
    return NORMS[name](name=name, **NORMS[name].picture)  # type: ignore[arg-type]


def shared_with_first(name: str) -> NDArray[np.bool_]:
    """Which values share a mean with the first one: bool [N, C, H·W], all False without a norm.

    It is read off the norm's definition: the values on which the first output depends.
    """
    norm = _pictured(name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 6, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    act = norm.norm_activation
    state = norm.build(6, act=act).double().state_dict()
    norm.reference(x, state, act=act)[0, 0, 0, 0].backward()
    assert x.grad is not None
    shared: NDArray[np.bool_] = (x.grad != 0).flatten(2).numpy()
    return shared if shared.sum() > 1 else np.zeros_like(shared)


def list_data(screen: Screen) -> None:
    """Prints the sources of images, and the data sets on this machine."""
    entries = library.available()
    if not entries:
        screen.line("No data sets on this machine yet")
    else:
        _show_data_sets(screen, entries)
    missing = SOURCES.keys() - {entry.name for entry in entries}
    rows = [
        (f"data={key}", cls.about + (f"\nnormbench data fetch {key}" if key in missing else ""))
        for key, cls in DATA.items()
    ]
    screen.table("What to train on", ("setting", "images"), rows)


def _show_data_sets(screen: Screen, entries: Sequence[library.Entry]) -> None:
    screen.table(
        f"Data sets in {data_folder()}",
        ("name", "training", "test", "size", "classes", "MB", "from", "sha256"),
        [
            (e.name, "damaged:", e.damage, "", "", f"{e.num_bytes / 1e6:.0f}", "", "")
            if e.damage is not None
            else (
                e.name,
                f"{e.num_train:,}",
                f"{e.num_test:,}",
                "×".join(map(str, e.image_size)),
                str(len(e.classes)),
                f"{e.num_bytes / 1e6:.0f}",
                e.source,
                e.sha256[:8],
            )
            for e in entries
        ],
        droppable=("sha256", "from", "MB", "classes", "size", "test"),
    )


def show_imported(screen: Screen, imported: Imported) -> None:
    """Prints what an import or a download brought, and how to use it."""
    entry = imported.entry
    facts = [
        ("images", f"{entry.num_train:,} training, {entry.num_test:,} test"),
        (
            "classes",
            f"{len(entry.classes)}: {', '.join(entry.classes[:10])}"
            + (", …" if len(entry.classes) > 10 else ""),
        ),
        ("size", "×".join(map(str, entry.image_size))),
        ("sha256", entry.sha256),
        ("file", str(entry.path)),
        ("took", duration(imported.seconds)),
    ]
    if imported.num_resized:
        facts.append(("resized", _resized(imported)))
    if imported.broken:
        facts.append(
            ("broken", "\n".join([f"{len(imported.broken):,} left out:", *imported.broken]))
        )
    if imported.made_test_split:
        facts.append(("test set", "there was none: a sixth of each class, chosen by file name"))
    if imported.left_out:
        facts.append(("left out", ", ".join(imported.left_out)))
    if imported.num_ignored:
        facts.append(("ignored", f"{imported.num_ignored:,} files that are no images"))
    screen.facts(f"{entry.name}: {'was there already' if imported.existed else 'imported'}", facts)
    own = entry.name not in SOURCES
    use = f"data=images data.name={entry.name}" if own else f"data={entry.name}"
    screen.line(f"train on it: normbench run norm=group batch=2 {use}")


def _resized(imported: Imported) -> str:
    size = "×".join(map(str, imported.entry.image_size))
    many = f"{imported.num_resized:,} images"
    if imported.fit == "pad":
        return f"{many}: scaled to fit into {size}, the rest black"
    return f"{many}: scaled, and cropped to the middle {size}; all of each image: --fit pad"


def verify_data(screen: Screen, name: str | None) -> bool:
    """Checks one data set or all against their digests; returns whether all are sound.

    Raises:
        UsageError: there is no set of that name.
    """
    names = [name] if name is not None else [entry.name for entry in library.available()]
    if not names:
        screen.line("no data sets on this machine; normbench data list says how to get some")
    sound = True
    for each in names:
        try:
            entry = library.verify(each)
            screen.line(f"{each}: sound, sha256 {entry.sha256}")
        except UsageError as error:
            if name is not None and not isinstance(error, library.DamagedError):
                raise
            sound = False
            screen.line(str(error))
    return sound
