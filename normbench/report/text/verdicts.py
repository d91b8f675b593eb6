"""Our differences beside published ones: the same sign, and about the same size?

Networks, images and epochs differ, so a published number is no target; the question is whether what
it says holds here too, and about as strongly. Every statement is a contrast: a sum of errors with
signs. All contrasts of a comparison are taken together, because each is one more chance to agree or
disagree by luck; two norms at one place are held apart as everywhere in the report, by the family
of all differences, and so are two numbers of groups. A contrast that a publication's own seeds do
not show is not asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from normbench.report.compare.comparisons import Comparison, Line
from normbench.report.compare.differences import (
    between,
    changed,
    changes,
    differences,
    typical,
)
from normbench.report.compare.published import PUBLICATIONS, Publication, Terms
from normbench.report.compare.regimes import SIGNS
from normbench.report.compare.statistics import (
    EQUIVALENT,
    UNDECIDED,
    Estimate,
    bonferroni,
    combine,
    equivalence,
    holm,
)
from normbench.report.read.settings import groups_of, has_groups
from normbench.report.text.wording import difference, join
from normbench.store.results import short

RULES = (
    "fixed on 2026-11-25, after normbench's own untuned trainings and before its tuned ones; later"
    " that day, after six of the tuned cells, sizes and ± 1 were made stricter (Bonferroni), and on"
    " 2026-11-30 numbers of groups (all pairs)"
)
"""When the rules in this file were fixed."""

SAME = "same sign, similar size"
SMALLER, LARGER = "same sign, smaller", "same sign, larger"
OPEN_SIZE = "same sign, size open"
OPPOSITE = "opposite sign"
FLAT, HIGHER, LOWER = "as small here", "above + 1 here", "below − 1 here"
UNCLEAR = "not enough seeds to say"
LOST = "seeds diverged"

BOUND = 1.0
"""Points: a published change within ± this is asked to be as small here (equivalence, TOST)."""

FACTOR = 2.0
"""A size is similar where the interval lies within the published one divided and multiplied."""

RULE_TEXT = (
    f"A difference has the published sign where its interval is clear of 0; it is smaller or larger"
    f" where the interval lies wholly below half or above {FACTOR:g} times the published size, and"
    f" similar where it lies within. A published change of less than {BOUND:g} point is asked to be"
    f" within ± {BOUND:g} here (two one-sided tests at 5 %). Together: Holm's intervals, of two"
    " norms at one place, and of two numbers of groups, over all such differences of the report, of"
    " the others over all of these. Whether a size"
    " is smaller, similar or larger, or beyond ± 1, is held against Bonferroni's over all of them."
    f" These rules were {RULES}."
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One contrast.

    Attributes:
        statement: what is compared, in words.
        published: their value in points.
        ours: our value with its single interval.
        together: our value with the interval that has to exclude 0 (Holm).
        outcome: one of the outcomes above.
    """

    statement: str
    published: Estimate
    ours: Estimate | None
    together: Estimate | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts against one publication.

    Attributes:
        publication: whose numbers.
        unlike: in what the comparison is not like for like; empty: in nothing that is known.
        verdicts: what could be asked; at least one.
    """

    publication: Publication
    unlike: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def judge(comparison: Comparison) -> list[Judgement]:
    """Verdicts against each publication of which a contrast was measured here too."""
    if comparison.axis in ("batch", "norm_batch"):
        lines = {norm: line for p in PUBLICATIONS for norm in p.lines
                 if (line := typical(comparison, norm)) is not None}  # fmt: skip
        asked = [(p, *one) for p in PUBLICATIONS for one in _contrasts(p, lines)]
    else:
        group = next((x for x in comparison.lines if x.norm == "group" and not x.level), None)
        lines = {} if group is None else {"group": group}
        asked = [(p, *one) for p in PUBLICATIONS for one in _sweep(p, comparison.axis, group)]
    alone = {terms: _ours(lines, terms) for _, _, terms, _ in asked}
    together = _together(comparison, lines, alone)
    verdicts: dict[str, list[Verdict]] = {}
    for p, said, terms, theirs in asked:
        ours, wide = alone[terms], together[terms]
        whole = _whole(lines, terms)
        outcome = decide(theirs.mean, ours, wide, len(alone)) if whole else LOST
        verdicts.setdefault(p.key, []).append(Verdict(said, theirs, ours, wide, outcome))
    return [
        Judgement(p, tuple(unlike(comparison, p)), tuple(verdicts[p.key]))
        for p in PUBLICATIONS
        if p.key in verdicts
    ]


def _together(
    comparison: Comparison, lines: Mapping[str, Line], alone: Mapping[Terms, Estimate | None]
) -> dict[Terms, Estimate | None]:
    """The intervals that have to exclude 0: of two norms at one place, and of two numbers of
    groups, those of the report's differences."""
    found: dict[Terms, Estimate | None] = {}
    asked = differences(comparison)
    along = changes(comparison) if comparison.axis in SIGNS else []
    for terms in alone:
        (_, norm, x), (_, _, other), *_ = terms
        if (pair := _pair(lines, terms)) is not None:
            one = between(asked, *pair)
            found[terms] = None if one is None else one.together
        elif comparison.axis in SIGNS:
            one = changed(along, lines[norm], x, other)
            found[terms] = None if one is None else one.together
    others = [terms for terms in alone if terms not in found]
    levels = holm([alone[terms] for terms in others])
    for terms, level in zip(others, levels, strict=True):
        value = alone[terms]
        found[terms] = None if value is None else value.at(level)
    return found


def _pair(lines: Mapping[str, Line], terms: Terms) -> tuple[Line, Line, int] | None:
    """The two lines and the place of a contrast of two norms at one place."""
    if len(terms) != 2 or terms[0][1] == terms[1][1]:
        return None
    (_, first, x), (_, second, _) = terms
    return lines[first], lines[second], x


def _ours(lines: Mapping[str, Line], terms: Terms) -> Estimate | None:
    if not _whole(lines, terms):
        return None
    return combine((sign, lines[norm].errors[x].values()) for sign, norm, x in terms)


Asked = tuple[str, Terms, Estimate]
"""What is compared in words, the contrast, and its published value."""


def _contrasts(publication: Publication, lines: Mapping[str, Line]) -> list[Asked]:
    """Each norm's change over the range, batch norm's fall against group norm's, and who is better
    at either end: as far as both have them."""
    xs = sorted({x for norm in lines for x in _shared(publication, lines, norm)})
    found: list[tuple[str, Terms]] = []
    if len(xs) > 1:
        low, high = xs[0], xs[-1]
        found += [(f"{norm} norm's change from {high} to {low}", ((1, norm, low), (-1, norm, high)))
                  for norm in lines if not lines[norm].level]  # fmt: skip
        fall: Terms = (
            (1, "batch", low), (-1, "batch", high), (-1, "group", low), (1, "group", high),
        )  # fmt: skip
        # A level line is one cell at every place: its change was not measured.
        if not any(norm in lines and lines[norm].level for norm in ("batch", "group")):
            found.append((f"batch norm's change from {high} to {low} less group norm's", fall))
    for norm in lines:
        own = sorted(_shared(publication, lines, norm))
        for x in dict.fromkeys([*own[:1], *own[-1:]]):
            # Where a publication has no group norm, its norms are held against batch norm.
            other = "group" if x in publication.lines.get("group", {}) else "batch"
            if norm != other:
                said = f"{norm} norm less {other} norm at {x}"
                found.append((said, ((1, norm, x), (-1, other, x))))
    return [
        (said, terms, value)
        for said, terms in found
        if publication.has(terms)
        and all(norm in lines and x in _shared(publication, lines, norm) for _, norm, x in terms)
        and shown(value := publication.sum(terms))
    ]


def _shared(publication: Publication, lines: Mapping[str, Line], norm: str) -> list[int]:
    published = publication.lines.get(norm, {})
    return [p.x for p in lines[norm].points if p.ended and p.x in published]


def _sweep(publication: Publication, axis: str, line: Line | None) -> list[Asked]:
    """Groups: 1 against the largest value that both have."""
    theirs = publication.sweeps.get(axis, {})
    xs = sorted(p.x for p in line.points if p.ended and p.x in theirs) if line else []
    if len(xs) < 2 or xs[0] != 1:
        return []
    value = Estimate(theirs[1] - theirs[xs[-1]], None, None, 1)
    name = axis.replace("_", " ")
    terms: Terms = ((1, "group", 1), (-1, "group", xs[-1]))
    return [(f"group norm with {name} 1 less with {xs[-1]}", terms, value)]


def shown(value: Estimate) -> bool:
    """Whether a publication shows what it says: a difference clear of 0, or one that is small."""
    return value.half is None or value.clear or equivalence(value, BOUND) == EQUIVALENT


def _whole(lines: Mapping[str, Line], terms: Terms) -> bool:
    """Whether no seed diverged in the cells of a contrast."""
    points = [lines[norm].at(x) for _, norm, x in terms]
    return all(point is not None and point.whole for point in points)


def decide(theirs: float, ours: Estimate | None, together: Estimate | None, number: int) -> str:
    """The outcome for a published value and ours.

    Args:
        theirs: in points.
        ours: with its single interval.
        together: with the interval that has to exclude 0.
        number: how many contrasts are asked, of which sizes are asked together (Bonferroni). That a
            change is small is asked at 5 % each: calling several small is no less careful for that.
    """
    if ours is None or together is None or ours.half is None:
        return UNCLEAR
    if abs(theirs) < BOUND:
        found = equivalence(ours, BOUND, number)
        beyond = HIGHER if ours.mean > 0 else LOWER
        return {EQUIVALENT: FLAT, UNDECIDED: UNCLEAR}.get(found, beyond)
    if not together.clear:
        return UNCLEAR
    if together.above(0) != (theirs > 0):
        return OPPOSITE
    wide = ours.at(bonferroni(number))
    assert wide.low is not None
    assert wide.high is not None
    ends = sorted((wide.low / theirs, wide.high / theirs))
    if ends[1] < 1 / FACTOR:
        return SMALLER
    if ends[0] > FACTOR:
        return LARGER
    return SAME if ends[0] >= 1 / FACTOR and ends[1] <= FACTOR else OPEN_SIZE


def verdict_rows(judgement: Judgement) -> list[list[str]]:
    """Rows: what is compared, there, here (alone, together), outcome."""
    return [
        [v.statement, difference(v.published), difference(v.ours), difference(v.together),
         v.outcome] for v in judgement.verdicts
    ]  # fmt: skip


VERDICT_COLUMNS = ("points of error", "there", "here, alone", "here, together", "verdict")


# --- Like for like --------------------------------------------------------------------------------


def unlike(comparison: Comparison, publication: Publication) -> list[str]:
    """In what our comparison and theirs differ, as far as the records say."""
    found = []
    if comparison.data not in publication.names:
        found.append(f"images: {publication.data} there, {comparison.data} here")
    data = comparison.settings.get("data")
    for name in ("limit", "val_fraction"):
        if isinstance(data, Mapping) and data.get(name):
            found.append(f"training images: all there, data.{name}={short(data[name])} here")
    if isinstance(data, Mapping) and data.get("test_limit"):
        found.append(f"test images: all there, data.test_limit={short(data['test_limit'])} here")
    if comparison.model != publication.model:
        found.append(f"network: {publication.model} there, {comparison.model} here")
    if publication.epochs not in (None, comparison.epochs):
        here = "unknown" if comparison.epochs is None else f"{comparison.epochs:g}"
        found.append(f"epochs: {publication.epochs} there, {here} here")
    optim = comparison.settings.get("optim")
    decay = optim.get("weight_decay") if isinstance(optim, Mapping) else None
    if publication.decay is not None and decay not in (None, publication.decay):
        found.append(f"weight decay: {publication.decay} there, {short(decay)} here")
    return [*found, *_other_groups(comparison, publication), *_other_ratio(comparison, publication)]


def _other_groups(comparison: Comparison, publication: Publication) -> list[str]:
    group = typical(comparison, "group")
    if publication.groups is None or group is None or comparison.axis in publication.sweeps:
        return []
    cell = group.points[0].cell
    if has_groups(cell, publication.groups):
        return []
    return [f"group norm: {publication.groups} groups there, {g} here" for g in groups_of(cell)]


def _other_ratio(comparison: Comparison, publication: Publication) -> list[str]:
    ratios = {
        c.batch // c.norm_batch
        for line in comparison.lines
        if line.batch_dependent
        for c in (p.cell for p in line.points)
    }
    if publication.ratio is None or not ratios or ratios == {publication.ratio}:
        return []
    return [f"batch: there {publication.regime}; here {comparison.regime}"]


def like(judgement: Judgement) -> str:
    """What is known of a publication, and in what it is not like for like, in words."""
    publication = judgement.publication
    copied = [f"{norm} norm" for norm in publication.copied]
    said = [publication.source]
    said += [f"{publication.regime}; {publication.seeds or 'an unknown number of'} seeds"]
    said += [f"not independent of Wu & He: {join(copied)}"] if copied else []
    said += publication.caveats
    unlike_said = "; ".join(judgement.unlike) or "nothing that the records show"
    return f"{'. '.join(s[:1].upper() + s[1:] for s in said)}. Differs in: {unlike_said}."
