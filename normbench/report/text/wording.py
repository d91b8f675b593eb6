"""Numbers as a person reads them: never more digits than the interval bears, never a bare mean."""

from collections.abc import Sequence

from normbench.report.compare.statistics import Crossing, Estimate

MINUS = "\N{MINUS SIGN}"
ONE_SEED = "one seed: no interval"


def plus_minus(value: Estimate | None, digits: int | None = None) -> str:
    """``36.8 ± 1.2``; a mean alone where there is one seed; ``-`` where there is nothing."""
    if value is None:
        return "-"
    places = _digits(value) if digits is None else digits
    said = _minus(f"{value.mean:z,.{places}f}")
    return said if value.half is None else f"{said} ± {value.half:,.{places}f}"


def signed(value: Estimate) -> str:
    """A difference in words: ``+3.2 ± 0.4 points (3 seeds)``."""
    return f"{difference(value)} points ({seeds(value.n)})"


def difference(value: Estimate | None) -> str:
    """A difference in a table: ``+3.2 ± 0.4``."""
    if value is None:
        return "-"
    said = plus_minus(value)
    return said if said.startswith(MINUS) else f"+{said}"


def seeds(number: int) -> str:
    """``3 seeds``, or that one gives no interval."""
    return ONE_SEED if number == 1 else f"{number} seeds"


def _digits(value: Estimate) -> int:
    return 2 if value.half is not None and value.half < 0.5 else 1


def _minus(text: str) -> str:
    return text.replace("-", MINUS)


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where that can be read."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def memory(size: int | None) -> str:
    """``12.3 MB``."""
    return "-" if size is None else f"{number(size / 1e6)} MB"


def open_question(value: Estimate) -> str:
    """A difference that may be read as one only with its interval: ``+0.8 ± 4.1 (not told from
    0)``."""
    told = value.above(0) or value.below(0)
    if value.half is None:
        return f"{difference(value)} ({ONE_SEED})"
    return difference(value) if told else f"{difference(value)} (not told from 0)"


def place(crossings: Sequence[Crossing]) -> str:
    """Where two lines cross: ``at 5.3, between 4 and 8 (95 % interval 4.1 to 7.9)``."""
    return "; ".join(_crossing(c) for c in crossings) or "no crossing among the measured places"


def _crossing(crossing: Crossing) -> str:
    low, high = crossing.between
    at = f"at {crossing.at:.1f}, between {low:g} and {high:g}"
    if crossing.low is None or crossing.high is None:
        return at if crossing.n == 0 else f"{at} (too few seeds for an interval)"
    if crossing.open_low and crossing.open_high:
        return f"{at} (by these seeds it may be anywhere in the range, or nowhere)"
    if crossing.open_low:
        return f"{at} (95 % interval up to {crossing.high:.1f}, open below)"
    if crossing.open_high:
        return f"{at} (95 % interval from {crossing.low:.1f}, open above)"
    return f"{at} (95 % interval {crossing.low:.1f} to {crossing.high:.1f})"


def spread(values: Sequence[float]) -> str:
    """``0.3 points``."""
    return f"{max(values) - min(values):.1f} points"


def join(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
