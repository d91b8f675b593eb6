"""What a race takes, and how long its trainings can be within a budget. Trains nothing.

Trainings of a round that differ in the learning rate alone go together, and are counted so.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil

from normbench.errors import UsageError
from normbench.launch.rates import FACTORS, shortest
from normbench.store.advice import Plan, Timing
from normbench.terminal.bars import duration

SLOWER = 0.2
"""A norm with running statistics also tries their momentum times this, at the middle rate."""

FINALISTS = 3
"""How many norms are trained in full, at most."""

SEEDS = 5
"""How many seeds the last trainings have, at least."""


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """What may be the best: a norm and its settings.

    Attributes:
        norm: its name.
        factor: of the learning rate.
        momentum: of the norm's running statistics; None: as configured.
    """

    norm: str
    factor: float
    momentum: float | None = None


@dataclass(frozen=True, slots=True)
class Heat:
    """Trainings of a candidate: one cell, ``seeds`` seeds of it from ``seed`` on."""

    candidate: Candidate
    epochs: int
    seed: int
    seeds: int = 1

    @property
    def entries(self) -> list["Entrant"]:
        """Its trainings."""
        seeds = range(self.seed, self.seed + self.seeds)
        return [Entrant(self.candidate, self.epochs, seed) for seed in seeds]


@dataclass(frozen=True, slots=True)
class Entrant:
    """One training: a candidate, its length in epochs, a seed."""

    candidate: Candidate
    epochs: int
    seed: int


@dataclass(frozen=True, slots=True)
class Score:
    """How a training ended.

    Attributes:
        accuracy: on the held-out images, 0..1; None if it diverged or failed.
        seconds: this training's share of the time that its round took.
        whole: whether the round was trained from its beginning in that time.
    """

    accuracy: float | None
    seconds: float
    whole: bool = True


Scores = Mapping[Entrant, Score]


def left_of(heats: Iterable[Heat], counts: Callable[[Entrant], bool]) -> list[Heat]:
    """The heats, each with as many seeds as it has trainings that count."""
    found = [replace(heat, seeds=sum(map(counts, heat.entries))) for heat in heats]
    return [heat for heat in found if heat.seeds]


def whole(timing: Timing, steps: int, epochs: int, replicas: int) -> float:
    """The seconds that ``replicas`` trainings take together."""
    epoch = steps * timing.step(replicas) + replicas * timing.evaluation
    return timing.start + epochs * epoch + replicas * timing.ending


def seconds_of(
    timings: Iterable[Timing],
    steps: int,
    heats: Iterable[Heat],
    workers: int = 1,
    divided: bool = True,
) -> float:
    """The seconds in which ``workers`` that work side by side train a round of ``heats``.

    What goes together is divided among workers that would have nothing to do, if ``divided``.
    """
    by_norm = {timing.norm: timing for timing in timings}
    groups: dict[tuple[str, float | None, int], list[int]] = {}
    for heat in heats:
        candidate = heat.candidate
        group = groups.setdefault((candidate.norm, candidate.momentum, heat.epochs), [])
        group.append(heat.seeds)
    # As Cells.jobs divides them.
    parts = -(-workers // max(1, len(groups))) if divided else 1
    jobs = [
        whole(by_norm[norm], steps, epochs, sum(seeds[part::parts]))
        for (norm, _, epochs), seeds in groups.items()
        for part in range(min(parts, len(seeds)))
    ]
    loads = [0.0] * min(workers, max(1, len(jobs)))
    for job in jobs:  # in this order; whoever is free takes the next
        loads[loads.index(min(loads))] += job
    return max(loads)


def expected(plan: Plan, heats: Iterable[Heat]) -> float:
    """The seconds that a round of ``heats`` takes on the machine as it was measured."""
    return seconds_of(plan.timings, plan.steps, heats, plan.workers, plan.divided)


def starters(timings: Iterable[Timing]) -> list[Candidate]:
    """What the race begins with."""
    found = []
    for timing in timings:
        found += [Candidate(timing.norm, factor) for factor in FACTORS]
        if timing.momentum is not None:
            found.append(Candidate(timing.norm, 1.0, timing.momentum * SLOWER))
    return found


def lengths_within(
    timings: Collection[Timing],
    steps: int,
    epochs: int,
    within: float,
    used: float,
    workers: int = 1,
    divided: bool = True,
) -> tuple[int, list[int]]:
    """How long the last trainings can be, and which short ones come first.

    The last trainings are as long as the budget allows, at most ``epochs``. The first short ones
    are an eighth of that; where there is time, a second round at half the length follows.

    Args:
        timings: one a norm.
        steps: an epoch.
        epochs: the length that is wanted.
        within: the budget in seconds.
        used: what of it is gone.
        workers: that work side by side.
        divided: whether what goes together is divided among them.

    Raises:
        UsageError: there is not even time for the shortest race.
    """
    for raced in range(epochs, 0, -1):
        for lengths in _lengths(raced):
            if price(timings, steps, raced, lengths, workers, divided) <= within - used:
                return raced, lengths
    least, full = (price(timings, steps, n, [shortest(n)], workers, divided) for n in (1, epochs))
    answer = f" (for an answer about epochs={epochs}: {minutes(full + used)})" if epochs > 1 else ""
    raise UsageError(
        f"--within {duration(within)}: too little for any race: measuring took {duration(used)} and"
        f" the shortest race, of 1 epoch, takes {duration(least)}; give --within"
        f" {minutes(least + used)}{answer}, fewer --norms or a smaller data.limit"
    )


def minutes(seconds: float) -> str:
    """A time as ``--within`` takes it, in whole minutes: ``41m``."""
    return f"{ceil(seconds / 60)}m"


def _lengths(raced: int) -> list[list[int]]:
    """Lengths of short trainings, the best first."""
    short, half = shortest(raced), raced // 2
    return [[short, half], [short]] if half > short else [[short]]


def price(
    timings: Collection[Timing],
    steps: int,
    raced: int,
    lengths: list[int],
    workers: int = 1,
    divided: bool = True,
) -> float:
    """The most seconds that a race is expected to take until two norms have their five seeds."""
    norms = [timing.norm for timing in timings]
    rounds = [
        [Heat(candidate, lengths[0], 0) for candidate in starters(timings)],
        [Heat(Candidate(norm, 2 * FACTORS[-1]), lengths[0], 0) for norm in norms],
        *(
            [Heat(Candidate(n, f), each, 0) for n in norms for f in FACTORS[:2]]
            for each in lengths[1:]
        ),
    ]
    slowest = sorted(timings, key=lambda timing: whole(timing, steps, raced, SEEDS))[-2:]
    rounds.append([Heat(Candidate(timing.norm, 1.0), raced, 0, SEEDS) for timing in slowest])
    return sum(seconds_of(timings, steps, heats, workers, divided) for heats in rounds)
