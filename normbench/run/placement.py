"""How several seeds share a machine: side by side in lanes, stacked within each lane.

A lane is a thread with its share of the processor; a stack is several seeds as one network. Small
steps gain from both: a stack is launched once for all its seeds, and a lane does not wait at the
end of each small operation for other threads. Stacks pay with slower convolutions, lanes with
memory bandwidth. What wins depends on the batch, the network, the processor and its libraries, so
it is timed, on the steps to be trained.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Barrier, Event
from time import perf_counter

import torch

LARGEST_STACK = 16
"""Stacks stop here: beyond, memory grows and speed does not."""

WORTHWHILE = 0.97
"""What share of the time of one seed after another another arrangement may take to be chosen."""

TURN = 0.3
"""Seconds for which an arrangement is timed, at least, and at least two steps; twice."""

Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How seeds share the machine.

    Attributes:
        lanes: how many stacks are trained at the same time, each by its share of the threads.
        size: how many seeds each stack has, at most.
    """

    lanes: int = 1
    size: int = 1

    def rounds(self, seeds: int) -> int:
        """How many stacks a lane trains, one after another, until ``seeds`` seeds are trained."""
        return _up(_up(seeds, self.size), self.lanes)

    def divide(self, seeds: Sequence[int]) -> list[list[int]]:
        """The seeds of each stack; sizes differ by one at most."""
        parts = _up(len(seeds), self.size)
        return [list(seeds[part::parts]) for part in range(parts)]


def _up(number: int, by: int) -> int:
    return -(-number // by)


def in_lanes(
    jobs: Sequence[Callable[[], None]], lanes: int, stop: Event, threads: int | None = None
) -> None:
    """Runs ``jobs`` in ``lanes`` threads, or one after another in this one if ``lanes`` is 1.

    Args:
        jobs: what is to be done; a job that sees ``stop`` set should end.
        lanes: how many at a time.
        stop: set when a job has failed or this thread has been interrupted.
        threads: by how many threads each lane computes; an equal share by default.

    Raises:
        BaseException: the first failure, or the interruption, once all lanes have come to rest.
    """
    all_threads = torch.get_num_threads()
    share = threads or max(1, all_threads // lanes)
    try:
        if lanes == 1:
            torch.set_num_threads(share)
            for job in jobs:
                job()
            return
        with ThreadPoolExecutor(lanes, initializer=lambda: torch.set_num_threads(share)) as pool:
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
    lanes: Sequence[int],
) -> tuple[Arrangement, dict[Arrangement, float]]:
    """Times arrangements of ``seeds`` seeds, and chooses.

    Stacks are made larger for as long as that helps and there is memory. One seed after another is
    timed first and last, and of an arrangement's times the shortest counts: what disturbs only ever
    adds.

    Args:
        prepare: given a stack's size, returns what runs one of its steps to the end.
        seeds: how many are to be trained.
        progress: told what is done, how much, and of how much.
        lanes: the numbers of lanes to try.

    Returns:
        The arrangement that trains all seeds first, and each one's seconds a seed and step.
    """
    alone = Arrangement()
    times: dict[Arrangement, float] = {}
    candidates = [[Arrangement(n, size) for size in _sizes(_up(seeds, n))] for n in lanes]
    total = sum(map(len, candidates)) + 1
    timed = 0
    for family in candidates:
        for arrangement in family:
            try:
                times[arrangement] = _time(prepare, arrangement)
            except torch.OutOfMemoryError:  # on a GPU
                if arrangement == alone:
                    raise
                break  # larger stacks take more
            timed += 1
            progress("measuring how to train the seeds together", timed, total)
            smaller = [times[each] for each in family if each in times and each != arrangement]
            if smaller and times[arrangement] > min(smaller):
                break
    times[alone] = min(times[alone], _time(prepare, alone))
    progress("measuring how to train the seeds together", total, total)

    def whole(arrangement: Arrangement) -> float:
        """The time of all seeds' steps: the last round may have idle lanes or thin stacks."""
        at_once = arrangement.lanes * arrangement.size
        return arrangement.rounds(seeds) * at_once * times[arrangement]

    best = min(times, key=whole)
    return (best if whole(best) <= WORTHWHILE * whole(alone) else alone), times


def _sizes(most: int) -> list[int]:
    powers = [size for size in (1, 2, 4, 8, LARGEST_STACK) if size <= most]
    return sorted({*powers, min(most, LARGEST_STACK)})


def _time(prepare: Callable[[int], Step], arrangement: Arrangement) -> float:
    """Seconds a seed and step under ``arrangement``: the shorter of two turns."""
    steps = [prepare(arrangement.size) for _ in range(arrangement.lanes)]
    barrier = Barrier(arrangement.lanes)
    turns: list[float] = []

    def lane(step: Step) -> None:
        try:
            step()  # the first steps choose algorithms and fill caches
            for _ in range(2):
                barrier.wait()
                turns.append(_turn(step))
                barrier.wait()
        except BaseException:
            barrier.abort()  # the other lanes must not wait for this one
            raise

    in_lanes([lambda step=step: lane(step) for step in steps], arrangement.lanes, Event())  # type: ignore[misc]
    lanes = arrangement.lanes
    means = [sum(turns[turn : turn + lanes]) / lanes for turn in range(0, 2 * lanes, lanes)]
    return min(means) / (lanes * arrangement.size)


def _turn(step: Step) -> float:
    """Seconds a step takes, over at least ``TURN`` seconds and two steps."""
    start, count = perf_counter(), 0
    while count < 2 or perf_counter() - start < TURN:
        step()
        count += 1
    return (perf_counter() - start) / count
