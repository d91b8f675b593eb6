"""Our lines held against published ones: same shape, different shape, or not enough seeds to say.

The rules are fixed here, before any result, and speak of shape alone: networks, images and epochs
differ, so that equal numbers would be chance. Each rule looks only at batch sizes that both have,
and decides only where a 95 % interval over seeds lies wholly on one side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from normbench.report.analysis import change, difference, meeting
from normbench.report.comparisons import Comparison, Line
from normbench.report.published import PUBLICATIONS, Publication
from normbench.report.statistics import Estimate, crossings
from normbench.report.wording import axis_value, place, signed, spread

SAME, DIFFERENT = "same shape", "different shape"
UNDECIDED = "not enough seeds to say"

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
        outcome: SAME, DIFFERENT or UNDECIDED.
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


def judge(comparison: Comparison) -> list[Judgement]:
    """Verdicts against each publication that has something to say of the comparison's axis."""
    found = []
    for publication in PUBLICATIONS:
        if comparison.axis in ("batch", "norm_batch"):
            verdicts, missing = _lines(comparison, publication)
        elif comparison.axis in publication.sweeps:
            verdicts, missing = _sweep(comparison, publication)
        else:
            continue
        unlike = tuple(_unlike(comparison, publication))
        found.append(Judgement(publication, unlike, tuple(verdicts), tuple(missing)))
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


def _ours(value: Estimate | None, prefix: str = "by ") -> str:
    return "no common seeds" if value is None else f"{prefix}{signed(value)}"


def _outside(value: Estimate, bound: float) -> bool:
    return value.above(bound) or value.below(-bound)


def _usual(comparison: Comparison, norm: str) -> Line | None:
    """The line of a norm; of several, the one whose groups are chosen automatically."""
    lines = [line for line in comparison.lines if line.norm == norm]
    usual = [line for line in lines if "=" not in line.label or "groups=auto" in line.label]
    return next(iter([*usual, *lines]), None)


def _common(line: Line, published: Mapping[int, float]) -> list[int]:
    """Where both a finished seed and a published value are, in order."""
    return sorted(int(x) for x in line.errors if x in published)


def _lines(comparison: Comparison, publication: Publication) -> tuple[list[Verdict], list[str]]:
    group, batch = (_usual(comparison, norm) for norm in ("group", "batch"))
    verdicts: list[Verdict] = []
    missing: list[str] = []
    for line, make in ((group, _flatness), (batch, _fall)):
        name = "group" if make is _flatness else "batch"
        xs = _common(line, publication.lines[name]) if line is not None else []
        if line is None or len(xs) < 2 or xs[-1] < SPAN * xs[0]:
            missing.append(f"{name} norm: no finished cells over a range that was published")
        elif line.level:
            missing.append(f"{name} norm is one cell here, which cannot move")
        else:
            verdicts.append(make(line, publication, xs))
    if group is not None and batch is not None:
        theirs = publication.lines
        xs = [x for x in _common(group, theirs["group"]) if x in _common(batch, theirs["batch"])]
        if len(xs) >= 2 and xs[-1] >= SPAN * xs[0]:
            verdicts.append(_cross(batch, group, publication, xs))
        else:
            missing.append("where they cross: needs both norms at two published batch sizes")
        if xs and xs[-1] >= LARGE:
            verdicts.append(_large(batch, group, publication, xs[-1]))
        else:
            missing.append(f"large batches: needs both norms at {LARGE} or more")
    for other in ("layer", "instance"):
        line = _usual(comparison, other)
        if line is not None and group is not None and other in publication.lines:
            xs = [x for x in _common(line, publication.lines[other]) if group.at(x)]
            verdicts += [_behind(line, group, publication, xs[-1])] if xs else []
    return verdicts, missing


def _flatness(line: Line, publication: Publication, xs: list[int]) -> Verdict:
    """Group norm over the range: the largest move away from the largest batch."""
    theirs = publication.lines["group"]
    between = [theirs[x] for x in theirs if xs[0] <= x <= xs[-1]]
    moves = {x: change(line, x, xs[-1]) for x in xs[:-1]}
    known = {x: move for x, move in moves.items() if move is not None}
    outcomes = [decide(moves[x], _inside(FLAT)) for x in xs[:-1]]
    outcome = next((o for o in (DIFFERENT, UNDECIDED) if o in outcomes), SAME)
    ours = "no common seeds"
    if known:
        x = max(known, key=lambda x: abs(known[x].mean))
        ours = f"at most {signed(known[x])} (at {x}, against {xs[-1]}; {line.label})"
    return Verdict(
        statement=f"group norm hardly moves from {xs[0]} to {xs[-1]}",
        rule=f"same: every change against {xs[-1]} within ±{FLAT:g} point; different: one outside",
        published=f"{spread(between)} from best to worst",
        ours=ours,
        outcome=outcome,
    )


def _fall(line: Line, publication: Publication, xs: list[int]) -> Verdict:
    """Batch norm at the smallest batch against the largest."""
    theirs = publication.lines["batch"]
    rise = change(line, xs[0], xs[-1])
    return Verdict(
        statement=f"batch norm falls off from {xs[-1]} to {xs[0]}",
        rule=f"same: its error rises by more than {FLAT:g} point; different: by less",
        published=f"{theirs[xs[0]] - theirs[xs[-1]]:+.1f} points of error",
        ours=_ours(rise, ""),
        outcome=decide(rise, _beyond(FLAT)),
    )


def _cross(batch: Line, group: Line, publication: Publication, xs: list[int]) -> Verdict:
    """Group norm wins at one end and batch norm at the other."""
    theirs = publication.lines
    left, right = (theirs["batch"][x] - theirs["group"][x] for x in (xs[0], xs[-1]))
    small, large = (difference(batch, group, x).points for x in (xs[0], xs[-1]))
    outcomes = [decide(small, _sided(left)), decide(large, _sided(right))]
    found = meeting(batch, group)
    ours = "no common seeds" if found is None else place(found.crossings)
    at = crossings(
        *(
            {float(x): {0: theirs[norm][x]} for x in theirs[norm] if xs[0] <= x <= xs[-1]}
            for norm in ("batch", "group")
        )
    )
    return Verdict(
        statement=(
            f"at {xs[0]} {_better(left)} norm is better, at {xs[-1]} {_better(right)} norm"
            + (": they cross" if at else "")
        ),
        rule="same: so it is at both ends, interval clear of 0; different: the reverse at one",
        published=f"at {at[0].at:.1f}, interpolated" if at else "no crossing",
        ours=ours,
        outcome=next((o for o in (DIFFERENT, UNDECIDED) if o in outcomes), SAME),
    )


def _sided(published: float) -> Callable[[Estimate], bool | None]:
    """Whether a value lies on the same side of 0 as the published one."""
    if published > 0:
        return _beyond(0)
    return lambda e: True if e.below(0) else False if e.above(0) else None


def _better(batch_minus_group: float) -> str:
    return "group" if batch_minus_group > 0 else "batch"


def _large(batch: Line, group: Line, publication: Publication, x: int) -> Verdict:
    """Batch norm wins where the batch is large."""
    theirs = publication.lines["group"][x] - publication.lines["batch"][x]
    ahead = difference(group, batch, x).points
    return Verdict(
        statement=f"batch norm is better at a large batch ({x})",
        rule="same: group norm's error is higher, interval clear of 0; different: lower",
        published=f"by {theirs:.1f} points",
        ours=_ours(ahead),
        outcome=decide(ahead, _beyond(0)),
    )


def _behind(line: Line, group: Line, publication: Publication, x: int) -> Verdict:
    """Layer or instance norm against group norm."""
    theirs = publication.lines[line.norm][x] - publication.lines["group"][x]
    behind = difference(line, group, x).points
    return Verdict(
        statement=f"{line.norm} norm is worse than group norm at {x}",
        rule="same: its error is higher, interval clear of 0; different: lower",
        published=f"by {theirs:.1f} points",
        ours=_ours(behind),
        outcome=decide(behind, _beyond(0)),
    )


def _sweep(comparison: Comparison, publication: Publication) -> tuple[list[Verdict], list[str]]:
    """Groups: the extreme of 1 against the largest value that both have."""
    theirs = publication.sweeps[comparison.axis]
    line = next((x for x in comparison.lines if x.norm == "group" and not x.level), None)
    xs = _common(line, theirs) if line is not None else []
    if line is None or len(xs) < 2 or xs[0] != 1:
        return [], [f"{axis_value(comparison.axis, 1)} and a larger value, both finished"]
    ahead = change(line, 1, xs[-1])
    one, many = (axis_value(comparison.axis, x) for x in (1, xs[-1]))
    return [
        Verdict(
            statement=f"group norm is worse with {one} than with {many}",
            rule="same: its error is higher, interval clear of 0; different: lower",
            published=f"by {theirs[1] - theirs[xs[-1]]:.1f} points",
            ours=_ours(ahead),
            outcome=decide(ahead, _beyond(0)),
        )
    ], []


def _unlike(comparison: Comparison, publication: Publication) -> list[str]:
    """In what our comparison and theirs differ, as far as the records say."""
    found = []
    if comparison.data not in publication.names:
        found.append(f"images: {publication.data} there, {comparison.data} here")
    if comparison.model != publication.model:
        found.append(f"network: {publication.model} there, {comparison.model} here")
    if comparison.epochs != publication.epochs:
        here = "unknown" if comparison.epochs is None else f"{comparison.epochs:g}"
        found.append(f"epochs: {publication.epochs} there, {here} here")
    ratios = {
        c.batch // c.norm_batch
        for line in comparison.lines
        if line.batch_dependent
        for c in (p.cell for p in line.points)
    }
    if ratios != {publication.ratio}:
        found.append(f"batch: there {publication.regime}; here {comparison.regime}")
    return found
