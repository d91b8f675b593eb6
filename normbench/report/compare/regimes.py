"""What "batch size" means in cells of one recipe, and where each stands on the axis then.

Three regimes are often confused: the optimizer steps on the batch that the norm sees; it steps on
the images of several devices, each with statistics of its own (as in Wu & He 2018); or its batch
stays and only the norm's varies. Beside them stand experiments over the groups of group norm.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from normbench.report.read.cells import CellRun

SIGNS = {"groups": "G", "channels_per_group": "C/G"}
"""Axes that are settings of group norm, with their signs."""


@dataclass(frozen=True, slots=True)
class Regime:
    """Some cells of one recipe that belong in one picture.

    Attributes:
        name: what "batch size" means, in words.
        axis: what varies: ``batch``, ``norm_batch``, ``groups`` or ``channels_per_group``.
        places: each cell's place on the axis; None: at every place, as it means nothing to it.
    """

    name: str
    axis: str
    places: tuple[tuple[CellRun, int | None], ...]


def is_batch_dependent(norm: str, cells: Iterable[CellRun]) -> bool:
    """Whether a norm looks at the batch; one not known here, if its ``cells`` measured it."""
    from normbench.norms import NORMS  # brings torch

    if norm in NORMS:
        return NORMS[norm].batch_dependent
    results = [result for cell in cells for result in cell.finished]
    return any(result.test_accuracy_reestimated is not None for result in results)


def regimes(cells: Sequence[CellRun]) -> list[Regime]:
    """The pictures that cells of one recipe make.

    Norms that look at one image at a time stand in each regime that has their batch.
    """
    dependent = {n: is_batch_dependent(n, cells) for n in {cell.norm for cell in cells}}
    tied = [cell for cell in cells if dependent[cell.norm]]
    free = [cell for cell in cells if not dependent[cell.norm]]
    sizes = defaultdict(set)
    for cell in tied:
        sizes[cell.batch].add(cell.norm_batch)
    isolated = [batch for batch in sorted(sizes) if len(sizes[batch]) > 1]
    loose = [c for c in tied if c.norm_batch != c.batch and c.batch not in isolated]
    found = [_isolated(batch, tied, free) for batch in isolated]
    for ratio in sorted({cell.batch // cell.norm_batch for cell in loose}):
        found.append(_devices(ratio, tied, free))
    naive = [cell for cell in tied if cell.norm_batch == cell.batch]
    used = {cell.folder for regime in found for cell, _ in regime.places}
    alone = {cell.folder for cell in naive} - used
    if alone or any(cell.folder not in used for cell in free):
        found = [*_naive([*naive, *free]), *found]
    return found


def _naive(cells: Sequence[CellRun]) -> list[Regime]:
    name = "every norm sees the whole batch, and the optimizer steps on it"
    norms = {cell.norm for cell in cells}
    whole = [Regime(name, "batch", tuple((cell, cell.batch) for cell in cells))]
    if len({cell.batch for cell in cells}) > 1:
        return whole
    swept = [axis for axis in SIGNS if any(len(_values(cells, norm, axis)) > 1 for norm in norms)]
    fixed = f"batch {cells[0].batch}; {name}"
    along = [
        Regime(fixed, axis, tuple((c, axis_setting(c, axis)) for c in _of_axis(cells, axis)))
        for axis in swept
    ]
    # Which norm is better is another question than which number of groups.
    return along if along and len(norms) == 1 else [*whole, *along]


def axis_setting(cell: CellRun, axis: str) -> int | None:
    """The norm's setting called ``axis``, where it is a whole number."""
    value = cell.settings.get("norm", {}).get(axis)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _values(cells: Sequence[CellRun], norm: str, axis: str) -> set[int]:
    own = [cell for cell in cells if cell.norm == norm]
    return {value for cell in own if (value := axis_setting(cell, axis)) is not None}


def _of_axis(cells: Sequence[CellRun], axis: str) -> list[CellRun]:
    """Without the cells that belong on the other axis of groups."""
    others = [other for other in SIGNS if other != axis]
    return [
        cell
        for cell in cells
        if axis_setting(cell, axis) is not None
        or all(axis_setting(cell, other) is None for other in others)
    ]


def _isolated(batch: int, tied: Sequence[CellRun], free: Sequence[CellRun]) -> Regime:
    name = f"the optimizer's batch stays {batch}, only the norm's varies (ghost batches)"
    places = [(c, c.norm_batch) for c in tied if c.batch == batch]
    return Regime(name, "norm_batch", (*places, *((c, None) for c in free if c.batch == batch)))


def _devices(ratio: int, tied: Sequence[CellRun], free: Sequence[CellRun]) -> Regime:
    name = f"the optimizer's batch is {ratio} times the norm's, as on {ratio} devices"
    places = [(c, c.norm_batch) for c in tied if c.batch == ratio * c.norm_batch]
    known = {x for _, x in places}
    also = [(c, c.batch // ratio) for c in free if c.batch % ratio == 0]
    return Regime(name, "norm_batch", (*places, *((c, x) for c, x in also if x in known)))
