"""At which other batch size another norm wins: by cells that are there, or the sweep that tells."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from normbench.errors import UsageError
from normbench.launch.advise.book import Finish
from normbench.launch.advise.question import Question, has
from normbench.launch.rates import AUTO, HELD_OUT
from normbench.norms import NORMS
from normbench.report.compare.comparisons import Comparison, Line, compare
from normbench.report.compare.differences import meeting, typical
from normbench.report.compare.recipes import norm_settings
from normbench.report.read.cells import CellRun, collect
from normbench.report.text.wording import place
from normbench.run.cell import Cell


def elsewhere(question: Question, finish: Finish, cell: Cell) -> str:
    """What is said of other batch sizes; "" where no finalist depends on the batch, or all do.

    Args:
        question: of the race.
        finish: how it ended.
        cell: of its last trainings.
    """
    norms = [heat.candidate.norm for heat in finish.finals]
    tied = [norm for norm in norms if NORMS[norm].batch_dependent]
    free = [norm for norm in norms if norm not in tied]
    if not tied or not free:
        return ""
    said = crossing(cell.directory, tied[0], free[0])
    data = replace(cell.config.data, val_fraction=HELD_OUT)  # as the trials of the rates have it
    most, _ = data.num_training(cell.images.num_train)
    return said or sweep(question, norms, cell.config.batch, most, smaller=norms[0] in tied)


def sweep(question: Question, norms: list[str], batch: int, most: int, *, smaller: bool) -> str:
    """The command whose report locates the crossing; "" where there are no such batches.

    A norm that depends on the batch and is ahead can only be overtaken at smaller ones, and one
    that does not at larger ones.

    Args:
        question: of the race.
        norms: the finalists.
        batch: the batch size of the race.
        most: the number of training images: the largest batch.
        smaller: whether smaller batches tell, or larger ones.
    """
    below = [size for size in (batch // 16, batch // 4) if size > 1] or [batch // 2]
    wanted = [*below, batch] if smaller else [batch, 4 * batch, 16 * batch]
    sizes = [size for size in wanted if 2 <= size <= most]
    if len(sizes) < 2:
        return ""
    name = "smaller" if smaller else "larger"
    chosen = ("batch", "name", "data.val_fraction", "seed", "optim.lr")
    asked = {key: text for key, text in question.settings.items() if key not in chosen}
    if "norm_batch" in asked or not all(has(norm, key) for norm in norms for key in asked):
        return ""  # a sweep of these norms would be of others, or of another kind of batch
    settings = list(asked.values())
    words = [f"norm={','.join(norms)}", f"batch={','.join(map(str, sizes))}", *settings]
    command = shlex.join(["normbench", "sweep", *words, AUTO, "seeds=3", f"name={name}"])
    return f"at a {name} batch size another norm may win; this sweep tells: {command}"


def crossing(folder: Path, tied: str, free: str) -> str:
    """Where a norm that depends on the batch and one that does not cross, where cells beside the
    one in ``folder`` locate it: of the same network, images, length and recipe, at several
    batch sizes. "" where they do not."""
    runs = folder.parent.parent
    try:
        every = collect(runs)
    except UsageError:
        return ""
    own = next((c for c in every.cells if runs / c.folder == folder), None)
    if own is None or own.norm_batch != own.batch:
        return ""
    for one in compare(every):
        lines = typical(one, tied), typical(one, free)
        same = _alike(one, own) and all(line is None or _same_norm(line, own) for line in lines)
        if same and (said := _said(one, *lines, runs)):
            return said
    return ""


def _same_norm(line: Line, own: CellRun) -> bool:
    """Whether a line is not of the norm of ``own`` with other settings; momentum was chosen."""
    kept = [
        {key: value for key, value in norm_settings(cell).items() if key != "momentum"}
        for cell in (line.points[0].cell, own)
    ]
    return line.norm != own.norm or kept[0] == kept[1]


def _said(one: Comparison, tied: Line | None, free: Line | None, runs: Path) -> str:
    """Where two lines of a comparison cross, if it is located."""
    if tied is None or free is None or one.axis != "batch":
        return ""
    found = meeting(tied, free)
    if len(found) != 1 or not found[0].located:
        return ""
    if any(point.diverged for line in (tied, free) for point in line.points):
        return ""
    above, below = (free, tied) if found[0].rising else (tied, free)  # the lower error wins
    folder = runs / one.cells[0].folder.rpartition("/")[0]
    return (
        f"{above.named} would win at larger batches, {below.named} at smaller ones: they cross"
        f" {place(found)}, by the cells in {folder}"
    )


def _alike(one: Comparison, own: CellRun) -> bool:
    """Whether a comparison is of the same images, and of the same settings but the rate."""
    return one.sha256 == own.sha256 and _recipe(one.settings) == _recipe(own.settings)


def _recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be equal: not what is compared, chosen, or only where and how it runs."""
    kept = {key: settings.get(key) for key in ("model", "optim", "data", "epochs", "precision")}
    for group, loose in (("optim", ("lr",)), ("data", ("source", "name", "val_fraction"))):
        kept[group] = {k: v for k, v in dict(kept[group] or {}).items() if k not in loose}
    return kept
