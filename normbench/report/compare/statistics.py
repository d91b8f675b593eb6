"""Means over seeds, differences paired by seed, and where two lines cross: all with intervals.

Two seeds are the least for an interval; with fewer there is none, and nothing here invents one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import log2, sqrt
from statistics import StatisticsError, correlation, fmean

from normbench.store.results import confidence_interval

LEVEL = 0.95
"""How often an interval holds the true value, if the seeds' values are normally distributed."""

_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: in the unit of the values.
        low, high: ends of its Student's t interval; None for one seed.
        n: how many seeds.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half the interval's width, what stands after ±; None for one seed."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def above(self, value: float) -> bool:
        """Whether the whole interval lies above ``value``; without an interval: no."""
        return self.low is not None and self.low > value

    def below(self, value: float) -> bool:
        """Whether the whole interval lies below ``value``; without an interval: no."""
        return self.high is not None and self.high < value

    def within(self, bound: float) -> bool:
        """Whether the whole interval lies between ``-bound`` and ``bound``."""
        return self.above(-bound) and self.below(bound)


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of ``values``, one a seed, with its 95 % interval; None where there are none."""
    if not values:
        return None
    low, high = confidence_interval(values, LEVEL) or (None, None)
    return Estimate(fmean(values), low, high, len(values))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """The mean of ``first`` minus ``second`` over the seeds that both have.

    Seeds share their initial weights and the order of their images: where that makes some seeds
    better in both, it cancels out (:class:`Scatter` says whether it does). None where no seed is
    common.
    """
    return estimate([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def interval(deviations: Sequence[float], n: int) -> float:
    """Half the 95 % interval of a sum or difference of means over ``n`` seeds each, of which only
    the standard deviations are known."""
    freedom = len(deviations) * (n - 1)
    return _t(freedom + 1) * sqrt(sum(deviation**2 for deviation in deviations) / n)


@dataclass(frozen=True, slots=True)
class Scatter:
    """How seeds scatter within a cell, taken to be alike in all cells of a comparison.

    An interval from few seeds is as much luck as the spread of these few; one spread for all cells
    has many more degrees of freedom, at the price of that assumption.

    Attributes:
        deviation: the standard deviation, pooled over cells.
        freedom: its degrees of freedom.
        correlation: of the seeds that two cells share, the mean of Pearson's r over all pairs of
            cells with three or more; what pairing by seed gains. None where it cannot be had.
    """

    deviation: float
    freedom: int
    correlation: float | None

    def half(self, n: int) -> float:
        """Half the 95 % interval of the difference of two cells of ``n`` seeds each."""
        return _t(self.freedom + 1) * self.deviation * sqrt(2 / n)


def scatter(cells: Sequence[Mapping[int, float]]) -> Scatter | None:
    """How the seeds of ``cells`` scatter; None with fewer than two cells of two seeds."""
    several = [list(cell.values()) for cell in cells if len(cell) > 1]
    if len(several) < 2:
        return None
    freedom = sum(len(values) - 1 for values in several)
    squares = sum((value - fmean(values)) ** 2 for values in several for value in values)
    found = [r for a, b in combinations(cells, 2) if (r := _correlation(a, b)) is not None]
    return Scatter(sqrt(squares / freedom), freedom, fmean(found) if found else None)


def _correlation(first: Mapping[int, float], second: Mapping[int, float]) -> float | None:
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 3:
        return None
    try:
        return correlation([first[seed] for seed in seeds], [second[seed] for seed in seeds])
    except StatisticsError:  # all equal in one of them
        return None


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where two lines cross.

    Attributes:
        at: on the horizontal axis, between two measured places, on a straight line over log₂.
        between: these two places.
        low, high: around it, all places at which the interval of the paired difference holds 0 (an
            inverted t test, after Fieller 1954); None where a neighbour has fewer than two seeds.
        open_low, open_high: the interval goes on to the end of the measured range, and perhaps on.
        falling: whether first minus second goes from above 0 to below.
        n: the seeds that both lines have at both neighbours.
    """

    at: float
    between: tuple[float, float]
    low: float | None
    high: float | None
    open_low: bool
    open_high: bool
    falling: bool
    n: int


@dataclass(frozen=True, slots=True)
class _Segment:
    """The paired differences at two neighbouring places, of the same seeds in the same order."""

    left: list[float]
    right: list[float]

    @property
    def turned(self) -> "_Segment":
        return _Segment(self.right, self.left)

    def margin(self) -> tuple[float, float, float]:
        """a, b, c with a·u² + b·u + c ≤ 0 exactly where the interval at share u holds 0.

        At u (0: left, 1: right) the difference of seed s is l + (r - l)·u. Its mean over seeds is
        linear in u and its variance quadratic, so mean² - t²·variance/n is a parabola.
        """
        n = len(self.left)
        slopes = [r - x for x, r in zip(self.left, self.right, strict=True)]
        mean, slope = fmean(self.left), fmean(slopes)
        scale = _t(n) ** 2 / (n * (n - 1))
        starts = [x - mean for x in self.left]
        turns = [s - slope for s in slopes]
        return (
            slope**2 - scale * sum(s**2 for s in turns),
            2 * mean * slope - 2 * scale * sum(x * s for x, s in zip(starts, turns, strict=True)),
            mean**2 - scale * sum(x**2 for x in starts),
        )


def _t(n: int) -> float:
    """The quantile of Student's t that an interval over ``n`` seeds uses."""
    from scipy.special import stdtrit  # imported late: it takes a while

    return float(stdtrit(n - 1, (1 + LEVEL) / 2))


Line = Mapping[float, Mapping[int, float]]
"""For each place on the axis, the value of each seed."""


def crossings(first: Line, second: Line) -> list[Crossing]:
    """Where ``first`` and ``second`` cross within the range that both were measured in.

    Between neighbouring places the differences are interpolated on log₂ of the axis, from the
    seeds that both lines have at both. A line that only touches the other does not cross it.
    """
    places = sorted(x for x in first.keys() & second.keys() if first[x].keys() & second[x].keys())
    segments = [_segment(first, second, x, y) for x, y in pairwise(places)]
    found = []
    for index, segment in enumerate(segments):
        if not segment.left:
            continue
        left, right = fmean(segment.left), fmean(segment.right)
        if (left < 0) != (right < 0):
            found.append(_crossing(places, segments, index, left / (left - right)))
    touching = {i for i, (a, b) in enumerate(pairwise(found)) if a.at == b.at}
    return [c for i, c in enumerate(found) if i not in touching and i - 1 not in touching]


def _segment(first: Line, second: Line, x: float, y: float) -> _Segment:
    seeds = sorted(first[x].keys() & first[y].keys() & second[x].keys() & second[y].keys())
    return _Segment(
        [first[x][seed] - second[x][seed] for seed in seeds],
        [first[y][seed] - second[y][seed] for seed in seeds],
    )


def _crossing(
    places: Sequence[float], segments: Sequence[_Segment], index: int, share: float
) -> Crossing:
    """The crossing at ``share`` of the way through segment ``index``, with its interval."""
    segment = segments[index]
    right = _reach(segments[index:], share)
    left = _reach([s.turned for s in reversed(segments[: index + 1])], 1 - share)
    last = len(segments)
    enough = len(segment.left) >= 2
    return Crossing(
        at=_place(places, index + share),
        between=(places[index], places[index + 1]),
        low=_place(places, 0 if left is None else index + 1 - left) if enough else None,
        high=_place(places, last if right is None else index + right) if enough else None,
        open_low=enough and left is None,
        open_high=enough and right is None,
        falling=fmean(segment.left) >= 0,
        n=len(segment.left),
    )


def _reach(segments: Sequence[_Segment], start: float) -> float | None:
    """How far, in segments from the first one's left end, the interval holds 0 without a gap.

    It does at ``start``, where the mean is 0. None: to the end of the last one, or to one with
    fewer than two seeds, beyond which nothing can be said.
    """
    for number, segment in enumerate(segments):
        if len(segment.left) < 2:
            return None
        a, b, c = segment.margin()
        if number and c > 0:  # other seeds than in the segment before
            return float(number)
        ends = [u for u in _roots(a, b, c) if start - _TINY <= u <= 1 and 2 * a * u + b >= -_TINY]
        if ends:
            return number + min(ends)
        start = 0.0
    return None


def _roots(a: float, b: float, c: float) -> list[float]:
    """The real u with a·u² + b·u + c = 0."""
    if a == 0:
        return [-c / b] if b else []
    inner = b * b - 4 * a * c
    if inner < -_TINY * b * b:
        return []
    root = sqrt(max(0.0, inner))  # seeds that agree exactly make a double root, up to rounding
    return [(-b - root) / (2 * a), (-b + root) / (2 * a)]


def _place(places: Sequence[float], position: float) -> float:
    """The place at ``position`` counted in segments, on a straight line over log₂."""
    index = min(int(position), len(places) - 2)
    low, high = log2(places[index]), log2(places[index + 1])
    return float(2 ** (low + (high - low) * (position - index)))
