"""Times loops side by side: in turns, so that the machine's moods fall on all of them alike."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

import torch

from normbench.store.environment import processor

Step = Callable[[], None]


def in_turns(steps: Mapping[str, Step], *, rounds: int = 15) -> dict[str, float]:
    """Median seconds a step of each loop, over rounds in which every loop has its turn."""
    return {name: median(values) for name, values in turns(steps, rounds=rounds).items()}


def turns(
    steps: Mapping[str, Step], *, rounds: int = 15, seconds: float = 0.25, slow: float = 4.0
) -> dict[str, list[float]]:
    """Seconds a step of each loop, in each of the rounds in which every loop has its turn.

    A turn begins with a step that is not counted: it refills the caches and the memory that the
    loop before has emptied.

    Args:
        steps: what runs one step, by name.
        rounds: how many turns each gets.
        seconds: how long a turn lasts, and one step at least.
        slow: a loop whose step takes longer than so many seconds has a single turn.
    """
    counts: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for name, step in steps.items():
        step()
        start = perf_counter()
        step()
        once = perf_counter() - start
        counts[name] = max(1, round(seconds / once))
        if once > slow:
            times[name].append(once)
    patient = {name: step for name, step in steps.items() if not times[name]}
    for _ in range(rounds):
        for name, step in patient.items():
            step()
            start = perf_counter()
            for _ in range(counts[name]):
                step()
            times[name].append((perf_counter() - start) / counts[name])
    return times


def matrix_product_peak(device: torch.device, size: int = 2048) -> float:
    """The machine's float32 matrix product in FLOP/s: the best of ten of ``size`` cubed."""
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(10):
        start = perf_counter()
        (a @ a).sum().item()
        best = min(best, perf_counter() - start)
    return 2 * size**3 / best


def machine(device: torch.device) -> str:
    """The machine in one line."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return (
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" Python {platform.python_version()}"
    )
