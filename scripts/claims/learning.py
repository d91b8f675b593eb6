"""Batch norm speeding up convergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite, nan
from statistics import fmean

from claims.base import Finding, Table, judged, said, spread
from claims.networks import Cells, Seeds, accuracies
from claims.runs import BATCHES, PLANNED
from claims.training import Outcome
from normbench.report.compare.statistics import Estimate, welch

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


def final_level(seeds: Seeds) -> float:
    """The smoothed loss that every seed comes down to; NaN where there is none."""
    curves = [smooth(seed.curve) for seed in seeds.values()]
    return max((min(loss for _, loss in each) for each in curves if each), default=nan)


def all_steps(seeds: Seeds, level: float) -> dict[int, float]:
    """:func:`steps_to` of each seed."""
    return {n: steps_to(seed.curve, level) for n, seed in seeds.items()}


def saved(slow: Seeds, fast: Seeds, level: float) -> Estimate | None:
    """How many steps fewer ``fast`` takes than ``slow`` to a loss, where all come down to it."""
    slower, faster = all_steps(slow, level), all_steps(fast, level)
    if inf in [*slower.values(), *faster.values()]:
        return None
    return welch(slower, faster)


def _reached(steps: Sequence[float]) -> str:
    there = [each for each in steps if each < inf]
    if len(there) == len(steps):
        return spread(steps, 0)
    return f"{len(there)} of {len(steps)} seeds" if there else "never"


def _own_table(found: Mapping[str, Outcome], levels: Sequence[float]) -> Table:
    rows = []
    for label, arm in found.items():
        seeds = arm.finished
        tried = "; ".join(
            f"{rate:g}: {f'{loss:.3f}' if isfinite(loss) else 'diverged'}"
            for rate, loss in sorted(arm.tried.items())
        )
        steps = (_reached(list(all_steps(seeds, level).values())) for level in levels)
        score = spread(list(accuracies(seeds).values()), 1, 100)
        rows.append([label, tried, f"{arm.rate:g}", str(len(seeds)), *steps, score])
    head = ["norm", "held-out loss by learning rate", "chosen", "n"]
    head += [*(f"steps to {level:.2f}" for level in levels), "test accuracy, %"]
    return Table("Steps to a training loss", head, rows)


def _runs_table(cells: Cells) -> Table:
    """Group norm in the place of no norm, in the long comparison."""
    rows = []
    for batch in BATCHES:
        seeds = {norm: cells.get((norm, batch), {}) for norm in PLANNED}
        if not all(seeds.values()):
            continue
        level = max(final_level(each) for each in seeds.values())
        less = saved(seeds["group"], seeds["batch"], level)
        steps = (_reached(list(all_steps(seeds[norm], level).values())) for norm in PLANNED)
        fewer = said(less, "fewer", "more", " steps", 0, 1)
        rows.append([str(batch), f"{level:.2f}", *steps, fewer])
    title = "Long comparison: steps to the loss that every seed of both norms comes down to"
    return Table(title, ["batch size", "loss", *PLANNED, "batch norm against group norm"], rows)


def convergence(found: Mapping[str, Outcome], cells: Cells) -> Finding:
    """Batch norm speeding up convergence."""
    batch, none = found["batch"].finished, found["none"].finished
    level = final_level(none)
    gain = saved(none, batch, level)
    mean = {
        norm: f"{fmean(all_steps(each, level).values()):.0f}" if each else "-"
        for norm, each in (("batch", batch), ("none", none))
    }
    return Finding(
        "Batch norm speeding up convergence",
        "Batch norm makes training converge faster.",
        "ResNet-8 on 10,000 images, two epochs at batch size 32, seeds 1 to 3. Each norm has its"
        " own learning rate, chosen with seed 0 on held-out training images; the range was extended"
        f" until the best was inside. Steps until the training loss, averaged over {WINDOW} lines"
        f" of the curve, is {level:.2f}: every seed without a norm comes down to that. The long"
        " comparison has no network without a norm; there batch norm is next to group norm, which"
        " decides nothing.",
        judged(gain),
        f"Steps to a training loss of {level:.2f}, batch norm against no norm:"
        f" {said(gain, 'fewer', 'more', '', 0, 1)} ({mean['batch']} on average, not"
        f" {mean['none']}).",
        [_own_table(found, (2.1, 1.9, level)), _runs_table(cells)],
        "Longer training and deeper networks without a norm; why it is faster.",
        "article-convergence.png",
    )
