"""Trained networks: found in folders of runs, rebuilt, and looked into."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from claims.base import Store
from normbench.data.batches import Split, evaluation_batches
from normbench.data.batches import split as split_images
from normbench.data.library.image_set import ImageSet
from normbench.launch.compose import load_config
from normbench.models import MODELS
from normbench.norms import NORMS, Norm
from normbench.store.results import FINISHED, Result, read_result

BATCH = 250
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Seed:
    """One seed of a cell, trained.

    Attributes:
        folder: of its records.
        config: the content of its ``config.yaml``.
        result: how it ended.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Result

    @property
    def finished(self) -> bool:
        """Whether it came to a good end."""
        return self.result.status == FINISHED

    @property
    def accuracy(self) -> float:
        """On the test set, after the last step."""
        assert self.result.test_accuracy is not None
        return self.result.test_accuracy

    @property
    def curve(self) -> list[dict[str, float]]:
        """The lines of its ``metrics.jsonl``; none where it failed before there was one."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its weights from others', also where only its records are there."""
        name = f"{self.folder.parent.name}/{self.folder.name}"
        return {"network": name, "losses": [self.result.train_loss, self.result.test_loss]}

    @property
    def weights(self) -> bool:
        """Whether its weights are there, and not only its records."""
        return (self.folder / WEIGHTS).exists()

    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode."""
        norm = NORMS[self.config["norm"]["name"]](**self.config["norm"])
        shared, generator = self.config["norm_batch"], torch.Generator().manual_seed(0)
        model = MODELS[self.config["model"]["name"]](**self.config["model"])
        network = model.build(norm, 10, generator, norm_batch=shared)
        network.load_state_dict(load_file(self.folder / WEIGHTS))
        return network.eval()


Seeds = Mapping[int, Seed]
"""The seeds of a cell, by number."""

Cells = dict[tuple[str, int], dict[int, Seed]]
"""By norm and batch size, the seeds that have finished."""

Lost = dict[tuple[str, int], dict[int, Result]]
"""By norm and batch size, the seeds that came to a bad end: diverged or failed."""


def called(norm: str, batch: int) -> str:
    """What tables call a cell."""
    return f"{norm}, batch size {batch}"


def accuracies(seeds: Seeds) -> dict[int, float]:
    """The test accuracy of each seed."""
    return {n: seed.accuracy for n, seed in seeds.items()}


def found_in(runs: Path, data: str) -> tuple[Cells, Lost]:
    """The cells of a folder that are about one data set: their finished and their lost seeds."""
    cells: Cells = {}
    lost: Lost = {}
    folders: dict[tuple[str, int], Path] = {}
    for folder in sorted(runs.glob("*/seed-*")):
        result, path = read_result(folder), folder.parent / "config.yaml"
        if result is None or not path.exists():
            continue
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if config["data"]["name"] != data:
            continue
        key = (str(config["norm"]["name"]), int(config["batch"]))
        if folders.setdefault(key, folder.parent) != folder.parent:
            raise SystemExit(
                f"{runs}: two cells of norm={key[0]} batch={key[1]}, which differ in other"
                " settings; the claims are about one recipe: leave one of them"
            )
        if result.status == FINISHED:
            cells.setdefault(key, {})[result.seed] = Seed(folder, config, result)
        else:
            lost.setdefault(key, {})[result.seed] = result
    return cells, lost


@dataclass(frozen=True, slots=True)
class Images:
    """The images that networks are looked at with.

    Attributes:
        all: the data set.
        test: its test images.
    """

    all: ImageSet
    test: Split

    @classmethod
    def of(cls, name: str) -> Images:
        """Loads an imported data set."""
        config = load_config(["data=images", f"data.name={name}"]).data
        images = config.load()
        return cls(images, split_images(images, config, torch.device("cpu")).test)

    def trained_on(self, seed: Seed, most: int = 5000) -> Split:
        """The first images that a network was trained on, neither cropped nor mirrored."""
        values = seed.config["data"]
        config = load_config(
            [
                "data=images",
                f"data.name={values['name']}",
                f"data.limit={min(most, values['limit'] or most)}",
                f"data.val_fraction={values['val_fraction']}",
                "data.pad=0",
            ]
        ).data
        return split_images(self.all, config, torch.device("cpu")).train

    def some(self, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Test images [count, 3, H, W] of all classes, always the same, and their labels."""
        chosen = self.test.shuffled(count)  # in the data set's own order, a class comes as a whole
        images, labels = next(evaluation_batches(chosen, count, dtype))
        return images.contiguous(), labels


def measured(
    store: Store,
    name: str,
    measure: Callable[[Seed, Images], dict[str, Any]],
    cells: Mapping[str, Seeds],
    images: Images,
) -> dict[str, dict[int, dict[str, Any]]]:
    """What ``measure`` says of each network, by cell and seed.

    Networks whose weights are not there, and which were not measured before, are left out.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for label, seeds in cells.items():
        for n, seed in sorted(seeds.items()):
            given = {**seed.identity, "data": images.all.sha256}
            place = f"{name}/{label}/seed-{n}"
            if seed.weights or store.knows(place, measure, **given):
                value = store.measure(place, measure, seed, images, **given)
                found.setdefault(label, {})[n] = value
    return found


@torch.no_grad()
def logits(network: nn.Module, images: Tensor, batch: int = BATCH) -> Tensor:
    """What a network says of images, [N, classes], so many at a time."""
    fast = images.contiguous(memory_format=torch.channels_last)
    return torch.cat([network(part) for part in fast.split(batch)])


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of ``images`` that a network names as ``labels`` does."""
    return float((logits(network, images).argmax(1) == labels).double().mean())


def slots(network: nn.Module) -> Iterator[tuple[str, Norm]]:
    """The norms of a network, in order."""
    for name, module in network.named_modules():
        if isinstance(module, Norm):
            yield name, module


@torch.no_grad()
def norm_inputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What reaches each norm, by its name, in the network's own arithmetic."""
    reached: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: reached.__setitem__(name, inputs[0].detach().clone())
        )
        for name, module in slots(network)
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: reached[name] for name, _ in slots(network)}
