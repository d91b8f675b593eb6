"""Intervals over seeds and crossings, against SciPy and by hand."""

from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from normbench.report.compare.statistics import Crossing, Estimate, crossings, estimate, paired

Line = dict[float, dict[int, float]]


def line(values: Mapping[float, list[float]]) -> Line:
    return {x: dict(enumerate(seeds)) for x, seeds in values.items()}


ZERO = line({x: [0.0, 0.0, 0.0] for x in (2, 4, 8, 16, 32)})


def test_an_estimate_is_student_s_interval() -> None:
    values = [3.1, 2.9, 3.6, 3.3]
    found = estimate(values)

    assert found is not None
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.mean, found.n) == pytest.approx((3.225, 4))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.half == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    assert estimate([3.0]) == Estimate(3.0, None, None, 1)
    alone = Estimate(3.0, None, None, 1)
    assert alone.half is None
    assert not alone.above(0)
    assert not alone.below(10)
    assert not alone.within(10)


def test_nothing_has_no_mean() -> None:
    assert estimate([]) is None
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("low", "high", "above", "below", "within"),
    [
        (0.5, 0.9, True, False, True),
        (-0.9, -0.5, False, True, True),
        (-0.5, 1.5, False, False, False),
    ],
)
def test_an_interval_decides_only_as_a_whole(
    low: float, high: float, above: bool, below: bool, within: bool
) -> None:
    value = Estimate((low + high) / 2, low, high, 3)

    assert (value.above(0), value.below(0), value.within(1)) == (above, below, within)


def test_pairing_cancels_what_the_seeds_have_in_common() -> None:
    first = {0: 10.0, 1: 20.0, 2: 30.0, 7: 99.0}
    second = {2: 29.1, 1: 19.0, 0: 8.9, 8: -99.0}
    found = paired(first, second)

    assert found is not None
    assert (found.mean, found.n) == pytest.approx((1.0, 3))
    assert found.half == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3))


def test_lines_cross_halfway_on_log2() -> None:
    (found,) = crossings(line({2: [1.0, 1.2], 8: [-1.2, -1.0]}), line({2: [0, 0], 8: [0, 0]}))

    assert found.at == pytest.approx(4.0)
    assert found.falling
    assert found.n == 2


def test_a_crossing_is_where_interpolation_says() -> None:
    (found,) = crossings(line({2: [5.49] * 2, 4: [1.2] * 2, 8: [-0.37] * 2}), ZERO)

    assert found.at == pytest.approx(2 ** (2 + 1.2 / 1.57))


def brute_force(first: Line, second: Line, at: float) -> tuple[float, float]:
    """The ends of the places around ``at`` where the interval of the difference holds 0."""
    xs = sorted(first)
    log = np.linspace(np.log2(xs[0]), np.log2(xs[-1]), 20_001)
    seeds = sorted(first[xs[0]])
    differences = np.array(
        [np.interp(log, np.log2(xs), [first[x][s] - second[x][s] for x in xs]) for s in seeds]
    )
    half = stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(differences, axis=0)
    holds = np.abs(differences.mean(axis=0)) <= half
    start = int(np.argmin(np.abs(log - np.log2(at))))
    low = high = start
    while low > 0 and holds[low - 1]:
        low -= 1
    while high < len(log) - 1 and holds[high + 1]:
        high += 1
    return float(2 ** log[low]), float(2 ** log[high])


@pytest.mark.parametrize("seed", range(6))
def test_the_interval_of_a_crossing_is_where_the_difference_may_be_zero(seed: int) -> None:
    random = np.random.default_rng(seed)
    means = {2: 3.0, 4: 1.0, 8: -0.5, 16: -1.0, 32: -2.0}
    first = line({x: list(mean + random.normal(0, 0.4, 3)) for x, mean in means.items()})
    found = crossings(first, ZERO)

    assert found
    for crossing in found:
        low, high = brute_force(first, ZERO, crossing.at)
        assert (crossing.low, crossing.high) == pytest.approx((low, high), rel=1e-3)
        assert crossing.open_low == (low == 2)
        assert crossing.open_high == (high == 32)


def test_noisy_seeds_leave_the_interval_open_at_the_ends() -> None:
    (found,) = crossings(line({2: [9, -7], 8: [7, -9]}), line({2: [0, 0], 8: [0, 0]}))

    assert (found.open_low, found.open_high) == (True, True)
    assert (found.low, found.high) == (2.0, 8.0)


def test_seeds_that_agree_exactly_leave_no_doubt() -> None:
    (found,) = crossings(line({2: [1, 1, 1], 8: [-1, -1, -1]}), ZERO)

    assert (found.low, found.at, found.high) == pytest.approx((4.0, 4.0, 4.0))
    assert not found.open_low
    assert not found.open_high


def test_one_seed_crosses_without_an_interval() -> None:
    (found,) = crossings(line({2: [1], 8: [-1]}), line({2: [0], 8: [0]}))

    assert found == Crossing(4.0, (2.0, 8.0), None, None, False, False, True, 1)


def test_beyond_places_with_too_few_seeds_nothing_is_claimed() -> None:
    first = {2.0: {0: 1.0, 1: 1.1}, 8.0: {0: -0.1, 1: 0.04}, 32.0: {0: -5.0}}
    (found,) = crossings(first, ZERO)

    assert found.open_high
    assert found.high == pytest.approx(32.0)
    assert found.n == 2


def test_an_interval_ends_where_other_seeds_leave_no_doubt() -> None:
    # Seeds 0 and 1 doubt up to 8; beyond it, 2 and 3 agree on a difference from the start.
    first = {
        2.0: {0: 9.0, 1: -7.0},
        8.0: {0: -9.0, 1: 7.5, 2: -5.0, 3: -5.1},
        32.0: {2: -5.0, 3: -5.1},
    }
    (found,) = crossings(first, line({x: [0.0] * 4 for x in (2, 8, 32)}))

    assert found.high == pytest.approx(8.0)
    assert not found.open_high


@pytest.mark.parametrize(
    "values",
    [
        {2: [1, 2], 8: [3, 1]},
        {2: [1, 1], 4: [0, 0], 8: [1, 1]},
        {2: [-1, -1], 4: [0, 0], 8: [-1, -1]},
        {2: [1, 1]},
        {},
    ],
    ids=["apart", "touches from above", "touches from below", "one place", "nothing"],
)
def test_lines_that_do_not_cross_have_no_crossing(values: dict[float, list[float]]) -> None:
    assert crossings(line(values), ZERO) == []


def test_lines_may_cross_twice() -> None:
    first, second = crossings(line({2: [1, 1], 8: [-1, -1], 32: [1, 1]}), ZERO)

    assert [first.at, second.at] == [pytest.approx(4.0), pytest.approx(16.0)]
    assert [first.falling, second.falling] == [True, False]


def test_a_line_may_cross_exactly_at_a_measured_place() -> None:
    (found,) = crossings(line({2: [1, 1], 4: [0, 0], 8: [-1, -1]}), ZERO)

    assert found.at == pytest.approx(4.0)
