"""The machine as a configuration wants it: its device, its threads, its memory."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from normbench.config import Config
from normbench.errors import UsageError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST = 32 * 2**20  # the largest M_MMAP_THRESHOLD glibc takes
_NEVER = 2**31 - 1


@contextmanager
def prepared(config: Config, threads: int | None = None) -> Iterator[torch.device]:
    """The device of ``config``.

    From now on streams and graphs are made there, float32 means float32 and freed memory is kept.
    Within it as many threads compute as it says, else ``threads``, else as many as before.

    Raises:
        UsageError: it is no device, or this machine has none.
    """
    device = choose_device(config.device)
    keep_freed_memory()
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # else convolutions round to 10 bits
    with computed_by(config.threads or threads or torch.get_num_threads()):
        yield device


@contextmanager
def computed_by(threads: int) -> Iterator[None]:
    """Within it so many threads compute."""
    before = torch.get_num_threads()
    if threads == before:  # saying it again is not nothing to the libraries below
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(name: str) -> torch.device:
    """The device that ``name`` means here: ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: it is no device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    if kind == "cuda" and (index.isdecimal() if colon else True):
        count = torch.cuda.device_count()
        if int(index or 0) < count:
            return torch.device(kind, int(index)) if colon else torch.device(kind)
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
        raise UsageError(f"device={name}: this machine has none; choose from {there}")
    if name == "cpu":
        return torch.device("cpu")
    raise UsageError(f"device={name}: must be auto, cpu, cuda or cuda:N")


def keep_freed_memory() -> None:
    """Asks glibc's allocator to keep what is freed, which is soon wanted again; does nothing where
    there is another.

    By default glibc maps activations of more than 128 KiB anew at every step, and the system
    clears them page by page.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _NEVER)
