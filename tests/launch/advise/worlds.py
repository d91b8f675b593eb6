"""Races without training: worlds in which it is known which norm is the best."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log2
from random import Random

from normbench.launch.advise.answer import Answer, OnTest, judge
from normbench.launch.advise.book import Finish, Round
from normbench.launch.advise.budget import (
    Entrant,
    Score,
    Scores,
    lengths_within,
    seconds_of,
)
from normbench.launch.advise.race import DRIFT, follow
from normbench.store.advice import Plan, Timing

STEPS = 100
HELD_OUT, TEST = 5_000, 10_000


def timing(norm: str, step: float = 0.01) -> Timing:
    return Timing(
        norm=norm,
        start=0.5,
        steps={1: step, 3: 1.8 * step, 5: 2 * step},
        evaluation=1.0,
        ending=2.0,
        momentum=0.1 if norm == "batch" else None,
    )


def plan(norms: Sequence[str], *, epochs: int = 20, within: float = 3600.0) -> Plan:
    timings = [timing(norm) for norm in norms]
    raced, lengths = lengths_within(timings, STEPS, epochs, within, 10.0)
    return Plan(
        question="q",
        settings=["batch=2"],
        within=within,
        epochs=epochs,
        raced=raced,
        lengths=lengths,
        steps=STEPS,
        seed=0,
        held_out=HELD_OUT,
        lr=0.1,
        used=10.0,
        timings=timings,
    )


@dataclass
class World:
    """Norms with known accuracies.

    Attributes:
        accuracy: of each norm after the planned length at its best rate.
        sd: of seeds.
        best: the factor of the best rate; half a step beside it costs ``curve``.
        drift: how much less a norm has gained by each halving of the length than the others.
        slower: how many times as long as was measured it takes.
        really: what trainings really take, apart from that; None: as was measured.
        diverges: what diverges.
    """

    accuracy: Mapping[str, float]
    random: Random
    epochs: int = 20
    sd: float = 0.008
    best: float = 1.0
    curve: float = 0.01
    drift: Mapping[str, float] = field(default_factory=dict)
    slower: float = 1.0
    really: Sequence[Timing] | None = None
    diverges: Callable[[Entrant], bool] = lambda _: False
    rounds: list[Round] = field(default_factory=list)
    truths: dict[Entrant, float] = field(default_factory=dict)

    def train(self, plan: Plan, step: Round) -> Scores:
        """A round; its time is divided among its trainings."""
        self.rounds.append(step)
        entries = [entry for heat in step.heats for entry in heat.entries]
        share = self.seconds(plan, step) / len(entries)
        return {entry: self.score(plan, entry, share) for entry in entries}

    def seconds(self, plan: Plan, step: Round) -> float:
        """What a round really takes."""
        return self.slower * seconds_of(self.really or plan.timings, plan.steps, step.heats)

    def score(self, plan: Plan, entry: Entrant, seconds: float) -> Score:
        if self.diverges(entry):
            return Score(None, seconds)
        truth = self.mean(entry) + self.random.gauss(0, self.sd)
        self.truths[entry] = truth
        return Score(self.seen(truth, plan.held_out), seconds)

    def mean(self, entry: Entrant) -> float:
        norm = entry.candidate.norm
        short = log2(self.epochs / entry.epochs)
        away = log2(entry.candidate.factor / self.best)
        loss = (0.03 + self.drift.get(norm, 0.0)) * short + self.curve * away**2
        return self.accuracy[norm] - loss

    def seen(self, truth: float, images: int) -> float:
        """An accuracy as so many images show it."""
        share = min(0.999, max(0.001, truth))
        return share + self.random.gauss(0, (share * (1 - share) / images) ** 0.5)

    def tests(self, plan: Plan, finish: Finish) -> dict[Entrant, OnTest]:
        """Test accuracies; all networks see the same images, so that their error is shared."""
        entries = [entry for heat in finish.finals for entry in heat.entries]
        values = {entry: self.truths.get(entry) for entry in entries}
        return {entry: OnTest(value, TEST, 1000) for entry, value in values.items()}

    def run(self, plan: Plan) -> Answer:
        finish = follow(plan, lambda step: self.train(plan, step))
        return judge(plan, finish, self.tests(plan, finish))


def random_world(random: Random, norms: Sequence[str], *, gap: float) -> World:
    """Norms whose accuracies differ by about ``gap``, and whose leads move as assumed."""
    return World(
        accuracy={norm: 0.75 + random.gauss(0, gap) for norm in norms},
        random=random,
        sd=random.choice([0.004, 0.008, 0.015]),
        best=random.choice([0.5, 1.0, 2.0]),
        drift={norm: random.gauss(0, DRIFT / 2**0.5) for norm in norms},
    )


def wrong(answer: Answer, world: World) -> bool:
    """Whether an answer calls a norm worse than another that is in fact at least as good."""
    beaten = [row.norm for row in answer.rows if row.state in ("behind", "dropped")]
    norm = answer.norm
    return norm is not None and any(world.accuracy[b] >= world.accuracy[norm] for b in beaten)


def with_budget(plan: Plan, within: float) -> Plan:
    raced, lengths = lengths_within(plan.timings, plan.steps, plan.epochs, within, plan.used)
    return replace(plan, within=within, raced=raced, lengths=lengths)
