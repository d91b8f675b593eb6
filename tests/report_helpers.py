"""Run folders for the tests of reports: the files that a run writes, without the run."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from normbench.config import Config
from normbench.data import DATA
from normbench.files import write_json
from normbench.models import MODELS
from normbench.norms import NORMS
from normbench.report.read.defaults import unfilled
from normbench.store import results
from normbench.store.results import DIVERGED, FAILED, FINISHED, Result
from normbench.training.optim import SGDConfig

SHA = "f054e0c3dc732d0c89c87b7ae8b35e78d104725fb773f06a46533f50924c8fdc"
IMAGES = 50_000
ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"torch": "2.15.0"},
    "processor": "A Processor",
    "threads": 1,
    "device": "cpu",
    "gpu": None,
}


def settings_of(norm: str, batch: int, seeds: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.yaml`` says; ``changes`` are dotted keys."""
    config = Config(
        norm=NORMS[norm](name=norm),
        model=MODELS["resnet"](name="resnet"),
        data=DATA["images"](source="images", name="cifar10-jpeg"),
        optim=SGDConfig(),
        batch=batch,
        seeds=seeds,
        epochs=3,
    )
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config), default=_value))
    for key, value in changes.items():
        *groups, last = key.split(".")
        place = settings
        for group in groups:
            place = place[group]
        place[last] = deepcopy(value)  # YAML would write an alias for a list met twice
    return settings


def _value(value: object) -> object:
    assert isinstance(value, Enum)
    return value.value


def result_of(seed: int, accuracy: float | None, settings: Mapping[str, Any]) -> Result:
    """A finished seed; one that diverged where there is no accuracy."""
    epochs, batch = settings["epochs"], settings["batch"]
    steps = epochs * (IMAGES // batch)
    seconds = epochs * (60.0 + seed)
    return Result(
        seed=seed,
        status=DIVERGED if accuracy is None else FINISHED,
        test_accuracy=accuracy,
        test_loss=None if accuracy is None else 1.0,
        train_loss=None if accuracy is None else 0.9,
        epochs=float(epochs) if accuracy is not None else 0.5,
        steps=steps if accuracy is not None else 12,
        seconds=seconds,
        images_per_second=steps * batch / seconds,
        memory_bytes=1_000_000 * batch,
        diverged_at=12 if accuracy is None else None,
    )


def failed(seed: int) -> Result:
    """A seed that failed."""
    return Result(
        seed=seed,
        status=FAILED,
        test_accuracy=None,
        test_loss=None,
        train_loss=None,
        epochs=1.0,
        steps=10,
        seconds=1.0,
        images_per_second=10.0,
        error="the disk is full",
    )


def write_cell(
    experiment: Path,
    norm: str,
    batch: int,
    accuracies: Sequence[float | None],
    *,
    seeds: int | None = None,
    reestimated: Sequence[float] = (),
    batch_statistics: Sequence[float] = (),
    changes: Mapping[str, Any] | None = None,
    data: str = "cifar10-jpeg",
    sha256: str = SHA,
    classes: int | None = None,
    model: str = "ResNet-8",
    summary: bool = True,
    curves: bool = True,
) -> Path:
    """Writes a cell with a result for each of ``accuracies``, and returns its folder.

    ``seeds`` are wanted; where there are more of them than accuracies, the cell is unfinished.
    """
    wanted = len(accuracies) if seeds is None else seeds
    settings = settings_of(norm, batch, wanted, changes or {})
    folder = experiment / f"{norm}-b{batch}-{digest_of(settings)}"
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # many cells are written
    write_text(folder / "config.yaml", yaml.dump(settings, Dumper=dumper, sort_keys=False))
    write_json(folder / "environment.json", ENVIRONMENT)
    ended = []
    for seed, accuracy in enumerate(accuracies):
        result = asdict(result_of(seed, accuracy, settings))
        if reestimated:
            result["test_accuracy_reestimated"] = reestimated[seed]
        if batch_statistics:
            result["test_accuracy_batch"] = batch_statistics[seed]
        ended.append(Result(**result))
        results.write_result(folder / f"seed-{seed}", ended[-1])
        if curves and accuracy is not None:
            write_curve(folder / f"seed-{seed}", accuracy, settings["epochs"])
    if summary:
        write_json(
            folder / "summary.json",
            {
                "norm": norm,
                "batch": batch,
                "norm_batch": settings["norm_batch"] or batch,
                "model": model,
                "data": {"name": data, "sha256": sha256, "classes": classes},
                **results.summarize(ended),
                "digest": digest_of(settings) * 8,
            },
        )
    return folder


def edit_result(cell: Path, seed: int = 0, **changes: Any) -> None:
    """Writes a seed's result again with other values."""
    folder = cell / f"seed-{seed}"
    result = results.read_result(folder)
    assert result is not None
    results.write_result(folder, replace(result, **changes))


def slow_down(cell: Path, seed: int = 0, *, times: float = 1.5) -> None:
    """Writes a seed again as if other work had slowed its training down."""
    folder = cell / f"seed-{seed}"
    result = results.read_result(folder)
    assert result is not None
    edit_result(cell, seed, seconds=times * result.seconds)
    curve = folder / "metrics.jsonl"
    speed = '"train/images_per_second": '
    curve.write_text(curve.read_text().replace(f"{speed}800.0", f"{speed}{800 / times}"))


def digest_of(settings: Mapping[str, Any]) -> str:
    """Eight digits that differ where a result may."""
    kept = {k: v for k, v in settings.items() if k not in ("seeds", "threads", "save_every")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def write_curve(folder: Path, accuracy: float, epochs: float, *, lines: int = 12) -> None:
    """A ``metrics.jsonl`` that ends at ``epochs`` with ``accuracy``."""
    text = []
    for i in range(1, lines + 1):
        epoch = epochs * i / lines
        line = {"step": 10 * i, "epoch": round(epoch, 6), "time": 1000.0 + i}
        line |= {"train/loss": 2.0 - i / lines, "train/accuracy": 0.3, "train/learning_rate": 0.1}
        line |= {"train/images_per_second": 800.0}
        if epoch == int(epoch):
            line |= {"eval/loss": 1.5, "eval/accuracy": accuracy * (0.5 + 0.5 * i / lines)}
        text.append(json.dumps(line))
    write_text(folder / "metrics.jsonl", "\n".join(text) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def planned(cell: Path) -> dict[str, Any]:
    """What a plan says of a cell that was written, as :class:`.Planned` says it."""
    settings = yaml.safe_load((cell / "config.yaml").read_text(encoding="utf-8"))
    return {
        "folder": cell.name,
        "norm_batch": settings["norm_batch"] or settings["batch"],
        "model": "ResNet-8",
        "data": settings["data"]["name"],
        "seeds": list(range(settings["seeds"])),
        "settings": unfilled(settings),
    }


def unbegun(experiment: Path, *cells: Path, old: bool = False) -> None:
    """Puts ``cells`` back to where they are in their plan alone; ``old``: one without settings."""
    entries = [planned(cell) for cell in cells]
    for cell, entry in zip(cells, entries, strict=True):
        entry["settings"] = {} if old else entry["settings"]
        shutil.rmtree(cell)
    write_plan(experiment, entries)


def write_plan(experiment: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """A sweep's plan."""
    write_text(experiment / "sweep.json", json.dumps({"cells": list(cells)}))


def around(mean: float, seeds: int = 3, spread: float = 0.002) -> list[float]:
    """Accuracies of ``seeds`` seeds, evenly around ``mean``."""
    return [mean + spread * (i - (seeds - 1) / 2) for i in range(seeds)]


BATCH = {2: 0.60, 8: 0.68, 32: 0.71, 128: 0.70}
GROUP = {2: 0.665, 8: 0.667, 32: 0.668, 128: 0.655}


def write_sweep(experiment: Path, *, seeds: int = 3, epochs: int = 3) -> Path:
    """Batch and group norm over four batch sizes: batch norm falls at 2 and wins from 8 up."""
    for batch, accuracy in BATCH.items():
        write_cell(
            experiment,
            "batch",
            batch,
            around(accuracy, seeds),
            reestimated=around(accuracy + 0.04 / batch, seeds),
            batch_statistics=around(accuracy - 0.02 / batch, seeds),
            changes={"epochs": epochs},
        )
        write_cell(
            experiment, "group", batch, around(GROUP[batch], seeds), changes={"epochs": epochs}
        )
    return experiment
