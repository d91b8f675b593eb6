"""How numbers are said."""

from normbench.terminal.words import count


def test_one_is_said_without_an_s() -> None:
    assert [count(number, "cell") for number in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]
