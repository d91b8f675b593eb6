"""Runs a cell, from its configuration to its records: the composition root, read top to bottom."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from normbench import records
from normbench.cell import Cell
from normbench.config import Config, Precision
from normbench.crossover import seconds_per_replica
from normbench.data.plan import Splits, Training, split
from normbench.display import Screen
from normbench.environment import environment
from normbench.errors import UsageError
from normbench.norms import Norm
from normbench.optim import SGD
from normbench.records import DIVERGED, FINISHED, Result
from normbench.stacking import Stack, StackError, stack, unstack
from normbench.tracking import Tracker
from normbench.training import Evaluation, Metrics, evaluate, norm_parameters, train, training_step
from normbench.views import show_header, show_results

LARGEST_STACK = 16
"""Automatic stacks stop here: beyond, memory grows and speed does not."""

WORTHWHILE = 0.97
"""What share of a solo step's time a stacked one may take at most to be chosen."""


def run(config: Config, screen: Screen, *, fresh: bool = False) -> dict[str, Any]:
    """Trains the seeds of a cell that have no result yet, and returns its summary.

    Args:
        config: what to train.
        screen: where progress is shown.
        fresh: whether to throw away the cell's earlier records first.

    Returns:
        The content of ``summary.json``.

    Raises:
        UsageError: something about the configuration, the data or the directory; nothing has been
            written then.
    """
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    cell = Cell.of(config)
    splits = split(cell.images, config.data, device)
    cell.check_fit(splits)
    show_header(screen, cell, splits, device)
    _make_directory(cell, device, fresh=fresh)

    done = {result.seed for result in records.read_results(cell.directory)}
    pending = [seed for seed in config.all_seeds if seed not in done]
    if len(pending) < config.seeds:
        there = ", ".join(str(seed) for seed in config.all_seeds if seed in done)
        screen.line(f"  already trained: seed {there} (--fresh trains again)", style="dim")
    for seeds in _batches_of_seeds(cell, splits, pending, device, screen):
        _train_together(cell, splits, seeds, device, screen)

    summary = write_summary(cell)
    show_results(screen, cell)
    return summary


def choose_device(name: str) -> torch.device:
    """The device that ``name`` means here: ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: it is no device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device={name}: must be auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device={name}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"device={name}: this machine has {count} CUDA devices; use device=cpu")
    return device


def _make_directory(cell: Cell, device: torch.device, *, fresh: bool) -> None:
    try:
        if fresh and cell.directory.exists():
            shutil.rmtree(cell.directory)
        cell.directory.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(_plain(asdict(cell.config)), sort_keys=False, allow_unicode=True)
        records.write_text(cell.directory / "config.yaml", text)
        records.write_json(cell.directory / "environment.json", environment(device))
    except OSError as error:
        raise UsageError(
            f"runs={cell.config.runs}: cannot write to {cell.directory}: {error.strerror};"
            " choose another folder with runs=FOLDER"
        ) from None


def _plain(value: Any) -> Any:
    """Plain YAML values: enumerations by value, containers copied."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class _Setup:
    """What the training loop needs for some seeds: a network or a stack of them."""

    model: nn.Module
    training: Training
    optimizer: SGD
    autocast: bool

    @classmethod
    def of(cls, cell: Cell, splits: Splits, seeds: Sequence[int], device: torch.device) -> "_Setup":
        """Builds the networks of ``seeds``, stacked where there are several.

        Raises:
            StackError: there are several, and they cannot be stacked.
        """
        config = cell.config
        model = cell.build_model(seeds[0]) if len(seeds) == 1 else _stack(cell, seeds)
        model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(
            model=model,
            training=Training(splits.train, seeds=seeds, batch=config.batch, flip=config.data.flip),
            optimizer=config.optim.build(model, norm_parameters(model, [Norm])),
            autocast=config.precision is Precision.bf16,
        )


def _stack(cell: Cell, seeds: Sequence[int]) -> Stack:
    """The networks of ``seeds`` as one, proved on random images of the data set's size."""
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(4, *cell.images.test_images.shape[1:], generator=generator)
    return stack([cell.build_model(seed) for seed in seeds], example)


def _batches_of_seeds(
    cell: Cell, splits: Splits, seeds: Sequence[int], device: torch.device, screen: Screen
) -> list[list[int]]:
    """Divides ``seeds`` into those that are trained together."""
    wanted = cell.config.stack
    if len(seeds) < 2 or wanted == 1:
        return [[seed] for seed in seeds]
    try:
        size = wanted if isinstance(wanted, int) else _fastest(cell, splits, seeds, device, screen)
        size = min(size, len(seeds))
        if size > 1:
            _stack(cell, seeds[:2])
    except StackError as error:
        screen.line(f"  the seeds are trained one after another: {error}")
        size = 1
    parts = -(-len(seeds) // size)
    return [list(seeds[start::parts]) for start in range(parts)]


def _fastest(
    cell: Cell, splits: Splits, seeds: Sequence[int], device: torch.device, screen: Screen
) -> int:
    """The number of seeds to stack that trains one seed's step in the least time here."""
    sizes = {size for size in (2, 4, 8, LARGEST_STACK) if size <= len(seeds)}
    sizes |= {1, min(len(seeds), LARGEST_STACK)}

    def stepper(size: int) -> Callable[[], None]:
        setup = _Setup.of(cell, splits, seeds[:size], device)
        batches = setup.training.endless()

        def step() -> None:
            images, labels = next(batches)
            training_step(
                setup.model, setup.optimizer, images, labels, autocast=setup.autocast
            ).sum().item()

        return step

    with screen.working("measuring how many seeds to train together") as bar:
        times = seconds_per_replica(stepper, sorted(sizes), bar.update)
    best = min(times, key=lambda size: times[size])
    if times[best] > WORTHWHILE * times[1]:
        best = 1
    told = ", ".join(f"{size}: {1e3 * value:.2f} ms" for size, value in sorted(times.items()))
    screen.line(f"  a step and seed takes, by seeds trained together: {told}", style="dim")
    return best


def _train_together(
    cell: Cell, splits: Splits, seeds: Sequence[int], device: torch.device, screen: Screen
) -> None:
    """Trains ``seeds`` as one network and writes each one's records."""
    config = cell.config
    setup = _Setup.of(cell, splits, seeds, device)
    trackers = [_open_tracker(cell, seed) for seed in seeds]
    label = f"seed {seeds[0]}" if len(seeds) == 1 else "seeds " + ", ".join(map(str, seeds))
    steps = config.epochs * setup.training.steps
    seconds = 0.0
    try:
        with screen.training(label, steps=steps, epochs=config.epochs) as bar:
            for metrics in train(
                setup.model,
                setup.training,
                setup.optimizer,
                config.optim,
                epochs=config.epochs,
                evaluation=splits.validation or splits.test,
                autocast=setup.autocast,
            ):
                for replica, tracker in enumerate(trackers):
                    _log(tracker, metrics, replica)
                seconds += metrics.seconds
                bar.update(metrics)
    finally:
        for tracker in trackers:
            tracker.close()

    test = evaluate(setup.model, splits.test, replicas=len(seeds), autocast=setup.autocast)
    networks = unstack(setup.model) if isinstance(setup.model, Stack) else [setup.model]
    for replica, seed in enumerate(seeds):
        folder = cell.seed_folder(seed)
        _save_weights(networks[replica], folder)
        result = _result(seed, replica, metrics, test, seconds / len(seeds), config.batch)
        if splits.validation is not None and metrics.evaluation is not None:
            result = replace(result, val_accuracy=metrics.evaluation.accuracy[replica])
        records.write_result(folder, result)


def _result(
    seed: int, replica: int, metrics: Metrics, test: Evaluation, seconds: float, batch: int
) -> Result:
    """How one replica ended; ``metrics`` are the last ones of training."""
    loss, diverged_at = test.loss[replica], metrics.diverged[replica]
    if diverged_at is None and not isfinite(loss):
        diverged_at = metrics.step
    finished = diverged_at is None
    train_loss = metrics.loss[replica]
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


def _open_tracker(cell: Cell, seed: int) -> Tracker:
    folder = cell.seed_folder(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = cell.config
    return Tracker(
        folder,
        {
            "norm": config.norm.name,
            "batch": config.batch,
            "norm_batch": config.norm_batch or config.batch,
            "model": config.model.title,
            "data": cell.images.name,
            "epochs": config.epochs,
            "peak learning rate": config.optim.peak(config.batch),
            "seed": seed,
        },
    )


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


def _save_weights(model: nn.Module, folder: Path) -> None:
    state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    records.write_atomically(folder / "model.safetensors", lambda path: save_file(state, path))


def write_summary(cell: Cell) -> dict[str, Any]:
    """Writes ``summary.json`` from the results of all seeds that are there, and returns it."""
    config = cell.config
    summary: dict[str, Any] = {
        "norm": config.norm.name,
        "batch": config.batch,
        "norm_batch": config.norm_batch or config.batch,
        "model": config.model.title,
        "data": {"name": cell.images.name, "sha256": cell.images.sha256},
        **records.summarize(records.read_results(cell.directory)),
        "digest": cell.digest,
    }
    records.write_json(cell.directory / "summary.json", summary)
    return summary
