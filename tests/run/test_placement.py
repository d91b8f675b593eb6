"""How seeds share the machine is measured, and lanes keep to themselves."""

import threading
from collections.abc import Callable, Iterator
from threading import Event
from time import perf_counter, sleep

import pytest
import torch

from normbench.run import placement
from normbench.run.placement import Arrangement, fastest, in_lanes

LONG = 10**9  # steps in which it pays to time everything


def silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def costing(milliseconds: dict[int, float]) -> Callable[[int], Callable[[], None]]:
    """Steps of stacks that take a given time each, and do not hold the processor."""
    return lambda size: lambda: sleep(milliseconds[size] / 1000)


def test_the_stack_with_the_shortest_time_a_seed_is_chosen() -> None:
    best, times = fastest(costing({1: 8, 2: 9, 4: 60}), 4, silent, steps=LONG, lanes=1)
    assert best == Arrangement(lanes=1, size=2)
    assert times[Arrangement(1, 2)] < times[Arrangement(1, 1)]


def test_stacks_that_do_not_pay_are_left_alone() -> None:
    best, times = fastest(costing({1: 5, 2: 30, 4: 60}), 4, silent, steps=LONG, lanes=1)
    assert best == Arrangement()
    assert Arrangement(1, 4) not in times, "what is larger than a loss is not tried"


def test_a_gain_too_small_to_be_sure_of_is_no_reason_to_stack() -> None:
    best, _ = fastest(costing({1: 30, 2: 59.5}), 2, silent, steps=LONG, lanes=1)
    assert best == Arrangement()


def test_lanes_that_do_not_disturb_one_another_are_chosen() -> None:
    best, _ = fastest(costing({1: 30, 2: 120}), 2, silent, steps=LONG, lanes=2)
    assert best == Arrangement(lanes=2, size=1)


def test_a_seed_alone_is_trained_by_a_single_thread_where_that_is_faster(
    two_threads: None,
) -> None:
    def prepare(size: int) -> Callable[[], None]:
        return lambda: sleep(0.01 * torch.get_num_threads())

    assert fastest(prepare, 1, silent, steps=LONG, lanes=2)[0] == Arrangement(threads=1)
    assert fastest(costing({1: 5}), 1, silent, steps=LONG, lanes=2)[0] == Arrangement(threads=2)


def test_what_takes_too_long_to_be_timed_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "BUDGET", 0.6)
    _, times = fastest(costing({1: 40, 2: 50, 4: 60, 8: 70}), 8, silent, steps=LONG, lanes=1)
    assert {arrangement.size for arrangement in times} == {1, 2}


def test_measuring_is_a_small_share_of_a_short_training() -> None:
    step = costing({1: 10, 2: 12, 4: 14, 8: 16})
    for steps, share in ((10, 0.3), (100, 0.06)):
        start = perf_counter()
        best, times = fastest(step, 8, silent, steps=steps, lanes=1)
        assert perf_counter() - start < share * 8 * steps * 0.01
        assert (best == Arrangement()) == (steps == 10), times


def test_progress_ends_at_the_whole() -> None:
    told: list[tuple[int, int | None]] = []
    fastest(costing({1: 5}), 1, lambda _, *news: told.append(news), steps=LONG, lanes=1)
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    ("arrangement", "seeds", "stacks", "rounds"),
    [
        (Arrangement(), 3, [[0], [1], [2]], 3),
        (Arrangement(size=8), 3, [[0, 1, 2]], 1),
        (Arrangement(size=4), 5, [[0, 2, 4], [1, 3]], 2),
        (Arrangement(lanes=2, size=4), 5, [[0, 2, 4], [1, 3]], 1),
        (Arrangement(lanes=2, size=1), 3, [[0], [1], [2]], 2),
    ],
)
def test_seeds_are_divided_evenly(
    arrangement: Arrangement, seeds: int, stacks: list[list[int]], rounds: int
) -> None:
    assert arrangement.divide(range(seeds)) == stacks
    assert arrangement.rounds(seeds) == rounds


def test_lanes_run_at_the_same_time_with_their_share_of_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=10)
    threads: list[int] = []

    def job() -> None:
        meeting.wait()
        threads.append(torch.get_num_threads())

    try:
        in_lanes([job, job], 2, 1, Event())
        assert threads == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_single_lane_runs_in_this_thread_one_job_after_another() -> None:
    names: list[str] = []
    in_lanes([lambda: names.append(threading.current_thread().name)] * 2, 1, 1, Event())
    assert names == [threading.current_thread().name] * 2


def test_a_job_that_fails_stops_the_others_and_is_what_is_raised() -> None:
    stop = Event()

    def patient() -> None:
        assert stop.wait(10), "was not told to stop"

    def failing() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        in_lanes([patient, failing], 2, 1, stop)
    assert stop.is_set()


def test_stacks_for_which_there_is_no_memory_are_not_chosen() -> None:
    times = costing({1: 8, 2: 9, 4: 10, 8: 11})

    def prepare(size: int) -> Callable[[], None]:
        if size > 2:
            raise torch.OutOfMemoryError
        return times(size)

    best, tried = fastest(prepare, 8, silent, steps=LONG, lanes=1)
    assert best == Arrangement(lanes=1, size=2)
    assert {arrangement.size for arrangement in tried} == {1, 2}


def test_one_seed_for_which_there_is_no_memory_is_an_error() -> None:
    def prepare(size: int) -> Callable[[], None]:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        fastest(prepare, 2, silent, steps=LONG, lanes=1)


def test_a_step_that_fails_while_it_is_timed_leaves_no_lane_waiting() -> None:
    def prepare(size: int) -> Callable[[], None]:
        def step() -> None:
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("out of memory")

        return step

    with pytest.raises((RuntimeError, threading.BrokenBarrierError)):
        fastest(prepare, 2, silent, steps=LONG, lanes=2)
