"""Trains some seeds of a cell as one network, and writes each one's records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from threading import Event, Lock

import torch
from safetensors.torch import save_file
from torch import nn

from normbench import records
from normbench.cell import Cell
from normbench.config import Precision
from normbench.data.plan import Splits, Training
from normbench.decomposition import Decomposition, decompose
from normbench.display import Screen
from normbench.norms import Norm
from normbench.optim import SGD
from normbench.records import DIVERGED, FINISHED, Result
from normbench.stacking import Stack, stack, unstack
from normbench.tracking import Tracker
from normbench.training import (
    Evaluation,
    Metrics,
    evaluate,
    memory_of_step,
    norm_parameters,
    step_function,
    train,
)

_BUILDING = Lock()


class StoppedError(Exception):
    """Training was told to stop before its end."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """Some seeds of a cell, ready to be trained: a network, or a stack of them.

    Attributes:
        cell: what is trained.
        splits: the images.
        seeds: which.
        model: maps [N, K·3, H, W] to [N, K·classes].
        training: the batches.
        optimizer: of the model.
    """

    cell: Cell
    splits: Splits
    seeds: Sequence[int]
    model: nn.Module
    training: Training
    optimizer: SGD

    @classmethod
    def of(cls, cell: Cell, splits: Splits, seeds: Sequence[int]) -> "Replicas":
        """Builds the networks of ``seeds``, stacked where there are several.

        Raises:
            StackError: there are several, and they cannot be stacked.
        """
        config = cell.config
        with _BUILDING:  # layers draw their first weights from the process's random state
            models = [cell.build_model(seed) for seed in seeds]
            model = models[0] if len(models) == 1 else stack(models, cell.example())
        device = splits.train.pixels.device
        model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(
            cell=cell,
            splits=splits,
            seeds=seeds,
            model=model,
            training=Training(splits.train, seeds=seeds, batch=config.batch, flip=config.data.flip),
            optimizer=config.optim.build(model, norm_parameters(model, [Norm])),
        )

    @property
    def autocast(self) -> bool:
        """Whether convolutions and products are computed in bfloat16."""
        return self.cell.config.precision is Precision.bf16

    def stepper(self) -> Callable[[], None]:
        """What trains one step and waits for its end, to be timed."""
        batches = self.training.endless()
        train_on = step_function(
            self.model,
            self.training,
            self.optimizer,
            self.cell.config.optim,
            autocast=self.autocast,
        )

        def step() -> None:
            images, labels = next(batches)
            train_on(images, labels).sum().item()

        return step

    def train(self, screen: Screen, stop: Event, lanes: int) -> None:
        """Trains to the end and writes the records of each seed.

        Args:
            screen: where progress is shown.
            stop: ends training at its next record when it is set.
            lanes: how many such trainings share the machine.

        Raises:
            StoppedError: ``stop`` was set.
        """
        config = self.cell.config
        label = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"seeds {_few(self.seeds)}"
        trackers = [_open_tracker(self.cell, seed, screen) for seed in self.seeds]
        steps = config.epochs * self.training.steps
        seconds = 0.0
        try:
            with screen.training(label, steps=steps, epochs=config.epochs) as bar:
                for metrics in train(
                    self.model,
                    self.training,
                    self.optimizer,
                    config.optim,
                    epochs=config.epochs,
                    evaluation=self.splits.validation or self.splits.test,
                    autocast=self.autocast,
                ):
                    if stop.is_set():
                        raise StoppedError
                    for replica, tracker in enumerate(trackers):
                        _log(tracker, metrics, replica)
                    seconds += metrics.seconds
                    bar.update(metrics)
        finally:
            for tracker in trackers:
                tracker.close()
        self._write_results(metrics, seconds / (len(self.seeds) * lanes))

    def _write_results(self, metrics: Metrics, seconds: float) -> None:
        """Scores the networks and writes weights and results; ``seconds`` are those of one seed."""
        count = len(self.seeds)
        test = evaluate(self.model, self.splits.test, replicas=count, autocast=self.autocast)
        split = self._decomposition()
        memory = self._memory()
        networks = unstack(self.model) if isinstance(self.model, Stack) else [self.model]
        for replica, seed in enumerate(self.seeds):
            folder = self.cell.seed_folder(seed)
            _save_weights(networks[replica], folder)
            result = _result(seed, replica, metrics, test, seconds, self.training.batch)
            if self.splits.validation is not None and metrics.evaluation is not None:
                result = replace(result, val_accuracy=metrics.evaluation.accuracy[replica])
            if split is not None and result.status == FINISHED:
                result = replace(
                    result,
                    test_accuracy_reestimated=split.reestimated[replica],
                    test_accuracy_batch=split.batch[replica],
                )
            result = replace(result, memory_bytes=memory)
            records.write_result(folder, result)

    def _decomposition(self) -> Decomposition | None:
        """What the running averages cost, where the norm has them."""
        config = self.cell.config
        return decompose(
            self.model,
            self.training,
            self.splits.test,
            epoch=config.epochs,
            size=config.norm_batch or config.batch,
            autocast=self.autocast,
        )

    def _memory(self) -> int:
        """The bytes that a training step of one seed holds."""
        size = (self.cell.config.batch, *self.cell.images.test_images.shape[1:])
        labels = torch.zeros(size[0], dtype=torch.int64)
        model = self.cell.build_model(self.seeds[0]).train()
        return memory_of_step(model, torch.zeros(size), labels)


def _few(seeds: Sequence[int]) -> str:
    """The seeds in a few characters."""
    said = ", ".join(map(str, seeds))
    return said if len(said) <= 16 else f"{seeds[0]}, … {seeds[-1]} ({len(seeds)})"


def _result(
    seed: int, replica: int, metrics: Metrics, test: Evaluation, seconds: float, batch: int
) -> Result:
    """How one replica ended; ``metrics`` are the last ones of training."""
    loss, diverged_at = test.loss[replica], metrics.diverged[replica]
    if diverged_at is None and not isfinite(loss):
        diverged_at = metrics.step
    finished = diverged_at is None
    train_loss = metrics.epoch_loss[replica]
    return Result(
        seed=seed,
        status=FINISHED if finished else DIVERGED,
        test_accuracy=test.accuracy[replica] if finished else None,
        test_loss=loss if finished else None,
        train_loss=train_loss if isfinite(train_loss) else None,
        epochs=metrics.epoch,
        steps=metrics.step,
        seconds=seconds,
        images_per_second=metrics.step * batch / seconds,
        diverged_at=diverged_at,
    )


def _open_tracker(cell: Cell, seed: int, screen: Screen) -> Tracker:
    folder = cell.seed_folder(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = cell.config
    hparams: dict[str, str | int | float | bool] = {
        "norm": config.norm.name,
        "batch": config.batch,
        "norm_batch": config.norm_batch or config.batch,
        "model": config.model.title,
        "data": cell.images.name,
        "epochs": config.epochs,
        "peak learning rate": config.optim.peak(config.batch),
        "seed": seed,
    }
    return Tracker(folder, hparams, warn=screen.line)


def _log(tracker: Tracker, metrics: Metrics, replica: int) -> None:
    """Records one replica's share of ``metrics``."""
    values = {
        "train/loss": metrics.loss[replica],
        "train/accuracy": metrics.accuracy[replica],
        "train/learning_rate": metrics.learning_rate,
        "train/images_per_second": metrics.images_per_second,
    }
    if metrics.evaluation is not None:
        values["eval/loss"] = metrics.evaluation.loss[replica]
        values["eval/accuracy"] = metrics.evaluation.accuracy[replica]
    tracker.log(metrics.step, metrics.epoch, values)
    if metrics.evaluation is not None:
        tracker.flush()


def _save_weights(model: nn.Module, folder: Path) -> None:
    state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    records.write_atomically(folder / "model.safetensors", lambda path: save_file(state, path))
