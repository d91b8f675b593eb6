"""Where lines cross, and how sure that is."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from normbench.report.compare.crossing import crossings

Line = dict[float, dict[int, float]]


def line(values: Mapping[int, Sequence[float]]) -> Line:
    return {float(x): dict(enumerate(seeds)) for x, seeds in values.items()}


def around(mean: float, spread: float = 0.2) -> list[float]:
    return [mean - spread, mean, mean + spread]


FLAT = line({x: around(0.0) for x in (2, 4, 8, 16, 32)})


def test_lines_cross_halfway_on_log2() -> None:
    (found,) = crossings(line({2: around(1.0), 8: around(-1.0)}), FLAT)

    assert found.at == pytest.approx(4.0)
    assert found.between == (2, 4)


def test_a_place_where_one_line_was_measured_counts() -> None:
    """The other lies on a straight line there; outside of its range nothing is known."""
    first = line({1: around(40.0), 2: around(26.3), 4: around(22.1), 8: around(20.8)})
    second = line({2: around(23.3), 8: around(24.3), 32: around(25.0)})
    (found,) = crossings(first, second)

    assert found.at == pytest.approx(2 ** (1 + 3.0 / (3.0 + 1.7)))
    assert found.between == (2.0, 4.0)
    assert found.low is not None
    assert found.high is not None
    assert 2 < found.low < found.at
    assert found.at < found.high < 4


def test_a_crossing_is_where_interpolation_says() -> None:
    (found,) = crossings(line({2: around(5.49), 4: around(1.2), 8: around(-0.37)}), FLAT)

    assert found.at == pytest.approx(2 ** (2 + 1.2 / 1.57))


@pytest.mark.parametrize("mean", [0.1, 0.35, 0.6, 1.2])
def test_an_end_is_open_exactly_where_welch_does_not_tell_the_lines_apart(mean: float) -> None:
    first, second = line({2: around(mean), 8: around(-5.0)}), FLAT
    (found,) = crossings(first, second)
    p = stats.ttest_ind(around(mean), around(0.0), equal_var=False).pvalue

    assert (found.low is None) == (p > 0.05)
    assert found.high is not None
    assert found.located


def test_the_interval_is_fieller_s_where_spreads_are_known_well() -> None:
    random = np.random.default_rng(3)
    left, right = random.normal(1, 1, 200), random.normal(-1, 1, 200)
    zeros = [0.0] * 200
    (found,) = crossings(line({2: list(left), 8: list(right)}), line({2: zeros, 8: zeros}))
    shares = np.linspace(0, 1, 20001)
    means = (1 - shares) * left.mean() + shares * right.mean()
    errors = np.hypot((1 - shares) * stats.sem(left), shares * stats.sem(right))
    holds = 2 ** (1 + 2 * shares[np.abs(means) <= 1.96 * errors])

    assert (found.low, found.high) == pytest.approx((holds[0], holds[-1]), rel=0.02)


def test_noisy_seeds_do_not_locate_the_crossing() -> None:
    (found,) = crossings(line({2: [9, -7, 4], 8: [7, -9, -3]}), FLAT)

    assert not found.located


def test_where_no_place_tells_the_lines_apart_no_crossing_is_located() -> None:
    """With many places some draw always falls through 0 somewhere; that locates nothing."""
    means = {2: 1.4, 4: 1.2, 8: -1.0, 32: -0.4, 128: -2.7}
    noisy = line({x: around(mean, 2.0) for x, mean in means.items()})
    level = line({x: around(0.0, 1.5) for x in means})
    (found,) = crossings(noisy, level)

    assert not found.located
    (clear,) = crossings(noisy | line({2: around(9.0)}), level | line({2: around(0.0)}))
    assert clear.low is not None
    assert clear.high is None


def test_one_seed_crosses_without_an_interval() -> None:
    (found,) = crossings(line({2: [1], 8: [-1]}), line({2: [0], 8: [0]}))

    assert found.at == pytest.approx(4.0)
    assert not found.located


def test_a_line_of_one_cell_moves_as_a_whole() -> None:
    """Level lines are one cell at every place: its noise cannot make the lines cross twice."""
    level = line({x: [0.0, 1.0, -1.0] for x in (2, 4, 8)})
    steep = line({2: around(9.0, 0), 4: around(0.1, 0), 8: around(-9.0, 0)})
    (found,) = crossings(steep, level)

    assert found.located
    assert crossings(steep, level) == [found]


@pytest.mark.parametrize(
    "values",
    [{2: [1, 2], 8: [3, 1]}, {2: [1, 1]}, {}],
    ids=["apart", "one place", "nothing"],
)
def test_lines_that_do_not_cross_have_no_crossing(values: dict[int, list[float]]) -> None:
    assert crossings(line(values), line({2: [0, 0], 8: [0, 0]})) == []


@pytest.mark.parametrize(
    ("means", "places"),
    [
        ((1, 0, 1), []),
        ((-1, 0, -1), []),
        ((0, 0, 0), []),
        ((1, 0, -1), [8.0]),
        ((0, -1, 1), [16.0]),
    ],
)
def test_lines_that_touch_do_not_cross(means: Sequence[float], places: list[float]) -> None:
    found = crossings(line({x: [m] for x, m in zip((2, 8, 32), means, strict=True)}), FLAT)
    assert [each.at for each in found] == pytest.approx(places)


def test_of_two_crossings_none_is_located() -> None:
    first, second = crossings(line({2: around(1), 8: around(-1), 32: around(1)}), FLAT)

    assert [first.at, second.at] == [pytest.approx(4.0), pytest.approx(16.0)]
    assert not first.located
    assert not second.located
