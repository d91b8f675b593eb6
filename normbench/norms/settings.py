"""Settings with ranges: a range is written once, beside the default, and checked from there."""

from dataclasses import field, fields
from math import inf, isfinite
from typing import Any

from normbench.errors import UsageError


def setting(
    default: Any,
    *,
    above: float = -inf,
    least: float = -inf,
    below: float = inf,
    most: float = inf,
    words: tuple[str, ...] = (),
) -> Any:
    """A field of a configuration with the values it may take; null is allowed where its type says.

    Args:
        default: its value where nothing is said.
        above, least: what a number must exceed, or reach.
        below, most: what it must stay under, or may reach.
        words: what may be said instead of a whole number.
    """
    bounds = {"above": above, "least": least, "below": below, "most": most}
    return field(default=default, metadata={"bounds": bounds, "words": words})


def check_settings(config: Any, group: str) -> None:
    """Raises UsageError with one line for a setting of ``config`` that is out of its range."""
    for each in fields(config):
        value = getattr(config, each.name)
        if each.metadata and not _is_allowed(value, each.metadata):
            raise UsageError(f"{group}.{each.name}={value}: must be {_allowed(each.metadata)}")


def _is_allowed(value: object, metadata: Any) -> bool:
    if isinstance(value, str):
        return value in metadata["words"]
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return True
    bounds = metadata["bounds"]
    inside = bounds["least"] <= value <= bounds["most"]
    return isfinite(value) and inside and bounds["above"] < value < bounds["below"]


def _allowed(metadata: Any) -> str:
    said = {"above": "above", "least": "at least", "below": "below", "most": "at most"}
    bounds = metadata["bounds"].items()
    ranges = " and ".join(f"{said[key]} {bound:g}" for key, bound in bounds if isfinite(bound))
    if metadata["words"]:
        return f"{' or '.join(metadata['words'])} or a whole number, {ranges}"
    return ranges or "a finite number"
