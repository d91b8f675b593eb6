"""How numbers are said."""

import pytest

from normbench.terminal.words import count, fixed


def test_one_is_said_without_an_s() -> None:
    assert [count(number, "cell") for number in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]


@pytest.mark.parametrize(
    ("value", "places", "said"),
    [(40.95, 1, "41.0"), (0.25, 1, "0.3"), (-0.25, 1, "−0.3"), (2.675, 2, "2.68"),
     (-0.04, 1, "0.0"), (1234.5, 0, "1,235")],
)  # fmt: skip
def test_ties_are_not_rounded_down(value: float, places: int, said: str) -> None:
    assert fixed(value, places) == said
    assert fixed(100 * (1 - 0.5905), 1) == "41.0"
