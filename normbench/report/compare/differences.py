"""What a comparison says in numbers: differences, crossings, and what is lost to what."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from normbench.report.compare.comparisons import Comparison, Line, Point
from normbench.report.compare.crossing import Crossing, crossings
from normbench.report.compare.recipes import norm_settings
from normbench.report.compare.statistics import (
    LEVEL,
    Estimate,
    combine,
    correlation,
    estimate,
    holm,
    of_rounding,
    paired,
    quantile,
    welch,
)
from normbench.report.read.cells import CellRun
from normbench.report.read.defaults import defaults


def error(point: Point) -> Estimate | None:
    """The test error in %, over the seeds that finished; None where none has."""
    return estimate(point.errors.values(), least=least(point))


def least(*points: Point) -> float:
    """The variance that errors have at least: a few test images make few different errors."""
    images = [r.test_images for point in points for r in point.cell.finished if r.test_images]
    return of_rounding(min(images, default=None))


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher the test error of one line is than that of another, or elsewhere.

    Attributes:
        first, second: the lines; of a change along a line, both are it.
        x: where, in ``first``.
        other: where, in ``second``: the same place, but for a change along a line.
        points: percentage points (Welch; seed by seed where both hold the same weights).
        level: of the interval that has to exclude 0 among all that is asked together (Holm).
    """

    first: Line
    second: Line
    x: int
    other: int
    points: Estimate
    level: float

    @property
    def paired(self) -> bool:
        """Whether both hold the same weights."""
        a, b = self.first.at(self.x), self.second.at(self.other)
        return a is not None and b is not None and same_weights(a.cell, b.cell)

    @property
    def correlation(self) -> float | None:
        """Pearson's r of the errors over seeds; None with fewer than three."""
        a, b = self.first.at(self.x), self.second.at(self.other)
        return None if a is None or b is None else correlation(a.errors, b.errors)

    @property
    def together(self) -> Estimate:
        """The same with the interval that decides."""
        return self.points.at(self.level)

    @property
    def clear(self) -> bool:
        """Whether it is clear of 0 with all that is asked together."""
        return self.together.clear


def differences(comparison: Comparison) -> list[Difference]:
    """Every two lines at every place where both have finished seeds and none that diverged.

    All of them are one family: whatever a report says of two norms at one place, it says from here.
    """
    return _together(
        (a, b, x, x, _difference(a, b, x))
        for a, b in combinations(comparison.lines, 2)
        for x in (comparison.xs[:1] if a.level and b.level else comparison.xs)
    )


def _difference(first: Line, second: Line, x: int) -> Estimate | None:
    a, b = first.at(x), second.at(x)
    if not (a and b and a.whole and b.whole):
        return None
    compared = paired if same_weights(a.cell, b.cell) else welch
    return compared(a.errors, b.errors, least=least(a, b))


def same_weights(first: CellRun, second: CellRun) -> bool:
    """Whether two cells of one norm have the same seeds, which ended with the same weights.

    So it is where a setting changes nothing in training, such as the momentum of batch norm's
    running averages: then losses are equal to the last bit, and so is what the same re-estimated
    statistics give. One seed is too few to tell. With seeds that one of them lacks, the mean of the
    pairs would be another than the difference of the means.
    """
    ends = _ends(first)
    return (
        first.folder != second.folder
        and first.norm == second.norm
        and len(ends) > 1
        and first.errors.keys() == second.errors.keys() == ends.keys()
        and ends == _ends(second)
    )


def _ends(cell: CellRun) -> dict[int, tuple[int, float | None, float]]:
    """What tells a seed's weights from others; only of those that re-estimated statistics say."""
    return {
        result.seed: (result.steps, result.train_loss, result.test_accuracy_reestimated)
        for result in cell.finished
        if result.test_accuracy_reestimated is not None
    }


def _together(values: Iterable[tuple[Line, Line, int, int, Estimate | None]]) -> list[Difference]:
    known = [(a, b, x, y, value) for a, b, x, y, value in values if value is not None]
    levels = holm([value for *_, value in known])
    return [Difference(*one, level) for one, level in zip(known, levels, strict=True)]


def between(found: Iterable[Difference], first: Line, second: Line, x: int) -> Difference | None:
    """The difference of two lines at a place, as ``first`` less ``second``; None where there is
    none."""
    for one in found:
        level = one.first.level and one.second.level
        if {one.first.label, one.second.label} == {first.label, second.label} and (
            level or one.x == x
        ):
            ours = one.first.label == first.label
            return replace(one, first=first, second=second, x=x, other=x,
                           points=one.points if ours else -one.points)  # fmt: skip
    return None


def changes(comparison: Comparison) -> list[Difference]:
    """Every line's error at each place less that at every smaller one, as one family.

    Any place might have been the best. Places where seeds diverged are in none.
    """
    return _together(
        (line, line, large.x, small.x, change(line, large.x, small.x))
        for line in comparison.lines
        for small, large in combinations([] if line.level else line.whole, 2)
    )


def changed(found: Iterable[Difference], line: Line, x: int, other: int) -> Difference | None:
    """A line's error at ``x`` less that at ``other``; None where there is none."""
    for one in found:
        if one.first.label == line.label and {one.x, one.other} == {x, other}:
            ours = one.points if one.x == x else -one.points
            return replace(one, x=x, other=other, points=ours)
    return None


def change(line: Line, x: int, reference: int) -> Estimate | None:
    """How much higher a line's test error is at ``x`` than at ``reference``."""
    here, there = line.at(x), line.at(reference)
    if here is None or there is None:
        return None
    return welch(here.errors, there.errors, least=least(here, there))


def meeting(first: Line, second: Line) -> list[Crossing]:
    """Where two lines cross; empty where they do not, or have fewer than two places in common."""
    if first.level and second.level:
        return []
    return crossings(first.errors, second.errors)


REFERENCE = 32
"""The place that others are held against where it was measured, as in the papers. The largest would
be another matter: at equal epochs it takes the fewest steps, and loses by that alone."""


def reference(points: Sequence[Point]) -> Point:
    """The point that the others of a line are held against: at 32, else the largest."""
    return next((p for p in points[1:] if p.x == REFERENCE), points[-1])


def typical(comparison: Comparison, norm: str) -> Line | None:
    """The line that stands for a norm: its only one, or the one with the default settings."""
    lines = [line for line in comparison.lines if line.norm == norm]
    if len(lines) > 1:
        usual = defaults("norm", norm)
        lines = [line for line in lines if _has(line, usual)]
    return lines[0] if len(lines) == 1 else None


def _has(line: Line, usual: Mapping[str, Any]) -> bool:
    values = norm_settings(line.points[0].cell)
    return bool(values) and all(usual.get(key) == value for key, value in values.items())


def rivals(comparison: Comparison) -> tuple[Line, Line] | None:
    """The two lines that a report is about: batch norm's, and group norm's or else the first
    measured one; None where either has no line that stands for it."""
    first = typical(comparison, "batch")
    others = [line for line in comparison.lines if line.norm != "batch" and line.measured]
    second = typical(comparison, "group") or next(iter(others), None)
    return None if first is None or second is None else (first, second)


# --- What is lost to what -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts:
    """What a norm with running averages loses to what, in percentage points of test accuracy.

    Attributes:
        line: the norm.
        x: where.
        running, reestimated, batch: test error in % of the same weights with running averages,
            with re-estimated statistics, and with those of test batches of the training size.
        reference: whether this is the place that the others are held against.
        gap: what the running averages cost here: reestimated minus running accuracy of the same
            weights, so paired.
        correlation: of the paired accuracies over seeds; None with fewer than three.
        lost: against the reference, in total (Welch); None there.
        averages: of it, lost to the running averages: ``gap`` less the reference's.
        rest: of it, lost even with statistics that fit: the reference's reestimated accuracy minus
            this one's. ``averages`` and ``rest`` add up to ``lost``.
    """

    line: Line
    x: int
    running: Estimate
    reestimated: Estimate
    batch: Estimate | None
    reference: bool
    gap: Estimate
    correlation: float | None
    lost: Estimate | None
    averages: Estimate | None
    rest: Estimate | None


def decomposition(comparison: Comparison) -> list[Parts]:
    """A row for each batch-dependent cell whose seeds were also evaluated with other statistics.

    Cells of which seeds diverged have none, and are no reference.
    """
    rows = []
    for line in comparison.lines:
        if line.batch_dependent:
            points = [p for p in line.whole if _accuracies(p.cell, "test_accuracy_reestimated")]
            rows += [_parts(line, point, reference(points)) for point in points]
    return rows


def reestimated(point: Point) -> dict[int, float]:
    """Test error in % by seed with re-estimated statistics; empty where not recorded."""
    found = _accuracies(point.cell, "test_accuracy_reestimated")
    return {seed: 100 - value for seed, value in found.items()}


def _accuracies(cell: CellRun, key: str) -> dict[int, float]:
    """Test accuracies in % by seed, with one kind of statistics."""
    values = {result.seed: getattr(result, key) for result in cell.finished}
    return {seed: round(100 * value, 8) for seed, value in values.items() if value is not None}


def _parts(line: Line, point: Point, against: Point) -> Parts:
    anew, running = _both(point)
    best_anew, best = _both(against)
    known = least(point, against)
    wrong, wrong_anew = _error(running, known), _error(anew, known)
    gap = paired(anew, running, least=known)
    assert wrong is not None
    assert wrong_anew is not None
    assert gap is not None
    same = point.x == against.x
    gaps = [anew[seed] - running[seed] for seed in anew]
    best_gaps = [best_anew[seed] - best[seed] for seed in best_anew]
    return Parts(
        line=line,
        x=point.x,
        running=wrong,
        reestimated=wrong_anew,
        batch=_error(_accuracies(point.cell, "test_accuracy_batch"), known),
        reference=same,
        gap=gap,
        correlation=correlation(anew, running),
        lost=None if same else welch(best, running, least=known),
        averages=None if same else combine([(1, gaps), (-1, best_gaps)], least=known),
        rest=None if same else welch(best_anew, anew, least=known),
    )


def _both(point: Point) -> tuple[dict[int, float], dict[int, float]]:
    """Accuracies with re-estimated and with running statistics, of the seeds that have both."""
    anew = _accuracies(point.cell, "test_accuracy_reestimated")
    running = _accuracies(point.cell, "test_accuracy")
    return anew, {seed: running[seed] for seed in anew}


def _error(accuracies: Mapping[int, float], known: float) -> Estimate | None:
    return estimate((100 - value for value in accuracies.values()), least=known)


# --- What a new test set would add ----------------------------------------------------------------


def with_new_images(value: Estimate | None, *points: Point) -> float | None:
    """Half the 95 % interval of an error, or of the difference of two, for a new test set as well.

    The seeds' variance plus that of the mean over test images, from each image's outcomes: between
    two cells, much of what makes images hard cancels. None where outcomes are not recorded.
    """
    shares = [_wrong(point.cell) for point in points]
    known = [share for share in shares if share is not None]
    if value is None or value.half is None or len(known) < len(shares) or not known:
        return None
    if len({len(share) for share in known}) > 1 or len(known[0]) < 2:
        return None
    images = known[0] - known[1] if len(known) == 2 else known[0]
    error = 100 * float(np.std(images, ddof=1)) / sqrt(len(images))
    return float(np.hypot(value.half, quantile((1 + LEVEL) / 2, len(images) - 1) * error))


def _wrong(cell: CellRun) -> "npt.NDArray[np.float64] | None":
    """For each test image, the share of finished seeds that misclassify it."""
    outcomes = [run.outcomes for run in cell.seeds if run.result in cell.finished]
    known = [outcome for outcome in outcomes if outcome is not None]
    if not known or len(known) < len(outcomes) or len({len(one) for one in known}) > 1:
        return None
    return np.asarray(1 - np.mean(known, axis=0))
