"""The race: which trainings come next, which norms drop out, and when it ends. Trains nothing.

A race is a generator: it yields rounds of heats, is sent how they ended, and returns who is left.
It depends on the plan and on what it is sent alone; run again over the same records, it takes the
same course, and that is how it resumes.

**Rounds.** Short trainings of one seed with every learning rate come first. Where a norm's best
rate is at the edge of those tried, the next rate is tried as well. Then half the length with each
norm's two best rates, if the budget allows. At last two or three norms at their best rate with five
seeds that no choice was made on, as long as the time allows, and with more seeds if these do not
decide plainly.

**Dropping.** Short trainings only choose which norms are trained in full: of three or more, those
that are clearly behind are dropped, but never so that fewer than two are left. At each look every
norm is compared with the leader, on held-out images. It is dropped if p · comparisons · looks <
0.05, p two-sided and looks all that the race will have. The standard error has three parts:
``SEED_SD`` a seed; the binomial error of the held-out images; and ``DRIFT`` for each doubling that
the length is short of the planned one, because leads move. With several seeds p is Welch's.

**Error rate.** A race goes wrong if the best norm is dropped. At each look that takes one of at
most ``comparisons`` false results in one direction, so that by Bonferroni's inequality it happens
in at most 2.5 % of races, if seeds scatter and leads move no more than assumed. Where they do more,
``scripts/replay_races.py`` says how often.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from math import erfc, log2, sqrt
from statistics import fmean

from normbench.launch.advise.book import (
    ASIDE,
    DROPPED,
    RACING,
    Book,
    Finish,
    Round,
    Standing,
)
from normbench.launch.advise.budget import (
    FINALISTS,
    SEEDS,
    Candidate,
    Entrant,
    Heat,
    Scores,
    left_of,
    starters,
)
from normbench.launch.advise.odds import ALPHA, SEED_SD, SEEDS_RACED, difference_p
from normbench.launch.rates import EXTENSIONS, beside
from normbench.report.compare.statistics import estimate
from normbench.store.advice import Plan
from normbench.terminal.words import count

DRIFT = 0.03
"""How far a lead moves while the length doubles, as a standard deviation. Batch norm's lead over
group norm moved by 0.013 and 0.022 a doubling from 1 to 20 epochs (batch size 2 and 32; results/
one-epoch and long), and by 0.020, 0.028 and 0.037 from 3 to 20 (2, 32 and 128; results/naive and
batch-size)."""

PLAINLY = 0.2
"""No seeds are added where p is below this share of 0.05: the answer is drawn from the test images,
which may say a little less than the held-out ones."""

OVER = 0.05
"""By what share of the budget the last trainings may exceed it before they are made shorter: half
of what is promised; the other half is for what they take beyond what was foreseen."""

LAST_LOOKS = 2
"""How often the last trainings are looked at: with five seeds, and with all."""


There = Callable[[Entrant], bool]
"""Whether a training was there before the budget was changed, and so costs nothing."""


def _nothing(_: Entrant) -> bool:
    return False


def race(plan: Plan, there: There = _nothing) -> Generator[Round, Scores, Finish]:
    """Runs a race; yields its rounds, and is sent the scores of each round's trainings.

    Args:
        plan: of the race.
        there: which trainings cost nothing.
    """
    state = _State(plan, Book(plan), there)
    for length in plan.lengths:
        heats = state.starters(length)
        while heats:
            title = f"{count(length, 'epoch')}, one seed, {count(len(heats), 'setting')}"
            state.book.take(heats, (yield state.round(title, heats)))
            heats = state.neighbours(length)
        state.drop(length)
    heats = state.finals()
    while heats:
        seeds = heats[0].seed + heats[0].seeds - plan.seed - 1
        title = f"{count(heats[0].epochs, 'epoch')}, {count(seeds, 'seed')}"
        state.book.take(heats, (yield state.round(title, heats)))
        heats = state.more_seeds()
    return state.finish()


def follow(plan: Plan, train: Callable[[Round], Scores], there: There = _nothing) -> Finish:
    """Runs a race with ``train``, which is given a round and returns its scores."""
    running = race(plan, there)
    try:
        step = next(running)
        while True:
            step = running.send(train(step))
    except StopIteration as end:
        finish: Finish = end.value
        return finish


@dataclass(slots=True)
class _State:
    """Where a race stands: what was trained, and who has left it."""

    plan: Plan
    book: Book
    there: There = _nothing
    left: dict[str, tuple[str, str]] = field(default_factory=dict)
    extended: dict[str, int] = field(default_factory=dict)
    last: list[Heat] = field(default_factory=list)

    @property
    def racing(self) -> list[str]:
        return [norm for norm in self.plan.norms if norm not in self.left]

    @property
    def looks(self) -> int:
        return len(self.plan.lengths) + LAST_LOOKS

    def round(self, title: str, heats: list[Heat]) -> Round:
        seconds = [self.cost([heat]) for heat in heats]
        share = self.cost(heats) / (sum(seconds) or 1.0)
        return Round(
            title, heats, [share * each for each in seconds], self.book.remaining, self.standings
        )

    def cost(self, heats: Sequence[Heat]) -> float:
        """The seconds that heats will take, of whose seeds some may be there."""
        return self.book.seconds(left_of(heats, lambda entry: not self.there(entry)))

    # ---- the short trainings ----

    def starters(self, length: int) -> list[Heat]:
        """What is trained first at a length: all rates, or the best two of the length before."""
        if length == self.plan.lengths[0]:
            wanted = starters(self.plan.timings)
        else:
            wanted = [each for norm in self.racing for each in self.book.ranked(norm)[:2]]
        heats = [Heat(candidate, length, self.plan.seed) for candidate in wanted]
        first = length == self.plan.lengths[0]
        return heats if first or self.affordable(heats) else []

    def affordable(self, heats: Sequence[Heat]) -> bool:
        """Whether enough is left for the last trainings of two norms after ``heats``.

        What is there is never refused: a race with another budget keeps its course.
        """
        last = [self.final(Candidate(norm, 1.0)) for norm in self.racing]
        dearest = sorted(last, key=lambda heat: self.cost([heat]))[-2:]
        there = all(self.there(entry) for heat in heats for entry in heat.entries)
        return there or self.cost(heats) + self.cost(dearest) <= self.book.remaining

    def neighbours(self, length: int) -> list[Heat]:
        """The rates beside each norm's best that were not tried, as far as they can be paid for."""
        found: list[Heat] = []
        for norm in self.racing:
            wanted = [] if self.extended.get(norm, 0) >= EXTENSIONS else self.missing(norm, length)
            more = [Heat(candidate, length, self.plan.seed) for candidate in wanted]
            if more and self.affordable([*found, *more]):
                self.extended[norm] = self.extended.get(norm, 0) + 1
                found += more
        return found

    def missing(self, norm: str, length: int) -> list[Candidate]:
        """The neighbours of a norm's best candidate that were never tried.

        Where all diverged that were trained at this length: those that they were chosen from, or a
        smaller rate.
        """
        here = [each for each in self.book.at(length) if each.norm == norm]
        if here and self.book.short(norm, length) is None:
            behind = [each for each in self.book.ranked(norm) if each not in here]
            lowest = min(here, key=lambda each: each.factor)
            return behind[:2] or [replace(lowest, factor=lowest.factor / 2)]
        best = next(iter(self.book.ranked(norm)), None)
        if best is not None and best not in self.book.at(length):
            return []
        momentum = None if best is None else best.momentum
        entries = [entry.candidate for entry in self.book.scores if entry.candidate.norm == norm]
        tried = {each.factor for each in entries if best is None or each.momentum == momentum}
        wanted = beside(None if best is None else best.factor, tried)
        return [Candidate(norm, factor, momentum) for factor in wanted]

    def drop(self, length: int) -> None:
        """Drops the norms that are clearly behind after trainings of a length; two stay."""
        if not self.book.at(length):
            return
        values = {norm: self.book.short(norm, length) for norm in self.racing}
        known = {norm: value for norm, value in values.items() if value is not None}
        leader = max(known, key=lambda norm: known[norm], default=None)
        for norm in values.keys() - known.keys() if leader else ():
            tried = f"for {count(length, 'epoch')}"
            self.left[norm] = DROPPED, f"diverged at every learning rate tried {tried}"
        for norm in sorted(known, key=lambda norm: known[norm]):
            if leader is not None and len(self.racing) > 2:
                behind = known[leader] - known[norm]
                p = self.short_p(known[leader], known[norm], length)
                if p * self.looks * (len(known) - 1) < ALPHA:
                    after = f"after {count(length, 'epoch')}"
                    self.left[norm] = DROPPED, f"{100 * behind:.1f} points behind {leader} {after}"

    def short_p(self, first: float, second: float, length: int) -> float:
        """p of the difference of two norms after short trainings, as said above."""
        images = self.plan.held_out
        binomial = sum(value * (1 - value) / images for value in (first, second))
        drift = DRIFT * log2(self.plan.epochs / length)
        return erfc(abs(first - second) / sqrt(2 * (2 * SEED_SD**2 + binomial + drift**2)))

    # ---- the last trainings ----

    def final(self, candidate: Candidate, epochs: int | None = None) -> Heat:
        return Heat(candidate, epochs or self.plan.raced, self.plan.seed + 1, SEEDS)

    def finals(self) -> list[Heat]:
        """The last trainings of the two best norms, as long as can be paid for; of three, if so.

        Longer than planned where short trainings took less time than they might have. Where the
        machine is slower than it was, shorter: better than a broken promise.
        """
        best = [ranked[0] for norm in self.racing if (ranked := self.book.ranked(norm))]
        best.sort(key=self.order)
        for epochs in range(self.plan.epochs, 0, -1):
            self.last = [self.final(candidate, epochs) for candidate in best[:2]]
            over = OVER * self.plan.within if epochs <= self.plan.raced else 0.0
            if self.cost(self.last) <= self.book.remaining + over:
                break
        if best:
            three = [self.final(each, self.last[0].epochs) for each in best[:FINALISTS]]
            if self.cost(three) <= self.book.remaining:
                self.last = three
        for candidate in best[len(self.last) :]:
            self.left[candidate.norm] = ASIDE, "no time to train it in full"
        return list(self.last)

    def order(self, candidate: Candidate) -> tuple[float, float]:
        """The candidate with the longest training and the best accuracy is the first."""
        for length in reversed(self.plan.lengths):
            if (value := self.book.short(candidate.norm, length)) is not None:
                return -length, -value
        return 0.0, 0.0

    def more_seeds(self) -> list[Heat]:
        """As many seeds more as can be paid for, where those so far do not decide plainly; once."""
        if self.last[0].seeds > SEEDS:
            return []
        leader, *others = self.by_mean()
        open_ = self.undecided()
        for extra in range(SEEDS_RACED - SEEDS, 1, -1) if open_ else ():
            first = self.last[0].seed + SEEDS
            more = [Heat(t.candidate, t.epochs, first, extra) for t in (leader, *open_)]
            if self.cost(more) <= self.book.remaining:
                kept = [heat for heat in others if heat not in open_]
                grown = [
                    Heat(t.candidate, t.epochs, t.seed, SEEDS + extra) for t in (leader, *open_)
                ]
                self.last = [*grown, *kept]
                return more
        return []

    def undecided(self) -> list[Heat]:
        """The finalists that their seeds do not plainly tell from the leader."""
        leader, *others = self.by_mean()
        return [
            heat for heat in others if self.final_p(leader, heat, len(others)) >= PLAINLY * ALPHA
        ]

    def by_mean(self) -> list[Heat]:
        """The last trainings, the best first."""
        return sorted(self.last, key=lambda heat: -fmean(self.book.values(heat)))

    def final_p(self, first: Heat, second: Heat, comparisons: int) -> float:
        """Welch's p of two finalists, corrected."""
        rounding = 1 / self.plan.held_out
        p = difference_p(self.book.values(first), self.book.values(second), rounding)
        return min(1.0, p * self.looks * comparisons)

    # ---- what is said ----

    def standings(self, more: Scores | None = None) -> list[Standing]:
        """How the norms stand, the best first; with ``more`` scores, if some have ended since."""
        if more:
            return replace(
                self, book=replace(self.book, scores={**self.book.scores, **more})
            ).standings()
        order = {RACING: 0, ASIDE: 1, DROPPED: 2}
        found = [self.standing(norm) for norm in self.plan.norms]
        return sorted(found, key=lambda s: (order[s.state], -s.epochs, -(s.mean or 0.0)))

    def standing(self, norm: str) -> Standing:
        state, why = self.left.get(norm, (RACING, ""))
        for heat in self.last:
            values = self.book.values(heat)
            mean = estimate(values)
            if heat.candidate.norm == norm and mean is not None and mean.half is not None:
                return Standing(norm, state, heat.candidate, values, heat.epochs, mean.half, why)
        best = next(iter(self.book.ranked(norm)), None)
        for length in reversed(self.plan.lengths):
            if best is not None and (value := self.book.short(norm, length)) is not None:
                half = 1.96 * sqrt(SEED_SD**2 + value * (1 - value) / self.plan.held_out)
                return Standing(norm, state, best, [value], length, half, why)
        return Standing(norm, state, None, [], 0, None, why)

    def finish(self) -> Finish:
        finals = self.by_mean() if self.last else []
        return Finish(
            standings=self.standings(),
            finals=finals,
            looks=self.looks,
            pace=self.book.pace,
            remaining=self.book.remaining,
            leads={heat.candidate.norm: self.lead(finals[0], heat) for heat in finals[1:]},
            # Where more seeds were trained, the first ones had not decided.
            decided=bool(finals) and self.last[0].seeds == SEEDS and not self.undecided(),
            edges=tuple(norm for heat in finals if self.at_edge(norm := heat.candidate.norm)),
        )

    def at_edge(self, norm: str) -> bool:
        """Whether a norm's best rate has a neighbour that was not tried, for want of time or as the
        range had been extended often enough."""
        lengths = [n for n in self.plan.lengths if self.book.short(norm, n) is not None]
        return bool(lengths and self.missing(norm, lengths[-1]))

    def lead(self, first: Heat, second: Heat) -> dict[int, float]:
        """By how much the first of two norms led, by length."""
        found = {}
        for length in self.plan.lengths:
            a = self.book.short(first.candidate.norm, length)
            b = self.book.short(second.candidate.norm, length)
            if a is not None and b is not None:
                found[length] = a - b
        found[first.epochs] = fmean(self.book.values(first)) - fmean(self.book.values(second))
        return found
