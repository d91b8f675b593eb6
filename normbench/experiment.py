"""Runs a cell, from its configuration to its records: the composition root, read top to bottom."""

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from subprocess import DEVNULL, CalledProcessError, check_output
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from normbench import records
from normbench.config import Config, Precision
from normbench.data import ImageSet
from normbench.data.plan import Splits, Training, split
from normbench.display import Screen, duration
from normbench.errors import UsageError
from normbench.inspection import check_statistics, layers
from normbench.norms import Norm
from normbench.records import DIVERGED, FINISHED, Result
from normbench.tracking import Tracker
from normbench.training import Metrics, evaluate, norm_parameters, train


@dataclass(frozen=True, slots=True)
class Cell:
    """A configuration together with the images it runs on: what is trained, and where it goes.

    Attributes:
        config: the configuration.
        images: the data set.
        digest: of everything that can change a result.
        directory: ``RUNS/NAME/NORM-bBATCH-DIGEST``.
    """

    config: Config
    images: ImageSet
    digest: str
    directory: Path

    @classmethod
    def of(cls, config: Config) -> "Cell":
        """Loads the images and finds the cell's directory, which need not exist."""
        images = config.data.load()
        digest = config.digest(images)
        folder = f"{config.norm.name}-b{config.batch}-{digest[:8]}"
        return cls(config, images, digest, Path(config.runs) / config.name / folder)

    def seed_folder(self, seed: int) -> Path:
        """The folder of a seed's records."""
        return self.directory / f"seed-{seed}"


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
    _check_fit(cell, splits)
    _show_header(screen, cell, splits, device)
    if fresh and cell.directory.exists():
        shutil.rmtree(cell.directory)
    _make_directory(cell, device)

    done = {result.seed for result in records.read_results(cell.directory)}
    pending = [seed for seed in config.all_seeds if seed not in done]
    for seed in set(config.all_seeds) - set(pending):
        screen.line(f"  seed {seed} is there already (--fresh trains it again)", style="dim")
    for seed in pending:
        _train_replicas(cell, splits, [seed], device, screen)

    summary = write_summary(cell)
    _show_results(screen, cell)
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


def build_model(config: Config, classes: int, seed: int) -> nn.Module:
    """The network of one seed, at its start."""
    generator = torch.Generator().manual_seed(seed)
    return config.model.build(config.norm_builder(), classes, generator)


def _check_fit(cell: Cell, splits: Splits) -> None:
    config = cell.config
    if config.batch > len(splits.train):
        raise UsageError(
            f"batch={config.batch}: larger than the {len(splits.train):,} training images of"
            f" {cell.images.name}; at most {len(splits.train)}"
        )
    model = build_model(config, len(cell.images.classes), config.seed)
    check_statistics(layers(model, splits.test.size), config.norm_batch or config.batch)


def _make_directory(cell: Cell, device: torch.device) -> None:
    try:
        cell.directory.mkdir(parents=True, exist_ok=True)
        plain = {"data_name": cell.images.name, "data_sha256": cell.images.sha256}
        text = yaml.safe_dump(_plain(asdict(cell.config)), sort_keys=False, allow_unicode=True)
        records.write_text(cell.directory / "config.yaml", text)
        records.write_json(cell.directory / "environment.json", environment(device) | plain)
    except OSError as error:
        raise UsageError(
            f"runs={cell.config.runs}: cannot write to {cell.directory}: {error.strerror};"
            " choose another folder with runs=FOLDER"
        ) from None


def _train_replicas(
    cell: Cell, splits: Splits, seeds: Sequence[int], device: torch.device, screen: Screen
) -> None:
    """Trains ``seeds`` together and writes each one's records."""
    config = cell.config
    (seed,) = seeds
    model = build_model(config, len(cell.images.classes), seed)
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = Training(splits.train, seeds=seeds, batch=config.batch, flip=config.data.flip)
    optimizer = config.optim.build(model, norm_parameters(model, [Norm]))
    autocast = config.precision is Precision.bf16
    trackers = [_open_tracker(cell, seed) for seed in seeds]
    label = _label(seeds)
    seconds = 0.0
    with screen.training(label, steps=config.epochs * training.steps, epochs=config.epochs) as bar:
        for metrics in train(
            model,
            training,
            optimizer,
            config.optim,
            epochs=config.epochs,
            evaluation=splits.validation or splits.test,
            autocast=autocast,
        ):
            for replica, tracker in enumerate(trackers):
                log(tracker, metrics, replica)
            bar.update(metrics)
            seconds += metrics.seconds
    for tracker in trackers:
        tracker.close()

    test_loss, test_accuracy = evaluate(model, splits.test, replicas=len(seeds), autocast=autocast)
    for replica, seed in enumerate(seeds):
        folder = cell.seed_folder(seed)
        diverged_at = metrics.diverged[replica]
        finished = diverged_at is None
        _save_weights(model, folder)
        records.write_result(
            folder,
            Result(
                seed=seed,
                status=FINISHED if finished else DIVERGED,
                test_accuracy=test_accuracy[replica] if finished else None,
                test_loss=test_loss[replica] if finished else None,
                val_accuracy=(
                    metrics.eval_accuracy[replica]
                    if finished and splits.validation is not None and metrics.eval_accuracy
                    else None
                ),
                train_loss=metrics.loss[replica] if isfinite(metrics.loss[replica]) else None,
                epochs=metrics.epoch,
                steps=metrics.step,
                seconds=seconds / len(seeds),
                images_per_second=metrics.step * config.batch * len(seeds) / seconds,
                diverged_at=diverged_at,
            ),
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


def log(tracker: Tracker, metrics: Metrics, replica: int) -> None:
    """Records one replica's share of ``metrics``."""
    values = {
        "train/loss": metrics.loss[replica],
        "train/accuracy": metrics.accuracy[replica],
        "train/learning_rate": metrics.learning_rate,
        "train/images_per_second": metrics.images_per_second,
    }
    if metrics.eval_loss is not None and metrics.eval_accuracy is not None:
        values = {
            "eval/loss": metrics.eval_loss[replica],
            "eval/accuracy": metrics.eval_accuracy[replica],
        }
    tracker.log(metrics.step, metrics.epoch, values)


def _save_weights(model: nn.Module, folder: Path) -> None:
    state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    records.write_atomically(folder / "model.safetensors", lambda path: save_file(state, path))


def write_summary(cell: Cell) -> dict[str, Any]:
    """Writes ``summary.json`` from the results of all seeds that are there, and returns it."""
    config = cell.config
    summary = {
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


def environment(device: torch.device) -> dict[str, Any]:
    """On what a run runs: versions and machine, nothing from the environment's variables."""
    packages = ("normbench", "torch", "hydra-core", "omegaconf", "tensorboard", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _commit() -> str | None:
    """The commit of the source tree this runs from, if it is one."""
    source = Path(__file__).parent
    if not (source.parent / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "rev-parse", "HEAD"]
        return check_output(command, text=True, stderr=DEVNULL).strip()
    except (OSError, CalledProcessError):
        return None


def _plain(value: Any) -> Any:
    """Plain YAML values: enumerations by value, containers copied."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _label(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"


def _show_header(screen: Screen, cell: Cell, splits: Splits, device: torch.device) -> None:
    config, images = cell.config, cell.images
    steps = len(splits.train) // config.batch
    where = f"{config.precision.value} on {device}"
    if device.type == "cpu":
        where += f", {torch.get_num_threads()} threads"
    data = (
        f"{images.name}: {len(splits.train):,} training and {len(splits.test):,} test images,"
        f" {len(images.classes)} classes"
    )
    if config.data.source == "auto" and images.name == "synthetic":
        data += "\n(built in; for CIFAR-10: normbench data fetch cifar10, or"
        data += " normbench data import PATH --name cifar10)"
    screen.facts(
        f"{config.norm.title}, batch {config.batch}, {config.model.title}",
        [
            ("data", data),
            ("steps", f"{config.epochs} epochs of {steps:,}"),
            ("rate", f"{config.optim.peak(config.batch):.4g} at its peak"),
            ("seeds", ", ".join(map(str, config.all_seeds))),
            ("where", where),
            ("files", str(cell.directory)),
        ],
    )


def _show_results(screen: Screen, cell: Cell) -> None:
    config = cell.config
    results = records.read_results(cell.directory)
    rows = [
        (
            f"seed {r.seed}",
            r.status if r.diverged_at is None else f"{r.status} at step {r.diverged_at:,}",
            "-" if r.test_accuracy is None else f"{r.test_accuracy:.2%}",
            "-" if r.test_loss is None else f"{r.test_loss:.4f}",
            "-" if r.train_loss is None else f"{r.train_loss:.4f}",
            f"{r.images_per_second:,.0f}",
            duration(r.seconds),
        )
        for r in results
    ]
    summary = records.summarize(results)
    if summary["test_accuracy_ci95"] is not None:
        low, high = summary["test_accuracy_ci95"]
        mean = summary["test_accuracy_mean"]
        rows.append(("mean", "95 % interval", f"{mean:.2%}", f"{low:.2%}", f"{high:.2%}", "", ""))
    screen.table(
        f"{config.norm.name}, batch {config.batch}, {config.model.title} on {cell.images.name}",
        ("", "status", "test accuracy", "test loss", "train loss", "images/s", "time"),
        rows,
    )
    screen.line(f"files: {cell.directory}")
    arguments = "" if config.runs == "runs" else f" {config.runs}"
    screen.line(f"curves: normbench tensorboard{arguments}")
    sys.stdout.flush()
