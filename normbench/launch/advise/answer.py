"""The answer of a race: which norm, how sure, at what cost, and what would change it.

Choices were made on held-out images; here the test set is looked at, once. A norm is called better
only where it leads on both and Welch's p on the test set, times comparisons and looks, is below
0.05; and never after trainings that are shorter than those the question is about.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from normbench.launch.advise.book import ASIDE, DROPPED, RACING, Finish, Standing
from normbench.launch.advise.budget import (
    FINALISTS,
    SEEDS,
    Candidate,
    Entrant,
    Heat,
    expected,
    price,
)
from normbench.launch.advise.odds import ALPHA, difference_p, seeds_needed
from normbench.launch.rates import shortest
from normbench.report.compare.statistics import estimate
from normbench.store.advice import Plan

CLEAR, CLOSE, SHORT = "clear", "too close to call", "cannot tell at this length"


@dataclass(frozen=True, slots=True)
class Row:
    """A norm in the answer.

    Attributes:
        norm: its name.
        lr: its best learning rate, ``optim.lr``; None if it diverged at all of them.
        momentum: of its running statistics, where not as configured.
        state: ``best``, ``close`` or ``behind`` after the last trainings; ``dropped`` (clearly
            behind in short ones) or ``set aside`` (no time for it).
        error: mean error, 0..1: on the test images after the last trainings, else on the held-out
            images; None if all diverged.
        half: half its 95 % interval.
        seeds: how many it is the mean of.
        diverged: how many of them diverged in the last trainings; each counts as an error of 1.
        epochs: after how many epochs.
        p: that it is as good as the best, corrected; None for the best and outside the finals.
        why: why it was dropped or set aside.
        time: seconds of a training step of one seed, relative to the best norm.
        memory: bytes of a training step, relative to the best norm; None where not known.
    """

    norm: str
    lr: float | None
    momentum: float | None
    state: str
    error: float | None
    half: float | None
    seeds: int
    diverged: int
    epochs: int
    p: float | None
    why: str
    time: float
    memory: float | None

    @property
    def final(self) -> bool:
        """Whether it was among the last trainings."""
        return self.state in ("best", "close", "behind")


@dataclass(frozen=True, slots=True)
class Answer:
    """Which norm to use.

    Attributes:
        verdict: ``clear``, ``too close to call`` or ``cannot tell at this length``.
        norm: the best; of those that are too close, the first on held-out images. None if nothing
            could be trained.
        rows: the norms, the best first.
        epochs: the length that was asked about.
        seconds: what is missing for a clear answer, about, or for trainings of the length that was
            asked about; None if it is clear or cannot be had. 0 where the budget has it left.
        aside: for each norm that was set aside, the seconds that would place it.
        leads: the leader's lead over each finalist on held-out images, 0..1, by length in epochs.
        command: trains the best norm.
        code: puts it into a network of one's own.
        elsewhere: at which other batch size another finalist wins, or what tells; or "".
        chance: says so where no finalist has learned more than guessing; else "".
        seeds: how many each would make the answer clear, with a probability of 80 %; None where
            ``seconds`` is, or where the trainings were too short.
        decided: whether held-out images have decided plainly, so that the race trains no more.
        within: the budget of the race, in seconds.
        peak: the learning rate that ``optim.lr`` of the best norm is at its peak; None: not known.
        edges: the norms whose best rate has a neighbour that was not tried.
    """

    verdict: str
    norm: str | None
    rows: list[Row]
    epochs: int
    seconds: float | None
    aside: dict[str, float]
    leads: dict[str, dict[int, float]]
    command: str = ""
    code: str = ""
    elsewhere: str = ""
    chance: str = ""
    seeds: int | None = None
    decided: bool = False
    within: float = 0.0
    peak: float | None = None
    edges: tuple[str, ...] = ()

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries, as pandas takes them."""
        return [asdict(row) for row in self.rows]

    def _repr_html_(self) -> str:
        from normbench.launch.advise.page import in_notebook

        return in_notebook(self)


@dataclass(frozen=True, slots=True)
class OnTest:
    """How a seed of the last trainings did on the test set.

    Attributes:
        accuracy: 0..1; None if it diverged.
        images: the number of test images.
        memory: bytes of a training step; None where not known.
    """

    accuracy: float | None
    images: int
    memory: int | None = None


def judge(plan: Plan, finish: Finish, tests: Mapping[Entrant, OnTest]) -> Answer:
    """Draws the conclusion of a race.

    Args:
        plan: what was planned.
        finish: how it ended.
        tests: how the last trainings did on the test set.
    """
    finals = {heat.candidate.norm: heat for heat in finish.finals}
    errors = {norm: _errors(heat, tests) for norm, heat in finals.items()}
    leader = next(iter(finals), None)
    p = {norm: _p(errors, leader, norm, finish, tests) for norm in finals if norm != leader}
    rows = [_row(plan, s, leader, errors, p, finals, tests) for s in finish.standings]
    rows.sort(key=_order)
    if leader is None:
        return Answer(SHORT, None, rows, plan.epochs, None, {}, {})
    full = finals[leader].epochs == plan.epochs
    close = [norm for norm in p if p[norm] >= ALPHA]
    seeds = _needed(finish, errors, leader, close) if full else None
    more = _more_seeds(plan, finish, errors, [leader, *close], seeds) if seeds else None
    aside = {row.norm: _placing(plan, finish, row) for row in rows if row.state == ASIDE}
    if more and len(finals) < FINALISTS:  # more time goes there first
        more += max(aside.values(), default=0.0)
    return Answer(
        verdict=SHORT if not full else CLOSE if close else CLEAR,
        norm=leader,
        rows=rows,
        epochs=plan.epochs,
        seconds=more if full else _longer(plan, finish),
        aside=aside,
        leads=finish.leads,
        seeds=seeds,
        decided=finish.decided,
        within=plan.within,
        edges=finish.edges,
    )


def _errors(heat: Heat, tests: Mapping[Entrant, OnTest]) -> list[float]:
    """Test errors, one a seed; 1 for one that diverged."""
    return [1.0 - (tests[entry].accuracy or 0.0) for entry in heat.entries]


def _p(
    errors: Mapping[str, list[float]],
    leader: str | None,
    norm: str,
    finish: Finish,
    tests: Mapping[Entrant, OnTest],
) -> float:
    """Corrected p that ``norm`` is as good as the leader; 1 where it is better on test images."""
    if leader is None or fmean(errors[norm]) <= fmean(errors[leader]):
        return 1.0
    images = min(test.images for test in tests.values())
    p = difference_p(errors[leader], errors[norm], 1 / images)
    return min(1.0, p * finish.looks * (len(errors) - 1))


def _order(row: Row) -> tuple[int, float]:
    states = ("best", "close", "behind", ASIDE, DROPPED)
    return states.index(row.state), 1.0 if row.error is None else row.error


def _row(
    plan: Plan,
    standing: Standing,
    leader: str | None,
    errors: Mapping[str, list[float]],
    p: Mapping[str, float],
    finals: Mapping[str, Heat],
    tests: Mapping[Entrant, OnTest],
) -> Row:
    norm, best = standing.norm, standing.best
    mine = errors.get(norm, [])
    state = standing.state if standing.state != RACING else DROPPED
    error, half = None if standing.mean is None else 1 - standing.mean, standing.half
    if (tested := estimate(mine)) is not None:
        state = "best" if norm == leader else "close" if p[norm] >= ALPHA else "behind"
        error, half = tested.mean, tested.half
    return Row(
        norm=norm,
        lr=None if best is None else plan.lr * best.factor,
        momentum=None if best is None else best.momentum,
        state=state,
        error=error,
        half=half,
        seeds=len(mine or standing.accuracies),
        diverged=sum(tests[entry].accuracy is None for entry in finals[norm].entries)
        if norm in finals
        else 0,
        epochs=standing.epochs,
        p=p.get(norm),
        why=standing.why or ("" if best else "diverged at every learning rate"),
        time=plan.timing(norm).step(1) / plan.timing(leader or norm).step(1),
        memory=_memory(norm, leader, finals, tests),
    )


def _memory(
    norm: str, leader: str | None, finals: Mapping[str, Heat], tests: Mapping[Entrant, OnTest]
) -> float | None:
    if leader is None or norm not in finals:
        return None
    mine, best = (tests[finals[each].entries[0]].memory for each in (norm, leader))
    return mine / best if mine and best else None


def _longer(plan: Plan, finish: Finish) -> float | None:
    """The seconds beyond the budget that a race of the planned length takes, or None.

    Of the budget what is left counts: what was trained so far was shorter.
    """
    lengths = [shortest(plan.epochs)]
    needed = price(plan.timings, plan.steps, plan.epochs, lengths, plan.workers, plan.divided)
    return float(max(0.0, max(1.0, finish.pace) * needed - finish.remaining)) or None


def _needed(
    finish: Finish, errors: Mapping[str, list[float]], leader: str, close: list[str]
) -> int | None:
    """How many seeds each would tell the leader from all that are close; None: there is no way."""
    correction = finish.looks * (len(errors) - 1)
    found = [seeds_needed(errors[leader], errors[norm], correction) for norm in close]
    known = [seeds for seeds in found if seeds is not None]
    return max(known, default=None) if len(known) == len(found) else None


def _more_seeds(
    plan: Plan, finish: Finish, errors: Mapping[str, list[float]], norms: list[str], seeds: int
) -> float:
    """The seconds beyond the budget in which these norms have so many seeds, trained together."""
    more = [
        Heat(Candidate(norm, 1.0), plan.epochs, 0, max(2, seeds - len(errors[norm])))
        for norm in norms
    ]
    return max(finish.pace * expected(plan, more) - finish.remaining, 0.0)


def _placing(plan: Plan, finish: Finish, row: Row) -> float:
    """The seconds in which a norm that was set aside is trained in full."""
    heat = Heat(Candidate(row.norm, 1.0), finish.finals[0].epochs, 0, SEEDS)
    return finish.pace * expected(plan, [heat])
