"""The number of seeds trained together is measured."""

from collections.abc import Callable
from time import sleep

from normbench.crossover import seconds_per_replica


def test_it_finds_out_which_stack_is_fastest() -> None:
    def stepper(size: int) -> Callable[[], None]:
        cost = {1: 0.004, 2: 0.005, 4: 0.024}[size]
        return lambda: sleep(cost)

    times = seconds_per_replica(stepper, [1, 2, 4], lambda *_: None)
    assert min(times, key=lambda size: times[size]) == 2
    assert times[1] >= 0.004
    assert times[4] >= 0.006


def test_progress_ends_at_the_whole() -> None:
    told: list[tuple[str, int, int | None]] = []
    seconds_per_replica(lambda _: lambda: sleep(0.01), [1], lambda *news: told.append(news))
    assert told[-1][1:] == (100, 100)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_a_busy_moment_does_not_count_against_a_size() -> None:
    calls = {1: 0, 2: 0}

    def stepper(size: int) -> Callable[[], None]:
        def step() -> None:
            calls[size] += 1
            sleep(0.05 if size == 2 and calls[size] == 4 else 0.002)

        return step

    times = seconds_per_replica(stepper, [1, 2], lambda *_: None)
    assert times[2] < times[1]
