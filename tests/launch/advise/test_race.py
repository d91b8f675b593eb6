"""The course of a race: what is trained, who drops out, what it costs, how often it is wrong."""

from collections.abc import Callable
from dataclasses import replace
from math import log2
from random import Random
from statistics import fmean

import pytest

from normbench.errors import UsageError
from normbench.launch.advise.book import ASIDE, DROPPED, Book, Finish, Round
from normbench.launch.advise.budget import (
    SEEDS,
    Candidate,
    Entrant,
    Heat,
    Score,
    Scores,
    left_of,
    seconds_of,
)
from normbench.launch.advise.command import extended
from normbench.launch.advise.odds import SEEDS_RACED
from normbench.launch.advise.race import _State, follow, race
from normbench.store.advice import Plan
from tests.launch.advise.worlds import World, plan, random_world, with_budget, wrong

FOUR = ("batch", "group", "layer", "instance")
TWO = ("batch", "group")


def run(world: World, planned: Plan) -> Finish:
    return follow(planned, lambda step: world.train(planned, step))


def world(**settings: object) -> World:
    accuracy = {"batch": 0.74, "group": 0.77, "layer": 0.76, "instance": 0.4}
    return World(accuracy=accuracy, random=Random(0), **settings)  # type: ignore[arg-type]


def trained(step: Round) -> list[tuple[str, float, int, int]]:
    return [(t.candidate.norm, t.candidate.factor, t.epochs, t.seeds) for t in step.heats]


def test_short_trainings_come_first_with_every_rate_and_one_seed() -> None:
    everything = world()
    run(everything, plan(TWO))
    first = everything.rounds[0]

    assert [t.candidate for t in first.heats if t.candidate.norm == "group"] == [
        Candidate("group", factor) for factor in (0.5, 1.0, 2.0)
    ]
    momenta = [t.candidate.momentum for t in first.heats if t.candidate.norm == "batch"]
    assert momenta == [None, None, None, pytest.approx(0.02)]
    assert {(t.epochs, t.seed, t.seeds) for t in first.heats} == {(2, 0, 1)}


def test_the_last_trainings_are_as_long_as_planned_with_five_seeds_no_choice_saw() -> None:
    everything = world()
    finish = run(everything, plan(TWO))

    seen = {t.seed for step in everything.rounds for t in step.heats if t.epochs < 20}
    for heat in finish.finals:
        assert heat.epochs == 20
        assert heat.seeds >= SEEDS
        assert seen.isdisjoint(entry.seed for entry in heat.entries)


def test_what_is_hopeless_is_dropped_after_short_trainings_and_never_trained_in_full() -> None:
    everything = world()
    finish = run(everything, plan(FOUR))

    (last,) = (s for s in finish.standings if s.norm == "instance")
    assert last.state == DROPPED
    assert last.why.endswith("points behind group after 2 epochs")
    later = [row for step in everything.rounds[1:] for row in trained(step)]
    assert "instance" not in {norm for norm, *_ in later}


def test_two_norms_are_always_trained_in_full() -> None:
    """However far the second is behind after a short training: leads move with the length."""
    hopeless = World({"batch": 0.77, "group": 0.4, "layer": 0.3}, Random(0))
    finish = run(hopeless, plan(("batch", "group", "layer")))

    assert [heat.candidate.norm for heat in finish.finals] == ["batch", "group"]
    assert {heat.epochs for heat in finish.finals} == {20}
    assert [s.norm for s in finish.standings if s.state == DROPPED] == ["layer"]


def test_time_that_is_left_makes_the_last_trainings_longer() -> None:
    """The machine is twice as fast as it was measured: the planned length can be paid for."""
    planned = plan(TWO, within=250.0)
    assert planned.raced < 20
    everything = World(dict.fromkeys(TWO, 0.75), Random(0), slower=0.5)
    finish = run(everything, planned)

    assert {heat.epochs for heat in finish.finals} == {20}
    assert seconds(everything, planned) <= 250


class Again:
    """A race whose budget changes, over the records of one folder; its time is on a clock."""

    def __init__(self, everything: World, planned: Plan) -> None:
        self.world, self.plan = everything, planned
        self.known: dict[Entrant, Score] = {}
        self.spent = 0.0
        self.steps: list[Round] = []

    def train(self, step: Round) -> Scores:
        """Trains what is not there, of each cell the seeds that are missing."""
        self.steps.append(step)
        left = left_of(step.heats, lambda entry: entry not in self.known)
        took = self.world.slower * seconds_of(self.plan.timings, self.plan.steps, left)
        entries = [entry for heat in step.heats for entry in heat.entries]
        fresh = [entry for entry in entries if entry not in self.known]
        for entry in fresh:
            self.known[entry] = self.world.score(self.plan, entry, took / len(fresh))
        self.spent += took
        return {entry: self.known[entry] for entry in entries}

    def run(self, within: float) -> Finish:
        """The race with that budget."""
        self.steps = []
        if within != self.plan.within:
            taken = sum(score.seconds for score in self.known.values())
            self.plan = extended(self.plan, within, taken)
            self.known = {entry: replace(s, seconds=0.0) for entry, s in self.known.items()}
        return follow(self.plan, self.train, frozenset(self.known).__contains__)


@pytest.mark.parametrize("budgets", [(300.0, 450.0), (120.0, 600.0), (200.0, 260.0, 1200.0)])
def test_all_that_a_race_took_counts_when_its_budget_changes(budgets: tuple[float, ...]) -> None:
    """What an earlier course trained and the new one does not need is gone all the same."""
    again = Again(World(dict.fromkeys(TWO, 0.75), Random(0)), plan(TWO, within=budgets[0]))
    for within in budgets:
        again.run(within)

        assert again.spent + 10.0 <= 1.1 * within


def doubtful() -> World:
    """Two norms that five seeds do not tell apart, and whose best rate is beyond those tried."""
    accuracy = {"batch": 0.7655, "group": 0.745}
    return World(accuracy, Random(0), sd=0.012, curve=0.02, best=4.0)


@pytest.mark.parametrize("more", [10.0, 60.0, 150.0])
def test_a_little_more_time_leaves_a_race_on_its_course(more: float) -> None:
    """What is there costs nothing: no reserve is asked for it."""
    again = Again(doubtful(), plan(TWO, within=900.0))
    before = again.run(900.0)
    steps = [step.heats for step in again.steps]
    after = again.run(900.0 + more)

    course = [step.heats for step in again.steps]
    assert course[:-1] == steps[:-1], "as before, but that there may be more seeds at last"
    assert {heat.candidate for heat in after.finals} == {heat.candidate for heat in before.finals}
    assert min(t.seeds for t in after.finals) >= min(t.seeds for t in before.finals)


def test_the_time_that_an_answer_asks_for_is_used_for_the_seeds_that_are_missing() -> None:
    again = Again(doubtful(), plan(TWO, within=900.0))
    before = again.run(900.0)
    spent = again.spent
    after = again.run(1200.0)

    assert min(t.seeds for t in after.finals) > min(t.seeds for t in before.finals)
    assert 0.7 * 300 <= again.spent - spent <= 315


@pytest.mark.parametrize("within", [600.0, 1000.0])
def test_what_an_interrupted_round_still_took_is_not_taken_for_the_pace(within: float) -> None:
    """Killed when nine tenths of the last trainings were done: the rest takes a tenth."""
    planned = plan(TWO, within=within)
    everything = World(dict.fromkeys(TWO, 0.75), Random(0))
    steps: list[tuple[Round, float]] = []

    def train(step: Round) -> Scores:
        found = everything.train(planned, step)
        if step.title == "20 epochs, 5 seeds":
            found = {e: replace(s, seconds=s.seconds / 10, whole=False) for e, s in found.items()}
        steps.append((step, sum(score.seconds for score in found.values())))
        return found

    follow(planned, train)
    last, took = steps[-1]
    assert last.title != "20 epochs, 5 seeds", "seeds are added"
    assert took <= 1.1 * last.remaining
    assert last.remaining == pytest.approx(within - 10.0 - sum(t for _, t in steps[:-1]))


def test_workers_side_by_side_leave_the_reserve_of_the_dearer_norm_alone() -> None:
    """The last trainings of two norms take two workers as long as those of the slower one."""
    planned = replace(plan(TWO, within=1e5), workers=2)
    state = _State(planned, Book(planned))
    heats = [Heat(Candidate("group", 4.0), 2, 0)]
    both = [state.final(Candidate(norm, 1.0)) for norm in TWO]
    enough = planned.used + state.cost(heats) + state.cost(both)

    state.plan = state.book.plan = replace(planned, within=enough + 1e-6)
    assert state.affordable(heats)
    state.plan = state.book.plan = replace(planned, within=enough - 1.0)
    assert not state.affordable(heats)


def test_a_budget_that_is_used_up_is_refused() -> None:
    with pytest.raises(UsageError, match="this race has taken 5 min 10 s already"):
        extended(plan(TWO, within=400.0), 300.0, 300.0)


@pytest.mark.parametrize("best", [0.25, 4.0])
def test_a_best_rate_at_the_edge_is_looked_for_beyond_it(best: float) -> None:
    everything = world(best=best, curve=0.04, sd=0.001)
    finish = run(everything, plan(TWO))

    assert {heat.candidate.factor for heat in finish.finals} == {best}
    assert finish.edges == ()


def test_rates_are_extended_twice_at_most() -> None:
    everything = world(best=64.0, curve=0.005, sd=0.001)
    finish = run(everything, plan(TWO))

    assert max(t.candidate.factor for s in everything.rounds for t in s.heats) == 8.0
    assert set(finish.edges) == set(TWO), "and it is said that they lie at the edge"


def test_where_all_rates_diverge_smaller_ones_are_tried_and_what_still_diverges_is_dropped() -> (
    None
):
    everything = world(diverges=lambda e: e.candidate.norm == "group" and e.candidate.factor > 0.1)
    finish = run(everything, plan(TWO))

    (group,) = (s for s in finish.standings if s.norm == "group")
    assert group.state == DROPPED
    assert group.why.startswith("diverged at every learning rate tried for ")
    factors = {t.candidate.factor for s in everything.rounds for t in s.heats}
    assert min(factors) == 0.125

    everything = world(diverges=lambda e: e.candidate.norm == "group" and e.candidate.factor > 0.3)
    finish = run(everything, plan(TWO))
    assert {t.candidate.factor for t in finish.finals if t.candidate.norm == "group"} == {0.25}


def test_rates_that_diverge_only_in_longer_trainings_make_room_for_others() -> None:
    def diverges(entry: Entrant) -> bool:
        late = entry.epochs > planned.lengths[0]
        return entry.candidate.norm == "group" and late and entry.candidate.factor > 0.6

    planned = plan(TWO)
    everything = world(diverges=diverges, best=2.0, curve=0.02, sd=0.001)
    finish = run(everything, planned)

    assert len(planned.lengths) > 1
    assert {heat.candidate.norm for heat in finish.finals} == set(TWO)
    assert {t.candidate.factor for t in finish.finals if t.candidate.norm == "group"} == {0.5}


def test_where_everything_diverges_nothing_is_trained_in_full() -> None:
    everything = world(diverges=lambda _: True)
    finish = run(everything, plan(TWO))

    assert finish.finals == []
    assert all(t.epochs < 20 for step in everything.rounds for t in step.heats)


def test_seeds_are_added_only_where_five_do_not_decide() -> None:
    far = World(accuracy={"batch": 0.70, "group": 0.78}, random=Random(1), drift={"batch": -0.03})
    assert {heat.seeds for heat in run(far, plan(TWO)).finals} == {SEEDS}

    close = World(accuracy={"batch": 0.77, "group": 0.77}, random=Random(1))
    assert {heat.seeds for heat in run(close, plan(TWO)).finals} == {SEEDS_RACED}


def test_three_norms_are_trained_in_full_where_there_is_time_and_the_others_set_aside() -> None:
    accuracy = dict.fromkeys(FOUR, 0.75)
    rich = run(World(accuracy=accuracy, random=Random(0)), plan(FOUR))
    poor = run(World(accuracy=accuracy, random=Random(0)), plan(FOUR, within=400.0))

    assert (len(rich.finals), len(poor.finals)) == (3, 2)
    assert [s.why for s in poor.standings if s.state == ASIDE] == [
        "no time to train it in full"
    ] * 2


def seconds(everything: World, planned: Plan) -> float:
    """What a race really took."""
    return planned.used + sum(everything.seconds(planned, step) for step in everything.rounds)


@pytest.mark.parametrize(
    ("norms", "within"),
    [(TWO, 180.0), *((n, s) for n in (TWO, FOUR) for s in (300.0, 420.0, 600.0, 1200.0, 3600.0))],
)
@pytest.mark.parametrize("slower", [0.7, 1.0, 1.5, 2.5])
def test_the_budget_is_kept_to_a_tenth_even_on_a_slower_machine(
    norms: tuple[str, ...], within: float, slower: float
) -> None:
    planned = plan(norms, within=within)
    everything = World(dict.fromkeys(norms, 0.75), Random(0), slower=slower)
    run(everything, planned)

    assert seconds(everything, planned) <= 1.1 * within


@pytest.mark.parametrize("within", [180.0, 300.0, 600.0, 1200.0, 3600.0])
@pytest.mark.parametrize("wrong", [0.75, 1.25])
@pytest.mark.parametrize("part", ["start", "alone", "together", "evaluation", "ending"])
def test_the_budget_is_kept_to_a_tenth_where_a_part_takes_a_quarter_more_or_less(
    within: float, part: str, wrong: float
) -> None:
    """Whatever was measured wrong: what the first rounds took corrects the rest."""
    planned = plan(TWO, within=within)
    real = []
    for one in planned.timings:
        at = {n: "alone" if n == 1 else "together" for n in one.steps}
        steps = {n: t * (wrong if part == at[n] else 1.0) for n, t in one.steps.items()}
        others = {
            key: getattr(one, key) * (wrong if part == key else 1.0)
            for key in ("start", "evaluation", "ending")
        }
        real.append(replace(one, steps=steps, **others))
    everything = World(dict.fromkeys(TWO, 0.75), Random(0), really=real)
    run(everything, planned)

    assert seconds(everything, planned) <= 1.1 * within


def test_time_that_is_left_is_used_for_seeds_as_far_as_the_budget_goes() -> None:
    """Trainings alone, in threes and in fives have each their own price: the sum is exact."""
    planned = plan(TWO, within=330.0)
    everything = World(dict.fromkeys(TWO, 0.75), Random(0))
    run(everything, planned)

    assert 0.9 * 330 <= seconds(everything, planned) <= 330


def test_a_smaller_budget_makes_trainings_shorter() -> None:
    raced = [plan(TWO, within=within).raced for within in (120.0, 200.0, 300.0, 1000.0)]

    assert raced == sorted(raced)
    assert raced[0] < 20 == raced[-1]


def test_a_race_that_is_run_again_over_its_records_takes_the_same_course() -> None:
    records: dict[object, Score] = {}

    def go(everything: World, planned: Plan, rounds: int | None) -> list[Round]:
        found: list[Round] = []
        running = race(planned)
        scores: Scores | None = None
        while rounds is None or len(found) < rounds:
            try:
                step = next(running) if scores is None else running.send(scores)
            except StopIteration:
                break
            found.append(step)
            for heat in step.heats:
                for entry in heat.entries:
                    if entry not in records:
                        records[entry] = everything.score(planned, entry, 1.0)
            scores = {entry: records[entry] for t in step.heats for entry in t.entries}
        return found

    everything, planned = world(), plan(FOUR)
    begun = go(everything, planned, 2)
    whole_race = go(everything, planned, None)
    assert whole_race[: len(begun)] == begun
    before = dict(records)
    assert go(everything, planned, None) == whole_race
    assert records == before, "nothing is trained twice"


def test_with_more_time_the_race_goes_on_with_longer_trainings() -> None:
    planned = plan(TWO, within=200.0)
    more = with_budget(planned, 2000.0)

    assert (planned.raced < 20, more.raced) == (True, 20)


# ---- how often it is wrong ----


def firm(
    make: Callable[[Random], World], norms: tuple[str, ...], races: int, within: float = 3600.0
) -> tuple[int, int]:
    """How many of so many races ended with a clear answer, and how many of those were wrong."""
    planned = plan(norms, within=within)
    clear = bad = 0
    for number in range(races):
        everything = make(Random(number))
        answer = everything.run(planned)
        clear += answer.verdict == "clear"
        bad += answer.verdict == "clear" and wrong(answer, everything)
    return clear, bad


@pytest.mark.parametrize("gap", [0.02, 0.03])
def test_at_most_one_in_twenty_firm_answers_is_wrong(gap: float) -> None:
    clear, bad = firm(lambda random: random_world(random, FOUR, gap=gap), FOUR, 150)

    assert clear > 20, "it does answer"
    assert bad <= 0.05 * clear


def test_equal_norms_are_seldom_told_apart() -> None:
    def make(random: Random) -> World:
        return World(accuracy=dict.fromkeys(FOUR, 0.75), random=random)

    clear, _ = firm(make, FOUR, 200)
    assert clear <= 0.05 * 200 + 6, "at the nominal rate of 5 %, 16 or fewer of 200 in 95 %"


def test_a_short_race_is_never_a_firm_answer() -> None:
    clear, _ = firm(lambda random: random_world(random, TWO, gap=0.1), TWO, 60, within=120.0)

    assert clear == 0


def test_a_norm_that_starts_slowly_is_kept_until_it_leads() -> None:
    """As group norm at batch size 2: behind by 6 points after 2 epochs, ahead by 3 after 20."""
    ahead = 0
    for number in range(40):
        everything = World(
            accuracy={"batch": 0.74, "group": 0.77},
            random=Random(number),
            drift={"group": 0.027},
        )
        answer = everything.run(plan(TWO))
        ahead += answer.norm == "group"
        assert answer.norm == "group" or answer.verdict != "clear"
    assert ahead >= 38


def test_the_mean_of_the_last_seeds_is_not_biased_by_the_choice_of_the_rate() -> None:
    found = []
    for number in range(60):
        everything = World(dict.fromkeys(TWO, 0.75), Random(number), sd=0.02, curve=0.0)
        answer = everything.run(plan(TWO, epochs=1, within=900.0))
        found += [row.error for row in answer.rows if row.error is not None]

    at_one_epoch = 0.03 * log2(20)  # the world counts from 20 epochs; no rate is better
    assert fmean(found) == pytest.approx(0.25 + at_one_epoch, abs=0.002)
