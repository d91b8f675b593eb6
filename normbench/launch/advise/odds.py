"""How sure a race can be: Welch's test, and what the choice of the rates adds to it."""

from collections.abc import Sequence
from statistics import fmean, variance

from normbench.report.compare.statistics import POWER, combine, quantile, spread

ALPHA = 0.05
"""How often something may be called clear that is not, in both directions together."""

SEEDS_RACED = 40
"""A race trains no more seeds of a norm, and does not ask for more."""

SEED_SD = 0.02
"""The standard deviation of accuracy over seeds of a short training: the largest in the committed
results, where it is 0.002 to 0.020."""

CHOICE_SD = 0.005
"""The standard deviation of a norm's accuracy for the choice of its learning rate, which rests on a
seed a rate: between the rates tried, or beside the one chosen, there may be a better one. The
largest that ``python scripts/choice_spread.py`` derives from the recorded trials of rates (0.43 to
0.52 points). No number of seeds lessens it."""


def difference_p(
    first: Sequence[float], second: Sequence[float], rounding: float, choice: float = CHOICE_SD
) -> float:
    """Two-sided p of the difference of two means (Welch 1947); 1 for equal means.

    Args:
        first, second: accuracies, 0..1, at least two each.
        rounding: the step in which the values are known; its share of the variance is the least.
        choice: a standard deviation of either mean beside that of the seeds.
    """
    apart = combine([(1, first), (-1, second)], least=rounding**2 / 12, known=2 * choice**2)
    assert apart is not None
    assert apart.p is not None
    return apart.p


def said_p(p: float) -> str:
    """``p = 0.012``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {min(1.0, p):.3f}"


def seeds_needed(first: Sequence[float], second: Sequence[float], correction: int) -> int | None:
    """How many seeds each would make a difference such as this clear; None: more than 40.

    With a probability of 80 %, were the difference and the spread over seeds as they are here.
    """
    difference = fmean(second) - fmean(first)
    variances = variance(first), variance(second)
    for seeds in range(len(first), SEEDS_RACED + 1) if difference > 0 else ():
        scatter, freedom = spread(variances, (seeds, seeds))
        luck = quantile(POWER, freedom) * scatter
        if difference > _clear(variances, seeds, correction) + luck:
            return seeds
    return None


def detectable(seeds: int, sd: float, looks: int) -> float:
    """The smallest observed difference of two means of ``seeds`` seeds that would be called clear.

    Args:
        seeds: of each.
        sd: the standard deviation of accuracy, 0..1, over seeds.
        looks: what p is multiplied by.
    """
    return _clear((sd**2, sd**2), seeds, looks)


def _clear(variances: tuple[float, float], seeds: int, correction: int) -> float:
    """The smallest difference for which p times ``correction`` is no more than ALPHA."""
    error, freedom = spread(variances, (seeds, seeds), 2 * CHOICE_SD**2)
    return quantile(1 - ALPHA / (2 * correction), freedom) * error
