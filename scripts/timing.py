"""Times loops side by side: in turns, so that the machine's moods fall on all of them alike."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

Step = Callable[[], None]


def in_turns(
    steps: Mapping[str, Step], *, rounds: int = 15, seconds: float = 0.25
) -> dict[str, float]:
    """Median seconds a step of each loop, over rounds in which every loop has its turn.

    Args:
        steps: what runs one step, by name.
        rounds: how many turns each gets, after one to warm up.
        seconds: how long a turn lasts, and one step at least.
    """
    counts: dict[str, int] = {}
    for name, step in steps.items():
        for _ in range(2):
            step()
        start = perf_counter()
        step()
        counts[name] = max(1, round(seconds / (perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = perf_counter()
            for _ in range(counts[name]):
                step()
            if turn:
                times[name].append((perf_counter() - start) / counts[name])
    return {name: median(values) for name, values in times.items()}


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
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else name
    return (
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" Python {platform.python_version()}"
    )
