"""How sure a difference is: against SciPy's own test, and against simulation."""

from random import Random
from statistics import fmean, stdev

import pytest
from scipy.stats import ttest_ind

from normbench.launch.advise.odds import (
    ALPHA,
    CHOICE_SD,
    detectable,
    difference_p,
    said_p,
    seeds_needed,
)


def test_p_is_welch_s() -> None:
    first, second = [0.70, 0.72, 0.71, 0.69, 0.73], [0.74, 0.75, 0.71, 0.76]

    assert difference_p(first, second, 0.0, 0.0) == pytest.approx(
        ttest_ind(first, second, equal_var=False).pvalue, rel=1e-9
    )


def test_values_that_are_all_equal_scatter_by_their_rounding() -> None:
    assert difference_p([0.5] * 5, [0.5] * 5, 0.01) == 1.0
    assert difference_p([0.5] * 5, [0.505] * 5, 0.01) > 0.001
    assert difference_p([0.5] * 5, [0.6] * 5, 0.01) < 1e-6


def test_what_is_known_of_the_choice_has_no_end_of_freedom() -> None:
    """Equal seeds leave the known variance alone: the quantile is the normal distribution's."""
    limit = 1.96 * (2 * CHOICE_SD**2) ** 0.5

    assert difference_p([0.5] * 2, [0.5 + 1.01 * limit] * 2, 0.0) < 0.05
    assert difference_p([0.5] * 2, [0.5 + 0.99 * limit] * 2, 0.0) > 0.05


def test_the_seeds_that_are_said_to_be_needed_make_the_difference_clear() -> None:
    random = Random(0)
    first = [0.30 + random.gauss(0, 0.01) for _ in range(5)]
    second = [0.320 + random.gauss(0, 0.01) for _ in range(5)]
    needed = seeds_needed(first, second, 4)

    assert needed is not None
    assert 5 < needed < 100
    assert seeds_needed(second, second, 4) is None
    assert seeds_needed(first, [value + 0.0001 for value in first], 4) is None


def test_the_seeds_that_are_said_to_be_needed_suffice_in_four_of_five_races() -> None:
    """New seeds of the same two norms, whose means are as far apart as was measured."""
    random, apart, correction = Random(1), 0.021, 4
    exact = [0.01 * (i - 2) / 2 for i in range(5)]
    needed = seeds_needed(exact, [value + apart for value in exact], correction)
    assert needed is not None
    sd = stdev(exact)
    clear = 0
    for _ in range(2000):
        first, second = (
            [mean + random.gauss(0, sd) for _ in range(needed)] for mean in (0.0, apart)
        )
        p = difference_p(first, second, 0.0) * correction
        clear += p < ALPHA and fmean(second) > fmean(first)

    assert 0.75 < clear / 2000 < 0.85


def test_no_number_of_seeds_makes_a_difference_clear_that_another_rate_could_make() -> None:
    spread = [0.001 * (i % 5 - 2) for i in range(200)]

    assert difference_p(spread, [value + 0.005 for value in spread], 0.0) > 0.05
    assert difference_p(spread, [value + 0.03 for value in spread], 0.0) < 0.001


def test_the_smallest_difference_that_is_clear_is_just_clear() -> None:
    difference = detectable(5, 0.01, 4)
    spread = [-1.0, -0.5, 0.0, 0.5, 1.0]  # its standard deviation is √0.625
    scaled = [0.01 * value / 0.625**0.5 for value in spread]

    p = difference_p(scaled, [value + difference for value in scaled], 0.0)
    assert p * 4 == pytest.approx(ALPHA)


def test_p_is_said_with_three_digits() -> None:
    assert [said_p(p) for p in (0.0004, 0.0123, 3.0)] == ["p < 0.001", "p = 0.012", "p = 1.000"]
