"""Numbers as a person reads them."""

import pytest

from normbench.report.compare.comparisons import axis_value
from normbench.report.compare.crossing import Crossing
from normbench.report.compare.statistics import Estimate
from normbench.report.text.wording import (
    difference,
    join,
    memory,
    number,
    place,
    plus_minus,
    seeds,
    size,
)


def around(mean: float, half: float | None, n: int = 3) -> Estimate:
    if half is None:
        return Estimate(mean, None, None, n)
    return Estimate(mean, mean - half, mean + half, n)


@pytest.mark.parametrize(
    ("mean", "half", "said"),
    [
        (36.789, 1.234, "36.8 ± 1.2"),
        (36.789, 0.1234, "36.79 ± 0.12"),
        (-3.21, 1.0, "−3.2 ± 1.0"),
        (36.789, None, "36.8"),
    ],
)
def test_a_mean_has_no_more_digits_than_its_interval_bears(
    mean: float, half: float | None, said: str
) -> None:
    assert plus_minus(around(mean, half)) == said


def test_nothing_is_a_dash() -> None:
    assert (plus_minus(None), difference(None), number(None), memory(None)) == ("-", "-", "-", "-")


def test_differences_have_a_sign_and_sizes_have_none() -> None:
    assert difference(around(3.21, 1.0)) == "+3.2 ± 1.0"
    assert difference(around(-3.21, None)) == "−3.2"
    assert size(around(-3.21, 1.0)) == "3.2 ± 1.0"
    assert (seeds(1), seeds(3)) == ("one seed, no interval", "3 seeds")


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.00625, "0.00625"), (83.237, "83.2"), (837.4, "837"), (12345.6, "12,346"), (0.4, "0.4")],
)
def test_numbers_have_three_digits(value: float, said: str) -> None:
    assert number(value) == said


def test_memory_is_in_megabytes() -> None:
    assert memory(2_247_680) == "2.25 MB"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (4.1, 7.92, "at 5.3 (95 % interval 4.1 to 7.9)"),
        (None, 7.92, "at 5.3 (95 % interval up to 7.9)"),
        (4.1, None, "at 5.3 (95 % interval from 4.1)"),
        (None, None, "these seeds do not locate the crossing"),
    ],
)
def test_a_crossing_says_how_sure_its_place_is(
    low: float | None, high: float | None, said: str
) -> None:
    assert place([Crossing(5.29, (4, 8), False, low, high)]) == said


def test_no_crossing_is_said() -> None:
    assert place([]) == "no crossing among the measured places"


def test_places_on_axes() -> None:
    assert [axis_value(a, 4) for a in ("batch", "norm_batch", "groups", "channels_per_group")] == [
        "batch size 4",
        "norm batch size 4",
        "G = 4",
        "C/G = 4",
    ]


def test_lists() -> None:
    said = [join(list(text)) for text in ("", "a", "ab", "abc")]
    assert said == ["", "a", "a and b", "a, b and c"]
