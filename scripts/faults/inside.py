"""What the fault matrix does inside a process: kills at an exact place, a full disk, a wrong clock.

Faults change the process before ``normbench`` runs in it; tasks run instead of it. A kill is always
a real SIGKILL to itself: nothing is cleaned up after it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normbench.run import autosave, seeds
from normbench.run import run as experiment
from normbench.store import checkpoint, curves, lock
from normbench.training import loop as training


def die() -> None:
    """Ends this process as the system's killer does."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # never returns


def _exchange(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Puts ``make(what is there)`` in place of what is there."""
    setattr(owner, name, make(getattr(owner, name)))


# ---- kills at a step, in an evaluation, in a write ----


def kill_at_step(steps: int) -> None:
    """Dies after so many steps, before what follows them."""
    done = itertools.count()

    def mortal(train: Any) -> Any:
        def dying(*arguments: Any, **keywords: Any) -> Iterator[Any]:
            for metrics in train(*arguments, **keywords):
                if metrics is None and next(done) == steps:
                    die()
                yield metrics

        return dying

    _exchange(seeds, "train", mortal)


def kill_in_evaluation(number: int) -> None:
    """Dies amid the evaluation of that number."""
    begun = itertools.count()

    def mortal(batches: Any) -> Any:
        def dying(*arguments: Any, **keywords: Any) -> Any:
            if next(begun) == number:
                die()
            return batches(*arguments, **keywords)

        return dying

    _exchange(training, "evaluation_batches", mortal)


def kill_at_write(number: int, phase: str) -> None:
    """Dies before, amid or after the write, sync, rename or removal of that number."""
    count = itertools.count()

    def around(do: Callable[..., Any]) -> Callable[..., Any]:
        def doing(*arguments: Any, **keywords: Any) -> Any:
            mine = next(count) == number
            if mine and phase != "after":
                die()
            try:
                return do(*arguments, **keywords)
            finally:
                if mine:
                    die()

        return doing

    for name in ("fsync", "replace", "unlink", "chmod", "open"):
        setattr(os, name, around(getattr(os, name)))
    opened = Path.open

    def opening(self: Path, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        file = opened(self, mode, *arguments, **keywords)
        return file if mode in ("r", "rb") else _Dying(file, lambda: next(count) == number, phase)

    Path.open = opening  # type: ignore[method-assign]


class _Dying:
    """A file in whose n-th write the process dies."""

    def __init__(self, file: Any, now: Callable[[], bool], phase: str) -> None:
        self._file = file
        self._now = now
        self._phase = phase

    def write(self, content: Any) -> Any:
        if not self._now():
            return self._file.write(content)
        if self._phase != "before":
            self._file.write(content if self._phase == "after" else content[: len(content) // 2])
            self._file.flush()
        die()
        return None

    def __enter__(self) -> _Dying:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


# ---- disk, clock, rights ----


def limit_files(size: int) -> None:
    """No file grows beyond ``size`` bytes; Python ignores the signal, so that writing fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def set_clock_back(steps: list[float]) -> None:
    """Wall-clock time goes backwards by each of ``steps``, again and again; uptime does not."""
    started, jumps, lost = time.time(), itertools.cycle(steps), 0.0

    def behind() -> float:
        nonlocal lost
        lost += next(jumps)
        return started - lost

    time.time = behind
    _exchange(curves, "time", lambda _: behind)


def without_override() -> None:
    """Root loses the right to pass over the modes of files, so that a read-only folder is one."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    # capget, then capset without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for part in range(3):
        data[part] &= ~0b110
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def slow_holder(seconds: float) -> None:
    """A process that has the lock takes its time before it says who it is."""

    def slow(write: Any) -> Any:
        def slowly(path: Path, value: Any) -> None:
            time.sleep(seconds)
            write(path, value)

        return slowly

    _exchange(lock, "write_json", slow)


def slow_steps(seconds: float) -> None:
    """Every step takes so long, and nothing can come between."""
    step = training.training_step

    def slowly(*arguments: Any, **keywords: Any) -> Tensor:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(left)
        return step(*arguments, **keywords)

    training.training_step = slowly


# ---- a product with a promise broken, to see that it is noticed ----


def write_in_place() -> None:
    """A save that is no rename."""

    def write(path: Path, content: Callable[[Path], None]) -> None:
        content(path)

    _exchange(checkpoint, "write_atomically", lambda _: write)


def forget_velocities() -> None:
    """A resume that restores the weights alone."""

    def restore(self: Any, tensors: Any) -> None:
        kept = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(kept)

    seeds.Replicas.restore = restore  # type: ignore[method-assign]


def begin_anew() -> None:
    """A resume that finds nothing."""
    autosave.Saver.resume = lambda *_: False  # type: ignore[method-assign]


def never_save() -> None:
    """A training that is never saved."""
    autosave.Saver.save = lambda *_: None  # type: ignore[method-assign]


def train_unheld() -> None:
    """A cell that nobody holds."""

    @contextmanager
    def unheld(directory: Path) -> Iterator[None]:
        directory.mkdir(parents=True, exist_ok=True)
        yield

    _exchange(experiment, "holding", lambda _: unheld)


def quote_environment() -> None:
    """A record of the machine that says too much."""
    _exchange(experiment, "environment", lambda _: lambda _: dict(os.environ))


FAULTS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (
        kill_at_step,
        kill_in_evaluation,
        kill_at_write,
        limit_files,
        set_clock_back,
        without_override,
        slow_holder,
        slow_steps,
        write_in_place,
        forget_velocities,
        begin_anew,
        never_save,
        train_unheld,
        quote_environment,
    )
}


# ---- tasks ----


def content_of(seed: int, step: int) -> dict[str, Tensor]:
    """What :func:`save_checkpoints` saves at a step; sizes differ from step to step."""
    generator = torch.Generator().manual_seed(seed * 100_003 + step)
    sizes = torch.randint(1, 4000, (3,), generator=generator).tolist()
    return {f"t{i}": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}


def save_checkpoints(folder: str, seed: int, first: int, number: int) -> None:
    """Saves ``number`` checkpoints, one a step from ``first``."""
    for step in range(first, first + number):
        checkpoint.save(Path(folder), step, content_of(seed, step), {"step": step})


TASKS: dict[str, Callable[..., None]] = {"save_checkpoints": save_checkpoints}
