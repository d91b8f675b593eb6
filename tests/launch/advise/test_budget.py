"""What trainings cost, and how long they can be."""

from dataclasses import replace

import pytest

from normbench.errors import UsageError
from normbench.launch.advise.book import Book
from normbench.launch.advise.budget import (
    SEEDS,
    Candidate,
    Heat,
    Score,
    expected,
    lengths_within,
    price,
    seconds_of,
    whole,
)
from normbench.launch.rates import FACTORS
from tests.launch.advise.worlds import STEPS, plan, timing

TIMINGS = [timing("batch"), timing("group", step=0.02)]


def test_trainings_take_their_start_steps_evaluations_and_end() -> None:
    assert whole(TIMINGS[0], STEPS, 3, 1) == pytest.approx(0.5 + 3 * STEPS * 0.01 + 3 * 1.0 + 2.0)
    assert whole(TIMINGS[0], STEPS, 3, 5) == pytest.approx(0.5 + 3 * STEPS * 0.02 + 5 * (3 + 2))


def test_of_a_round_what_differs_in_the_rate_alone_goes_together() -> None:
    rates = [Heat(Candidate("batch", factor), 2, 0) for factor in FACTORS]
    slower, group = Heat(Candidate("batch", 1.0, 0.02), 2, 0), Heat(Candidate("group", 1.0), 2, 0)
    found = seconds_of(TIMINGS, STEPS, [*rates, slower, group])

    together = whole(TIMINGS[0], STEPS, 2, 3)
    assert found == pytest.approx(
        together + whole(TIMINGS[0], STEPS, 2, 1) + whole(TIMINGS[1], STEPS, 2, 1)
    )
    assert together < 3 * whole(TIMINGS[0], STEPS, 2, 1)


def test_workers_side_by_side_share_a_round_s_jobs() -> None:
    rates = [Heat(Candidate("batch", factor), 2, 0) for factor in FACTORS]
    group = Heat(Candidate("group", 1.0), 2, 0)
    batch, other = whole(TIMINGS[0], STEPS, 2, 3), whole(TIMINGS[1], STEPS, 2, 1)

    found = [seconds_of(TIMINGS, STEPS, [*rates, group], n) for n in (1, 2, 3, 4, 6, 20)]
    alone, pair = (whole(TIMINGS[0], STEPS, 2, n) for n in (1, 2))
    assert found[:2] == pytest.approx([batch + other, max(batch, other)])
    assert found[2:] == pytest.approx([max(pair, other)] * 2 + [max(alone, other)] * 2)
    assert seconds_of(TIMINGS, STEPS, [], 4) == 0.0


def test_where_they_are_not_divided_what_goes_together_is_one_job() -> None:
    rates = [Heat(Candidate("batch", factor), 2, 0) for factor in FACTORS]
    group = Heat(Candidate("group", 1.0), 2, 0)
    batch, other = whole(TIMINGS[0], STEPS, 2, 3), whole(TIMINGS[1], STEPS, 2, 1)

    found = [seconds_of(TIMINGS, STEPS, [*rates, group], n, False) for n in (1, 2, 256)]
    assert found == pytest.approx([batch + other, max(batch, other), max(batch, other)])
    apart, together = (price(TIMINGS, STEPS, 16, [2, 8], 256, each) for each in (True, False))
    assert apart < together
    assert expected(replace(plan(["batch"]), workers=256, divided=False), rates) == pytest.approx(
        batch
    )


def test_a_job_waits_for_a_worker_that_is_free() -> None:
    third = timing("layer", step=0.03)
    heats = [Heat(Candidate(each.norm, 1.0), 2, 0) for each in (*TIMINGS, third)]
    first, second, last = (whole(each, STEPS, 2, 1) for each in (*TIMINGS, third))

    assert seconds_of([*TIMINGS, third], STEPS, heats, 2) == pytest.approx(
        max(second, first + last)
    )


def test_the_price_of_a_race_is_that_of_its_trainings() -> None:
    batch, group = TIMINGS
    first = whole(batch, STEPS, 2, 3) + whole(batch, STEPS, 2, 1) + whole(group, STEPS, 2, 3)
    wider = whole(batch, STEPS, 2, 1) + whole(group, STEPS, 2, 1)
    second = whole(batch, STEPS, 8, 2) + whole(group, STEPS, 8, 2)
    last = whole(batch, STEPS, 16, SEEDS) + whole(group, STEPS, 16, SEEDS)

    assert price(TIMINGS, STEPS, 16, [2, 8]) == pytest.approx(first + wider + second + last)


@pytest.mark.parametrize(
    ("epochs", "lengths"), [(1, [1]), (2, [1]), (3, [1]), (4, [1, 2]), (20, [2, 10])]
)
def test_short_trainings_have_an_eighth_and_half_of_the_length(
    epochs: int, lengths: list[int]
) -> None:
    assert lengths_within(TIMINGS, STEPS, epochs, 1e6, 0.0) == (epochs, lengths)


def test_the_second_round_is_given_up_before_the_length() -> None:
    enough = price(TIMINGS, STEPS, 20, [2])

    assert lengths_within(TIMINGS, STEPS, 20, enough, 0.0) == (20, [2])
    raced, _ = lengths_within(TIMINGS, STEPS, 20, enough, 1.0)
    assert raced == 19


def test_a_budget_that_is_too_small_for_any_race_is_told_what_the_shortest_takes() -> None:
    least = price(TIMINGS, STEPS, 1, [1])
    assert least == pytest.approx(76, abs=1)
    with pytest.raises(UsageError) as caught:
        lengths_within(TIMINGS, STEPS, 20, 90.0, 20.0)
    assert str(caught.value) == (
        "--within 1 min 30 s: too little for any race: measuring took 20.0 s and the shortest"
        " race, of 1 epoch, takes 1 min 16 s; give --within 2m (for an answer about epochs=20: 7m),"
        " fewer --norms or a smaller data.limit"
    )
    assert lengths_within(TIMINGS, STEPS, 20, 7 * 60.0, 20.0)[0] == 20
    assert lengths_within(TIMINGS, STEPS, 20, 120.0, 20.0)[0] >= 1


def test_the_pace_and_what_is_left_follow_from_what_rounds_took() -> None:
    planned = plan(["batch", "group"])
    rounds = [[Heat(Candidate("batch", 1.0), 2, 0)], [Heat(Candidate("group", 1.0), 20, 1, 5)]]
    book = Book(planned)
    assert (book.pace, book.remaining) == (1.0, planned.within - 10)
    for heats in rounds:
        entries = [entry for heat in heats for entry in heat.entries]
        share = 1.5 * expected(planned, heats) / len(entries)
        book.take(heats, {entry: Score(0.7, share) for entry in entries})

    assert book.pace == pytest.approx(1.5)
    took = 1.5 * sum(expected(planned, heats) for heats in rounds)
    assert book.remaining == pytest.approx(planned.within - 10 - took)
    assert book.seconds(rounds[0]) == pytest.approx(1.5 * expected(planned, rounds[0]))
