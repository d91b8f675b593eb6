"""How numbers are said."""

from decimal import ROUND_HALF_UP, Decimal

MINUS = "\N{MINUS SIGN}"


def count(number: int, what: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def fixed(value: float, places: int) -> str:
    """A number with so many decimals; ties go away from 0, as in 40.95 -> 41.0, not 40.9."""
    exact = Decimal(repr(round(value, 9))).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return f"{exact + 0:,f}".replace("-", MINUS)


def plus_minus(mean: float, half: float | None) -> str:
    """``36.8 ± 1.2``, ``20.08 ± 0.20``: no more digits than the interval bears.

    Args:
        mean: the value.
        half: half its interval; None: the value stands alone.
    """
    places = 2 if half is not None and half < 0.5 else 1
    return fixed(mean, places) + ("" if half is None else f" ± {fixed(half, places)}")
