"""Batch norm regularizing: what it does where a network can overfit."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean
from typing import Any

from claims.base import HOLDS, NOT, OPEN, PARTLY, Finding, Table, said, spread
from claims.learning import Curve, finished_curves
from claims.networks import Images, Seed, accuracy, with_weights
from normbench.data.batches import evaluation_batches
from normbench.report.compare.statistics import Estimate, paired

NOISY = "batch, 4 share"
"""The arm of batch norm whose statistics are those of fewer images."""


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


def _difference(found: dict[str, Any], first: str, second: str, key: str) -> Estimate | None:
    return paired(_column(found, first, key), _column(found, second, key))


def _says(found: Estimate | None, what: str, more: str, less: str) -> str:
    return said(
        found,
        f"{what} is {{}} points {more}",
        f"{what} is {{}} points {less}",
        f"{what} is not told from the other's ({{}} points)",
        1,
        100,
    )


def at_one_fit(fitted: dict[str, Any]) -> tuple[float, dict[str, dict[int, float]]]:
    """The training accuracy that every network reaches, and the held-out accuracy there."""
    curves = {label: finished_curves(arm) for label, arm in fitted.items()}
    last = [_epochs(each)[-1] for seeds in curves.values() for each in seeds.values()]
    level = min(last, default=1.0)
    there = {
        label: {n: at_equal_fit(each, level) for n, each in seeds.items()}
        for label, seeds in curves.items()
    }
    return level, {
        label: {n: value for n, value in seeds.items() if value is not None}
        for label, seeds in there.items()
    }


def decide(fit: Estimate | None, gap: Estimate | None, test: Estimate | None) -> str:
    """The verdict.

    The gap at the end decides nothing by itself: who fits the training images worse has a smaller
    one, regularized or not.

    Args:
        fit: held-out accuracy at the same training accuracy, batch norm minus no norm.
        gap: the gap with noisier statistics minus that with usual ones.
        test: the test accuracy with noisier statistics minus that with usual ones.
    """
    if fit is not None and fit.above(0):
        return HOLDS
    if gap is not None and gap.below(0) and test is not None and test.above(0):
        return PARTLY
    return NOT if fit is not None and fit.below(0) else OPEN


def _noise(own: dict[str, Any]) -> str:
    """What noisier statistics do, and whether that is regularizing."""
    gap, train, test = (_difference(own, NOISY, "batch", k) for k in ("gap", "train", "test"))
    text = (
        f"With the noise of statistics over 4 images instead of 32,"
        f" {_says(gap, 'the gap', 'larger', 'smaller')},"
        f" {_says(train, 'the training accuracy', 'higher', 'lower')} and"
        f" {_says(test, 'the test accuracy', 'higher', 'lower')}"
    )
    if gap is None or not gap.below(0):
        return text + "."
    if test is not None and test.above(0):
        return text + ": this noise regularizes."
    return text + ": that may be underfitting, which closes a gap too, and not regularizing."


def _tables(
    own: dict[str, Any], runs: dict[str, Any], level: float, there: dict[str, dict[int, float]]
) -> list[Table]:
    head = ["training accuracy", "test accuracy", "gap"]
    return [
        Table(
            "1,000 images, in %; ± is the 95 % interval over n seeds",
            ["norm", "n", *head],
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
            ["network", "n", *head],
            _gap_rows(runs),
        ),
    ]


def regularization(fitted: dict[str, Any], own: dict[str, Any], runs: dict[str, Any]) -> Finding:
    """Batch norm regularizing."""
    level, there = at_one_fit(fitted)
    fit = paired(there["batch"], there["none"])
    train, test, gap = (_difference(own, "batch", "none", k) for k in ("train", "test", "gap"))
    higher = ("higher", "lower")
    noisy = [_difference(own, NOISY, "batch", key) for key in ("gap", "test")]
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
        " regularizes, more noise should more. Then, to compare, the gap of the long comparison,"
        " whose images are many, cropped and mirrored. What counts as regularizing is a higher"
        " accuracy on held-out images at the same fit, or a smaller gap together with a higher test"
        " accuracy; a gap alone is smaller also where less is learned.",
        decide(fit, *noisy),
        f"Next to no norm, with batch norm {_says(train, 'the training accuracy', *higher)},"
        f" {_says(test, 'the test accuracy', *higher)} and"
        f" {_says(gap, 'the gap', 'larger', 'smaller')}: how much of that is a better fit, the gap"
        " does not tell. At the same fit,"
        f" {_says(fit, 'its accuracy on held-out images', *higher)}. {_noise(own)}",
        _tables(own, runs, level, there),
        "Training to the end, with weight decay tuned for each; one learning rate a norm.",
    )
