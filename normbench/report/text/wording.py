"""Numbers as a person reads them: never more digits than the interval bears, never a bare mean."""

from collections.abc import Sequence

from normbench.report.compare.crossing import Crossing
from normbench.report.compare.statistics import Estimate
from normbench.terminal import words
from normbench.terminal.words import MINUS, fixed

ONE_SEED = "one seed, no interval"


def plus_minus(value: Estimate | None) -> str:
    """``36.8 ± 1.2``; a mean alone where there is one seed; ``-`` where there is nothing."""
    return "-" if value is None else words.plus_minus(value.mean, value.half)


def difference(value: Estimate | None) -> str:
    """A difference in a table: ``+3.2 ± 0.4``."""
    said = plus_minus(value)
    return said if value is None or said.startswith(MINUS) else f"+{said}"


def size(value: Estimate) -> str:
    """How large a difference is, whatever its sign: ``3.2 ± 0.4``."""
    return plus_minus(value).removeprefix(MINUS)


def seeds(number: int) -> str:
    """``3 seeds``, or that one gives no interval."""
    return ONE_SEED if number == 1 else f"{number} seeds"


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where that can be read."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def memory(size: int | None) -> str:
    """``12.3 MB``."""
    return "-" if size is None else f"{number(size / 1e6)} MB"


def ratio(value: float | None) -> str:
    """``× 1.25``; ``-`` where it is not known."""
    return "-" if value is None else f"× {fixed(value, 2)}"


def place(crossings: Sequence[Crossing]) -> str:
    """Where two lines cross: ``at 5.3 (95 % interval 4.1 to 7.9)``."""
    if not crossings:
        return "no crossing among the measured places"
    if len(crossings) > 1:
        places = join([f"{c.at:.1f}" for c in crossings])
        return f"several times ({places}), and these seeds locate none of the crossings"
    (one,) = crossings
    if not one.located:
        return "these seeds do not locate the crossing"
    if one.low is None:
        return f"at {one.at:.1f} (95 % interval up to {one.high:.1f})"
    if one.high is None:
        return f"at {one.at:.1f} (95 % interval from {one.low:.1f})"
    return f"at {one.at:.1f} (95 % interval {one.low:.1f} to {one.high:.1f})"


def join(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def wider(half: float | None, of: str = "") -> str:
    """What another test set would make of an interval: `` (± 0.8)``."""
    return "" if half is None else f" (± {fixed(half, 1)}{of})"
