"""How many seeds are best trained together on this machine: measured, not guessed.

Stacking saves launches and pays with slower convolutions. Which of the two wins depends on the
batch, the network, the processor and its libraries, so it is timed, on the steps to be trained.
"""

from collections.abc import Callable, Sequence
from time import perf_counter

SECONDS = 0.4
"""Of measuring for each size, at least, and at least three steps."""

Stepper = Callable[[int], Callable[[], None]]
"""Given how many seeds are stacked, prepares their training and returns what runs one step."""


def seconds_per_replica(
    stepper: Stepper, sizes: Sequence[int], progress: Callable[[str, int, int | None], None]
) -> dict[int, float]:
    """Times a training step for each stack size, divided by the size.

    The sizes take turns, so that a busy moment of the machine does not count against one of them,
    and the shortest of each one's times is taken: others only ever add.

    Args:
        stepper: makes the steps; a step must wait for its own end.
        sizes: how many seeds to stack.
        progress: told what is done, how much, and of how much.

    Returns:
        Seconds a replica and step, by size.
    """
    steps = {size: stepper(size) for size in sizes}
    for step in steps.values():
        step()  # the first steps choose algorithms and fill caches
        step()
    best = dict.fromkeys(sizes, float("inf"))
    spent = dict.fromkeys(sizes, 0.0)
    rounds = 0
    while rounds < 3 or min(spent.values()) < SECONDS:
        for size, step in steps.items():
            if rounds >= 3 and spent[size] >= SECONDS:
                continue
            start = perf_counter()
            step()
            seconds = perf_counter() - start
            spent[size] += seconds
            best[size] = min(best[size], seconds / size)
        rounds += 1
        done = sum(min(s, SECONDS) for s in spent.values()) / (SECONDS * len(sizes))
        progress("measuring how many seeds to train together", round(100 * done), 100)
    return best
