"""Batch norm speeding up convergence; and what of trained arms the other claims use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite, nan
from statistics import fmean
from typing import Any

from claims.base import Finding, Table, judged, said, spread
from claims.networks import Cells, Seed, seed_at
from claims.training import Arm, Trainer, curve
from normbench.report.compare.statistics import Estimate, paired
from normbench.store.results import FINISHED, Result

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


def finished_curves(arm: Mapping[str, Any]) -> dict[int, Curve]:
    """The curves of an arm's seeds that came to a good end."""
    seeds = arm["seeds"]
    return {n: each for n, each in arm["curves"].items() if seeds[n].result.status == FINISHED}


def lost_seeds(found: Mapping[str, Any], labels: Sequence[str]) -> dict[str, dict[int, Result]]:
    """The seeds of some arms that diverged or failed."""
    return {
        f"own, {label}": {
            n: each.result
            for n, each in found[label]["seeds"].items()
            if each.result.status != FINISHED
        }
        for label in labels
    }


def _reached(steps: Sequence[float]) -> str:
    there = [each for each in steps if each < inf]
    if len(there) == len(steps):
        return spread(steps, 0)
    return f"{len(there)} of {len(steps)} seeds" if there else "never"


def _speed(found: dict[str, Any], levels: Sequence[float]) -> list[list[str]]:
    rows = []
    for label, arm in found.items():
        curves = list(finished_curves(arm).values())
        last = [smooth(each)[-1][1] for each in curves if smooth(each)]
        results = [seed.result for seed in arm["seeds"].values()]
        score = [r.test_accuracy for r in results if r.test_accuracy is not None]
        rows.append(
            [
                label,
                f"{arm['rate']:g}",
                str(len(curves)),
                *(_reached([steps_to(each, level) for each in curves]) for level in levels),
                spread(last),
                spread(score, 1, 100),
            ]
        )
    return rows


def _steps(found: dict[str, Any], arm: str, level: float) -> dict[int, float]:
    return {n: steps_to(each, level) for n, each in finished_curves(found[arm]).items()}


def saved(found: dict[str, Any], level: float, slow: str, fast: str) -> Estimate | None:
    """How many steps fewer ``fast`` takes than ``slow`` to a loss, paired by seed."""
    slower, faster = (_steps(found, arm, level) for arm in (slow, fast))
    if inf in [*slower.values(), *faster.values()]:
        return None
    return paired(slower, faster)


def final_level(found: dict[str, Any], label: str) -> float:
    """The smoothed loss that every seed of an arm comes down to; NaN where there is none."""
    curves = finished_curves(found[label]).values()
    return max((min(loss for _, loss in smooth(each)) for each in curves), default=nan)


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


def _gain(found: dict[str, Any], level: float) -> str:
    """Batch norm's steps to a loss next to those of no norm."""
    gain = saved(found, level, "none", "batch")
    if gain is None:
        return f"Not every seed comes down to a loss of {level:.2f}"
    slow, fast = (fmean(_steps(found, arm, level).values()) for arm in ("none", "batch"))
    return f"To a loss of {level:.2f}, " + said(
        gain,
        f"batch norm takes {{}} steps fewer than no norm (on average {fast:.0f}, not {slow:.0f})",
        f"batch norm takes {{}} steps more than no norm (on average {fast:.0f}, not {slow:.0f})",
        "the steps that batch norm takes are not told from those of no norm ({} fewer)",
        0,
    )


def _control(found: dict[str, Any], level: float) -> str:
    """The steps of blocks that start at 0 without a norm."""
    there = list(_steps(found, "none, γ=0", level).values())
    reached = sum(each < inf for each in there)
    if reached < len(there):
        return (
            f"Of blocks that start at 0 without any norm, {reached} of {len(there)} seeds come down"
            " to it within the 624 steps."
        )
    return " ".join(
        said(
            saved(found, level, slow, fast),
            f"{what} {{}} steps fewer than {than}.",
            f"{what} {{}} steps more than {than}.",
            f"{what} a number of steps that is not told from that of {than} ({{}} fewer).",
            0,
        )
        for slow, fast, what, than in (
            ("none", "none, γ=0", "Blocks that start at 0 without any norm take", "no norm"),
            ("none, γ=0", "batch", "Batch norm takes", "such blocks"),
        )
    )


def convergence(found: dict[str, Any]) -> Finding:
    """Batch norm speeding up convergence."""
    level = final_level(found, "none")
    levels = (2.1, 1.9, level)
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
        judged(saved(found, level, "none", "batch")),
        f"{_gain(found, level)}, each at its own best learning rate. {_control(found, level)}",
        [
            _grid(found),
            Table(
                "Steps to a training loss; ± is the 95 % interval over n seeds",
                [
                    *("norm", "rate", "n", *(f"steps to {each:.2f}" for each in levels)),
                    *("last loss", "test accuracy, %"),
                ],
                _speed(found, levels),
            ),
        ],
        "Long training: these are the first 624 steps. Deeper networks; why it is faster; fewer"
        " steps are not less time.",
        "article-convergence.png",
    )


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
