"""The answer in words, from the numbers and no further than they go."""

from collections.abc import Sequence

from normbench.report.compare.analysis import (
    change,
    decomposition,
    difference,
    error,
    meeting,
    reference,
    rivals,
    spread,
    typical,
)
from normbench.report.compare.comparisons import Comparison, Line, Point, axis_value
from normbench.report.compare.statistics import Estimate, Scatter, paired
from normbench.report.read.progress import settled
from normbench.report.text.wording import (
    ONE_SEED,
    join,
    open_question,
    place,
    plus_minus,
    seeds,
)
from normbench.report.text.wording import (
    difference as signed_difference,
)


def answers(comparison: Comparison) -> list[str]:
    """Sentences, the most important first; at least one."""
    lines = [line for line in comparison.lines if any(p.ended for p in line.points)]
    if not lines:
        return ["No seed has finished yet: there is nothing to say."]
    said = _diverged(comparison, lines)
    if comparison.axis in ("batch", "norm_batch"):
        said += [*_small(comparison, lines), *_falls(comparison, lines)]
        said += [*_meetings(comparison), *_parts(comparison)]
    else:
        said += _best_along(comparison, lines)
    said = said or [_single(comparison, line) for line in lines if line.measured][:1]
    missing = [cell for cell in comparison.cells if not settled(cell)]
    if missing:
        total = len(comparison.cells)
        said.append(
            f"Not all is in: {len(missing)} of {total} cells have seeds still to finish, or that"
            " cannot be read."
        )
    return [sentence[:1].upper() + sentence[1:] for sentence in said]


def _single(comparison: Comparison, line: Line) -> str:
    point = line.measured[0]
    value = error(point)
    where = axis_value(comparison.axis, point.x)
    count = "" if value is None else f" ({seeds(value.n)})"
    return f"At {where}, {line.named}'s test error is {plus_minus(value)} %{count}."


def _diverged(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """Which norms lost seeds where: said first, because no mean shows it."""
    said = []
    for line in lines:
        for point in line.points[:1] if line.level else line.points:
            if point.diverged:
                total = len(point.cell.seeds)
                where = "" if line.level else f" at {axis_value(comparison.axis, point.x)}"
                said.append(f"{point.diverged} of {line.named}'s {total} seeds{where}")
    if not said:
        return []
    return [
        f"Diverged: {join(said)}. Where seeds diverged, a mean over the others would flatter the"
        " norm: it is in the table, and in none of the following."
    ]


def _whole(lines: Sequence[Line], x: int) -> list[tuple[Line, Point]]:
    """The lines with finished seeds at ``x`` and none that diverged."""
    found = ((line, line.at(x)) for line in lines)
    return [(line, p) for line, p in found if p is not None and p.errors and not p.diverged]


def _small(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """Who is ahead where the batch is smallest, and where it is largest."""
    shared = [x for x in comparison.xs if len(_whole(lines, x)) > 1]
    pooled = spread(comparison)
    said = []
    for x in dict.fromkeys([*shared[:1], *shared[-1:]]):
        here = [line for line, _ in _whole(lines, x)]
        first = _chosen(comparison, "batch", here) or here[0]
        rivals = [line for line in here if line is not first]
        second = _chosen(comparison, "group", rivals) or rivals[0]
        points = difference(first, second, x).points
        said.append(f"At {axis_value(comparison.axis, x)}, {_ahead(first, second, points, pooled)}")
        if len(here) > 2:
            said[-1] += f" {_lowest(here, x)}"
    return said


def _chosen(comparison: Comparison, norm: str, among: Sequence[Line]) -> Line | None:
    line = typical(comparison, norm)
    return line if line in among else None


def _ahead(first: Line, second: Line, points: Estimate | None, pooled: Scatter | None) -> str:
    """``first`` minus ``second`` in words."""
    if points is None:
        return f"{first.named} and {second.named} have no finished seed in common."
    better, worse = (second, first) if points.mean > 0 else (first, second)
    size = Estimate(abs(points.mean), points.low, points.high, points.n)
    if points.half is None:
        return (
            f"{better.named}'s test error is {abs(points.mean):.1f} points lower than"
            f" {worse.named}'s, but this is {ONE_SEED}, and it may be chance."
        )
    told = points.above(0) or points.below(0)
    if told:
        said = (
            f"{better.named} beats {worse.named} by {plus_minus(size)} points of test error"
            f" ({seeds(points.n)}, paired)."
        )
    else:
        said = (
            f"{seeds(points.n)}, paired, do not tell {first.named} and {second.named} apart:"
            f" {better.named}'s mean error is {plus_minus(size)} points lower."
        )
    if pooled is not None and (pooled.half(points.n) < abs(points.mean)) != told:
        other = "would not tell them apart" if told else "would tell them apart"
        half = plus_minus(Estimate(pooled.half(points.n), None, None, 1))
        said += f" With one spread for all cells it would be ± {half}, which {other}."
    return said


def _lowest(here: Sequence[Line], x: int) -> str:
    """The best line and those that these seeds cannot tell from it."""
    found = [(value.mean, line) for line in here if (value := _error_at(line, x)) is not None]
    _, best = min(found, key=lambda pair: pair[0])
    open_rivals = []
    for _, line in found:
        points = difference(line, best, x).points
        if line is not best and (points is None or not points.above(0)):
            open_rivals.append(line.named)
    said = f"The lowest mean is {best.named}'s, {plus_minus(_error_at(best, x))} %"
    if open_rivals:
        said += f"; these seeds do not tell {join(open_rivals)} from it"
    return said + "."


def _error_at(line: Line, x: int) -> Estimate | None:
    point = line.at(x)
    return None if point is None else error(point)


def _falls(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """How much each line's error changes from the place of reference to its smallest."""
    said: dict[tuple[int, int], list[str]] = {}
    for line in lines:
        points = [point for point in line.measured if not point.diverged]
        if line.level or len(points) < 2:
            continue
        against = reference(points)
        moved = change(line, points[0].x, against.x)
        if moved is not None:
            words = f"{line.named}'s by {open_question(moved)}"
            said.setdefault((against.x, points[0].x), []).append(words)
    return [
        f"From {axis_value(comparison.axis, large)} to {small}, test error changes: {join(words)}"
        " points."
        for (large, small), words in said.items()
    ]


def _meetings(comparison: Comparison) -> list[str]:
    """Where batch norm crosses group norm, or the first other line."""
    both = rivals(comparison)
    found = None if both is None else meeting(*both)
    if both is None or found is None:
        return []
    first, second = both
    if any(point.diverged for line in (first, second) for point in line.points):
        return []
    named = f"{first.named} and {second.named}"
    if found.crossings:
        where = place(found.crossings).replace("at ", f"at {comparison.axis} ", 1)
        return [f"The lines of {named} cross {where}."]
    if len(set(found.above)) > 1:  # other seeds at other places: no line of the same seeds crosses
        return []
    lower = second if found.above[0] else first
    count = len(found.xs)
    said = (
        f"The lines of {named} do not cross: at {'both' if count == 2 else f'all {count}'} places"
        f" measured, from {axis_value(comparison.axis, found.xs[0])} to {found.xs[-1]:g},"
        f" {lower.named}'s mean error is lower"
    )
    close = [f"{x:g}" for x in found.xs if not _told_apart(first, second, int(x))]
    if close:
        said += f"; but at {join(close)} these seeds do not tell them apart"
    return [said + "."]


def _told_apart(first: Line, second: Line, x: int) -> bool:
    points = difference(first, second, x).points
    return points is not None and (points.above(0) or points.below(0))


def _parts(comparison: Comparison) -> list[str]:
    """What batch norm loses to what at the smallest place."""
    rows = decomposition(comparison)
    if not all(_complete(row.line, row.x) for row in rows if row.reference):
        return []
    rows = [row for row in rows if _complete(row.line, row.x)]
    row = min(rows, key=lambda row: row.x, default=None)
    if row is None or row.lost is None or row.averages is None or row.rest is None:
        return []
    where = axis_value(comparison.axis, row.x)
    if not row.lost.above(0):
        return [
            f"That {row.line.named} loses anything at {where} is not shown:"
            f" {open_question(row.lost)} points."
        ]
    return [
        f"Of the {plus_minus(row.lost)} points that {row.line.named} loses at {where},"
        f" {open_question(row.averages)} are lost to its running averages alone and"
        f" {open_question(row.rest)} even with statistics that fit the weights."
    ]


def _complete(line: Line, x: int) -> bool:
    point = line.at(x)
    return point is not None and not point.diverged


def _best_along(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """The best place on an axis of groups, and which others cannot be told from it."""
    said = []
    for line in (line for line in lines if not line.level):
        whole = [p for p in line.measured if not p.diverged]
        found = [(value.mean, p) for p in whole if (value := error(p)) is not None]
        if not found:
            continue
        _, best = min(found, key=lambda pair: pair[0])
        same, worse = [], []
        for _, p in found:
            points = paired(p.errors, best.errors)
            if p.x != best.x and points is not None and points.above(0):
                worse.append(f"{p.x} ({signed_difference(points)})")
            elif p.x != best.x:
                same.append(str(p.x))
        where = axis_value(comparison.axis, best.x)
        words = f"{line.named}'s lowest mean error is {plus_minus(error(best))} % at {where}"
        words += f"; worse by this much: {join(worse)}" if worse else ""
        words += f"; not told from it: {join(same)}" if same else ""
        said.append(f"{words}.")
    return said
