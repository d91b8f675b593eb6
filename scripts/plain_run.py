"""A plain training of some seeds, one after another, as a command: what normbench is timed against.

    python scripts/plain_run.py tuned --norm batch --batch 2 --seeds 8 --epochs 1 --limit 10000

`usual` has a DataLoader, PIL transforms and the default SGD; `tuned` has images in memory that are
augmented many at a time, channels_last, fused SGD and inference mode. Both evaluate after every
epoch, and batch norm once more at the end, with statistics that torch's ``update_bn`` estimates
anew from as many training images as normbench does. The last line printed is JSON: the seconds of
training, of evaluating, and of what batch norm has at the end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from time import perf_counter

import torch
import torch.nn.functional as F
from loops import DECAY, LR, MOMENTUM, Cell, Pictures, torch_model
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from normbench.data import DATA, ImageSet
from normbench.data.batches import Batches, evaluation_batches, split
from normbench.training.precise_bn import BATCH, IMAGES

Pairs = Iterable[tuple[Tensor, Tensor]]
CPU = torch.device("cpu")


def load(name: str, limit: int | None, test_limit: int | None) -> ImageSet:
    """The first images of an imported data set."""
    images = DATA["images"](source="images", name=name).load()
    return replace(
        images,
        train_images=images.train_images[:limit],
        train_labels=images.train_labels[:limit],
        test_images=images.test_images[:test_limit],
        test_labels=images.test_labels[:test_limit],
    )


class Usual:
    """DataLoader, PIL transforms, default SGD, ``.item()`` each step."""

    fused, layout = False, torch.contiguous_format

    def __init__(self, images: ImageSet, batch: int) -> None:
        train, test = Pictures(images, train=True), Pictures(images, train=False)
        self._train = DataLoader(train, batch_size=batch, shuffle=True, drop_last=True)
        self._large = DataLoader(train, batch_size=min(BATCH, len(train)), shuffle=True)
        self.test: Pairs = DataLoader(test, batch_size=256)

    def epoch(self, seed: int, epoch: int) -> Pairs:
        """The batches of an epoch."""
        return self._train

    def estimation(self, seed: int, epoch: int) -> Pairs:
        """What statistics are estimated anew from, in batches."""
        return self._large


class Tuned:
    """Images in memory, augmented many at a time; fused SGD in channels_last."""

    fused, layout = True, torch.channels_last

    def __init__(self, images: ImageSet, batch: int) -> None:
        parts = split(images, DATA["synthetic"](source="synthetic"), CPU)
        self._split, self._batch = parts.train, batch
        self.test: Pairs = list(evaluation_batches(parts.test, 250))

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch."""
        return self._batches(seed, epoch, self._batch)

    def estimation(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What statistics are estimated anew from, in batches."""
        return self._batches(seed, epoch, min(BATCH, len(self._split)))

    def _batches(self, seed: int, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = Batches(self._split, seeds=[seed], batch=size, flip=True)
        for images, labels in batches.epoch(epoch):
            yield images, labels[:, 0]


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Pairs, *, read: bool
) -> None:
    """One epoch; ``read`` looks at each step's loss."""
    for images, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if read:
            loss.item()


@torch.inference_mode()
def accuracy(model: nn.Module, batches: Pairs) -> float:
    """The share of right answers."""
    model.eval()
    right = count = 0
    for images, labels in batches:
        right += int((model(images).argmax(1) == labels).sum())
        count += len(labels)
    model.train()
    return right / count


def main() -> None:
    """Trains, and prints the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("loop", choices=["usual", "tuned"])
    parser.add_argument("--name", default="cifar10-jpeg")
    parser.add_argument("--norm", default="batch")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--test-limit", type=int)
    arguments = parser.parse_args()
    images = load(arguments.name, arguments.limit, arguments.test_limit)
    cell = Cell(8, arguments.norm, arguments.batch, images, CPU)
    data = (Usual if arguments.loop == "usual" else Tuned)(images, arguments.batch)
    seconds = {"training": 0.0, "evaluating": 0.0, "decomposing": 0.0}
    for seed in range(arguments.seeds):
        model = torch_model(cell, seed).to(memory_format=data.layout)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=data.fused
        )
        for epoch in range(arguments.epochs):
            start = perf_counter()
            train_epoch(model, optimizer, data.epoch(seed, epoch), read=not data.fused)
            trained = perf_counter()
            print(f"seed {seed} epoch {epoch + 1} accuracy {accuracy(model, data.test):.4f}")
            seconds["training"] += trained - start
            seconds["evaluating"] += perf_counter() - trained
        if arguments.norm == "batch":
            start = perf_counter()
            large = data.estimation(seed, arguments.epochs)
            update_bn(islice(large, max(1, IMAGES // BATCH)), model)
            print(f"seed {seed} re-estimated accuracy {accuracy(model, data.test):.4f}")
            seconds["decomposing"] += perf_counter() - start
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
