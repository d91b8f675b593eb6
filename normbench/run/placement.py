"""How several seeds share a machine: side by side in lanes, stacked within each lane.

A lane is a thread with its share of the processor; a stack is several seeds as one network. Small
steps gain from both: a stack is launched once for all its seeds, and a lane does not wait at the
end of each small operation for other threads. Stacks pay with slower convolutions, lanes with
memory bandwidth. What wins depends on the batch, the network, the processor and its libraries, so
it is timed, on the steps to be trained.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from threading import Barrier, Event
from time import perf_counter
from typing import TypeVar

import torch

LARGEST_STACK = 16
"""Stacks stop here: beyond, memory grows and speed does not."""

WORTHWHILE = 0.97
"""What share of the time of one seed after another another arrangement may take to be chosen."""

TURN = 0.1
"""Seconds for which an arrangement is timed, twice; less where training is short."""

BUDGET = 2.5
"""Seconds after which no arrangement is tried that would not have been timed by then, at most."""

SHARE = 0.03
"""That time as a share of training, at most."""

_TIMED = 3
"""Steps in which an arrangement is timed, at least: one that does not count, and two turns."""

Step = Callable[[], None]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How seeds share the machine.

    Attributes:
        lanes: how many stacks are trained at the same time.
        size: how many seeds each stack has, at most.
        threads: by how many threads each lane computes.
    """

    lanes: int = 1
    size: int = 1
    threads: int = field(default_factory=torch.get_num_threads)

    def rounds(self, seeds: int) -> int:
        """How many stacks a lane trains, one after another, until ``seeds`` seeds are trained."""
        return _up(_up(seeds, self.size), self.lanes)

    def occupied(self, seeds: int) -> int:
        """For how many seeds' time ``seeds`` seeds occupy the machine.

        The last round may have idle lanes or thin stacks.
        """
        return self.rounds(seeds) * self.lanes * self.size

    def divide(self, replicas: Sequence[T]) -> list[list[T]]:
        """The replicas of each stack; sizes differ by one at most."""
        parts = _up(len(replicas), self.size)
        return [list(replicas[part::parts]) for part in range(parts)]


@dataclass(frozen=True, slots=True)
class Pace:
    """An arrangement, and how fast it is.

    Attributes:
        arrangement: how seeds share the machine.
        step: seconds a seed and step.
    """

    arrangement: Arrangement
    step: float


def _up(number: int, by: int) -> int:
    return -(-number // by)


def in_lanes(jobs: Sequence[Callable[[], None]], lanes: int, threads: int, stop: Event) -> None:
    """Runs ``jobs`` in ``lanes`` threads, or one after another in this one if ``lanes`` is 1.

    Args:
        jobs: what is to be done; a job that sees ``stop`` set should end.
        lanes: how many at a time.
        threads: by how many threads each lane computes.
        stop: set when a job has failed or this thread has been interrupted.

    Raises:
        BaseException: the first failure, or the interruption, once all lanes have come to rest.
    """
    all_threads = torch.get_num_threads()
    try:
        if lanes == 1:
            torch.set_num_threads(threads)
            for job in jobs:
                job()
            return
        with ThreadPoolExecutor(lanes, initializer=lambda: torch.set_num_threads(threads)) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(all_threads)


def fastest(
    prepare: Callable[[int], Step],
    seeds: int,
    progress: Callable[[str, int, int | None], None],
    *,
    steps: int,
    lanes: int,
) -> tuple[Arrangement, dict[Arrangement, float]]:
    """Times arrangements of ``seeds`` seeds, and chooses.

    In as many lanes as there may be and in one, stacks are made larger for as long as that helps
    and there is memory and time; a seed alone is also tried on a single thread. One seed after
    another is timed first and last, and of an arrangement's times the shortest counts: what
    disturbs only ever adds. Where training is short, less is timed, or nothing.

    Args:
        prepare: given a stack's size, returns what runs one of its steps to the end.
        seeds: how many are to be trained.
        progress: told what is done, how much, and of how much.
        steps: how many each of them is trained.
        lanes: how many stacks may be trained at a time.

    Returns:
        The arrangement that trains all seeds first, and each one's seconds a seed and step.
    """
    alone, begin = Arrangement(), perf_counter()
    families = _families(seeds, min(lanes, seeds))
    total = sum(map(len, families)) + 2
    step = prepare(1)
    step()  # the first chooses algorithms and fills caches
    times = {alone: timed(step, 0.0)}
    budget = time_to_measure(seeds * steps * times[alone])
    if budget < 2 * _TIMED * times[alone]:
        return alone, times
    turn = min(TURN, budget / (_TIMED * total))
    start = perf_counter()
    times[alone] = seconds_a_step(prepare, alone, turn)
    least = perf_counter() - start

    def measure(arrangement: Arrangement) -> float:
        progress("measuring how to train", len(times), total)
        return seconds_a_step(prepare, arrangement, turn)

    for family in families:
        _grow(family, measure, times, expected=least, end=begin + budget)
    if len(times) > 1:
        times[alone] = min(times[alone], seconds_a_step(prepare, alone, turn))
    progress("measuring how to train", total, total)
    return _best(times, seeds), times


def _grow(
    family: Sequence[Arrangement],
    measure: Callable[[Arrangement], float],
    times: dict[Arrangement, float],
    *,
    expected: float,
    end: float,
) -> None:
    """Adds to ``times`` ever larger stacks, for as long as that helps and there is memory and time.

    Args:
        family: arrangements by size.
        measure: what times one.
        times: seconds a seed and step so far; holds one seed after another.
        expected: how many seconds it takes to time the first.
        end: when there is no more time.
    """
    last = times[Arrangement()]
    for arrangement in family:
        start = perf_counter()
        if start + expected > end:
            break
        try:
            times[arrangement] = measure(arrangement)
        except torch.OutOfMemoryError:  # on a GPU
            break  # larger stacks take more
        if arrangement.size > 1 and times[arrangement] > last:
            break
        last = times[arrangement]
        expected = 2 * (perf_counter() - start)  # of the next, which is at most twice as large


def _best(times: Mapping[Arrangement, float], seeds: int) -> Arrangement:
    """What trains all seeds first; one seed after another if that is not worthwhile."""
    alone = Arrangement()

    def whole(arrangement: Arrangement) -> float:
        return arrangement.occupied(seeds) * times[arrangement]

    best = min(times, key=whole)
    return best if whole(best) <= WORTHWHILE * whole(alone) else alone


def time_to_measure(seconds: float) -> float:
    """For how many seconds arrangements may be timed where training takes ``seconds``."""
    return min(BUDGET, SHARE * seconds)


def _families(seeds: int, lanes: int) -> list[list[Arrangement]]:
    """What to try beside one seed after another: families of ever larger stacks."""
    threads = torch.get_num_threads()
    single = [Arrangement(threads=1)] if seeds == 1 and threads > 1 else []
    side_by_side = [
        Arrangement(lanes, size, max(1, threads // lanes)) for size in _sizes(_up(seeds, lanes))
    ]
    stacks = [Arrangement(1, size, threads) for size in _sizes(seeds) if size > 1]
    return [family for family in (single, side_by_side if lanes > 1 else [], stacks) if family]


def _sizes(most: int) -> list[int]:
    powers = [size for size in (1, 2, 4, 8, LARGEST_STACK) if size <= most]
    return sorted({*powers, min(most, LARGEST_STACK)})


def seconds_a_step(
    prepare: Callable[[int], Step], arrangement: Arrangement, turn: float = TURN
) -> float:
    """Seconds a seed and step under ``arrangement``: the shorter of two turns of ``turn``."""
    steps = [prepare(arrangement.size) for _ in range(arrangement.lanes)]
    barrier = Barrier(arrangement.lanes)
    turns: list[float] = []

    def lane(step: Step) -> None:
        try:
            step()  # the first steps choose algorithms and fill caches
            for _ in range(2):
                barrier.wait()
                turns.append(timed(step, turn))
                barrier.wait()
        except BaseException:
            barrier.abort()  # the other lanes must not wait for this one
            raise

    lanes = arrangement.lanes
    jobs = [partial(lane, step) for step in steps]
    in_lanes(jobs, lanes, arrangement.threads, Event())
    means = [sum(turns[first : first + lanes]) / lanes for first in (0, lanes)]
    return min(means) / (lanes * arrangement.size)


def timed(step: Step, seconds: float) -> float:
    """Seconds a step takes, over at least ``seconds`` and one step."""
    start, count = perf_counter(), 0
    while count < 1 or perf_counter() - start < seconds:
        step()
        count += 1
    return (perf_counter() - start) / count
