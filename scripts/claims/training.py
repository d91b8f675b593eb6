"""The small trainings that article.py needs itself: a few arms, each at its own best learning rate.

Cells are normbench's own, addressed by their content: what has been trained is not trained again.
The learning rate of each arm is chosen on held-out training images (``data.val_fraction``) with
seed 0; what is reported comes from seeds 1, 2 and 3. The test set takes no part in the choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import yaml

from claims.networks import Seed, Seeds
from normbench.launch.compose import load_config
from normbench.run.run import run
from normbench.store.results import Result
from normbench.terminal.screen import Screen

CHOICE_SEED = 0
SEEDS = (1, 2, 3)
EXTENSIONS = 5
"""How often a grid grows where its best rate is at an end."""

MANY = ("data.limit=10000", "data.val_fraction=0.1", "batch=32", "epochs=2")
FEW = ("data.limit=1000", "batch=32", "data.pad=0", "data.flip=false")
SMALL = ("data.limit=10000", "batch=2", "epochs=1")
LENGTHS = {"batch": (5, 10, 20), "none": (10, 20, 40)}
"""Epochs of the networks that can overfit; each length is a training of its own.

Without a norm more epochs are needed to fit the images as well.
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison.

    Attributes:
        label: what tables call it.
        settings: as on the command line, without the learning rate.
        grid: the learning rates tried first, a constant factor apart; a single one is taken as is.
    """

    label: str
    settings: tuple[str, ...]
    grid: tuple[float, ...]


CONVERGENCE = tuple(Arm(n, (f"norm={n}", *MANY), (0.05, 0.1, 0.2)) for n in ("batch", "none"))
OTHERS = tuple(
    Arm(f"{label}, {norm}", (f"model={model}", f"norm={norm}", *SMALL), (0.1,))
    for model, label in (("preact_resnet", "PreAct-ResNet-8"), ("convnet", "ConvNet-3"))
    for norm in ("group", "batch")
)


def fitting(rates: Mapping[str, float]) -> tuple[Arm, ...]:
    """Networks that can overfit, for each length of training, at the norms' learning rates."""
    return tuple(
        Arm(f"{norm}, {epochs} epochs", (f"norm={norm}", f"epochs={epochs}", *FEW), (rates[norm],))
        for norm, lengths in LENGTHS.items()
        for epochs in lengths
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an arm.

    Attributes:
        tried: the loss on held-out images by learning rate; infinite where it diverged.
        rate: the learning rate of the seeds that are reported.
        seeds: those seeds.
    """

    tried: Mapping[float, float]
    rate: float
    seeds: Seeds

    @property
    def finished(self) -> dict[int, Seed]:
        """The seeds that came to a good end."""
        return {n: seed for n, seed in self.seeds.items() if seed.finished}

    @property
    def lost(self) -> dict[int, Result]:
        """How the others ended."""
        return {n: seed.result for n, seed in self.seeds.items() if not seed.finished}


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains what is missing.

    Attributes:
        own: the folder of the cells.
        data: the name of an imported data set.
    """

    own: Path
    data: str

    def train(self, arm: Arm, rate: float, seeds: tuple[int, ...]) -> list[Seed]:
        """The seeds (consecutive) of ``arm`` at the learning rate ``rate``."""
        settings = [*arm.settings, f"optim.lr={rate:g}", f"seed={seeds[0]}", f"seeds={len(seeds)}"]
        settings += [
            "data=images",
            f"data.name={self.data}",
            f"stack={len(seeds)}",
            "threads=1",
            "device=cpu",
        ]
        settings += [f"runs={self.own.parent}", f"name={self.own.name}"]
        outcome = run(load_config(settings), Screen(), brief=True)
        folder = next(
            path.parent
            for path in sorted(self.own.glob("*/summary.json"))
            if json.loads(path.read_text(encoding="utf-8"))["digest"] == outcome.summary["digest"]
        )
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return [Seed(folder / f"seed-{r.seed}", config, r) for r in outcome.results]

    def tried(self, arm: Arm) -> dict[float, float]:
        """The loss on the held-out images by learning rate, seed 0; infinite where it diverged.

        The grid grows while its best rate is at one of its ends.
        """
        if len(arm.grid) == 1:
            return {}
        losses = {rate: self._held_out_loss(arm, rate) for rate in arm.grid}
        factor = arm.grid[1] / arm.grid[0]
        for _ in range(EXTENSIONS):
            best = min(losses, key=lambda rate: (losses[rate], rate))
            if losses[best] < inf and min(losses) < best < max(losses):
                break
            grown = min(losses) / factor if best == min(losses) else max(losses) * factor
            losses[grown] = self._held_out_loss(arm, grown)
        return dict(sorted(losses.items()))

    def best_rate(self, arm: Arm) -> float:
        """The learning rate with the lowest loss on the held-out images."""
        losses = self.tried(arm)
        if not losses:
            return arm.grid[0]
        return min(losses, key=lambda rate: (losses[rate], rate))

    def outcome(self, arm: Arm) -> Outcome:
        """Trains what is missing of an arm; the seeds of SEEDS at its best learning rate."""
        rate = self.best_rate(arm)
        seeds = {seed.result.seed: seed for seed in self.train(arm, rate, SEEDS)}
        return Outcome(self.tried(arm), rate, seeds)

    def outcomes(self, arms: Sequence[Arm]) -> dict[str, Outcome]:
        """Of several arms, by their labels."""
        return {arm.label: self.outcome(arm) for arm in arms}

    def _held_out_loss(self, arm: Arm, rate: float) -> float:
        (seed,) = self.train(arm, rate, (CHOICE_SEED,))
        last = [line["eval/loss"] for line in seed.curve if "eval/loss" in line]
        return last[-1] if last and seed.finished else inf
