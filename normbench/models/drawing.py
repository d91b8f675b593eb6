"""The process's random numbers on the CPU, from which PyTorch's layers draw their first values."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

_LOCK = RLock()
"""Networks are built in several threads at a time, and there is one generator for all of them."""


@contextmanager
def drawing(seed: int | None = None) -> Iterator[None]:
    """Within it this thread alone draws, from ``seed`` if there is one; then all is as before.

    A GPU's random numbers are not put back.
    """
    with _LOCK, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():  # else torch.manual_seed formats the stack for later
                torch.cuda.manual_seed_all(seed)
        yield
