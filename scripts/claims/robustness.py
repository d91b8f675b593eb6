"""Batch norm and robustness: what is left of the accuracy on changed images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from claims.base import Finding, Store, Table, judged, said, spread
from claims.networks import Cells, Images, Seed, accuracy, called, measured
from claims.runs import SMALL, USUAL, labelled
from claims.training import Outcome
from normbench.report.compare.statistics import Estimate, welch

CHANCE = 0.1
"""The accuracy of guessing one of ten classes that are equally frequent."""

Found = Mapping[str, Mapping[int, Mapping[str, float]]]
"""What :func:`measure_robustness` says, by network and seed."""


def contrast(x: Tensor) -> Tensor:
    """Half the contrast, around each image's mean."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + 0.5 * (x - mean)


def noise(x: Tensor) -> Tensor:
    """Gaussian noise of deviation 20 of 255."""
    generator = torch.Generator().manual_seed(0)
    return x + 20 * torch.randn(x.shape, generator=generator)


def blur(x: Tensor) -> Tensor:
    """The mean of 3×3 pixels."""
    padded = F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(padded, 3, 1).permute(0, 2, 3, 1)


CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "contrast × 0.5": contrast,
    "brightness + 40": lambda x: x + 40,
    "noise": noise,
    "blur": blur,
}


def measure_robustness(seed: Seed, images: Images, count: int = 2000) -> dict[str, float]:
    """The accuracy on test images as they are and changed (pixels of 0..255, clamped)."""
    chosen = images.test.shuffled(count)
    network = seed.network()
    found = {}
    for name, change in {"clean": lambda x: x, **CHANGES}.items():
        pixels = change(chosen.pixels.float()).clamp(0, 255)
        ready = chosen.normalized(pixels, torch.float32).permute(0, 3, 1, 2)
        found[name] = accuracy(network, ready, chosen.labels)
    return found


def changed(found: Mapping[str, float]) -> float:
    """The accuracy on changed images, averaged over the changes."""
    return fmean(found[name] for name in CHANGES)


def kept(found: Mapping[str, float]) -> float:
    """The share that is left of the clean accuracy above chance, averaged over the changes.

    Above chance, because a network that guesses keeps all of its accuracy.
    """
    above = found["clean"] - CHANCE
    return (changed(found) - CHANCE) / above if above > 0 else nan


def _by_seed(
    found: Found, label: str, what: Callable[[Mapping[str, float]], float]
) -> dict[int, float]:
    return {n: what(each) for n, each in found.get(label, {}).items()}


def _rows(found: Found) -> list[list[str]]:
    rows = []
    for label, seeds in found.items():
        every = list(seeds.values())
        changes = ([each[name] - each["clean"] for each in every] for name in CHANGES)
        rows.append(
            [
                *(label, str(len(every))),
                spread([each["clean"] for each in every], 1, 100),
                *(spread(values, 1, 100) for values in changes),
                spread([kept(each) for each in every], 3),
            ]
        )
    return rows


def robustness(store: Store, images: Images, many: Mapping[str, Outcome], cells: Cells) -> Finding:
    """Batch norm and robustness."""
    networks = {f"own, {label}": arm.finished for label, arm in many.items()}
    return finding(
        measured(store, "robustness", measure_robustness, {**networks, **labelled(cells)}, images)
    )


def finding(found: Found) -> Finding:
    """Batch norm and robustness, from what was measured."""

    def apart(
        first: str, second: str, what: Callable[[Mapping[str, float]], float]
    ) -> Estimate | None:
        return welch(_by_seed(found, first, what), _by_seed(found, second, what))

    share, right = (apart("own, batch", "own, none", what) for what in (kept, changed))
    beside = [
        f"batch size {batch}: {said(found_, 'more', 'less', '', 2, 1)}"
        for batch in (SMALL, USUAL)
        if (found_ := apart(called("batch", batch), called("group", batch), kept))
    ]
    others = f" Against group norm in the long comparison: {'; '.join(beside)}." if beside else ""
    return Finding(
        "Batch norm and robustness",
        "Batch norm makes the model less dependent on its input data and more robust.",
        "2,000 test images, as they are and changed: half the contrast, brighter (+40 of 255),"
        " Gaussian noise (deviation 20), blurred (3×3). Evaluation mode; the networks of the claim"
        " on convergence, and the long comparison. `kept`: accuracy on changed images over that on"
        f" clean ones, both above the {100 * CHANCE:.0f} % of chance. The verdict is that of"
        " `kept`,"
        " batch norm minus no norm.",
        judged(share),
        f"The share of its accuracy that batch norm keeps on changed images, against no norm:"
        f" {said(share, 'more', 'less', '', 2, 1)}; its accuracy on changed images:"
        f" {said(right, 'higher', 'lower')}.{others} In training, batch norm is the one of these"
        " norms whose output depends on other images.",
        [
            Table(
                "Accuracy on clean images in %, and its change in points",
                ["network", "n", "clean", *CHANGES, "kept"],
                _rows(found),
            )
        ],
        "Other changes and strengths, adversarial ones. A network of lower accuracy has less to"
        " lose.",
    )
