"""Networks that have been trained: found in folders of runs, rebuilt, and looked into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from claims.base import digest
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
    """One trained network.

    Attributes:
        folder: of its records.
        config: the content of its ``config.yaml``.
        result: how it ended.
    """

    folder: Path
    config: dict[str, Any]
    result: Result

    @property
    def norm(self) -> str:
        """The norm's name."""
        return str(self.config["norm"]["name"])

    @property
    def digest(self) -> str:
        """Of its weights."""
        return digest(self.folder / WEIGHTS)

    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode."""
        norm = NORMS[self.norm](**self.config["norm"])
        shared, generator = self.config["norm_batch"], torch.Generator().manual_seed(0)
        model = MODELS[self.config["model"]["name"]](**self.config["model"])
        network = model.build(norm, 10, generator, norm_batch=shared)
        network.load_state_dict(load_file(self.folder / WEIGHTS))
        return network.eval()


def seed_at(folder: Path) -> Seed | None:
    """The seed in a folder; None where it has not finished."""
    result, path = read_result(folder), folder.parent / "config.yaml"
    if result is None or result.status != FINISHED or not path.exists():
        return None
    return Seed(folder, yaml.safe_load(path.read_text(encoding="utf-8")), result)


Cells = dict[tuple[str, int], dict[int, Seed]]
"""By norm and batch, the seeds that have finished."""


Lost = dict[tuple[str, int], dict[int, Result]]
"""By norm and batch, the seeds that came to a bad end: diverged or failed."""


def with_weights(seeds: dict[int, Seed]) -> dict[int, Seed]:
    """Those whose weights are there, and not only their records."""
    there = {n: seed for n, seed in seeds.items() if (seed.folder / WEIGHTS).exists()}
    return dict(sorted(there.items()))


def found_in(runs: Path, data: str) -> Cells:
    """The finished seeds of the cells in a folder that are about one data set."""
    cells: Cells = {}
    for folder in sorted(runs.glob("*/seed-*")):
        seed = seed_at(folder)
        if seed is not None and seed.config["data"]["name"] == data:
            key = (seed.norm, int(seed.config["batch"]))
            others = cells.setdefault(key, {})
            if others and next(iter(others.values())).folder.parent != folder.parent:
                raise SystemExit(
                    f"{runs}: two cells of norm={key[0]} batch={key[1]}, which differ in other"
                    " settings; the claims are about one recipe: leave one of them"
                )
            others[seed.result.seed] = seed
    return cells


def lost_in(runs: Path, data: str) -> Lost:
    """The seeds that :func:`found_in` leaves out because they diverged or failed."""
    lost: Lost = {}
    for folder in sorted(runs.glob("*/seed-*")):
        result, path = read_result(folder), folder.parent / "config.yaml"
        if result is None or result.status == FINISHED or not path.exists():
            continue
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if config["data"]["name"] == data:
            key = (str(config["norm"]["name"]), int(config["batch"]))
            lost.setdefault(key, {})[result.seed] = result
    return lost


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
