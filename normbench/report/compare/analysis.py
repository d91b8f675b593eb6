"""What a comparison says in numbers: differences, crossings, what is lost to what, costs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median
from typing import Any

from normbench.report.compare.comparisons import Comparison, Line, Point, norm_settings
from normbench.report.compare.statistics import (
    Crossing,
    Estimate,
    Scatter,
    crossings,
    estimate,
    paired,
    scatter,
)
from normbench.report.read.cells import CellRun
from normbench.report.read.defaults import defaults
from normbench.store.results import FAILED


def error(point: Point) -> Estimate | None:
    """The test error in %, over the seeds that finished; None where none has."""
    return estimate([value for _, value in sorted(point.errors.items())])


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher the test error of ``first`` is than that of ``second`` at ``x``.

    Attributes:
        first, second: the lines.
        x: where.
        points: percentage points, paired by seed; None where no seed finished in both.
    """

    first: Line
    second: Line
    x: int
    points: Estimate | None


def difference(first: Line, second: Line, x: int) -> Difference:
    """The paired difference of two lines at one place."""
    a, b = first.at(x), second.at(x)
    return Difference(first, second, x, paired(a.errors, b.errors) if a and b else None)


def pairs(comparison: Comparison) -> list[tuple[Line, Line]]:
    """Every two lines, batch-dependent norms first."""
    return list(combinations(comparison.lines, 2))


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where two lines cross, if they do.

    Attributes:
        first, second: the lines.
        xs: the places at which both were measured with common seeds, in order; two at least.
        crossings: from left to right.
        above: at each of ``xs``, whether ``first`` has the higher mean error.
    """

    first: Line
    second: Line
    xs: tuple[float, ...]
    crossings: tuple[Crossing, ...]
    above: tuple[bool, ...]


def meeting(first: Line, second: Line) -> Meeting | None:
    """Looks for crossings of two lines; None with fewer than two common places."""
    a, b = first.errors, second.errors
    xs = tuple(sorted(x for x in a.keys() & b.keys() if a[x].keys() & b[x].keys()))
    if len(xs) < 2 or (first.level and second.level):
        return None
    here = [paired(a[x], b[x]) for x in xs]
    above = tuple(value is not None and value.mean >= 0 for value in here)
    return Meeting(first, second, xs, tuple(crossings(a, b)), above)


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
    return all(usual.get(key) == value for key, value in values.items())


def rivals(comparison: Comparison) -> tuple[Line, Line] | None:
    """The two lines that a report is about: batch norm's, and group norm's or else the first
    measured one; None where either has no line that stands for it."""
    first = typical(comparison, "batch")
    others = [line for line in comparison.lines if line.norm != "batch" and line.measured]
    second = typical(comparison, "group") or next(iter(others), None)
    return None if first is None or second is None else (first, second)


def spread(comparison: Comparison) -> Scatter | None:
    """How the seeds' test errors scatter within the cells of a comparison, in points."""
    cells = {p.cell.folder: p.errors for line in comparison.lines for p in line.measured}
    return scatter(list(cells.values()))


def change(line: Line, x: int, reference: int) -> Estimate | None:
    """How much higher a line's test error is at ``x`` than at ``reference``, paired by seed."""
    here, there = line.at(x), line.at(reference)
    return paired(here.errors, there.errors) if here and there else None


_FEWEST_EPOCHS = 4
"""With fewer, a difference has no course worth a table."""


@dataclass(frozen=True, slots=True)
class Lead:
    """How the difference of two norms goes with the training, at one place.

    Attributes:
        first, second: the lines.
        x: where.
        points: by epoch, how many percentage points the error of ``first`` is higher, paired by
            seed; at the ends of epochs that all seeds of both have reached.
    """

    first: Line
    second: Line
    x: int
    points: Mapping[float, Estimate]


def leads(first: Line, second: Line) -> list[Lead]:
    """At each place where both have curves and no seed diverged, and which are long enough."""
    found = []
    for point in () if first.level and second.level else first.points:
        other = second.at(point.x)
        if other is None or point.diverged or other.diverged:
            continue
        here, there = _by_epoch(point.cell), _by_epoch(other.cell)
        differences = [(e, paired(here[e], there[e])) for e in sorted(here.keys() & there.keys())]
        most = max((value.n for _, value in differences if value is not None), default=0)
        points = {e: value for e, value in differences if value is not None and value.n == most}
        if len(points) >= _FEWEST_EPOCHS:
            found.append(Lead(first, second, point.x, points))
    return found


def _by_epoch(cell: CellRun) -> dict[float, dict[int, float]]:
    """Errors in % by epoch and seed, as the curves have them."""
    errors: dict[float, dict[int, float]] = {}
    for run in cell.seeds:
        for moment in () if run.state == FAILED else run.curve:
            if moment.eval_accuracy is not None:
                at = errors.setdefault(round(moment.epoch, 6), {})
                at[run.seed] = 100 * (1 - moment.eval_accuracy)
    return errors


@dataclass(frozen=True, slots=True)
class Split:
    """What a norm with running averages loses to what, in percentage points of test accuracy.

    Attributes:
        line: the norm.
        x: where.
        running, reestimated, batch: test error in % of the same weights with running averages,
            with statistics estimated anew, and with those of test batches of the training size.
        reference: whether this is the place that the others are held against.
        gap: what the running averages cost here: reestimated minus running accuracy.
        lost: against the reference, in total; None there, and where no seed is common.
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
    lost: Estimate | None
    averages: Estimate | None
    rest: Estimate | None


def decomposition(comparison: Comparison) -> list[Split]:
    """A row for each batch-dependent cell whose seeds were also evaluated with other statistics."""
    rows = []
    for line in comparison.lines:
        if not line.batch_dependent:
            continue
        points = [p for p in line.measured if _accuracies(p.cell, "test_accuracy_reestimated")]
        rows += [_split(line, point, reference(points)) for point in points]
    return rows


def _accuracies(cell: CellRun, key: str) -> dict[int, float]:
    """Test accuracies in % by seed, with one kind of statistics."""
    values = {result.seed: getattr(result, key) for result in cell.finished}
    return {seed: round(100 * value, 8) for seed, value in values.items() if value is not None}


def _split(line: Line, point: Point, against: Point) -> Split:
    anew = _accuracies(point.cell, "test_accuracy_reestimated")
    running = _among(_accuracies(point.cell, "test_accuracy"), anew)
    best_anew = _accuracies(against.cell, "test_accuracy_reestimated")
    best = _among(_accuracies(against.cell, "test_accuracy"), best_anew)
    gaps = {seed: anew[seed] - running[seed] for seed in anew}
    best_gaps = {seed: best_anew[seed] - best[seed] for seed in best_anew}
    wrong, wrong_anew, gap = _error(running), _error(anew), estimate(list(gaps.values()))
    assert wrong is not None
    assert wrong_anew is not None
    assert gap is not None
    same = point.x == against.x
    return Split(
        line=line,
        x=point.x,
        running=wrong,
        reestimated=wrong_anew,
        batch=_error(_accuracies(point.cell, "test_accuracy_batch")),
        reference=same,
        gap=gap,
        lost=None if same else paired(best, running),
        averages=None if same else paired(gaps, best_gaps),
        rest=None if same else paired(best_anew, anew),
    )


def _among(values: Mapping[int, float], seeds: Iterable[int]) -> dict[int, float]:
    return {seed: values[seed] for seed in seeds}


def _error(accuracies: Mapping[int, float]) -> Estimate | None:
    return estimate([100 - value for _, value in sorted(accuracies.items())])


@dataclass(frozen=True, slots=True)
class Cost:
    """What a cell costs; each value None where nothing measured it.

    Attributes:
        rate: the peak learning rate.
        seconds: of training, an epoch and seed: of the median seed, because one may have waited
            for whatever else the machine did.
        images: trained a second in that time.
        memory: bytes that one training step of one seed holds.
    """

    rate: float | None
    seconds: float | None
    images: float | None
    memory: int | None


def cost(cell: CellRun) -> Cost:
    """What a cell's finished seeds cost."""
    results = cell.finished
    held = [r.memory_bytes for r in results if r.memory_bytes is not None]
    timed = [r for r in results if r.seconds and r.epochs >= 1e-6]
    seconds = median(r.seconds / r.epochs for r in timed) if timed else None
    images = fmean(r.images_per_second * r.seconds / r.epochs for r in timed) if timed else None
    return Cost(
        rate=peak_rate(cell),
        seconds=seconds,
        images=images / seconds if seconds and images else None,
        memory=max(held, default=None),
    )


def peak_rate(cell: CellRun) -> float | None:
    """The peak learning rate: from the configuration, else the highest that the curves record."""
    from normbench.training.optim import Scaling, SGDConfig  # brings torch

    optim: Any = cell.settings.get("optim")
    try:
        scaling = Scaling(optim["scaling"])
        config = SGDConfig(lr=optim["lr"], scaling=scaling, scaling_batch=optim["scaling_batch"])
        return float(config.peak(cell.batch))
    except (KeyError, TypeError, ValueError, OverflowError):
        rates = [m.learning_rate for run in cell.seeds for m in run.curve if m.learning_rate]
        return max(rates, default=None)
