"""Where two lines cross, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log2, sqrt
from statistics import fmean, variance

import numpy as np
import numpy.typing as npt

from normbench.report.compare.statistics import LEVEL, spread

_DRAWS = 4000

Line = Mapping[float, Mapping[int, float]]
"""For each place on the axis, the value of each seed."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where two lines cross.

    Attributes:
        at: on the horizontal axis, on a straight line over log₂ between two places that were
            measured in one line at least.
        between: these two places.
        rising: whether the first line is the upper one beyond it.
        low, high: the 95 % interval; None where it goes on to the end of the measured range, where
            no place on that side of the crossing tells the lines apart, or where a cell has one
            seed.
    """

    at: float
    between: tuple[float, float]
    rising: bool
    low: float | None
    high: float | None

    @property
    def located(self) -> bool:
        """Whether the seeds say where it is, at least from one side."""
        return self.low is not None or self.high is not None


def crossings(first: Line, second: Line) -> list[Crossing]:
    """Where the means of ``first`` and ``second`` cross within the range that both have.

    Where only one of them was measured, the other lies on a straight line over log₂ between its
    own nearest places. The interval of a single crossing comes from resampling, unpaired: the
    difference at every place is drawn 4,000 times from its Welch distribution, and the crossing
    found again. (Three seeds drawn with replacement would scatter too little.) Of several crossings
    none is located.
    """
    lines = [{x: cell for x, cell in line.items() if cell} for line in (first, second)]
    every = sorted(lines[0].keys() | lines[1].keys())
    places = [x for x in every if all(line and min(line) <= x <= max(line) for line in lines)]
    terms = [[*_terms(1, lines[0], x), *_terms(-1, lines[1], x)] for x in places]
    means = [sum(weight * fmean(cell.values()) for weight, cell in each) for each in terms]
    turns = _turns(means)
    found = []
    for i in turns:
        position = i + means[i] / (means[i] - means[i + 1])
        low, high = None, None
        if len(turns) == 1:
            sign = 1.0 if means[i] > 0 else -1.0
            if (draws := _draws(terms)) is not None:
                low, high = _interval(sign * draws, position)
                told = [_told(side * sign * draws) for side in (1, -1)]
                low = low if told[0][: i + 1].any() else None
                high = high if told[1][i + 1 :].any() else None
        ends = [None if end is None else _place(places, end) for end in (low, high)]
        between = (places[i], places[i + 1])
        rising = means[i] < 0
        found.append(Crossing(_place(places, position), between, rising, ends[0], ends[1]))
    return found


def _turns(means: Sequence[float]) -> list[int]:
    """After which places the sign changes; lines that only touch do not cross."""
    apart = [i for i, mean in enumerate(means) if mean]
    return [i for i, j in pairwise(apart) if (means[i] > 0) != (means[j] > 0)]


Term = tuple[float, Mapping[int, float]]
"""A cell, and its weight in the difference of two lines at a place: below 0 in the second."""


def _terms(sign: int, line: Line, x: float) -> list[Term]:
    """What the mean of a line is made of at a place within its range."""
    if x in line:
        return [(sign, line[x])]
    below, above = max(p for p in line if p < x), min(p for p in line if p > x)
    share = (log2(x) - log2(below)) / (log2(above) - log2(below))
    return [(sign * (1 - share), line[below]), (sign * share, line[above])]


def _draws(places: Sequence[Sequence[Term]]) -> npt.NDArray[np.float64] | None:
    """Differences of means, drawn again: draws × places; None where a cell has one seed.

    At each place they scatter as Student's t with Welch's degrees of freedom, so that they agree
    with the test there. A cell that stands at several places is drawn once.
    """
    random = np.random.default_rng(0)
    drawn: dict[tuple[bool, tuple[float, ...]], npt.NDArray[np.float64]] = {}

    def noise(weight: float, cell: Mapping[int, float]) -> npt.NDArray[np.float64]:
        values = tuple(cell.values())
        key = (weight > 0, values)
        if key not in drawn:
            scatter = sqrt(variance(values) / len(values))
            drawn[key] = scatter * random.standard_normal(_DRAWS)
        return weight * drawn[key]

    columns = []
    for terms in places:
        if any(len(cell) < 2 for _, cell in terms):
            return None
        mean = sum(weight * fmean(cell.values()) for weight, cell in terms)
        variances = [weight**2 * variance(cell.values()) for weight, cell in terms]
        _, freedom = spread(variances, [len(cell) for _, cell in terms])
        stretch = np.sqrt(freedom / random.chisquare(freedom, _DRAWS))
        moved = np.sum([noise(weight, cell) for weight, cell in terms], axis=0)
        columns.append(mean + stretch * moved)
    return np.stack(columns, axis=1)


def _interval(draws: npt.NDArray[np.float64], position: float) -> tuple[float | None, float | None]:
    """The ends of the middle 95 % of the falling crossings nearest to ``position``, in segments.

    A draw that stays above 0 crosses beyond the last place, one below 0 before the first; one that
    only rises through 0 has no such crossing, and counts against both ends.
    """
    left, right = draws[:, :-1], draws[:, 1:]
    falls = (left > 0) & (right <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(falls, np.arange(left.shape[1]) + left / (left - right), inf)
    nearest = np.abs(at - position).argmin(axis=1)
    where = at[np.arange(len(at)), nearest]
    none = ~falls.any(axis=1)
    below = none & (draws[:, 0] <= 0)
    above = none & (draws[:, -1] > 0)
    tail = (1 - LEVEL) / 2
    low = np.quantile(np.where(below, -1.0, np.where(none, 1e9, where)), tail, method="lower")
    high = np.quantile(np.where(above, 1e9, np.where(none, -1.0, where)), 1 - tail, method="higher")
    last = draws.shape[1] - 1
    return (
        float(low) if 0 <= low <= last else None,
        float(high) if 0 <= high <= last else None,
    )


def _told(draws: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """At which places the difference is above 0 in all but the lowest 2.5 % of the draws."""
    return np.asarray((draws > 0).mean(axis=0) > (1 + LEVEL) / 2)


def _place(places: Sequence[float], position: float) -> float:
    """The place at ``position`` counted in segments, on a straight line over log₂."""
    index = min(int(position), len(places) - 2)
    low, high = log2(places[index]), log2(places[index + 1])
    return float(2 ** (low + (high - low) * (position - index)))
