"""A cell: a configuration, the images it runs on, and the folder its records go to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normbench.config import PER_REPLICA, Config
from normbench.data.batches import Splits, split
from normbench.data.library import Description
from normbench.errors import UsageError
from normbench.files import write_json
from normbench.models.base import Start
from normbench.models.hidden import HiddenNorms
from normbench.models.inspection import LayerInfo, check_statistics, layers
from normbench.models.layout import settle_layout
from normbench.norms import Swap, describe_swap
from normbench.store.results import METRICS, MOST_SEED, SUMMARY, Result, is_done, summarize

_SPLITS: dict[tuple[str, str, torch.device], Splits] = {}


@dataclass(frozen=True, slots=True)
class Cell:
    """What is trained and where it goes.

    Attributes:
        config: the configuration.
        images: what is known of the data set; its pixels are loaded and checked for training.
        digest: of everything that can change a result.
        directory: ``RUNS/NAME/NORM-bBATCH-DIGEST``.
    """

    config: Config
    images: Description
    digest: str
    directory: Path

    @classmethod
    def of(cls, config: Config) -> "Cell":
        """Finds the cell's directory, which need not exist, without loading a pixel."""
        images = config.data.describe()
        digest = config.digest(images)
        folder = f"{config.norm.name}-b{config.batch}-{digest[:8]}"
        return cls(config, images, digest, Path(config.runs) / config.name / folder)

    def splits(self, device: torch.device) -> Splits:
        """The images on ``device``, split; those of the last call are kept for the next cell."""
        key = (self.images.sha256, repr(self.config.data), device)
        if key not in _SPLITS:
            images = self.config.data.load()
            if images.sha256 != self.images.sha256:
                raise UsageError(f"data set {images.name!r} has just been replaced; start again")
            _SPLITS.clear()
            _SPLITS[key] = split(images, self.config.data, device)
        return _SPLITS[key]

    def seed_folder(self, seed: int) -> Path:
        """The folder of a seed's records."""
        return self.directory / f"seed-{seed}"

    def build_model(self, seed: int) -> nn.Module:
        """The network of one seed, at its start."""
        generator = torch.Generator().manual_seed(seed)
        config = self.config
        model = config.model.build(
            config.norm, len(self.images.classes), generator, norm_batch=config.norm_batch
        )
        if config.model.foreign:
            settle_layout(model, self.example())
        return model

    def replicas(self) -> "list[Replica]":
        """One for each seed that is wanted."""
        return [Replica(self, seed) for seed in self.config.all_seeds]

    def start(self, seed: int) -> Start:
        """The network of one seed with its own norms, before they are swapped."""
        generator = torch.Generator().manual_seed(seed)
        found = self.config.model.start(self.config.norm, len(self.images.classes), generator)
        if self.config.model.foreign:
            settle_layout(found.network, self.example())
        return found

    def swaps(self) -> list[Swap]:
        """What became of the norms of a network that was written elsewhere; else nothing."""
        if not self.config.model.foreign:
            return []
        network, carry = self.start(self.config.seed).network, self.config.model.carry
        return describe_swap(
            network, self.config.norm, norm_batch=self.config.norm_batch, carry=carry
        )

    def example(self) -> Tensor:
        """Some random images [N, 3, H, W] of the data set's size, always the same.

        Two sub-batches of ``norm_batch`` where these are small, else four.
        """
        size = self.config.norm_batch or 2
        count = 2 * size if size <= 8 else 4
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, *self.images.image_size, generator=generator)

    def check_fit(self) -> list[LayerInfo]:
        """The layers of the network, as an image meets them.

        Raises:
            UsageError: batch, images, network and norm do not fit one another.
        """
        config = self.config
        count, held_out = config.data.num_training(self.images.num_train)
        if count == 0:
            raise UsageError(
                f"data.val_fraction={config.data.val_fraction}: leaves no training images of"
                f" {self.images.num_train:,}; choose a smaller share"
            )
        if config.data.val_fraction and not held_out:
            raise UsageError(
                f"data.val_fraction={config.data.val_fraction}: holds out none of the"
                f" {self.images.num_train:,} training images; choose a larger share, or 0"
            )
        if config.batch > count:
            raise UsageError(
                f"batch={config.batch}: larger than the {count:,} training images of"
                f" {self.images.name}; at most {count}"
            )
        infos = self.layers(flops=False)
        check_statistics(infos, config.statistics_batch)
        return infos

    def layers(self, *, flops: bool = True) -> list[LayerInfo]:
        """The layers of the network, as an image meets them; counting ``flops`` takes a second.

        Raises:
            UsageError: network, images and norm do not fit one another.
        """
        model, size = self.build_model(self.config.seed), self.images.image_size
        try:
            infos = layers(model, size, flops=flops)
            if self.config.model.foreign:
                with self._refusing_hidden_norms(model):
                    self._check_output(model)
        except UsageError:
            raise
        except Exception as error:  # for example pooling an image to nothing
            raise self.config.model.misfit(error, size, _side_taken(model)) from None
        return infos

    @contextmanager
    def _refusing_hidden_norms(self, model: nn.Module) -> Iterator[None]:
        """Raises UsageError if a norm computes that ``model`` does not know as its layer."""
        with HiddenNorms(model) as hidden:
            yield
        called = f"model={self.config.model.name} ({self.config.model.title}): it computes with"
        if hidden.layers:
            raise UsageError(
                f"{called} a {hidden.layers[0]} that is none of its layers, and that norm= cannot"
                " replace; keep it in an nn.ModuleList, not in a list"
            )
        if hidden.functions:
            raise UsageError(
                f"{called} {hidden.functions[0]}, which is a norm and no layer, and which norm="
                " cannot replace; make it a layer, such as nn.BatchNorm2d(channels)"
            )

    def _check_output(self, model: nn.Module) -> None:
        """Raises UsageError unless ``model`` gives logits [N, classes], in training as well."""
        images, classes = self.example(), len(self.images.classes)
        for training in (False, True):
            with torch.no_grad():
                y = model.train(training)(images)
            if not isinstance(y, Tensor) or y.shape != (len(images), classes):
                given = list(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
                mode = "training" if training else "evaluation"
                raise UsageError(
                    f"model={self.config.model.name} ({self.config.model.title}): must give logits"
                    f" {[len(images), classes]} for {len(images)} images of {classes} classes; in"
                    f" {mode} mode it gave {given}"
                )


def _side_taken(model: nn.Module) -> int | None:
    """The side of the smallest usual square images that ``model`` takes, or None."""
    for side in (32, 64, 96, 128, 160, 192, 224, 256, 299, 384):
        with suppress(Exception), torch.no_grad():
            model.eval()(torch.zeros(1, 3, side, side))
            return side
    return None


FRESH = ".fresh-"
"""How the files begin that mark seeds as begun afresh."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One seed of a cell: what stacks are made of."""

    cell: Cell
    seed: int

    @property
    def folder(self) -> Path:
        """The folder of its records."""
        return self.cell.seed_folder(self.seed)

    @property
    def afresh(self) -> Path:
        """A file that is there from ``run --fresh`` on until it is done, or has begun in the stack
        of a cell beside: other stacks of cells beside that have begun with it are of before."""
        return self.cell.directory / f"{FRESH}{self.seed}"

    def left(self, first: "Replica") -> bool:
        """Whether it has left the stack, begun before, in the folder of ``first``, which is trained
        to its end all the same: its records were thrown away since."""
        if self.cell.digest == first.cell.digest:
            return False
        return self.afresh.exists() or not (self.folder / METRICS).exists()

    @property
    def done(self) -> bool:
        """Whether it has a result that another training would only repeat."""
        return is_done(self.folder)

    def build_model(self) -> nn.Module:
        """Its network, at its start."""
        return self.cell.build_model(self.seed)

    def key(self) -> dict[str, Any]:
        """What a checkpoint says of it."""
        optim = self.cell.config.optim
        rates = {name: float(getattr(optim, name)) for name in PER_REPLICA}
        return {"cell": self.cell.directory.name, "seed": self.seed, **rates}

    @classmethod
    def of_key(cls, key: object, cell: Cell) -> "Replica":
        """The replica that a checkpoint names, which may share a stack with ``cell``'s.

        Raises:
            ValueError: there can be none.
        """
        if not isinstance(key, dict) or not all(type(key.get(n)) is float for n in PER_REPLICA):
            raise ValueError("it names no replicas")
        optim = replace(cell.config.optim, **{name: key[name] for name in PER_REPLICA})
        other = cell
        if optim != cell.config.optim:
            other = Cell.of(replace(cell.config, optim=optim))
        seed = key.get("seed")
        if (
            key.get("cell") != other.directory.name
            or type(seed) is not int
            or not 0 <= seed <= MOST_SEED
        ):
            raise ValueError("it is of another cell")
        return cls(other, seed)


def write_summary(cell: Cell, ended: Sequence[Result]) -> dict[str, Any]:
    """Writes ``summary.json`` from the results of all seeds that are there, and returns it."""
    config = cell.config
    summary: dict[str, Any] = {
        "norm": config.norm.name,
        "batch": config.batch,
        "norm_batch": config.statistics_batch,
        "model": config.model.title,
        "data": {
            "name": cell.images.name,
            "sha256": cell.images.sha256,
            "classes": len(cell.images.classes),
        },
        **summarize(ended),
        "digest": cell.digest,
    }
    write_json(cell.directory / SUMMARY, summary)
    return summary
