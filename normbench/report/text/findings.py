"""The first screen in words: one sentence for each finding."""

from collections.abc import Sequence
from itertools import combinations

from normbench.report.compare.choice import Choice, all_at_chance, choices
from normbench.report.compare.comparisons import NAMES, Comparison, Line, Point, axis_value
from normbench.report.compare.differences import (
    Parts,
    change,
    changed,
    changes,
    decomposition,
    error,
    least,
    meeting,
    reestimated,
    reference,
    rivals,
    with_new_images,
)
from normbench.report.compare.recipes import rate_of
from normbench.report.compare.statistics import (
    DIFFERENT,
    EQUIVALENT,
    LEVEL,
    SEEDS_ASKED,
    Estimate,
    equivalence,
    seeds_to_settle,
    welch,
)
from normbench.report.read.states import settled
from normbench.report.text.wording import (
    join,
    place,
    plus_minus,
    seeds,
    size,
    wider,
)
from normbench.terminal.words import count, fixed

BOUND = 1.0
"""Points of test error: a norm whose change is shown to be within ± this is called stable."""

SMALLEST, LARGEST = 2, (32, 128)
"""Batch sizes from which, and up to which, a norm is asked to be stable."""


def findings(comparison: Comparison) -> list[str]:
    """Sentences, the most important first; at least one."""
    lines = [line for line in comparison.lines if any(p.ended for p in line.points)]
    if not lines:
        return ["No seed has finished yet."]
    if all_at_chance(comparison.cells):
        return [
            "Every cell is at chance: no network has learned more than guessing, so nothing is"
            " concluded. Train longer, on more images or at another learning rate.",
            *_missing(comparison),
        ]
    said = _diverged(comparison, lines)
    if comparison.axis in ("batch", "norm_batch"):
        said += [*_use(comparison), *_crossing(comparison), *_fall(comparison)]
        said += [*_parts(comparison), *_stable(comparison)]
    else:
        said += _best_along(comparison, lines)
    said = said or [_single(comparison, line) for line in lines if line.measured][:1]
    return [sentence[:1].upper() + sentence[1:] for sentence in [*said, *_missing(comparison)]]


def _missing(comparison: Comparison) -> list[str]:
    open_cells = [cell for cell in comparison.cells if not settled(cell)]
    if not open_cells:
        return []
    return [f"Not finished yet: {len(open_cells)} of {count(len(comparison.cells), 'cell')}."]


def _single(comparison: Comparison, line: Line) -> str:
    point = line.measured[0]
    value = error(point)
    where = axis_value(comparison.axis, point.x)
    known = "" if value is None else f" ({seeds(value.n)})"
    return f"At {where}, {line.named} has {plus_minus(value)} % test error{known}."


def _diverged(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """Which norms lost seeds where: said first, because no mean shows it."""
    said = []
    for line in lines:
        for point in line.own:
            if point.diverged:
                where = "" if line.level else f" at {axis_value(comparison.axis, point.x)}"
                total = len(point.cell.seeds)
                said.append(f"{point.diverged} of {total} seeds of {line.named}{where}")
    if not said:
        return []
    return [f"Diverged: {join(said)}; these cells are in the table and in no comparison."]


def _use(comparison: Comparison) -> list[str]:
    """Which norm to use where, what is clear first; nothing where a norm stands alone."""
    places: dict[tuple[int, str], list[str]] = {}
    for choice in choices(comparison):
        if choice.second is not None:
            places.setdefault(_choice(choice), []).append(str(choice.x))
    said: list[str] = []
    for (_, words), xs in sorted(places.items(), key=lambda one: one[0][0]):
        where = f"at {join(xs)}" if said else f"at {NAMES[comparison.axis]} {join(xs)}"
        again = said and words.startswith(_USE)  # the verb is there already
        said.append(f"{where} {words.removeprefix(_USE) if again else words}")
    epochs = comparison.epochs
    after = f"after {epochs:g} epoch{'' if epochs == 1 else 's'}, " if said and epochs else ""
    return [f"{after}{'; '.join(said)}."] if said else []


_USE = "use "


def _choice(choice: Choice) -> tuple[int, str]:
    """What is said of one place, and where it stands among others: what is clear comes first."""
    best = choice.best.named
    if not choice.learned:
        return 4, "no network has learned more than guessing"
    if choice.clear:
        return 0, f"{_USE}{best}"
    others = join([line.named for line in choice.open])
    if choice.beaten:
        beaten = join([line.named for line in choice.beaten])
        return 1, f"{best} is clearly better than {beaten}, but not than {others}"
    if choice.ahead is not None and choice.ahead.clear:
        return 2, f"{best} is ahead, but not clearly once all differences are counted together"
    if choice.ahead is not None and choice.ahead.mean == 0:
        return 3, "no norm is clearly better"
    return 3, f"no norm is clearly better ({best} has the lowest mean)"


def _fall(comparison: Comparison) -> list[str]:
    """How much batch norm's error rises from 32 to the smallest batch, and at least how much."""
    both = rivals(comparison)
    points = [] if both is None else both[0].whole
    if both is None or both[0].level or len(points) < 2:
        return []
    line, against = both[0], reference(points)
    moved = change(line, points[0].x, against.x)
    if moved is None or points[0].x >= against.x:
        return []
    where = f"from {axis_value(comparison.axis, against.x)} to {points[0].x}"
    verb = "rises" if moved.mean > 0 else "falls"
    said = f"{where}, {line.named}'s test error {verb} by {size(moved)} points"
    said += wider(with_new_images(moved, points[0], against), " on new images")
    inner = moved.at(2 * LEVEL - 1)
    if moved.clear and inner.low is not None and inner.low > 0:
        said += f", by at least {fixed(inner.low, 1)} (95 %, one-sided)"
    return [f"{said}{not_clear(moved)}."]


def not_clear(value: Estimate) -> str:
    """What to add to a difference that may be chance."""
    if value.half is None:
        return " (one seed, may be chance)"
    return "" if value.clear else " (may be chance)"


def _stable(comparison: Comparison) -> list[str]:
    """Whether group norm, or the other rival, is stable over each of the ranges measured."""
    both = rivals(comparison)
    if both is None or both[1].level:
        return []
    asked = _moves(both[1], SMALLEST, max(LARGEST))
    ends: dict[str, list[str]] = {}
    for high in LARGEST:
        if said := _stability(both[1], SMALLEST, high, len(asked)):
            ends.setdefault(said, []).append(f"to {high}")
    head = f"{both[1].named} from {axis_value(comparison.axis, SMALLEST)}"
    return [f"{head} {join(places)}: {said}." for said, places in ends.items()]


Move = tuple[Point, Point, Estimate]
"""Two places of a line, and how much higher its error is at the first, the smaller one."""


def _moves(line: Line, low: int, high: int) -> list[Move]:
    """Every two places of a range."""
    points = [p for p in line.whole if low <= p.x <= high]
    moves = [(a, b, change(line, a.x, b.x)) for a, b in combinations(points, 2)]
    return [(a, b, value) for a, b, value in moves if value is not None]


def _stability(line: Line, low: int, high: int, number: int) -> str:
    """Whether every two places of a range are within ± 1 point; "" where it was not measured.

    Args:
        number: how many pairs of places are asked in all, so that a range that holds another one
            cannot be found more stable.
    """
    moves = _moves(line, low, high)
    if any(point.diverged for point in line.points if low <= point.x <= high):
        return ""  # it is said, and no change could be
    if not moves or (moves[0][0].x, moves[-1][1].x) != (low, high):
        return ""
    results = [equivalence(value, BOUND, number) for _, _, value in moves]
    if all(result == EQUIVALENT for result in results):
        return f"equivalent, within ± {BOUND:g} point ({_largest(moves)})"
    beyond = [m for m, result in zip(moves, results, strict=True) if result == DIFFERENT]
    if beyond:
        said = _largest(beyond)
        return f"different, by more than {BOUND:g} point (95 %, one-sided; {said})"
    undecided = f"not known whether within ± {BOUND:g} point ({_largest(moves)})"
    fewest = min(value.n for _, _, value in moves)
    if fewest < 2:
        return f"{undecided}; one seed, which cannot tell"
    worst = max(moves, key=lambda move: abs(move[2].mean))
    within = abs(worst[2].mean) < BOUND
    needed = [
        seeds_to_settle(a.errors.values(), b.errors.values(), BOUND, number, least=least(a, b))
        for a, b, _ in (moves if within else [worst])
    ]
    known = [each for each in needed if each is not None]
    many = (
        f"about {max(*known, fewest + 1)}"
        if len(known) == len(needed)
        else f"more than {SEEDS_ASKED}"
    )
    return (
        f"{undecided}; if the change is as large as measured, {many} seeds a cell would show that"
        f" it is{'' if within else ' not'}"
    )


def _largest(moves: Sequence[Move]) -> str:
    """The largest change in words, and whether the learning rates changed as well."""
    small, large, value = max(moves, key=lambda move: abs(move[2].mean))
    word = "higher" if value.mean > 0 else "lower"
    said = f"at {small.x} its error is {size(value)} points {word} than at {large.x}"
    if rate_of(small.cell) != rate_of(large.cell):
        said += f", with optim.lr={rate_of(small.cell)} and {rate_of(large.cell)}"
    return said


def _crossing(comparison: Comparison) -> list[str]:
    """Where batch norm crosses group norm, or the first other line."""
    both = rivals(comparison)
    if both is None or any(point.diverged for line in both for point in line.points):
        return []
    first, second = both
    shared = sorted(first.errors.keys() & second.errors.keys())
    if len(shared) < 2 or (first.level and second.level):
        return []
    found = meeting(first, second)
    named = f"{first.named} and {second.named}"
    if not found:
        moves = [welch(first.errors[x], second.errors[x]) for x in shared]
        moved = next((move for move in moves if move is not None and move.mean != 0), None)
        if moved is None:
            return [f"{named} have the same mean errors."]
        lower = second if moved.mean > 0 else first
        measured = f"from {axis_value(comparison.axis, shared[0])} to {shared[-1]:g}"
        return [f"{named} do not cross: {lower.named}'s mean error is lower {measured}."]
    if len(found) > 1:
        return [f"the means of {named} cross {place(found)}."]
    said = f"{named} cross {place(found)}" if found[0].located else (
        f"the means of {named} cross at {found[0].at:.1f}, but these seeds do not locate the"
        " crossing"
    )  # fmt: skip
    low, high = found[0].between
    return [f"{said}, on a straight line between {low:g} and {high:g}."]


def _parts(comparison: Comparison) -> list[str]:
    """What batch norm loses to what at the smallest place."""
    rows = decomposition(comparison)
    first = min(rows, key=lambda row: row.x, default=None)
    if first is None:
        return []
    same = [row for row in rows if (row.x, row.line.norm) == (first.x, first.line.norm)]
    return [_parted(comparison, row) for row in same]


def _parted(comparison: Comparison, row: Parts) -> str:
    where = axis_value(comparison.axis, row.x)
    moves = "lower" if row.gap.mean >= 0 else "raise"
    said = (
        f"re-estimated statistics (PreciseBN) {moves} {row.line.named}'s error at {where} by"
        f" {size(row.gap)} points"
    )
    if row.gap.mean >= 0 and row.lost is not None and row.lost.above(0):
        said += f" of the {plus_minus(row.lost)} that it loses"
    return f"{said}{not_clear(row.gap)}{_with_them(comparison, row)}."


def _with_them(comparison: Comparison, row: Parts) -> str:
    """How batch norm with re-estimated statistics then stands beside the other rival."""
    both = rivals(comparison)
    here, there = row.line.at(row.x), None if both is None else both[1].at(row.x)
    if both is None or here is None or there is None or not there.whole:
        return ""
    ahead = welch(reestimated(here), there.errors, least=least(here, there))
    if ahead is None:
        return ""
    word = "higher" if ahead.mean > 0 else "lower"
    return (
        f"; with them its error is {size(ahead)} points {word} than {both[1].named}'s"
        f"{not_clear(ahead)}"
    )


def _best_along(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """The best place on an axis of groups, and which others are worse."""
    said = []
    asked = changes(comparison)
    for line in (line for line in lines if not line.level):
        whole = line.whole
        best = min(whole, key=lambda p: sum(p.errors.values()) / len(p.errors), default=None)
        if best is None:
            continue
        others = [p for p in whole if p is not best]
        moves = [changed(asked, line, p.x, best.x) for p in others]
        above = [move is not None and move.together.above(0) for move in moves]
        worse = [f"{p.x}" for p, higher in zip(others, above, strict=True) if higher]
        same = [f"{p.x}" for p, higher in zip(others, above, strict=True) if not higher]
        where = axis_value(comparison.axis, best.x)
        words = f"{line.named}'s lowest mean error is {plus_minus(error(best))} % at {where}"
        words += f"; clearly worse: {join(worse)}" if worse else ""
        words += f"; not clearly worse: {join(same)}" if same else ""
        said.append(f"{words}.")
    return said
