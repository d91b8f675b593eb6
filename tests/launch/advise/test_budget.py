"""What trainings cost, and how long they can be."""

from random import Random

import pytest

from normbench.errors import UsageError
from normbench.launch.advise.budget import (
    SEEDS,
    Candidate,
    Heat,
    course,
    foreseen,
    pace,
    price,
    spent,
    whole,
)
from tests.launch.advise.worlds import STEPS, World, cost, plan

COSTS = [cost("batch"), cost("group", step=0.02)]


def test_a_cell_costs_its_start_steps_evaluations_and_end() -> None:
    assert whole(COSTS[0], STEPS, 3, 1) == pytest.approx(0.5 + 3 * STEPS * 0.01 + 3 * 1.0 + 2.0)
    assert whole(COSTS[0], STEPS, 3, 5) == pytest.approx(0.5 + 5 * (3 * STEPS * 0.004 + 3 + 2))
    assert whole(COSTS[0], STEPS, 3, 1, 2.0) == pytest.approx(0.5 + 2 * (3 + 3 + 2))


def test_the_price_of_a_race_is_that_of_its_trainings() -> None:
    batch, group = COSTS
    first = 5 * whole(batch, STEPS, 2, 1) + 4 * whole(group, STEPS, 2, 1)
    second = 2 * whole(batch, STEPS, 8, 1) + 2 * whole(group, STEPS, 8, 1)
    last = whole(batch, STEPS, 16, SEEDS) + whole(group, STEPS, 16, SEEDS)

    assert price(COSTS, STEPS, 16, [2, 8]) == pytest.approx(first + second + last)


@pytest.mark.parametrize(
    ("epochs", "lengths"), [(1, [1]), (2, [1]), (3, [1]), (4, [1, 2]), (20, [2, 10])]
)
def test_short_trainings_have_an_eighth_and_half_of_the_length(
    epochs: int, lengths: list[int]
) -> None:
    assert course(COSTS, STEPS, epochs, 1e6, 0.0) == (epochs, lengths)


def test_the_second_round_is_given_up_before_the_length() -> None:
    enough = price(COSTS, STEPS, 20, [2])

    assert course(COSTS, STEPS, 20, enough, 0.0) == (20, [2])
    raced, _ = course(COSTS, STEPS, 20, enough, 1.0)
    assert raced == 19


def test_a_budget_that_is_too_small_for_any_race_is_told_what_the_shortest_takes() -> None:
    least = price(COSTS, STEPS, 1, [1])
    assert least == pytest.approx(82, abs=1)
    with pytest.raises(UsageError) as caught:
        course(COSTS, STEPS, 20, 99.0, 20.0)
    assert str(caught.value) == (
        "--within 1 min 39 s: too little for any race: measuring took 20.0 s and the shortest race"
        " takes 1 min 22 s; give --within 2m, fewer --norms or a smaller data.limit"
    )
    assert course(COSTS, STEPS, 20, 120.0, 20.0)[0] >= 1


def test_the_pace_and_what_was_spent_follow_from_the_records() -> None:
    planned = plan(["batch", "group"])
    trials = [Heat(Candidate("batch", 1.0), 2, 0), Heat(Candidate("group", 1.0), 20, 1, 5)]
    world = World({"batch": 0.7, "group": 0.7}, Random(0), slower=1.5)
    scores = {e: world.score(planned, e, t.seeds) for t in trials for e in t.entries}

    assert pace(planned, trials, scores) == pytest.approx(1.5)
    assert spent(planned, trials, scores) == pytest.approx(10 + foreseen(planned, trials, 1.5))
    assert pace(planned, [], {}) == 1.0
