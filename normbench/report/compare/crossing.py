"""Where two lines cross, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log2, sqrt
from statistics import fmean, variance

import numpy as np
import numpy.typing as npt

from normbench.report.compare.statistics import LEVEL, welch

_DRAWS = 4000

Line = Mapping[float, Mapping[int, float]]
"""For each place on the axis, the value of each seed."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where two lines cross.

    Attributes:
        at: on the horizontal axis, on a straight line over log₂ between two measured places.
        between: these two places.
        low, high: the 95 % interval; None where it goes on to the end of the measured range, or
            where a cell has one seed.
    """

    at: float
    between: tuple[float, float]
    low: float | None
    high: float | None

    @property
    def located(self) -> bool:
        """Whether the seeds say where it is, at least from one side."""
        return self.low is not None or self.high is not None


def crossings(first: Line, second: Line) -> list[Crossing]:
    """Where the means of ``first`` and ``second`` cross within the places that both have.

    The interval of a single crossing comes from resampling, unpaired: the difference at every place
    is drawn 4,000 times from its Welch distribution, and the crossing found again. (Three seeds
    drawn with replacement would scatter too little.) Of several crossings none is located.
    """
    places = sorted(x for x in first.keys() & second.keys() if first[x] and second[x])
    means = [fmean(first[x].values()) - fmean(second[x].values()) for x in places]
    turns = [i for i, (a, b) in enumerate(pairwise(means)) if (a > 0) != (b > 0)]
    found = []
    for i in turns:
        position = i + means[i] / (means[i] - means[i + 1])
        low, high = None, None
        if len(turns) == 1:
            sign = 1.0 if means[i] > 0 else -1.0
            if (draws := _draws(first, second, places)) is not None:
                low, high = _interval(sign * draws, position)
        ends = [None if end is None else _place(places, end) for end in (low, high)]
        between = (places[i], places[i + 1])
        found.append(Crossing(_place(places, position), between, ends[0], ends[1]))
    return found


def _draws(first: Line, second: Line, places: Sequence[float]) -> npt.NDArray[np.float64] | None:
    """Differences of means, drawn again: draws × places; None where a cell has one seed.

    At each place they scatter as Student's t with Welch's degrees of freedom, so that they agree
    with the test there. A cell that stands at several places is drawn once.
    """
    random = np.random.default_rng(0)
    drawn: dict[tuple[int, tuple[float, ...]], npt.NDArray[np.float64]] = {}

    def noise(line: int, cell: Mapping[int, float]) -> npt.NDArray[np.float64]:
        values = tuple(cell.values())
        if (line, values) not in drawn:
            scatter = sqrt(variance(values) / len(values))
            drawn[line, values] = scatter * random.standard_normal(_DRAWS)
        return drawn[line, values]

    columns = []
    for x in places:
        value = welch(first[x], second[x])
        if value is None or value.half is None:
            return None
        stretch = np.sqrt(value.freedom / random.chisquare(value.freedom, _DRAWS))
        columns.append(value.mean + stretch * (noise(1, first[x]) - noise(2, second[x])))
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


def _place(places: Sequence[float], position: float) -> float:
    """The place at ``position`` counted in segments, on a straight line over log₂."""
    index = min(int(position), len(places) - 2)
    low, high = log2(places[index]), log2(places[index + 1])
    return float(2 ** (low + (high - low) * (position - index)))
