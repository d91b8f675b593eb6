"""Which norm to use at each batch size, by how much, how sure, and at what cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

from normbench.report.compare.comparisons import Comparison, Line, Point
from normbench.report.compare.costs import cost, untimed
from normbench.report.compare.differences import (
    Difference,
    between,
    differences,
    error,
    least,
    typical,
    with_new_images,
)
from normbench.report.compare.statistics import (
    SEEDS_ASKED,
    Estimate,
    seeds_to_tell,
    seeds_to_tell_paired,
)
from normbench.report.read.cells import CellRun

CHANCE = 1.25
"""How many times as good as guessing still is no better, about, with many classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The norm with the lowest mean error at one place.

    Attributes:
        x: where.
        best: the norm.
        error: its test error in %.
        error_new: half its 95 % interval with a new test set; None where not recorded.
        second: the runner-up; None where nothing else was measured.
        ahead: by how much the runner-up's error is higher, in points (95 %).
        ahead_new: half its 95 % interval with a new test set; None where not recorded.
        beaten: the norms whose error is clearly higher, with all differences of the comparison
            taken together; those that are not are ``open``.
        doubt: of the other norms whose error is not clearly higher, with all differences of the
            comparison taken together, the one that takes the most seeds; None where all are.
        seeds: how many each of the two would need (80 % power); None where it cannot be said, or
            where they would be more than 100.
        have: how many the one of these two has that has fewer.
        learned: whether some network there is better than guessing.
        time, memory: of the best over batch norm's; None where not measured or not comparable.
    """

    x: int
    best: Line
    error: Estimate
    error_new: float | None = None
    second: Line | None = None
    ahead: Estimate | None = None
    ahead_new: float | None = None
    beaten: tuple[Line, ...] = ()
    open: tuple[Line, ...] = ()
    doubt: Line | None = None
    seeds: int | None = None
    have: int = 0
    learned: bool = True
    time: float | None = None
    memory: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the error of every other norm that was measured there is clearly higher."""
        return self.learned and self.second is not None and self.doubt is None

    @property
    def more(self) -> str:
        """How many more seeds would tell, in words."""
        if self.have < 2:
            return "one seed, which cannot tell"
        if self.ahead is not None and self.ahead.mean == 0:
            return "the means are equal"
        if self.seeds is None:
            return f"more than {SEEDS_ASKED} seeds would be needed"
        more = max(self.seeds - self.have, 1)
        return f"about {more} more seed{'' if more == 1 else 's'} would tell"


def choices(comparison: Comparison) -> list[Choice]:
    """A choice for every place with a finished seed; norms of which seeds diverged are in none."""
    asked = differences(comparison)
    found = [_choice(comparison, asked, x) for x in comparison.xs]
    return [choice for choice in found if choice is not None]


def _choice(comparison: Comparison, asked: Sequence[Difference], x: int) -> Choice | None:
    ranked = _ranked(comparison, x)
    if not ranked:
        return None
    best, point, value = ranked[0]
    time, memory = _against_batch_norm(comparison, best, x)
    leads = [(other, between(asked, other, best, x)) for other, _, _ in ranked[1:]]
    ahead = leads[0][1] if leads else None
    beaten = tuple(other for other, lead in leads if lead and lead.together.above(0))
    unclear = tuple(other for other, _ in leads if other not in beaten)
    asks = [(other, _needed(asked, other, best, x), _have(other, best, x)) for other in unclear]
    doubt, needed, have = max(asks, key=_more, default=(None, None, 0))
    return Choice(
        x=x,
        best=best,
        error=value,
        error_new=with_new_images(value, point),
        second=leads[0][0] if leads else None,
        ahead=None if ahead is None else ahead.points,
        ahead_new=None if ahead is None else with_new_images(ahead.points, ranked[1][1], point),
        beaten=beaten,
        open=unclear,
        doubt=doubt,
        seeds=needed,
        have=have,
        learned=not all(at_chance(other.cell) for _, other, _ in ranked),
        time=time,
        memory=memory,
    )


def _have(doubt: Line, best: Line, x: int) -> int:
    """How many seeds the one of two lines has that has fewer."""
    points = doubt.at(x), best.at(x)
    return min(0 if point is None else len(point.errors) for point in points)


def _more(ask: tuple[Line, int | None, int]) -> float:
    """How many more seeds would tell; without end where it cannot be said."""
    _, needed, have = ask
    return inf if needed is None else needed - have


def _needed(asked: Sequence[Difference], doubt: Line, best: Line, x: int) -> int | None:
    """Seeds that would tell two norms apart, as one of as many differences as there are."""
    lead = between(asked, doubt, best, x)
    points = doubt.at(x), best.at(x)
    if lead is None or points[0] is None or points[1] is None:
        return None
    first, second = points[0].errors, points[1].errors
    known = least(points[0], points[1])
    if lead.paired:
        return seeds_to_tell_paired(first, second, lead.level, least=known)
    return seeds_to_tell(first.values(), second.values(), lead.level, least=known)


def _ranked(comparison: Comparison, x: int) -> list[tuple[Line, Point, Estimate]]:
    """The lines at a place from the lowest mean error up, without those that lost seeds."""
    found = []
    for line in comparison.lines:
        point = line.at(x)
        if point is not None and point.whole and (value := error(point)) is not None:
            found.append((line, point, value))
    return sorted(found, key=lambda one: one[2].mean)


def _against_batch_norm(
    comparison: Comparison, line: Line, x: int
) -> tuple[float | None, float | None]:
    """Seconds and memory of a line over batch norm's."""
    batch = typical(comparison, "batch")
    here, there = line.at(x), None if batch is None else batch.at(x)
    if here is None or there is None:
        return None, None
    mine, theirs = cost(here.cell), cost(there.cell)
    time = None if untimed(comparison) else mine.over(theirs)
    memory = mine.memory / theirs.memory if mine.memory and theirs.memory else None
    return time, memory


# --- Chance ---------------------------------------------------------------------------------------


def at_chance(cell: CellRun) -> bool:
    """Whether no seed of a cell is better than guessing; False where the classes are not known."""
    tested = [r for r in cell.finished if r.test_accuracy is not None]
    classes = cell.classes
    if classes is None or not tested:
        return False
    return all((r.test_accuracy or 0) <= guessing(classes, r.test_images) for r in tested)


def guessing(classes: int, images: int | None) -> float:
    """The accuracy (0..1) that is no better than guessing on so many test images.

    1 / classes and a quarter of it, or four standard errors of guessing where these are less, as
    with two classes.
    """
    share = 1 / classes
    spread = 4 * sqrt(share * (1 - share) / images) if images else inf
    return share + min((CHANCE - 1) * share, spread)


def all_at_chance(cells: Sequence[CellRun]) -> bool:
    """Whether every cell with a finished seed is at chance."""
    finished = [cell for cell in cells if cell.finished]
    return bool(finished) and all(at_chance(cell) for cell in finished)
