"""Saves what a training needs to go on, now and then, and brings it back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from normbench.run.cell import Replica
from normbench.store import checkpoint
from normbench.store.checkpoint import Checkpoint
from normbench.store.curves import Tracker
from normbench.training.progress import Progress


class Trained(Protocol):
    """What has tensors that training changes."""

    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what ``state`` gave; RuntimeError, KeyError or ValueError if it is not its."""


class Saver:
    """The checkpoints of replicas that are trained together; they are in the folder of the first.

    Args:
        replicas: which.
        trained: the network and its optimizer.
        warn: told, in one line, of what could not be saved or used.

    Attributes:
        seconds: of training so far, of one replica.
    """

    def __init__(
        self, replicas: Sequence[Replica], trained: Trained, warn: Callable[[str], None]
    ) -> None:
        self._config = replicas[0].cell.config
        self._keys = [replica.key() for replica in replicas]
        self._replicas = replicas
        self._trained = trained
        self._folder = replicas[0].folder
        self._warn = warn
        self._saved = perf_counter()
        self._cost = 0.0
        self._failing = False
        self._begins = True
        self.seconds = 0.0

    def resume(self, progress: Progress) -> bool:
        """Sets network, optimizer and progress to the last checkpoint; whether there is one.

        Raises:
            UsageError: there are some and all are damaged.
        """

        def use(found: Checkpoint) -> None:
            if found.values["replicas"] != self._keys:
                raise ValueError("is of other replicas")
            _check_numbers(found.values, len(self._keys))
            if found.values["progress"]["step"] > progress.end(self._config.epochs):
                raise ValueError("is beyond the end of training")
            self._trained.restore(found.tensors)
            progress.restore(found.tensors, found.values["progress"])
            self.seconds = float(found.values["seconds"])

        self._begins = checkpoint.load(self._folder, use, self._warn) is None
        return not self._begins

    def due(self, progress: Progress) -> bool:
        """Whether it is time: by the clock, and after an epoch unless saving would take 1 %."""
        since = perf_counter() - self._saved
        after_epoch = progress.at_end_of_epoch and progress.recorded == progress.step
        return since >= self._config.save_every or (after_epoch and since >= 100 * self._cost)

    def save(self, progress: Progress, trackers: Iterable[Tracker]) -> None:
        """Writes a checkpoint; where that fails, for example on a full disk, training goes on."""
        start = perf_counter()
        tensors, position = progress.state()
        values = {
            "replicas": self._keys,
            "threads": torch.get_num_threads(),
            "seconds": self.seconds,
            "progress": position,
        }
        for tracker in trackers:  # the metrics before a checkpoint must be there when it is used
            tracker.sync()
        try:
            checkpoint.save(self._folder, progress.step, self._trained.state() | tensors, values)
            self._failing = False
            if self._begins:  # from now on replicas of cells beside are found by it
                here = self._replicas[0].cell.digest
                self._unmark([each for each in self._replicas if each.cell.digest != here])
        except OSError as error:
            if not self._failing:  # a full disk stays full: one line, not one a minute
                reason = error.strerror or error
                self._warn(f"  no checkpoint at step {progress.step:,}: {self._folder}: {reason}")
            self._failing = True
        self._saved = perf_counter()
        self._cost = self._saved - start

    def clear(self) -> None:
        """Removes the checkpoints: the results are there."""
        checkpoint.clear(self._folder)
        self._unmark([replica for replica in self._replicas if replica.done])

    def _unmark(self, replicas: Iterable[Replica]) -> None:
        for replica in replicas:
            with suppress(OSError):
                replica.afresh.unlink(missing_ok=True)


def _check_numbers(values: Mapping[str, Any], replicas: int) -> None:
    """Raises ValueError or TypeError where numbers make no sense, though their digest is right."""
    position = values["progress"]
    step, recorded, diverged = position["step"], position["recorded"], position["diverged"]
    steps = [step, recorded, *(each for each in diverged if each is not None)]
    if any(type(each) is not int for each in steps) or not 0 <= recorded <= step < 2**63:
        raise ValueError("its steps make no sense")
    evaluation = position["evaluation"]
    scores = [] if evaluation is None else [evaluation["loss"], evaluation["accuracy"]]
    if any(len(each) != replicas for each in (diverged, *scores)):
        raise ValueError("is of other replicas")
    if any(type(each) is not float for score in scores for each in score):
        raise ValueError("its evaluation makes no sense")
    if any(not isfinite(each) or each < 0 for each in (values["seconds"], position["seconds"])):
        raise ValueError("its seconds make no sense")
