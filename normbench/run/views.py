"""What a person reads about a cell: its network, what will run, how it ended."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch

from normbench.config import Config, changes
from normbench.errors import UnreadableError
from normbench.models.foreign import Stem
from normbench.models.inspection import LayerInfo
from normbench.norms import Swap
from normbench.registry import NAMED_BY, as_override
from normbench.run.cell import Cell
from normbench.run.placement import Arrangement, Pace
from normbench.store import curves
from normbench.store.results import METRICS, RESULT, Result, is_done, summarize
from normbench.terminal.bars import duration
from normbench.terminal.screen import Screen
from normbench.terminal.words import count, fixed, plus_minus


def show_layers(screen: Screen, config: Config, preface: str = "") -> None:
    """Prints the network of ``config``, layer by layer, with totals, after ``preface``.

    Raises:
        UsageError: the images are missing, or the norm does not fit; nothing is printed then.
    """
    cell = Cell.of(config)
    images = cell.images
    infos, was = cell.layers(), {swap.name: swap for swap in cell.swaps()}
    for line in preface.splitlines():
        screen.line(line)
    screen.table(
        f"{config.model.title}, {config.norm.name} norm, {images.name}, batch {config.batch}",
        (
            *("layer", "output", "averages over", "G", "C/G", "params", "MFLOPs"),
            *("batch-dependent", *(("was", "carried") if was else ())),
        ),
        [
            *(_layer_row(info) + _swap_row(info, was) for info in infos),
            _total_row(infos) + (("", "") if was else ()),
        ],
        droppable=("MFLOPs", "params", "batch-dependent", "output", "C/G", "G"),
    )
    for note in notes(cell, infos):
        screen.line(f"note: {note}")


def notes(cell: Cell, infos: Sequence[LayerInfo]) -> list[str]:
    """What is to be said of the network's norms, and of the weights it starts from."""
    config = cell.config
    channels = [info.norm.channels for info in infos if info.norm is not None]
    found = [config.norm.note(each) for each in channels]
    found.append(one_position(cell, infos))
    if config.model.weights is not None:
        found.append(cell.start(config.seed).note)
    return [note for note in dict.fromkeys(found) if note is not None]


def one_position(cell: Cell, infos: Sequence[LayerInfo]) -> str | None:
    """What to say where norms see channels of a single position; None where they do not."""
    norms = [info for info in infos if info.norm is not None]
    small = [info for info in norms if tuple(info.input_shape[2:]) == (1, 1)]
    if not small:
        return None
    height, width = cell.images.image_size
    stem = getattr(cell.config.model, "stem", None) is Stem.original
    return (
        f"{len(small)} of {len(norms)} norms, from {small[0].name} on, see one value a channel and"
        f" image: the network shrinks {height}×{width} pixels to one, and may learn badly; try"
        f"{' model.stem=cifar or' if stem else ''} larger images"
    )


def _layer_row(info: LayerInfo) -> tuple[str, ...]:
    shape = "×".join(map(str, info.shape))
    counts = (f"{info.parameters:,}", f"{info.flops / 1e6:.2f}" if info.flops else "")
    if info.norm is None:
        return (info.name + info.suffix, shape, "", "", "", *counts, "")
    groups = info.norm.num_groups
    return (
        info.name + info.suffix,
        shape,
        info.norm.axes,
        "" if groups is None else str(groups),
        "" if groups is None else str(info.norm.channels // groups),
        *counts,
        "yes" if info.norm.batch_dependent else "no",
    )


def _swap_row(info: LayerInfo, was: Mapping[str, Swap]) -> tuple[str, ...]:
    """What a layer was before the norms were swapped, and what it took over."""
    if not was:
        return ()
    swap = was.get(info.name)
    return ("", "") if swap is None else (swap.old.partition("(")[0], swap.carried_signs or "-")


def _total_row(infos: list[LayerInfo]) -> tuple[str, ...]:
    parameters = sum(info.parameters for info in infos)
    flops = sum(info.flops for info in infos)
    norms = [info.norm for info in infos if info.norm is not None]
    dependent = "yes" if any(norm.batch_dependent for norm in norms) else "no"
    return ("total", "", "", "", "", f"{parameters:,}", f"{flops / 1e6:.2f}", dependent)


def show_header(
    screen: Screen,
    cell: Cell,
    device: torch.device,
    *,
    there: int,
    brief: bool = False,
) -> None:
    """Prints what will run, on which images, where, and where its records go.

    ``there`` is how many of the seeds have been trained already; ``brief`` says it in one line.
    """
    config, images = cell.config, cell.images
    title = f"{config.norm.title}, batch {config.batch}, {config.model.title}"
    if brief:
        own = "".join(f", {each}" for each in _own(config))
        seeds = "seed" if config.seeds == 1 else "seeds"
        said = f"{title}{own}, {seeds} {_seeds(config.all_seeds, there)}"
        screen.line(f"{said}: {cell.directory}", "bold")
        return
    num_train, held_out = config.data.num_training(images.num_train)
    tested = min(images.num_test, config.data.test_limit or images.num_test)
    where = f"{config.precision.value} on {device}"
    if device.type == "cpu":
        where += f", {count(torch.get_num_threads(), 'thread')}"
    data = (
        f"{images.name}: {num_train:,} training{f', {held_out:,} held-out' if held_out else ''}"
        f" and {tested:,} test images, {len(images.classes)} classes"
    )
    if config.data.source == "auto" and images.name == "synthetic":
        data += "\n(built in; for CIFAR-10: normbench data fetch cifar10, or"
        data += " normbench data import PATH --name cifar10)"
    screen.facts(
        title,
        [
            ("data", data),
            ("steps", f"{count(config.epochs, 'epoch')} of {num_train // config.batch:,}"),
            ("rate", f"{config.optim.peak(config.batch):.4g} at its peak"),
            ("seeds", _seeds(config.all_seeds, there)),
            ("where", where),
            ("files", str(cell.directory)),
        ],
    )


def _own(config: Config) -> list[str]:
    """The settings of its norm and its optimizer that are not the usual ones."""
    return [
        f"{group}.{key}={as_override(value)}"
        for group in ("norm", "optim")
        for key, value in changes(getattr(config, group), NAMED_BY[group]).items()
    ]


def _seeds(seeds: list[int], there: int) -> str:
    said = ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]} to {seeds[-1]}"
    return said + (
        f"; {there} trained already (normbench run --fresh trains again)" if there else ""
    )


def show_pace(
    screen: Screen, pace: Pace, steps: int, times: Mapping[Arrangement, float] | None = None
) -> None:
    """Prints how the seeds share the machine, and how long ``steps`` steps of one seed take so.

    ``times`` are those of all arrangements that were timed.
    """
    said = f"  {_arranged(pace.arrangement)}: {1e3 * pace.step:.2f} ms a seed and step"
    if times and pace.arrangement != Arrangement():
        said += f", one after another {1e3 * times[Arrangement()]:.2f} ms"
    screen.line(f"{said}; about {duration(pace.step * steps)} of training", style="dim")


def _arranged(arrangement: Arrangement) -> str:
    if arrangement.lanes == arrangement.size == 1:
        return f"one seed after another, {count(arrangement.threads, 'thread')}"
    stacks = f"stacks of {arrangement.size}" if arrangement.size > 1 else "single seeds"
    return f"{stacks}, {arrangement.lanes} at a time" if arrangement.lanes > 1 else stacks


def check_curves(screen: Screen, directory: Path, *, rebuild: bool) -> None:
    """Compares the event files of all finished seeds below ``directory`` with their metrics.

    Those that differ, for example because a disk was full, are named, or made anew. A seed that
    has failed is left alone: it may be training again.
    """
    found = sorted(path.parent for path in directory.rglob(RESULT) if is_done(path.parent))
    folders = [folder for folder in found if curves.can_be_shown(folder)]
    if len(folders) < len(found):
        screen.line(
            f"{directory}: {count(len(found) - len(folders), 'seed')} without {curves.HPARAMS}, as"
            " in records that were kept without curves for TensorBoard: not shown"
        )
    bad: list[Path] = []
    with screen.working("checking the curves") as bar:
        for done, folder in enumerate(folders):
            bar.update("checking the curves", done, len(folders))
            try:
                if curves.is_sound(folder):
                    continue
                if rebuild:
                    curves.rebuild(folder)
                else:
                    bad.append(folder)
            except (OSError, UnreadableError) as error:
                screen.line(f"{folder}: the curves cannot be read: {error}")
    for folder in bad:
        screen.line(f"{folder}: TensorBoard's file does not say what {METRICS} says")
    if bad:
        command = shlex.join(["normbench", "tensorboard", "--rebuild", str(directory)])
        screen.line(f"{command} makes them anew")


def show_results(
    screen: Screen, cell: Cell, ended: Sequence[Result], seconds: Mapping[str, float]
) -> None:
    """Prints a line a seed of ``ended``, their mean, what the time went to, and where it all is."""
    config = cell.config
    rows = [
        (
            f"seed {r.seed}",
            r.said,
            "-" if r.test_accuracy is None else fixed(100 * (1 - r.test_accuracy), 2),
            "-" if r.test_loss is None else f"{r.test_loss:.4f}",
            "-" if r.train_loss is None else f"{r.train_loss:.4f}",
            f"{r.images_per_second:,.0f}",
            duration(r.seconds),
        )
        for r in ended
    ]
    summary = summarize(ended)
    screen.table(
        f"{config.norm.name}, batch {config.batch}, {config.model.title} on {cell.images.name}",
        ("", "status", "error %", "test loss", "train loss", "images/s", "time"),
        rows,
        droppable=("train loss", "images/s", "test loss", "time"),
    )
    if summary["test_accuracy_ci95"] is not None:
        mean, (low, high) = summary["test_accuracy_mean"], summary["test_accuracy_ci95"]
        screen.line(
            f"test error {plus_minus(100 * (1 - mean), 50 * (high - low))} %: the mean and its 95 %"
            " interval over seeds"
        )
    elif (mean := summary["test_accuracy_mean"]) is not None:
        which = "one seed" if len(ended) == 1 else f"the only one of {len(ended)} that finished"
        screen.line(
            f"test error {plus_minus(100 * (1 - mean), None)} %, of {which}, so without an interval"
        )
    if before := [r.test_accuracy_before for r in ended if r.test_accuracy_before is not None]:
        swapped = [r.test_accuracy_swapped for r in ended if r.test_accuracy_swapped is not None]
        screen.line(
            f"accuracy of the weights it started from: {fmean(before):.2%} before the norms were"
            f" swapped, {fmean(swapped):.2%} at once after it"
        )
    if seconds:
        parts = (f"{part} {duration(value)}" for part, value in seconds.items() if value >= 0.05)
        screen.line(f"time: {duration(sum(seconds.values()))} ({', '.join(parts)})")
    screen.line(f"files: {cell.directory}")
    arguments = "" if config.runs == "runs" else f" {shlex.quote(config.runs)}"
    screen.line(f"curves: normbench tensorboard{arguments}")
