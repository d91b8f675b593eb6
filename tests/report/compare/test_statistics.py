"""Intervals, Welch's test, Holm and equivalence, against SciPy and by hand."""

import numpy as np
import pytest
from scipy import stats

from normbench.report.compare.statistics import (
    DIFFERENT,
    EQUIVALENT,
    UNDECIDED,
    Estimate,
    bonferroni,
    combine,
    correlation,
    equivalence,
    estimate,
    holm,
    of_deviations,
    paired,
    seeds_to_settle,
    seeds_to_tell,
    seeds_to_tell_paired,
    welch,
)

FIRST = {0: 36.1, 1: 37.7, 2: 36.6, 3: 35.2}
SECOND = {0: 39.0, 1: 40.6, 2: 39.2}


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_an_estimate_is_student_s_interval() -> None:
    values = [3.1, 2.9, 3.6, 3.3]
    found = estimate(values)

    assert found is not None
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.n == 4


def test_welch_equals_scipy_s() -> None:
    found = welch(FIRST, SECOND)
    theirs = stats.ttest_ind(list(FIRST.values()), list(SECOND.values()), equal_var=False)
    interval = theirs.confidence_interval(0.95)

    assert found is not None
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.freedom, found.n) == pytest.approx((theirs.df, 3))


def test_seeds_of_different_cells_are_not_paired() -> None:
    shuffled = dict(zip(SECOND, reversed(SECOND.values()), strict=True))

    assert welch(FIRST, shuffled) == welch(FIRST, SECOND)


def test_a_sum_of_four_cells_adds_their_variances() -> None:
    cells = [[1.0, 2.0, 4.0], [2.0, 2.5, 2.1], [0.3, 0.2, 0.9], [5.0, 4.0, 4.2]]
    found = combine(zip((1, -1, -1, 1), cells, strict=True))

    assert found is not None
    assert found.error == pytest.approx(np.sqrt(sum(np.var(c, ddof=1) / 3 for c in cells)))
    assert found.mean == pytest.approx(np.dot((1, -1, -1, 1), np.mean(cells, axis=1)))


def test_the_same_weights_are_paired_and_the_correlation_says_what_that_gains() -> None:
    first, second = by_seed(10.0, 20.0, 30.0), by_seed(8.9, 19.0, 29.1)
    found = paired(first, second)

    assert found is not None
    assert found.half == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3))
    expected = np.corrcoef(list(first.values()), list(second.values()))[0, 1]
    assert correlation(first, second) == pytest.approx(expected)
    assert correlation(by_seed(1, 2), by_seed(1, 2)) is None


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    alone = estimate([3.0])

    assert alone == Estimate(3.0, None, None, 1)
    assert alone.p is None
    assert not alone.clear
    assert equivalence(alone, 10) == UNDECIDED
    assert welch(by_seed(1.0), by_seed(1.0, 2.0)) == Estimate(-0.5, None, None, 1)


def test_nothing_has_no_mean() -> None:
    assert estimate([]) is None
    assert welch({}, by_seed(1.0)) is None
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_seeds_that_agree_exactly_have_an_interval_of_no_width() -> None:
    found = welch(by_seed(1, 1, 1), by_seed(2, 2, 2))

    assert found is not None
    assert (found.low, found.high, found.p) == (-1.0, -1.0, 0.0)


def test_published_deviations_give_welch_s_interval() -> None:
    found = of_deviations(5.5, [0.59, 0.49], 5)
    theirs = stats.ttest_ind_from_stats(5.5, 0.59, 5, 0.0, 0.49, 5, equal_var=False)

    assert found.p == pytest.approx(theirs.pvalue)


# --- Several at once ------------------------------------------------------------------------------


def test_holm_decides_as_its_definition() -> None:
    random = np.random.default_rng(1)
    values = [welch(by_seed(*random.normal(m, 1, 5)), by_seed(*random.normal(0, 1, 5)))
              for m in (0, 1, 2, 3, 4, 5)]  # fmt: skip
    ps = sorted((value.p, i) for i, value in enumerate(values) if value and value.p is not None)
    rejected, m = set(), len(ps)
    for k, (p, i) in enumerate(ps):
        if p > 0.05 / (m - k):
            break
        rejected.add(i)

    levels = holm(values)

    assert 0 < len(rejected) < m
    assert {i for i, v in enumerate(values) if v and v.at(levels[i]).clear} == rejected


def test_together_intervals_are_no_narrower_than_alone() -> None:
    values = [welch(FIRST, SECOND), None, welch(by_seed(1, 2, 3), by_seed(1, 2, 4))]
    levels = holm(values)

    for before, level in ((values[0], levels[0]), (values[2], levels[2])):
        assert before is not None
        after = before.at(level)
        assert before.half is not None
        assert after.half is not None
        assert after.half >= before.half
        assert after.mean == before.mean


def test_bonferroni_s_intervals_hold_all_values_together() -> None:
    """Where all effects are real, Holm's hold them less often: they only decide."""
    random = np.random.default_rng(0)
    held = dict.fromkeys(("bonferroni", "holm"), 0)
    for _ in range(400):
        values = [welch(by_seed(*random.normal(9, 1, 5)), by_seed(*random.normal(0, 1, 5)))
                  for _ in range(10)]  # fmt: skip
        for kind, levels in (("bonferroni", [bonferroni(10)] * 10), ("holm", holm(values))):
            wide = [v.at(level) for v, level in zip(values, levels, strict=True) if v]
            held[kind] += all((v.low or 0) < 9 < (v.high or 0) for v in wide)

    assert held["bonferroni"] >= 0.93 * 400
    assert held["holm"] < held["bonferroni"]


# --- Equivalence and seeds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ((30.0, 30.2, 30.1), (30.1, 30.3, 30.0), EQUIVALENT),
        ((30.0, 30.2, 30.1), (33.1, 33.3, 33.0), DIFFERENT),
        ((30.0, 31.0, 29.0), (30.5, 31.5, 29.5), UNDECIDED),
        ((30.0, 30.2, 30.1), (30.8, 31.3, 31.0), UNDECIDED),
    ],
)
def test_equivalence_is_two_one_sided_tests(
    first: tuple[float, ...], second: tuple[float, ...], outcome: str
) -> None:
    lower = stats.ttest_ind(np.add(first, 1), second, equal_var=False, alternative="greater").pvalue
    upper = stats.ttest_ind(np.subtract(first, 1), second, equal_var=False, alternative="less")

    assert equivalence(welch(by_seed(*first), by_seed(*second)), 1.0) == outcome
    assert (max(lower, upper.pvalue) < 0.05) == (outcome == EQUIVALENT)


@pytest.mark.parametrize("number", [1, 10])
def test_the_seeds_asked_for_would_tell(number: int) -> None:
    first, second = [30.0, 31.0, 32.0], [31.0, 32.0, 33.0]
    n = seeds_to_tell(first, second, bonferroni(number))
    assert n is not None

    random = np.random.default_rng(0)
    draws = random.normal(0, 1, (2, 4000, n))
    p = stats.ttest_ind(draws[0], draws[1] + 1, axis=1, equal_var=False).pvalue
    assert np.mean(p < 0.05 / number) == pytest.approx(0.8, abs=0.03)


def test_the_seeds_asked_for_of_what_is_paired_would_tell() -> None:
    first, second = by_seed(30.0, 31.0, 32.0), by_seed(31.0, 31.5, 33.0)  # -1, -0.5, -1
    n = seeds_to_tell_paired(first, second, bonferroni(10))
    assert n is not None

    random = np.random.default_rng(0)
    apart = [first[seed] - second[seed] for seed in first]
    draws = random.normal(np.mean(apart), np.std(apart, ddof=1), (4000, n))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05 / 10) >= 0.8
    assert np.mean(stats.ttest_1samp(draws[:, 1:], 0, axis=1).pvalue < 0.05 / 10) < 0.8
    assert seeds_to_tell_paired(first, first) is None, "no number of seeds tells what is equal"
    assert seeds_to_tell_paired(first, {0: 1.0}) is None


def test_beyond_a_bound_is_asked_of_several_changes_together() -> None:
    value = Estimate(2.0, None, None, 5, 0.45, 8.0)  # t = 2.2 from 1
    value = value.at(0.95)

    assert equivalence(value, 1.0) == DIFFERENT
    assert equivalence(value, 1.0, number=10) == UNDECIDED


def test_seeds_that_would_show_a_flat_line_to_be_flat_or_not() -> None:
    spread = [0.0, 0.77, 1.54]  # a standard deviation of 0.77
    far = [value + 1.5 for value in spread]

    assert seeds_to_settle(spread, spread, 1.0) == 12
    assert seeds_to_settle(spread, [v + 1 for v in spread], 1.0) is None, "on the bound"
    assert seeds_to_tell(spread, spread) is None, "no number of seeds tells what is equal"
    assert seeds_to_tell([1.0, 1.0], [1.0, 1.0]) is None, "nor where nothing scatters"
    assert seeds_to_tell([1.0], spread) is None
    n = seeds_to_settle(spread, far, 1.0, 10)
    assert n is not None
    random = np.random.default_rng(0)
    draws = random.normal(0, 0.77, (2, 4000, n))
    p = stats.ttest_ind(
        draws[1] + 1.5 - 1.0, draws[0], axis=1, equal_var=False, alternative="greater"
    ).pvalue
    assert np.mean(p < 0.05 / 10) == pytest.approx(0.8, abs=0.03)
