"""Student's and Welch's t: how sure a difference of means over seeds is."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, variance

ALPHA = 0.05
"""How often something may be called clear that is not, in both directions together."""

MOST_SEEDS = 40
"""A race trains no more seeds of a norm, and does not ask for more."""

CHOICE_SD = 0.005
"""The standard deviation of a norm's accuracy for the choice of its learning rate, which rests on a
seed a rate: between the rates tried, or beside the one chosen, there may be a better one. The
largest that ``python scripts/choice_spread.py`` derives from the recorded trials of rates (0.43 to
0.52 points). No number of seeds lessens it."""


def welch(
    first: Sequence[float], second: Sequence[float], rounding: float, choice: float = CHOICE_SD
) -> float:
    """Two-sided p of the difference of two means (Welch 1947); 1 for equal means.

    Args:
        first, second: accuracies, 0..1, at least two each.
        rounding: the step in which the values are known; its share of the variance is the least.
        choice: a standard deviation of either mean beside that of the seeds.
    """
    from scipy.special import stdtr  # imported late: it takes a while

    variances = [max(variance(v), rounding**2 / 12) for v in (first, second)]
    error, freedom = _error(variances, (len(first), len(second)), choice)
    difference = abs(fmean(first) - fmean(second))
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * float(stdtr(freedom, -difference / error))


def _error(variances: Sequence[float], counts: Sequence[int], choice: float) -> tuple[float, float]:
    """The standard error of a difference of two means, and its degrees of freedom (Satterthwaite).

    What the choice of the rates adds is known, and has no end of degrees of freedom.
    """
    parts = [value / count for value, count in zip(variances, counts, strict=True)]
    square = sum(parts) + 2 * choice**2
    sampled = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    return sqrt(square), square**2 / sampled if sampled else 1e6


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of a mean of at least two values."""
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, 0.975)) * sqrt(variance(values) / len(values))


def said_p(p: float) -> str:
    """``p = 0.012``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {min(1.0, p):.3f}"


def seeds_needed(first: Sequence[float], second: Sequence[float], correction: int) -> int | None:
    """How many seeds each would make a difference such as this clear; None: more than 40."""
    from scipy.special import stdtr

    difference = fmean(second) - fmean(first)
    variances = variance(first), variance(second)
    for seeds in range(len(first), MOST_SEEDS + 1) if difference > 0 else ():
        error, freedom = _error(variances, (seeds, seeds), CHOICE_SD)
        if 2 * float(stdtr(freedom, -difference / error)) * correction < ALPHA:
            return seeds
    return None


def detectable(seeds: int, sd: float, looks: int, comparisons: int = 1) -> float:
    """The smallest observed difference of two means of ``seeds`` seeds that would be called clear.

    Args:
        seeds: of each.
        sd: the standard deviation of accuracy, 0..1, over seeds.
        looks, comparisons: what p is multiplied by.
    """
    from scipy.special import stdtrit

    error, freedom = _error([sd**2] * 2, [seeds] * 2, CHOICE_SD)
    return float(stdtrit(freedom, 1 - ALPHA / (2 * looks * comparisons))) * error
