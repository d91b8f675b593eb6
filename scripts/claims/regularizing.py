"""Batch norm regularizing: its accuracy on new images where it fits the old ones equally well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from claims.base import HOLDS, NOT, OPEN, PARTLY, Finding, Store, Table, said, spread
from claims.networks import Cells, Images, Seed, Seeds, accuracy, called, measured
from claims.runs import USUAL, labelled
from claims.training import LENGTHS, Outcome
from normbench.data.batches import evaluation_batches
from normbench.report.compare.statistics import Estimate, welch

Gaps = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Training accuracy, test accuracy and their difference, by cell and seed."""

NAMES = {"train": "training accuracy", "test": "test accuracy", "gap": "gap"}
"""What a gap is made of, in words."""


def measure_train(seed: Seed, images: Images) -> dict[str, Any]:
    """The accuracy of a network on images that it was trained on, in evaluation mode."""
    split = images.trained_on(seed)
    pixels, labels = next(evaluation_batches(split, len(split)))
    return {"train": accuracy(seed.network(), pixels, labels), "images": len(labels)}


def gaps(store: Store, images: Images, cells: Mapping[str, Seeds]) -> Gaps:
    """Of every network whose weights are there."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for label, seeds in measured(store, "train", measure_train, cells, images).items():
        for n, each in seeds.items():
            train, test = each["train"], cells[label][n].accuracy
            found.setdefault(label, {})[n] = {"train": train, "test": test, "gap": train - test}
    return found


def column(found: Gaps, label: str, key: str) -> dict[int, float]:
    """One number of each seed of a cell."""
    return {n: each[key] for n, each in found.get(label, {}).items()}


def score_at(points: Sequence[Mapping[str, float]], level: float) -> float | None:
    """The test accuracy at a training accuracy, between two lengths of training.

    None where the lengths do not enclose it.
    """
    for before, after in pairwise(points):
        if before["train"] <= level <= after["train"] and before["train"] < after["train"]:
            share = (level - before["train"]) / (after["train"] - before["train"])
            return before["test"] + share * (after["test"] - before["test"])
    return None


def at_one_fit(own: Gaps) -> tuple[float, dict[str, dict[int, float]]]:
    """The training accuracy that every seed reaches, and the test accuracy there by norm."""
    points: dict[str, dict[int, list[Mapping[str, float]]]] = {norm: {} for norm in LENGTHS}
    for norm, lengths in LENGTHS.items():
        for epochs in lengths:
            for n, each in own.get(f"{norm}, {epochs} epochs", {}).items():
                points[norm].setdefault(n, []).append(each)
    best = [max(p["train"] for p in each) for seeds in points.values() for each in seeds.values()]
    level = min(best, default=1.0)
    there: dict[str, dict[int, float]] = {}
    for norm, seeds in points.items():
        tests = {n: score_at(each, level) for n, each in seeds.items()}
        there[norm] = {n: test for n, test in tests.items() if test is not None}
    return level, there


def decide(fit: Estimate | None, gap: Estimate | None, test: Estimate | None) -> str:
    """The verdict.

    A smaller gap alone decides nothing: who fits the training images worse has one too.

    Args:
        fit: test accuracy at the same training accuracy, batch norm minus no norm.
        gap: in the long comparison, batch norm's gap minus group norm's.
        test: the same of the test accuracy.
    """
    if fit is not None and fit.above(0):
        return HOLDS
    if gap is not None and gap.below(0) and test is not None and test.above(0):
        return PARTLY
    return NOT if fit is not None and fit.below(0) else OPEN


def _table(title: str, found: Gaps) -> Table:
    rows = [
        [label, str(len(seeds))]
        + [spread(list(column(found, label, key).values()), 1, 100) for key in NAMES]
        for label, seeds in found.items()
    ]
    return Table(title, ["network", "n", *NAMES.values()], rows)


def _long(apart: Mapping[str, Estimate | None]) -> str:
    """Batch norm against group norm in the long comparison."""
    if apart["gap"] is None:
        return ""
    words = (f"{what} {said(apart[key], 'higher', 'lower')}" for key, what in NAMES.items())
    return f" In the long comparison, against group norm: {', '.join(words)}."


def regularization(
    store: Store, images: Images, few: Mapping[str, Outcome], cells: Cells
) -> Finding:
    """Batch norm regularizing."""
    own = gaps(store, images, {label: arm.finished for label, arm in few.items()})
    runs = gaps(store, images, labelled(cells))
    level, there = at_one_fit(own)
    fit = welch(there["batch"], there["none"])
    long = {
        key: welch(*(column(runs, called(norm, USUAL), key) for norm in ("batch", "group")))
        for key in NAMES
    }
    at_fit = [
        [norm, str(len(each)), spread(list(each.values()), 1, 100)] for norm, each in there.items()
    ]
    return Finding(
        "Batch norm regularizing",
        "Batch norm also regularizes.",
        "All accuracies in evaluation mode. First, where a network can overfit: ResNet-8 on 1,000"
        " images, neither cropped nor mirrored, batch size 32, seeds 1 to 3, trained for several"
        " numbers of epochs, each a training of its own; learning rates of the last claim. The test"
        " accuracy at one training accuracy lies on the straight line between the two numbers of"
        " epochs around it. Second, the long comparison on 5,000 of its training images. It"
        " regularizes if the test accuracy is higher at the same training accuracy. In part: if"
        f" in the long comparison, at batch size {USUAL}, the gap is smaller and the test accuracy"
        " higher than group norm's.",
        decide(fit, long["gap"], long["test"]),
        f"At the same training accuracy of {100 * level:.0f} %, batch norm's test accuracy against"
        f" that without a norm: {said(fit, 'higher', 'lower')}.{_long(long)}",
        [
            Table(
                f"Test accuracy in % at a training accuracy of {100 * level:.0f} %",
                ["norm", "n", "test accuracy"],
                at_fit,
            ),
            _table("1,000 training images, in %", own),
            _table("Long comparison, in %", runs),
        ],
        "Tuned weight decay; other networks.",
    )
