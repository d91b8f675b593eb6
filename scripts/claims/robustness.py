"""Batch norm and robustness: what is left of the accuracy on changed images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from claims.base import Finding, Table, fixed, judged, said, spread
from claims.networks import Images, Seed, accuracy, with_weights
from claims.runs import BATCHES, NORMS
from normbench.report.compare.statistics import paired

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


def robust(
    store: Any, images: Images, cells: Mapping[str, dict[int, Seed]]
) -> dict[str, dict[int, dict[str, float]]]:
    """:func:`measure_robustness` by cell and seed."""
    return {
        label: {
            n: store.measure(
                f"robustness/{label}/seed-{n}",
                measure_robustness,
                seed,
                images,
                weights=seed.digest,
                data=images.all.sha256,
            )
            for n, seed in with_weights(seeds).items()
        }
        for label, seeds in cells.items()
    }


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
        if not every:
            continue
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


def _beside(runs: Found) -> str:
    """What batch norm's networks of --runs keep next to those of other norms, batch by batch."""
    found = []
    for batch in BATCHES:
        own = _by_seed(runs, f"batch, batch {batch}", kept)
        for norm in NORMS[1:]:
            more = paired(own, _by_seed(runs, f"{norm}, batch {batch}", kept))
            if more is not None:
                found.append(f"{norm} norm at a batch of {batch}: {fixed(more, 2)}")
    if not found:
        return ""
    return (
        " Between norms, of which the claim says nothing, what batch norm's networks of --runs keep"
        f" minus what others keep is: {'; '.join(found)}."
    )


def robustness(own: Found, runs: Found) -> Finding:
    """Batch norm and robustness."""
    sides = ("own, batch", "own, none")
    share, right, clean = (
        paired(*(_by_seed(own, label, what) for label in sides))
        for what in (kept, changed, lambda found: found["clean"])
    )
    keeps = said(
        share,
        "Batch norm's networks keep a share that is larger by {} than that of those without a norm",
        "Batch norm's networks keep a share that is smaller by {} than that of those without a"
        " norm",
        "The share that batch norm's networks keep is not told from that of those without a norm"
        " ({})",
        3,
    )
    names = said(
        right,
        "they name {} points more of the changed images",
        "they name {} points fewer of the changed images",
        "the accuracy on the changed images is not told from theirs ({} points)",
        1,
        100,
    )
    return Finding(
        "Batch norm and robustness",
        "Batch norm makes the model less dependent on its input data and more robust.",
        "2,000 test images of all classes, as they are and with half the contrast, brighter (+40 of"
        " 255), with Gaussian noise (deviation 20) and blurred (3×3); networks as they evaluate:"
        " normbench's own cells with batch norm and without a norm (10,000 images, two epochs, each"
        " at its best learning rate), and the networks of --runs. `kept` is the accuracy on changed"
        f" images over that on clean ones, both counted above the {100 * CHANCE:.0f} % of chance,"
        " which a network that learned nothing keeps too. The verdict is that of the interval of"
        " the difference between batch norm and no norm.",
        judged(share),
        f"{keeps}; {names}, and the clean accuracies differ by {fixed(clean, 1, 100)} points."
        f"{_beside(runs)} A norm that looks at one image takes its contrast out; batch norm's"
        " running averages do not. `Less dependent on its input data` can mean many things; in the"
        " plainest sense it is the other way round: in training, batch norm is the only one of"
        " these norms whose output depends on images other than the one it is given.",
        [
            Table(
                "Accuracy on clean images in %, and its change in points; ± is the 95 % interval"
                " over n seeds",
                ["network", "n", "clean", *CHANGES, "kept"],
                _rows({**own, **runs}),
            )
        ],
        "Other changes, other strengths, adversarial ones; networks trained to the end. Networks of"
        " lower accuracy have less to lose, and a share does not take all of that out.",
    )
