"""From how many training images batch norm's statistics have to be estimated anew.

    python scripts/statistics_images.py --name cifar10-jpeg

Trains ResNet-8 of width 16 at batch 2 for 3,000 steps on an imported data set, for three seeds, and
prints by how many points the accuracy with statistics from 500 to 10,000 images differs
from that with another draw of 10,000: the root of the mean square over seeds and draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import sqrt

import torch
from torch import nn

from normbench.data import DATA
from normbench.data.batches import Batches, Splits, split
from normbench.models import MODELS
from normbench.norms import NORMS
from normbench.training import precise_bn
from normbench.training.loop import evaluate, norm_parameters, training_step
from normbench.training.optim import SGDConfig

COUNTS = (500, 1000, 2500, 5000, 10_000)


def trained(splits: Splits, classes: int, seed: int, steps: int) -> nn.Module:
    """The network of ``seed`` after ``steps`` steps at batch 2."""
    generator = torch.Generator().manual_seed(seed)
    norm = NORMS["batch"](name="batch")
    model = MODELS["resnet"](name="resnet").build(norm, classes, generator)
    model = model.to(memory_format=torch.channels_last)
    optim = SGDConfig()
    optimizer = optim.build(model, norm_parameters(model))
    batches = Batches(splits.train, seeds=[seed], batch=2, flip=True).batches()
    for step in range(steps):
        optimizer.lr = optim.rate(step, steps, 2)
        training_step(model, optimizer, *next(batches))
    return model


def accuracy(model: nn.Module, splits: Splits, images: int, seed: int, draw: int) -> float:
    """The accuracy in % with statistics from ``images`` images of draw ``draw``."""
    precise_bn.IMAGES = images
    batches = precise_bn.estimation(splits.train, seed=seed, flip=True)
    with precise_bn.restoring(model):
        precise_bn.reestimate(model, batches, 100 + draw)
        return 100 * evaluate([model], splits.test).accuracy[0]


def errors(differences: Sequence[float]) -> float:
    """The root of the mean square."""
    return sqrt(sum(each**2 for each in differences) / len(differences))


def main() -> None:
    """Prints a line for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", default="cifar10-jpeg")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--test", type=int, default=2000, help="test images")
    arguments = parser.parse_args()
    config = DATA["images"](source="images", name=arguments.name, test_limit=arguments.test)
    images = config.load()
    splits = split(images, config, torch.device("cpu"))
    differences: dict[int, list[float]] = {count: [] for count in COUNTS}
    for seed in range(arguments.seeds):
        model = trained(splits, len(images.classes), seed, arguments.steps)
        reference = accuracy(model, splits, 10_000, seed, 0)
        for count in COUNTS:
            for draw in range(1, arguments.draws + 1):
                found = accuracy(model, splits, count, seed, draw)
                differences[count].append(found - reference)
    for count, found_differences in differences.items():
        print(f"{count:6,} images: {errors(found_differences):.2f} points")


if __name__ == "__main__":
    main()
