"""What a race has trained so far, what comes next, and how the norms stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from normbench.launch.advise.budget import (
    Candidate,
    Entrant,
    Heat,
    Score,
    Scores,
    expected,
    left_of,
)
from normbench.store.advice import Plan

RACING, DROPPED, ASIDE = "racing", "dropped", "set aside"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a norm stands.

    Attributes:
        norm: its name.
        state: ``racing``, ``dropped`` (clearly behind) or ``set aside`` (behind, but not clearly).
        best: its best candidate; None before the first results, or if all diverged.
        accuracies: of that on the held-out images, one a seed, after ``epochs`` epochs.
        epochs: the longest training so far.
        half: half the 95 % interval of their mean.
        why: why it is where it is.
    """

    norm: str
    state: str
    best: Candidate | None
    accuracies: list[float]
    epochs: int
    half: float | None
    why: str

    @property
    def mean(self) -> float | None:
        """The mean accuracy."""
        return fmean(self.accuracies) if self.accuracies else None


@dataclass(frozen=True, slots=True)
class Round:
    """What is to be trained next.

    Attributes:
        title: what this round is.
        heats: one a cell.
        seconds: what each will take, about.
        remaining: seconds that are left of the budget before it.
        standings: how the norms stand, given the scores that are known of this round.
    """

    title: str
    heats: list[Heat]
    seconds: list[float]
    remaining: float
    standings: Callable[[Scores], list[Standing]] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a race.

    Attributes:
        standings: how the norms stand, the leader first.
        finals: the last trainings, the leader's first.
        looks: how often was looked; p is multiplied by it.
        pace: how many times as long as expected it took.
        remaining: seconds that are left of the budget.
        leads: the leader's lead over each other finalist on held-out images, by length.
        decided: whether held-out images have decided plainly, so that more time brings no seeds.
        edges: the finalists whose best rate has a neighbour that was not tried.
    """

    standings: list[Standing]
    finals: list[Heat]
    looks: int
    pace: float
    remaining: float
    leads: dict[str, dict[int, float]]
    decided: bool
    edges: tuple[str, ...] = ()


@dataclass(slots=True)
class Book:
    """The trainings of a race and their scores.

    Attributes:
        plan: of the race.
        scores: of every training.
        expected: the seconds that the rounds that tell the pace were expected to take, as measured
            beforehand.
        really: the seconds that these took.
    """

    plan: Plan
    scores: dict[Entrant, Score] = field(default_factory=dict)
    expected: float = 0.0
    really: float = 0.0

    def take(self, heats: Sequence[Heat], scores: Scores) -> None:
        """Adds a round that was trained."""
        own = {entry: scores[entry] for heat in heats for entry in heat.entries}
        # What an earlier course had trained is there at once, and says nothing of the pace; nor
        # does a round that had begun before it was timed.
        if all(score.whole for score in own.values()):
            new = left_of(heats, lambda entry: own[entry].seconds > 0)
            self.expected += expected(self.plan, new)
            self.really += sum(score.seconds for score in own.values())
        self.scores |= own

    def seconds(self, heats: Sequence[Heat]) -> float:
        """What a round will take, at the pace so far."""
        return self.pace * expected(self.plan, heats)

    @property
    def taken(self) -> float:
        """What all rounds took.

        Only what was written down is counted, so that a race that goes on decides as it would have.
        """
        return sum(score.seconds for score in self.scores.values())

    @property
    def remaining(self) -> float:
        """What is left of the budget."""
        return self.plan.within - self.plan.used - self.taken

    @property
    def pace(self) -> float:
        """How many times as long as expected the rounds took; 1 before the first."""
        known = self.expected and self.really
        return min(10.0, max(0.1, self.really / self.expected)) if known else 1.0

    def at(self, length: int) -> set[Candidate]:
        """What was trained with one seed at a length."""
        return {e.candidate for e in self.scores if e.epochs == length and e.seed == self.plan.seed}

    def ranked(self, norm: str) -> list[Candidate]:
        """A norm's candidates after its longest short training, the best first."""
        for length in reversed(self.plan.lengths):
            found = {
                entry.candidate: score.accuracy
                for entry, score in self.scores.items()
                if (entry.epochs, entry.seed) == (length, self.plan.seed)
                and entry.candidate.norm == norm
                and score.accuracy is not None
            }
            if found:
                return sorted(found, key=lambda each: (-found[each], each.factor))
        return []

    def short(self, norm: str, length: int) -> float | None:
        """A norm's best accuracy after short trainings of a length."""
        seen = [
            score.accuracy
            for entry, score in self.scores.items()
            if (entry.epochs, entry.seed) == (length, self.plan.seed)
            and entry.candidate.norm == norm
            and score.accuracy is not None
        ]
        return max(seen, default=None)

    def values(self, heat: Heat) -> list[float]:
        """The accuracies of a heat, one a seed; 0 for one that diverged."""
        known = [entry for entry in heat.entries if entry in self.scores]
        return [self.scores[entry].accuracy or 0.0 for entry in known]
