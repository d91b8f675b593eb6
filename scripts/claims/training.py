"""The small trainings that article.py needs itself: a few arms, each at its own best learning rate.

Cells are normbench's own, addressed by their content: what has been trained is not trained again.
The learning rate of each arm is chosen on held-out training images (``data.val_fraction``) with
seed 0; what is reported comes from seeds 1, 2 and 3. The test set is looked at once, at the end of
each training, and takes no part in the choice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from pathlib import Path

from normbench.launch.compose import load_config
from normbench.run.run import run
from normbench.store.results import Result
from normbench.terminal.screen import Screen

CHOICE_SEED = 0
SEEDS = (1, 2, 3)
EXTENSIONS = 5
"""How often a grid grows where its best rate is at an end."""

MANY = ("model.depth=8", "data.limit=10000", "data.val_fraction=0.1", "batch=32", "epochs=2")
FEW = (
    *("model.depth=8", "data.limit=1000", "data.val_fraction=0.02", "batch=32", "epochs=20"),
    *("data.pad=0", "data.flip=false"),
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison.

    Attributes:
        label: what tables call it.
        settings: as on the command line, without the learning rate.
        grid: the learning rates tried first, a constant factor apart.
        rate_of: the arm whose learning rate it uses; None: it has its own.
    """

    label: str
    settings: tuple[str, ...]
    grid: tuple[float, ...] = (0.05, 0.1, 0.2)
    rate_of: Arm | None = None


CONVERGENCE = (
    Arm("batch", ("norm=batch", *MANY)),
    Arm("none", ("norm=none", *MANY)),
    Arm("none, γ=0", ("norm=none", "model.zero_init=true", *MANY)),
)
FITTING = (
    Arm("batch", ("norm=batch", *FEW), rate_of=CONVERGENCE[0]),
    Arm("none", ("norm=none", *FEW), rate_of=CONVERGENCE[1]),
    Arm("batch, 4 share", ("norm=batch", "norm_batch=4", *FEW), rate_of=CONVERGENCE[0]),
)


@dataclass(frozen=True, slots=True)
class Trained:
    """One seed of a cell: how it ended, and where its records are."""

    seed: int
    result: Result
    folder: Path


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains what is missing.

    Attributes:
        own: the folder of the cells.
        data: the name of an imported data set.
    """

    own: Path
    data: str

    def train(self, arm: Arm, rate: float, seeds: tuple[int, ...]) -> list[Trained]:
        """The seeds (consecutive) of ``arm`` at the learning rate ``rate``."""
        settings = [*arm.settings, f"optim.lr={rate:g}", f"seed={seeds[0]}", f"seeds={len(seeds)}"]
        settings += ["data=images", f"data.name={self.data}", "stack=1", "threads=1", "device=cpu"]
        settings += [f"runs={self.own.parent}", f"name={self.own.name}"]
        outcome = run(load_config(settings), Screen(), brief=True)
        folder = next(
            path.parent
            for path in sorted(self.own.glob("*/summary.json"))
            if json.loads(path.read_text(encoding="utf-8"))["digest"] == outcome.summary["digest"]
        )
        return [Trained(r.seed, r, folder / f"seed-{r.seed}") for r in outcome.results]

    def tried(self, arm: Arm) -> dict[float, float]:
        """The loss on the held-out images by learning rate, seed 0; infinite where it diverged.

        The grid grows while its best rate is at one of its ends.
        """
        source = arm.rate_of or arm
        losses = {rate: self._held_out_loss(source, rate) for rate in source.grid}
        factor = source.grid[1] / source.grid[0]
        for _ in range(EXTENSIONS):
            best = min(losses, key=lambda rate: (losses[rate], rate))
            if losses[best] < inf and min(losses) < best < max(losses):
                break
            grown = min(losses) / factor if best == min(losses) else max(losses) * factor
            losses[grown] = self._held_out_loss(source, grown)
        return dict(sorted(losses.items()))

    def best_rate(self, arm: Arm) -> float:
        """The learning rate with the lowest loss on the held-out images."""
        losses = self.tried(arm)
        return min(losses, key=lambda rate: (losses[rate], rate))

    def chosen(self, arm: Arm) -> list[Trained]:
        """The seeds that are reported, at the best learning rate."""
        return self.train(arm, self.best_rate(arm), SEEDS)

    def _held_out_loss(self, arm: Arm, rate: float) -> float:
        (seed,) = self.train(arm, rate, (CHOICE_SEED,))
        last = [line["eval/loss"] for line in curve(seed.folder) if "eval/loss" in line]
        return last[-1] if last and seed.result.status == "finished" else inf


def curve(folder: Path) -> list[dict[str, float]]:
    """The lines of a seed's ``metrics.jsonl``; none where it failed before there was one."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]
