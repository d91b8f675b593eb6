"""Our lines held against published ones: same shape, different shape, or not enough seeds to say.

The rules are fixed here, before any result, and speak of shape alone: networks, images and epochs
differ, so that equal numbers would be chance. Each rule looks only at batch sizes that both have,
and decides only where a 95 % interval over seeds lies wholly on one side. What a publication's own
seeds do not show is not asked of ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from normbench.report.compare.analysis import change, difference, meeting, typical
from normbench.report.compare.comparisons import Comparison, Line, axis_value
from normbench.report.compare.likeness import unlike
from normbench.report.compare.published import PUBLICATIONS, Publication, shown
from normbench.report.compare.statistics import Estimate, crossings, estimate
from normbench.report.text.wording import join, place, signed, spread

SAME, DIFFERENT = "same shape", "different shape"
UNDECIDED = "not enough seeds to say"
LOST = "seeds diverged"

FLAT = 1.0
"""Percentage points: a line that moves by less is flat, one that rises by more falls off."""

SPAN = 4
"""The least ratio of the largest to the smallest common batch size that makes a range."""

LARGE = 16
"""The least batch size that counts as large."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One statement.

    Attributes:
        statement: what was published, in words.
        rule: when ours has the same shape, and when another.
        published: their value.
        ours: our value with its interval.
        outcome: SAME, DIFFERENT, UNDECIDED or LOST.
    """

    statement: str
    rule: str
    published: str
    ours: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts against one publication.

    Attributes:
        publication: whose numbers.
        unlike: in what the comparison is not like for like; empty: in nothing that is known.
        verdicts: the statements that our lines can be held against.
        missing: why others could not be asked.
    """

    publication: Publication
    unlike: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]


Answer = Verdict | str
"""A verdict, or why there is none."""


def judge(comparison: Comparison) -> list[Judgement]:
    """Verdicts against each publication that has something to say of the comparison's axis."""
    found = []
    for publication in PUBLICATIONS:
        if comparison.axis in ("batch", "norm_batch"):
            said = _lines(comparison, publication)
        elif comparison.axis in publication.sweeps:
            said = [_sweep(comparison, publication)]
        else:
            continue
        verdicts = tuple(answer for answer in said if isinstance(answer, Verdict))
        missing = tuple(answer for answer in said if isinstance(answer, str))
        found.append(
            Judgement(publication, tuple(unlike(comparison, publication)), verdicts, missing)
        )
    return found


def decide(value: Estimate | None, holds: Callable[[Estimate], bool | None]) -> str:
    """The outcome of a rule: ``holds`` says True, False, or None where an interval is too wide."""
    answer = None if value is None else holds(value)  # of one seed, nothing holds
    return UNDECIDED if answer is None else SAME if answer else DIFFERENT


def _beyond(bound: float) -> Callable[[Estimate], bool | None]:
    """Whether a value is above ``bound``."""
    return lambda e: True if e.above(bound) else False if e.below(bound) else None


def _inside(bound: float) -> Callable[[Estimate], bool | None]:
    """Whether a value is between -``bound`` and ``bound``."""
    return lambda e: True if e.within(bound) else False if _outside(e, bound) else None


def _outside(value: Estimate, bound: float) -> bool:
    return value.above(bound) or value.below(-bound)


def _worst(outcomes: Sequence[str]) -> str:
    """Of several rules that all have to hold."""
    return next((o for o in (DIFFERENT, UNDECIDED) if o in outcomes), SAME)


def _lost(lines: Sequence[Line], xs: Sequence[int]) -> str:
    """Which of the seeds that a verdict would rest on diverged; empty: none."""
    found = [
        f"{point.diverged} of {line.named}'s {len(point.cell.seeds)} seeds at {x}"
        for line in lines
        for x in xs
        if (point := line.at(x)) is not None and point.diverged
    ]
    return f"diverged: {join(found)}" if found else ""


def _verdict(
    statement: str, rule: str, published: str, ours: str, outcome: str, lost: str
) -> Verdict:
    """Where seeds diverged, what the others say is neither shape: it is said instead."""
    return Verdict(statement, rule, published, lost or ours, LOST if lost else outcome)


def _value(what: str, value: Estimate | None) -> str:
    """``layer - group: +1.2 ± 0.3 points (5 seeds)``."""
    if value is None:
        return "no common seeds"
    return f"{what}: {signed(value)}"


def _published(what: str, value: Estimate) -> str:
    if value.half is None:
        return f"{what}: {value.mean:+.1f} points"
    return _value(what, value)


def _common(line: Line, published: Mapping[int, float]) -> list[int]:
    """Where both a seed that came to its end and a published value are, in order."""
    return sorted({p.x for p in line.points if p.ended and p.x in published})


def _lines(comparison: Comparison, publication: Publication) -> list[Answer]:
    found = {norm: typical(comparison, norm) for norm in publication.lines}
    group, batch = found["group"], found["batch"]
    said: list[Answer] = []
    for norm in ("group", "batch"):
        if found[norm] is None:
            several = any(line.norm == norm for line in comparison.lines)
            why = "several variants, none with the default settings" if several else "not here"
            said.append(f"{norm} norm: {why}")
    if group is not None:
        said.append(_flatness(group, publication))
    if group is not None and batch is not None:
        xs = [x for x in _common(group, publication.lines["group"]) if x in
              _common(batch, publication.lines["batch"])]  # fmt: skip
        if len(xs) >= 2 and xs[-1] >= SPAN * xs[0]:
            said.append(_fall(batch, group, publication, xs))
            said.append(_cross(batch, group, publication, xs))
        else:
            said.append("batch norm's fall, and where they cross: needs both norms at two published"
                        f" batch sizes, one {SPAN} times the other")  # fmt: skip
        if xs and xs[-1] >= LARGE:
            said.append(_large(batch, group, publication, xs[-1]))
        else:
            said.append(f"large batches: needs both norms at {LARGE} or more")
    for norm in ("layer", "instance"):
        line = found.get(norm)
        if line is not None and group is not None:
            xs = [x for x in _common(line, publication.lines[norm]) if group.at(x)]
            said += [_behind(line, group, publication, xs[-1])] if xs else []
    return said


def _flatness(line: Line, publication: Publication) -> Answer:
    """Group norm over the range: the largest move away from the largest batch."""
    xs = _common(line, publication.lines["group"])
    if len(xs) < 2 or xs[-1] < SPAN * xs[0]:
        return f"{line.named}: no finished cells over a range that was published"
    if line.level:
        return f"{line.named} is one cell here, which cannot move"
    theirs = publication.lines["group"]
    between = [theirs[x] for x in theirs if xs[0] <= x <= xs[-1]]
    moves = {x: change(line, x, xs[-1]) for x in xs[:-1]}
    known = {x: move for x, move in moves.items() if move is not None}
    ours = "no common seeds"
    if known:
        x = max(known, key=lambda x: abs(known[x].mean))
        ours = f"the largest change: {signed(known[x])}, at {x} against {xs[-1]}"
    return _verdict(
        f"{line.named} hardly moves from {xs[0]} to {xs[-1]}",
        f"same: every change against {xs[-1]} within ±{FLAT:g} point; different: one outside",
        f"{spread(between)} from best to worst",
        ours,
        _worst([decide(moves[x], _inside(FLAT)) for x in xs[:-1]]),
        _lost([line], xs),
    )


def _fall(batch: Line, group: Line, publication: Publication, xs: list[int]) -> Answer:
    """Batch norm's loss from the largest to the smallest batch, less group norm's: what a small
    batch does to both, such as more steps, is no shape of batch norm's."""
    small, large = xs[0], xs[-1]
    theirs = publication.sum(
        (1, "batch", small), (-1, "batch", large), (-1, "group", small), (1, "group", large),
    )  # fmt: skip
    what = "batch's loss - group's"
    if not shown(theirs, FLAT):
        return (
            f"batch norm's fall from {large} to {small}: published, too, it is hardly more than"
            f" group norm's ({_published(what, theirs)})"
        )
    lost = [change(line, small, large) for line in (batch, group)]
    ours = None
    if None not in lost:
        a, b, c, d = (p.errors for line in (batch, group) for x in xs[:: len(xs) - 1]
                      if (p := line.at(x)) is not None)  # fmt: skip
        ours = estimate([
            a[seed] - b[seed] - (c[seed] - d[seed])
            for seed in sorted(a.keys() & b.keys() & c.keys() & d.keys())
        ])  # fmt: skip
    return _verdict(
        f"from {large} to {small} {batch.named} loses more than {group.named}",
        f"same: more than {FLAT:g} point more; different: less",
        _published(what, theirs),
        _value(what, ours),
        decide(ours, _beyond(FLAT)),
        _lost([batch, group], [small, large]),
    )


def _cross(batch: Line, group: Line, publication: Publication, xs: list[int]) -> Answer:
    """Group norm wins at one end and batch norm at the other."""
    ends = (xs[0], xs[-1])
    left, right = (publication.sum((1, "batch", x), (-1, "group", x)) for x in ends)
    for x, theirs in zip(ends, (left, right), strict=True):
        if not shown(theirs):
            told = _published("batch - group", theirs)
            return f"who is better at either end: at {x} it is not shown there either ({told})"
    ours = [difference(batch, group, x).points for x in ends]
    found = meeting(batch, group)
    lines = publication.lines
    at = crossings(
        *(
            {float(x): {0: lines[norm][x]} for x in lines[norm] if ends[0] <= x <= ends[1]}
            for norm in ("batch", "group")
        )
    )
    better = ["group" if theirs.mean > 0 else "batch" for theirs in (left, right)]
    said = f"at {ends[0]} {better[0]} norm is better, at {ends[1]} {better[1]} norm: they cross"
    if not at:
        said = f"{better[0]} norm is better at {ends[0]} and at {ends[1]}"
    return _verdict(
        said,
        "same: so it is at both ends, interval clear of 0; different: the reverse at one",
        f"at {at[0].at:.1f}, interpolated" if at else "no crossing",
        "no common seeds" if found is None else place(found.crossings),
        _worst([decide(o, _sided(t.mean)) for o, t in zip(ours, (left, right), strict=True)]),
        _lost([batch, group], ends),
    )


def _sided(published: float) -> Callable[[Estimate], bool | None]:
    """Whether a value lies on the same side of 0 as the published one."""
    if published > 0:
        return _beyond(0)
    return lambda e: True if e.below(0) else False if e.above(0) else None


def _large(batch: Line, group: Line, publication: Publication, x: int) -> Answer:
    """Batch norm wins where the batch is large."""
    return _higher(
        f"{batch.named} is better than {group.named} at a large batch ({x})",
        group, batch, publication, x,
    )  # fmt: skip


def _behind(line: Line, group: Line, publication: Publication, x: int) -> Answer:
    """Layer or instance norm against group norm."""
    return _higher(f"{line.named} is worse than {group.named} at {x}", line, group, publication, x)


def _higher(statement: str, line: Line, other: Line, publication: Publication, x: int) -> Answer:
    """Whether one line's error is higher than another's, as it was published."""
    what = f"{line.norm} - {other.norm}"
    theirs = publication.sum((1, line.norm, x), (-1, other.norm, x))
    if not shown(theirs):
        return f"{statement}: it is not shown there either ({_published(what, theirs)})"
    ours = difference(line, other, x).points
    return _verdict(
        statement,
        f"same: {line.norm} norm's error is higher, interval clear of 0, by however much;"
        " different: lower",
        _published(what, theirs),
        _value(what, ours),
        decide(ours, _beyond(0)),
        _lost([line, other], [x]),
    )


def _sweep(comparison: Comparison, publication: Publication) -> Answer:
    """Groups: the extreme of 1 against the largest value that both have."""
    theirs = publication.sweeps[comparison.axis]
    line = next((x for x in comparison.lines if x.norm == "group" and not x.level), None)
    xs = _common(line, theirs) if line is not None else []
    if line is None or len(xs) < 2 or xs[0] != 1:
        return f"{axis_value(comparison.axis, 1)} and a larger value, both finished"
    ahead = change(line, 1, xs[-1])
    one, many = (axis_value(comparison.axis, x) for x in (1, xs[-1]))
    what = f"({one}) - ({many})"
    return _verdict(
        f"group norm is worse with {one} than with {many}",
        f"same: its error with {one} is higher, interval clear of 0; different: lower",
        f"{what}: {theirs[1] - theirs[xs[-1]]:+.1f} points",
        _value(what, ahead),
        decide(ahead, _beyond(0)),
        _lost([line], [1, xs[-1]]),
    )
