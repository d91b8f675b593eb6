"""What a race costs, and how long its trainings can be within a budget. Trains nothing."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from normbench.errors import UsageError
from normbench.store.advice import Cost, Plan
from normbench.terminal.bars import duration

FACTORS = (0.5, 1.0, 2.0)
"""The learning rates that every norm begins with, as multiples of ``optim.lr``."""

EXTENSIONS = 2
"""How often a norm's learning rates are extended."""

SLOWER = 0.2
"""A norm with running statistics also tries their momentum times this, at the middle rate."""

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
        seconds: of training steps, this seed's share.
    """

    accuracy: float | None
    seconds: float


Scores = Mapping[Entrant, Score]


def training(cost: Cost, steps: int, epochs: int, seeds: int) -> float:
    """The seconds that training steps take."""
    return seeds * epochs * steps * (cost.step if seeds == 1 else cost.stacked)


def whole(cost: Cost, steps: int, epochs: int, seeds: int, pace: float = 1.0) -> float:
    """The seconds of a cell on a machine that is ``pace`` times as slow as it was measured."""
    around = seeds * (epochs * cost.evaluation + cost.ending)
    return cost.start + pace * (training(cost, steps, epochs, seeds) + around)


def foreseen(plan: Plan, trials: Iterable[Heat], pace: float = 1.0) -> float:
    """The seconds that ``trials`` take."""
    return sum(
        whole(plan.cost(trial.candidate.norm), plan.steps, trial.epochs, trial.seeds, pace)
        for trial in trials
    )


def pace(plan: Plan, trials: Collection[Heat], scores: Scores) -> float:
    """How many times as long as foreseen the training steps of ``trials`` took; 1 if none did."""
    expected = sum(
        training(plan.cost(t.candidate.norm), plan.steps, t.epochs, t.seeds) for t in trials
    )
    actual = sum(scores[entry].seconds for trial in trials for entry in trial.entries)
    return min(10.0, max(0.1, actual / expected)) if expected and actual else 1.0


def spent(plan: Plan, trials: Collection[Heat], scores: Scores) -> float:
    """The seconds that a race has taken so far: what is known of them, and the rest as foreseen.

    Only what the records say is counted, so that a race that goes on decides as it would have.
    """
    return plan.used + foreseen(plan, trials, pace(plan, trials, scores))


def starters(costs: Iterable[Cost]) -> list[Candidate]:
    """What the race begins with."""
    found = []
    for cost in costs:
        found += [Candidate(cost.norm, factor) for factor in FACTORS]
        if cost.momentum is not None:
            found.append(Candidate(cost.norm, 1.0, cost.momentum * SLOWER))
    return found


def course(
    costs: Collection[Cost], steps: int, epochs: int, within: float, used: float
) -> tuple[int, list[int]]:
    """How long the last trainings can be, and which short ones come first.

    The last trainings are as long as the budget allows, at most ``epochs``. The first short ones
    are an eighth of that; where there is time, a second round at half the length follows.

    Args:
        costs: one a norm.
        steps: an epoch.
        epochs: the length that is wanted.
        within: the budget in seconds.
        used: what of it is gone.

    Raises:
        UsageError: there is not even time for the shortest race.
    """
    for raced in range(epochs, 0, -1):
        for lengths in _lengths(raced):
            if price(costs, steps, raced, lengths) <= within - used:
                return raced, lengths
    least = price(costs, steps, 1, [1])
    raise UsageError(
        f"--within {duration(within)}: too little for any race: measuring took {duration(used)} and"
        f" the shortest race takes {duration(least)}; give --within {ceil((least + used) / 60)}m,"
        " fewer --norms or a smaller data.limit"
    )


def beside(best: float | None, tried: Collection[float]) -> list[float]:
    """The factors to try next: those beside the best; below all, where none is good."""
    wanted = [min(tried) / 2] if best is None else [best / 2, best * 2]
    return [factor for factor in wanted if factor not in tried]


def shortest(epochs: int) -> int:
    """The length of the first short trainings, in epochs."""
    return max(1, epochs // 8)


def _lengths(raced: int) -> list[list[int]]:
    """Lengths of short trainings, the best first."""
    short, half = shortest(raced), raced // 2
    return [[short, half], [short]] if half > short else [[short]]


def price(costs: Collection[Cost], steps: int, raced: int, lengths: list[int]) -> float:
    """The most seconds that a race is expected to take until two norms have their five seeds."""
    first = starters(costs)
    by_norm = {cost.norm: cost for cost in costs}
    one = [by_norm[candidate.norm] for candidate in first] + list(costs)  # one rate more for each
    total = sum(whole(cost, steps, lengths[0], 1) for cost in one)
    total += sum(2 * whole(cost, steps, length, 1) for length in lengths[1:] for cost in costs)
    last = sorted((whole(cost, steps, raced, SEEDS) for cost in costs), reverse=True)
    return total + sum(last[:2])
