"""Means over seeds, differences between cells and equivalence, all with intervals.

Seeds of different cells have nothing in common that shows in their errors (the correlation over
seeds is about 0), so cells are compared by Welch's test, never seed by seed. Only two evaluations
of the same weights are paired. Two seeds are the least for an interval.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import StatisticsError, fmean, variance
from statistics import correlation as pearson

LEVEL = 0.95
"""How often an interval holds the true value, if the seeds' values are normally distributed."""

POWER = 0.8
"""How often the number of seeds that is asked for would suffice."""

SEEDS_ASKED = 100
"""More are not asked for: the difference is then too small to be worth them."""

_ENDLESS = 1e6
"""Degrees of freedom of a variance that is known: Student's t is then the normal distribution."""

EQUIVALENT, DIFFERENT, UNDECIDED = "equivalent", "different", "undecided"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, or a difference of such means.

    Attributes:
        mean: in the unit of the values.
        low, high: ends of its 95 % interval; None for one seed.
        n: how many seeds; of several cells, the fewest.
        error: its standard error; None for one seed, and where only an interval is known.
        freedom: the degrees of freedom of Student's t.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    error: float | None = field(default=None, compare=False)
    freedom: float = field(default=0.0, compare=False)

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

    @property
    def clear(self) -> bool:
        """Whether the interval does not hold 0."""
        return self.above(0) or self.below(0)

    def at(self, level: float) -> "Estimate":
        """The same mean with an interval of another level."""
        if self.error is None:
            return self
        half = quantile((1 + level) / 2, self.freedom) * self.error
        return Estimate(
            self.mean, self.mean - half, self.mean + half, self.n, self.error, self.freedom
        )

    def __neg__(self) -> "Estimate":
        """The same difference the other way round."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Estimate(-self.mean, low, high, self.n, self.error, self.freedom)

    @property
    def p(self) -> float | None:
        """The two-sided p value of the mean being 0; None without a standard error."""
        if self.error is None:
            return None
        if self.error == 0:
            return float(self.mean == 0)
        from scipy.special import stdtr  # imported late: it takes a while

        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))


def quantile(share: float, freedom: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def combine(
    terms: Iterable[tuple[int, Iterable[float]]], *, least: float = 0.0, known: float = 0.0
) -> Estimate | None:
    """A sum of means of independent cells, each with its sign; degrees of freedom by Welch 1947.

    None where a cell has no value; without an interval where one has a single value.

    Args:
        terms: of each cell its sign and its values, one a seed.
        least: the variance that a cell's values have at least, such as that of their rounding.
        known: a variance that the sum has beside that of the seeds.
    """
    cells = [(sign, list(values)) for sign, values in terms]
    if not cells or not all(values for _, values in cells):
        return None
    mean = sum(sign * fmean(values) for sign, values in cells)
    n = min(len(values) for _, values in cells)
    if n < 2:
        return Estimate(mean, None, None, n)
    variances = [max(variance(values), least) for _, values in cells]
    error, freedom = spread(variances, [len(values) for _, values in cells], known)
    return Estimate(mean, None, None, n, error, freedom).at(LEVEL)


def spread(
    variances: Sequence[float], counts: Sequence[int], known: float = 0.0
) -> tuple[float, float]:
    """The standard error of a sum of means, and its degrees of freedom (Satterthwaite 1946).

    Args:
        variances: of each cell's values.
        counts: how many they are.
        known: a variance beside theirs, which has no end of degrees of freedom.
    """
    parts = [(value / count, count - 1) for value, count in zip(variances, counts, strict=True)]
    total = sum(part for part, _ in parts) + known
    sampled = sum(part**2 / one for part, one in parts)
    if sampled:
        return sqrt(total), total**2 / sampled
    return sqrt(total), _ENDLESS if known else float(sum(one for _, one in parts))


def estimate(values: Iterable[float], *, least: float = 0.0) -> Estimate | None:
    """The mean of ``values``, one a seed, with Student's interval; None where there are none.

    ``least`` is the variance that they have at least, see :func:`combine`.
    """
    return combine([(1, values)], least=least)


def welch(
    first: Mapping[int, float], second: Mapping[int, float], *, least: float = 0.0
) -> Estimate | None:
    """The mean of ``first`` minus that of ``second``, two cells' values by seed (Welch 1947)."""
    return combine([(1, first.values()), (-1, second.values())], least=least)


def paired(
    first: Mapping[int, float], second: Mapping[int, float], *, least: float = 0.0
) -> Estimate | None:
    """The mean of ``first`` minus ``second`` over the seeds that both have.

    Only for two evaluations of the same weights; :func:`correlation` says what pairing gains.
    """
    both = sorted(first.keys() & second.keys())
    return estimate((first[seed] - second[seed] for seed in both), least=least)


def of_rounding(images: int | None) -> float:
    """The variance, in points², of errors in % that are known in steps of one of so many images."""
    return (100 / images) ** 2 / 12 if images else 0.0


def correlation(first: Mapping[int, float], second: Mapping[int, float]) -> float | None:
    """Pearson's r over the seeds that both have; None with fewer than three."""
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 3:
        return None
    try:
        return pearson([first[seed] for seed in seeds], [second[seed] for seed in seeds])
    except StatisticsError:  # all equal in one of them
        return None


def of_deviations(mean: float, deviations: Sequence[float], n: int) -> Estimate:
    """A sum of means over ``n`` seeds each, of which only the standard deviations are known."""
    error, freedom = spread([each**2 for each in deviations], [n] * len(deviations))
    return Estimate(mean, None, None, n, error, freedom).at(LEVEL)


# --- Several comparisons at once ------------------------------------------------------------------


def holm(values: Sequence[Estimate | None]) -> list[float]:
    """The level at which each estimate's interval has to exclude 0, for being one of several.

    Holm 1979: the k-th smallest of m p values is held against 0.05 / (m - k + 1); from the first
    that fails on, all have the level at which it failed. The error of all decisions together is
    5 %. The intervals of these levels do not hold all true values together at 95 %: a statement
    about a size takes :func:`bonferroni`.
    """
    ps = [(value.p, i) for i, value in enumerate(values) if value is not None]
    ranked = sorted((p, i) for p, i in ps if p is not None)
    levels, left = [LEVEL] * len(values), len(ranked)
    for p, i in ranked:
        levels[i] = bonferroni(left)
        if p <= (1 - LEVEL) / left:
            left -= 1
    return levels


def bonferroni(number: int) -> float:
    """The level of each of ``number`` intervals that hold all true values together at 95 %."""
    return 1 - (1 - LEVEL) / max(number, 1)


# --- Equivalence ----------------------------------------------------------------------------------


def equivalence(value: Estimate | None, bound: float, number: int = 1) -> str:
    """Whether a change is within ±``bound``: two one-sided t tests at 5 % (Schuirmann 1987).

    DIFFERENT: it is shown to be beyond ``bound``, at 5 % for all of ``number`` changes together
    (Bonferroni). That all of several are within it takes no correction (Berger 1982).
    """
    if value is None or value.half is None:
        return UNDECIDED
    inner = value.at(2 * LEVEL - 1)
    if inner.above(-bound) and inner.below(bound):
        return EQUIVALENT
    outer = value.at(1 - 2 * (1 - LEVEL) / number)
    return DIFFERENT if outer.above(bound) or outer.below(-bound) else UNDECIDED


# --- How many seeds would tell --------------------------------------------------------------------


def seeds_to_tell(
    first: Iterable[float], second: Iterable[float], level: float = LEVEL, *, least: float = 0.0
) -> int | None:
    """Seeds in each cell that would tell the difference from 0, were it and the spread as measured.

    With a probability of 80 %, by an interval of ``level``. None where nothing can be said, or more
    than 100 would be needed; no number of seeds tells what is equal.
    """
    one, other = list(first), list(second)
    if min(len(one), len(other)) < 2:
        return None
    apart = abs(fmean(one) - fmean(other))
    if apart == 0:
        return None
    variances = [max(variance(one), least), max(variance(other), least)]
    return _enough(variances, apart, (1 + level) / 2, POWER)


def seeds_to_tell_paired(
    first: Mapping[int, float],
    second: Mapping[int, float],
    level: float = LEVEL,
    *,
    least: float = 0.0,
) -> int | None:
    """The same of what is :func:`paired`."""
    apart = [first[seed] - second[seed] for seed in first.keys() & second.keys()]
    if len(apart) < 2 or fmean(apart) == 0:
        return None
    spread_over = max(variance(apart), least)
    return _enough([spread_over], abs(fmean(apart)), (1 + level) / 2, POWER)


def seeds_to_settle(
    first: Iterable[float],
    second: Iterable[float],
    bound: float,
    number: int = 1,
    *,
    least: float = 0.0,
) -> int | None:
    """Seeds in each cell that would show a change to be within ±``bound``, or beyond it.

    Whichever is measured, were it as measured; with a probability of at least 80 %, by
    :func:`equivalence` of ``number`` changes. None as above.
    """
    one, other = list(first), list(second)
    if min(len(one), len(other)) < 2:
        return None
    room = bound - abs(fmean(one) - fmean(other))
    variances = [max(variance(one), least), max(variance(other), least)]
    if room > 0:
        return _enough(variances, room, LEVEL, (1 + POWER) / 2)
    return _enough(variances, -room, 1 - (1 - LEVEL) / number, POWER)


def _enough(variances: Sequence[float], size: float, share: float, power: float) -> int | None:
    """How many seeds of cells with these variances make Student's interval narrow enough."""
    for n in range(2, SEEDS_ASKED + 1):
        error, freedom = spread(variances, [n] * len(variances))
        if (quantile(share, freedom) + quantile(power, freedom)) * error <= size:
            return n
    return None
