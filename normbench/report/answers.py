"""The answer in words, from the numbers and no further than they go."""

from collections.abc import Sequence

from normbench.report.analysis import change, cost, decomposition, difference, error, meeting
from normbench.report.comparisons import Comparison, Line
from normbench.report.progress import settled
from normbench.report.statistics import Estimate, paired
from normbench.report.wording import ONE_SEED, axis_value, join, place, plus_minus, seeds


def answers(comparison: Comparison) -> list[str]:
    """Sentences, the most important first; at least one."""
    lines = [line for line in comparison.lines if line.measured]
    if not lines:
        return ["No seed has finished yet: there is nothing to say."]
    if comparison.axis in ("batch", "norm_batch"):
        said = [*_small(comparison, lines), *_falls(comparison, lines)]
        said += [*_meetings(comparison, lines), *_parts(comparison), *_costs(comparison, lines)]
    else:
        said = _best_along(comparison, lines)
    said = said or [_single(comparison, lines[0])]
    missing = [cell for cell in comparison.cells if not settled(cell)]
    if missing:
        total = len(comparison.cells)
        said.append(f"Not all is in: {len(missing)} of {total} cells have seeds still to finish.")
    return [sentence[:1].upper() + sentence[1:] for sentence in said]


def _single(comparison: Comparison, line: Line) -> str:
    point = line.measured[0]
    value = error(point)
    where = axis_value(comparison.axis, point.x)
    count = "" if value is None else f" ({seeds(value.n)})"
    return f"At {where}, {line.label} norm's test error is {plus_minus(value)} %{count}."


def _at(lines: Sequence[Line], x: int) -> list[Line]:
    found = ((line, line.at(x)) for line in lines)
    return [line for line, point in found if point is not None and point.errors]


def _small(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """Who is ahead where the batch is smallest, and where it is largest."""
    shared = [x for x in comparison.xs if len(_at(lines, x)) > 1]
    said = []
    for x in dict.fromkeys([*shared[:1], *shared[-1:]]):
        here = _at(lines, x)
        where = axis_value(comparison.axis, x)
        first = next((line for line in here if line.norm == "batch"), here[0])
        rivals = [line for line in here if line is not first]
        second = next((line for line in rivals if line.norm == "group"), rivals[0])
        points = difference(first, second, x).points
        said.append(f"At {where}, {_ahead(first, second, points)}")
        if len(here) > 2:
            said[-1] += f" {_lowest(here, x)}"
    return said


def _ahead(first: Line, second: Line, points: Estimate | None) -> str:
    """``first`` minus ``second`` in words."""
    if points is None:
        return f"{first.label} and {second.label} norm have no finished seed in common."
    better, worse = (second, first) if points.mean > 0 else (first, second)
    size = Estimate(abs(points.mean), points.low, points.high, points.n)
    if points.half is None:
        return (
            f"{better.label} norm's test error is {abs(points.mean):.1f} points lower than"
            f" {worse.label} norm's, but this is {ONE_SEED}, and it may be chance."
        )
    if points.above(0) or points.below(0):
        return (
            f"{better.label} norm beats {worse.label} norm by {plus_minus(size)} points of test"
            f" error ({seeds(points.n)}, paired)."
        )
    return (
        f"{seeds(points.n)} cannot tell {first.label} and {second.label} norm apart: {better.label}"
        f" norm's error is lower by {plus_minus(size)} points (paired)."
    )


def _lowest(here: Sequence[Line], x: int) -> str:
    """The best line and those that these seeds cannot tell from it."""
    found = [(value.mean, line) for line in here if (value := _error_at(line, x)) is not None]
    _, best = min(found, key=lambda pair: pair[0])
    open_rivals = []
    for _, line in found:
        points = difference(line, best, x).points
        if line is not best and (points is None or not points.above(0)):
            open_rivals.append(line.label)
    said = f"The lowest mean is {best.label} norm's, {plus_minus(_error_at(best, x))} %"
    if open_rivals:
        said += f"; these seeds do not tell it from {join(open_rivals)}"
    return said + "."


def _error_at(line: Line, x: int) -> Estimate | None:
    point = line.at(x)
    return None if point is None else error(point)


def _falls(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """How much each line loses from its largest to its smallest place."""
    said: dict[tuple[int, int], list[str]] = {}
    for line in lines:
        points = line.measured
        if line.level or len(points) < 2:
            continue
        lost = change(line, points[0].x, points[-1].x)
        if lost is not None:
            verb = "gains" if lost.mean < 0 else "loses"
            size = Estimate(abs(lost.mean), lost.low, lost.high, lost.n)
            words = f"{line.label} norm {verb} {plus_minus(size)}"
            said.setdefault((points[-1].x, points[0].x), []).append(words)
    return [
        f"From {axis_value(comparison.axis, large)} to {small}, {join(words)} points."
        for (large, small), words in said.items()
    ]


def _meetings(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """Where batch norm crosses group norm, or the first other line."""
    first = next((line for line in lines if line.norm == "batch"), None)
    rivals = [line for line in lines if line is not first]
    second = next((line for line in rivals if line.norm == "group"), next(iter(rivals), None))
    found = meeting(first, second) if first is not None and second is not None else None
    if first is None or second is None or found is None:
        return []
    name = axis_value(comparison.axis, found.xs[0])
    if found.crossings:
        where = place(found.crossings).replace("at ", f"at {comparison.axis} ", 1)
        return [f"The lines of {first.label} and {second.label} norm cross {where}."]
    lower = second if found.above else first
    return [
        f"The lines of {first.label} and {second.label} norm do not cross from {name} to"
        f" {found.xs[-1]:g}: {lower.label} norm's mean error is lower throughout."
    ]


def _parts(comparison: Comparison) -> list[str]:
    """What batch norm loses to what at the smallest place."""
    rows = [row for row in decomposition(comparison) if row.lost is not None]
    if not rows:
        return []
    row = min(rows, key=lambda row: row.x)
    return [
        f"Of the {plus_minus(row.lost)} points that {row.line.label} norm loses at"
        f" {axis_value(comparison.axis, row.x)}, {plus_minus(row.averages)} are lost only to its"
        f" running averages and {plus_minus(row.rest)} even with statistics that fit the weights."
    ]


def _costs(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """Time and memory against batch norm's at the smallest place."""
    first = next((line for line in lines if line.norm == "batch" and not line.level), None)
    if first is None:
        return []
    point = first.measured[0]
    paid = cost(point.cell)
    slower, larger = [], []
    for line in _at(lines, point.x):
        other = line.at(point.x)
        if line is first or other is None:
            continue
        theirs = cost(other.cell)
        if paid.seconds is not None and theirs.seconds is not None:
            slower.append((theirs.seconds.mean / paid.seconds.mean, line.label))
        if paid.memory and theirs.memory:
            larger.append((theirs.memory / paid.memory, line.label))
    parts = [_ratios("an epoch takes", "as long", slower)] if slower else []
    parts += [_ratios("a step holds", "as much memory", larger)] if larger else []
    if not parts:
        return []
    where = axis_value(comparison.axis, point.x)
    return [f"Against batch norm at {where}, as measured: {'; '.join(parts)}."]


def _ratios(subject: str, what: str, ratios: Sequence[tuple[float, str]]) -> str:
    """``an epoch takes 1.19 times as long with group norm, 1.11 with layer norm``."""
    (first, label), *rest = ratios
    said = [f"{first:.2f} times {what} with {label} norm"]
    said += [f"{ratio:.2f} with {label} norm" for ratio, label in rest]
    return f"{subject} {join(said)}"


def _best_along(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """The best place on an axis of groups, and which others cannot be told from it."""
    said = []
    for line in (line for line in lines if not line.level):
        found = [(value.mean, p) for p in line.measured if (value := error(p)) is not None]
        _, best = min(found, key=lambda pair: pair[0])
        same = []
        for _, p in found:
            points = paired(p.errors, best.errors)
            if p.x != best.x and (points is None or not points.above(0)):
                same.append(str(p.x))
        where = axis_value(comparison.axis, best.x)
        words = f"{line.label} norm's lowest mean error is {plus_minus(error(best))} % at {where}"
        said.append(words + (f"; not told from it: {join(same)}." if same else "."))
    return said
