"""Two comparisons side by side: each norm's error in both, and the change."""

from collections.abc import Sequence

from normbench.report.compare.comparisons import NAMES, Comparison, Line
from normbench.report.compare.differences import error, least
from normbench.report.compare.recipes import norm_settings, told_apart
from normbench.report.compare.statistics import holm, welch
from normbench.report.read.cells import CellRun
from normbench.report.text.wording import difference, join, plus_minus


def beside(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of two sweeps side by side: each norm's error in both, and the change.

    Places where seeds diverged in one of them have no row. A norm whose settings are not the same
    in both says which.
    """
    first, second = comparisons
    rows, found = [], []
    for line in first.lines:
        other = next((o for o in second.lines if o.label == line.label), None)
        for point in () if other is None else line.whole:
            there = other.at(point.x) if other is not None else None
            if there is not None and there.whole:
                apart = welch(there.errors, point.errors, least=least(there, point))
                found.append(apart)
                x = "any" if line.level else str(point.x)
                label = line.label + _unlike(point.cell, there.cell)
                rows.append([label, x, plus_minus(error(point)), plus_minus(error(there))])
    for row, alone, level in zip(rows, found, holm(found), strict=True):
        wide = None if alone is None else alone.at(level)
        word = "clear" if wide is not None and wide.clear else "unclear"
        row += [difference(alone), difference(wide), word]
    columns = ["norm", NAMES[first.axis], "first", "second"]
    return [*columns, "second − first, alone", "together", "how sure"], rows


def only_in(own: Comparison, other: Comparison) -> list[str]:
    """What has no row because the other comparison has not measured it: each line with its
    places."""
    found = []
    for line in own.lines:
        theirs = next((o for o in other.lines if o.label == line.label), None)
        lacking = [p.x for p in line.measured if theirs is None or theirs.at(p.x) is None]
        found += _at(line, lacking)
    return found


def diverged_in(own: Comparison, other: Comparison) -> list[str]:
    """What has no row because seeds diverged in ``own``: each line with its places."""
    found = []
    for line in own.lines:
        theirs = next((o for o in other.lines if o.label == line.label), None)
        lost = [p.x for p in line.own if p.diverged and theirs is not None and theirs.at(p.x)]
        found += _at(line, lost)
    return found


def _at(line: Line, places: Sequence[int]) -> list[str]:
    said = join(["any" if line.level else str(x) for x in places])
    return [f"{line.label} at {said}"] if places else []


def _unlike(first: CellRun, second: CellRun) -> str:
    """The norm's settings in which two cells differ; "" where they do not, or are not known."""
    if not (first.settings and second.settings):
        return ""
    said = told_apart([norm_settings(first), norm_settings(second)])
    both = zip(("first", "second"), said, strict=True)
    parts = [f"{name}: {', '.join(own)}" for name, own in both if own]
    return f" ({'; '.join(parts)})" if parts else ""
