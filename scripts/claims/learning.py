"""Claims about training with batch norm: faster convergence, regularization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf, isfinite
from statistics import fmean
from typing import Any

from claims.base import (
    HOLDS,
    NOT,
    OPEN,
    PARTLY,
    Estimate,
    Finding,
    Table,
    fixed,
    paired,
    spread,
)
from claims.networks import Cells, Images, Seed, accuracy, seed_at, with_weights
from claims.training import Arm, Trainer, curve
from normbench.data.plan import evaluation_batches

WINDOW = 5
"""How many lines of a curve a training loss is averaged over."""

Curve = Sequence[Mapping[str, float]]


def smooth(lines: Curve) -> list[tuple[int, float]]:
    """The steps of a curve and the training loss averaged over the last lines up to each."""
    losses = [(int(line["step"]), line["train/loss"]) for line in lines if "train/loss" in line]
    return [
        (losses[i][0], fmean(loss for _, loss in losses[i - WINDOW + 1 : i + 1]))
        for i in range(WINDOW - 1, len(losses))
    ]


def steps_to(lines: Curve, level: float) -> float:
    """The first step at which the smoothed training loss is at most ``level``; else infinite."""
    return next((float(step) for step, loss in smooth(lines) if loss <= level), inf)


def at_equal_fit(lines: Curve, level: float) -> float | None:
    """The held-out accuracy when the training accuracy of an epoch first reaches ``level``.

    Interpolated between the epochs around it; None where it is never reached.
    """
    held_out = [line["eval/accuracy"] for line in lines if "eval/accuracy" in line]
    points = list(zip(_epochs(lines), held_out, strict=True))
    for before, after in pairwise(points):
        if before[0] <= level <= after[0] and before[0] < after[0]:
            share = (level - before[0]) / (after[0] - before[0])
            return before[1] + share * (after[1] - before[1])
    return None


def training(trainer: Trainer, arms: Sequence[Arm]) -> dict[str, Any]:
    """Trains what is missing and gathers what the findings need, by arm and seed."""
    found: dict[str, Any] = {}
    for arm in arms:
        tried = trainer.tried(arm)
        seeds = trainer.chosen(arm)
        found[arm.label] = {
            "tried": {
                f"{rate:g}": loss if isfinite(loss) else None for rate, loss in tried.items()
            },
            "rate": trainer.best_rate(arm),
            "seeds": {each.seed: each for each in seeds},
            "curves": {each.seed: curve(each.folder) for each in seeds},
        }
    return found


def _reached(steps: Sequence[float]) -> str:
    there = [each for each in steps if each < inf]
    if len(there) == len(steps):
        return spread(steps, 0)
    return f"{len(there)} of {len(steps)} seeds" if there else "never"


def _speed(found: dict[str, Any], levels: Sequence[float]) -> list[list[str]]:
    rows = []
    for label, arm in found.items():
        curves = list(arm["curves"].values())
        last = [smooth(each)[-1][1] for each in curves if smooth(each)]
        results = [seed.result for seed in arm["seeds"].values()]
        score = [r.test_accuracy for r in results if r.test_accuracy is not None]
        rows.append(
            [
                label,
                f"{arm['rate']:g}",
                *(_reached([steps_to(each, level) for each in curves]) for level in levels),
                spread(last),
                spread(score, 1, 100),
            ]
        )
    return rows


def saved(found: dict[str, Any], level: float, slow: str, fast: str) -> Estimate | None:
    """How many steps fewer ``fast`` takes than ``slow`` to a loss, paired by seed."""
    slower, faster = (
        {n: steps_to(each, level) for n, each in found[arm]["curves"].items()}
        for arm in (slow, fast)
    )
    if inf in [*slower.values(), *faster.values()]:
        return None
    return paired(slower, faster)


def final_level(found: dict[str, Any], label: str) -> float:
    """The smoothed loss that every seed of an arm comes down to."""
    return max(min(loss for _, loss in smooth(each)) for each in found[label]["curves"].values())


def _grid(found: Mapping[str, Any]) -> Table:
    rows = []
    for label, arm in found.items():
        tried = "; ".join(
            f"{rate}: {'diverged' if loss is None else f'{loss:.3f}'}"
            for rate, loss in arm["tried"].items()
        )
        rows.append([label, tried, f"{arm['rate']:g}"])
    title = "Learning rates tried, and the loss on held-out training images (seed 0)"
    return Table(title, ["norm", "rate: loss", "chosen"], rows)


def convergence(found: dict[str, Any]) -> Finding:
    """Batch norm speeding up convergence."""
    level = final_level(found, "none")
    levels = (2.1, 1.9, level)
    gain = saved(found, level, "none", "batch")
    start = saved(found, level, "none", "none, γ=0")
    rest = saved(found, level, "none, γ=0", "batch")
    control = f"save {fixed(start, 0)} of these steps, and batch norm {fixed(rest, 0)} more"
    if start is None:
        control = "do not replace it: not every seed gets there within the 624 steps"
    slow, fast = (
        fmean(steps_to(each, level) for each in found[arm]["curves"].values())
        for arm in ("none", "batch")
    )
    faster = gain is not None and gain.above(0)
    return Finding(
        "Batch norm speeding up convergence",
        "Batch norm makes training converge faster.",
        "normbench's own cells on `cifar10-jpeg`: ResNet-8 on 10,000 images, two epochs at batch"
        " 32, with batch norm and without a norm, seeds 1 to 3. Each has its own best learning"
        " rate, chosen with seed 0 by the loss on held-out training images"
        " (`data.val_fraction=0.1`), the"
        " grid grown until the best is inside; the test set took no part. The steps until the"
        f" training loss, averaged over {WINDOW} lines of the curve, reaches a level; {level:.2f}"
        " is what every seed without a norm comes down to. `none, γ=0` has no norm either, but"
        " every"
        " block starts at 0 (`norm=none model.zero_init=true`).",
        OPEN if gain is None else HOLDS if faster else NOT,
        f"To a loss of {level:.2f}, batch norm takes {fixed(gain, 0)} steps fewer than no norm"
        f" ({slow / fast:.1f} times as fast), each at its own best learning rate. Blocks that start"
        f" at 0 without any norm {control}.",
        [
            _grid(found),
            Table(
                "Steps to a training loss; ± is the 95 % interval, n = 3 seeds",
                [
                    *("norm", "rate", *(f"steps to {each:.2f}" for each in levels)),
                    *("last loss", "test accuracy, %"),
                ],
                _speed(found, levels),
            ),
        ],
        "Long training: these are the first 624 steps. Deeper networks; why it is faster; fewer"
        " steps are not less time.",
        "article-convergence.png",
    )


def measure_gap(seed: Seed, images: Images) -> dict[str, Any]:
    """The accuracy of a network on images that it was trained on, as it evaluates."""
    split = images.trained_on(seed)
    pixels, labels = next(evaluation_batches(split, len(split)))
    return {"train": accuracy(seed.network(), pixels, labels), "images": len(labels)}


def gaps(store: Any, images: Images, cells: Mapping[str, dict[int, Seed]]) -> dict[str, Any]:
    """Training accuracy, test accuracy and their gap, by cell and seed."""
    found: dict[str, Any] = {}
    for label, seeds in cells.items():
        found[label] = {}
        for n, seed in with_weights(seeds).items():
            train = store.measure(
                f"gap/{label}/seed-{n}",
                measure_gap,
                seed,
                images,
                weights=seed.digest,
                data=images.all.sha256,
            )["train"]
            test = seed.result.test_accuracy
            assert test is not None
            found[label][n] = {"train": train, "test": test, "gap": train - test}
    return found


def own_cells(found: dict[str, Any]) -> dict[str, dict[int, Seed]]:
    """The finished seeds of trained arms."""
    cells: dict[str, dict[int, Seed]] = {}
    for label, arm in found.items():
        seeds = {n: seed_at(each.folder) for n, each in arm["seeds"].items()}
        cells[label] = {n: seed for n, seed in seeds.items() if seed is not None}
    return cells


def in_runs(cells: Cells) -> dict[str, dict[int, Seed]]:
    """Cells by what tables call them, by batch and norm."""
    order = sorted(cells.items(), key=lambda kv: kv[0][::-1])
    return {f"{norm}, batch {batch}": seeds for (norm, batch), seeds in order}


def _column(found: dict[str, Any], label: str, key: str) -> dict[int, float]:
    return {n: each[key] for n, each in found.get(label, {}).items()}


def _gap_rows(found: dict[str, Any]) -> list[list[str]]:
    return [
        [
            label,
            str(len(seeds)),
            *(
                spread(list(_column(found, label, k).values()), 1, 100)
                for k in ("train", "test", "gap")
            ),
        ]
        for label, seeds in found.items()
        if seeds
    ]


def regularization(fitted: dict[str, Any], own: dict[str, Any], runs: dict[str, Any]) -> Finding:
    """Batch norm regularizing."""
    level = min(_epochs(each)[-1] for arm in fitted.values() for each in arm["curves"].values())
    equal = {
        label: {n: at_equal_fit(each, level) for n, each in arm["curves"].items()}
        for label, arm in fitted.items()
    }
    there = {
        label: {n: v for n, v in each.items() if v is not None} for label, each in equal.items()
    }
    gap = paired(_column(own, "none", "gap"), _column(own, "batch", "gap"))
    fit = paired(there["batch"], there["none"])
    noise = paired(_column(own, "batch", "gap"), _column(own, "batch, 4 share", "gap"))
    better = paired(_column(own, "batch, 4 share", "test"), _column(own, "batch", "test"))
    signs = [each is not None and each.above(0) for each in (gap, fit, noise)]
    verdict = OPEN if gap is None else HOLDS if all(signs[:2]) else PARTLY if any(signs) else NOT
    return Finding(
        "Batch norm regularizing",
        "Batch norm also regularizes.",
        "Where a network can overfit: ResNet-8 on 1,000 images of `cifar10-jpeg`, neither cropped"
        " nor mirrored, 20 epochs at batch 32, seeds 1 to 3, at the learning rates of the last"
        " claim: accuracy on those images, as the network evaluates, on the test set, and the gap."
        " Then the accuracy on held-out images at the epoch in which the training accuracy reaches"
        f" {100 * level:.0f} %, which every network does: the same fit (as training goes, in"
        " training mode). And batch norm whose"
        " statistics are shared by 4 images instead of 32 (`norm_batch=4`): if its noise"
        " regularizes, more noise should more. Then the gap of the long comparison, where nothing"
        " overfits.",
        verdict,
        f"Against no norm, batch norm takes {fixed(gap, 1, 100)} points off the gap (below 0: the"
        " gap is larger), because it fits the training images so much better; at the same fit it"
        f" has {fixed(fit, 1, 100)} points more on held-out images. What does regularize is the"
        f" noise of small statistics: it takes {fixed(noise, 1, 100)} points off the gap, by"
        " fitting less,"
        f" and adds {fixed(better, 1, 100)} to the test accuracy.",
        [
            Table(
                "1,000 images, in %; ± is the 95 % interval over n seeds",
                ["norm", "n", "training accuracy", "test accuracy", "gap"],
                _gap_rows(own),
            ),
            Table(
                f"Held-out accuracy at a training accuracy of {100 * level:.0f} %, in %",
                ["norm", "n", "accuracy"],
                [
                    [label, str(len(each)), spread(list(each.values()), 1, 100)]
                    for label, each in there.items()
                ],
            ),
            Table(
                "The networks of --runs: accuracy on 5,000 of their training images and the test"
                " set, in %",
                ["network", "n", "training accuracy", "test accuracy", "gap"],
                _gap_rows(runs),
            ),
        ],
        "Training to the end, with weight decay tuned for each; one learning rate a norm.",
    )


def _epochs(lines: Curve) -> list[float]:
    """The mean training accuracy of each epoch."""
    points, inside = [], []
    for line in lines:
        if "train/accuracy" in line:
            inside.append(line["train/accuracy"])
        if "eval/accuracy" in line:
            points.append(fmean(inside))
            inside = []
    return points
