"""Claims that take the long comparison: small batches, layer norm, robustness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
from claims.networks import Cells, Images, Seed, accuracy, with_weights

COMMAND = "normbench sweep experiment=naive data=images data.name={data}"
NORMS = ("batch", "group", "layer", "instance")
BATCHES = (2, 4, 8, 32, 128)
SEEDS = 3
SMALL, USUAL = 2, 32


def scores(cells: Cells, norm: str, batch: int) -> dict[int, float]:
    """The test accuracy of each seed."""
    found = {}
    for n, seed in cells.get((norm, batch), {}).items():
        assert seed.result.test_accuracy is not None
        found[n] = seed.result.test_accuracy
    return found


def fall(cells: Cells, norm: str) -> dict[int, float]:
    """What each seed loses from a batch of 32 to one of 2."""
    small, usual = scores(cells, norm, SMALL), scores(cells, norm, USUAL)
    return {n: usual[n] - small[n] for n in sorted(small.keys() & usual.keys())}


def missing(cells: Cells) -> list[str]:
    """The cells of the comparison that have fewer seeds than planned, by norm."""
    found = []
    for norm in NORMS:
        there = {batch: len(cells.get((norm, batch), {})) for batch in BATCHES}
        lacking = [
            f"{batch}" + (f" ({count} of {SEEDS} seeds)" if count else "")
            for batch, count in there.items()
            if count < SEEDS
        ]
        if lacking:
            found.append(f"{norm} at {', '.join(lacking)}")
    return found


def comparison(cells: Cells) -> Table:
    """Accuracy by norm and batch."""
    rows = []
    for norm in NORMS:
        row = [norm]
        for batch in BATCHES:
            values = list(scores(cells, norm, batch).values())
            few = f" (n = {len(values)})" if 0 < len(values) < SEEDS else ""
            row.append(spread(values, 1, 100) + few)
        lost = fall(cells, norm)
        rows.append([*row, fixed(paired(lost, dict.fromkeys(lost, 0.0)), 1, 100)])
    head = ["norm", *(f"batch {b}" for b in BATCHES), "loss from 32 to 2"]
    title = (
        "Test accuracy in % after three epochs; ± is the 95 % interval over n = 3 seeds where not"
        " said; the loss is paired by seed"
    )
    return Table(title, head, rows)


def _how(data: str, cells: Cells) -> str:
    lacking = missing(cells)
    still = f" **Not there yet**: {'; '.join(lacking)}." if lacking else ""
    return (
        f"`{COMMAND.format(data=data)}`: ResNet-8 on all 50,000 images, three epochs, learning rate"
        f" 0.1·batch/32, the optimizer's batch is the norm's. Score: the test set after the last"
        f" step.{still}"
    )


def _unless_open(*needed: Estimate | None) -> bool:
    return any(each is None or each.half is None for each in needed)


def small_batches(cells: Cells, data: str) -> Finding:
    """Group norm with small batches."""
    less = paired(fall(cells, "batch"), fall(cells, "group"))
    ahead = paired(scores(cells, "group", SMALL), scores(cells, "batch", SMALL))
    own = paired(fall(cells, "group"), dict.fromkeys(fall(cells, "group"), 0.0))
    if _unless_open(less, ahead):
        verdict, why = OPEN, "The cells at 32 and 2 are not complete. "
    else:
        assert less is not None
        assert ahead is not None
        verdict = (HOLDS if ahead.above(0) else PARTLY) if less.above(0) else NOT
        why = (
            f"From a batch of 32 to one of 2, group norm loses {fixed(own, 1, 100)} points (below"
            f" 0: gains) and batch norm {fixed(less, 1, 100)} more. "
        )
    if ahead is not None:
        side = "ahead of" if ahead.above(0) else "behind" if ahead.below(0) else "level with"
        why += f"At 2 it is {side} batch norm ({fixed(ahead, 1, 100)} points)."
        if not ahead.above(0):
            why += (
                " Depending less on the batch is not being better at a small one, not after three"
                " epochs; in the public runs of 100 epochs (ResNet-20, CIFAR-10,"
                " github.com/BeFranke/GroupNorm) group norm leads there by 5."
            )
    return Finding(
        "Small batches and batches of different sizes",
        "GroupNorm depends less on the batch size, so it is more stable when training with small"
        " batches or with batches of different sizes.",
        _how(data, cells),
        verdict,
        why,
        [comparison(cells)],
        "Training with batches of *different* sizes: there is no such cell. That group norm's"
        " output does not change with them holds by the claim before. Longer training and other"
        " learning rates: group norm learns slower, and three epochs at a small batch are more"
        " steps, so that what it gains from 32 to 2 may be progress. Stability in the sense of the"
        " spread over seeds, for which three are too few.",
    )


def layer_norm(cells: Cells, data: str) -> Finding:
    """Layer norm with small batches."""
    ahead = paired(scores(cells, "layer", SMALL), scores(cells, "batch", SMALL))
    less = paired(fall(cells, "batch"), fall(cells, "layer"))
    group = paired(scores(cells, "layer", SMALL), scores(cells, "group", SMALL))
    if ahead is None or ahead.half is None:
        verdict = OPEN
    elif ahead.above(0):
        verdict = HOLDS
    elif less is None or less.half is None:
        verdict = OPEN
    else:
        verdict = PARTLY if less.above(0) else NOT
    flat = (
        f"From 32 to 2, batch norm loses {fixed(less, 1, 100)} points more than layer norm."
        if less is not None
        else "What it loses from 32 to 2 is not known yet."
    )
    return Finding(
        "Layer norm for small batches",
        "Layer norm is better suited than batch norm to small batches.",
        _how(data, cells) + " Its table stands with the claim on group norm and small batches.",
        verdict,
        f"At a batch of 2, layer norm minus batch norm is {fixed(ahead, 1, 100)} points, and layer"
        f" norm minus group norm {fixed(group, 1, 100)}. {flat}",
        [],
        "Text, for which the article recommends it; longer training.",
    )


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


def kept(found: Mapping[str, float]) -> float:
    """The share of the clean accuracy that is left, averaged over the changes."""
    return fmean(found[name] for name in CHANGES) / found["clean"]


def robustness(own: dict[str, Any], runs: dict[str, Any]) -> Finding:
    """Batch norm and robustness."""
    rows = []
    for label, seeds in {**own, **runs}.items():
        if not seeds:
            continue
        every = list(seeds.values())
        rows.append(
            [
                label,
                str(len(every)),
                spread([each["clean"] for each in every], 1, 100),
                *(
                    spread([each[name] - each["clean"] for each in every], 1, 100)
                    for name in CHANGES
                ),
                spread([kept(each) for each in every], 3),
            ]
        )
    sides = [{n: kept(each) for n, each in seeds.items()} for seeds in own.values()]
    better = paired(*sides[:2])
    ranked = {label: fmean(map(kept, seeds.values())) for label, seeds in runs.items() if seeds}
    least = min(ranked, key=lambda label: ranked[label], default="")
    known = better is not None and better.half is not None
    worst = least.startswith("batch,") and len(ranked) > 1
    gains = better is not None and better.above(0)
    verdict = (PARTLY if worst else HOLDS) if gains else NOT if known and worst else OPEN
    order = sorted(ranked, key=lambda label: ranked[label])
    shares = "; ".join(f"{label}: {ranked[label]:.2f}" for label in order)
    said = f" Of the networks of --runs, batch norm's keep the least ({shares})." if worst else ""
    return Finding(
        "Batch norm and robustness",
        "Batch norm makes the model less dependent on its input data and more robust.",
        "2,000 test images of all classes, as they are and with half the contrast, brighter (+40 of"
        " 255), with Gaussian noise (deviation 20) and blurred (3×3); networks as they evaluate:"
        " normbench's own cells with batch norm and without a norm (10,000 images, two epochs, each"
        " at its best learning rate), and the networks of --runs. `kept` is the changed images'"
        " accuracy over the clean images'.",
        verdict,
        f"The share of accuracy that batch norm keeps is {fixed(better, 3)} above that of no norm"
        f" (below 0: under it), at different clean accuracies.{said} A norm that looks at one image"
        " takes its contrast out; batch norm's running averages do not. `Less dependent on its"
        " input data` can mean many things; in the plainest sense it"
        " is the other way round: in training, batch norm is the only one of these norms whose"
        " output depends on images other than the one it is given.",
        [
            Table(
                "Accuracy on clean images in %, and its change in points; ± is the 95 % interval"
                " over n seeds",
                ["network", "n", "clean", *CHANGES, "kept"],
                rows,
            )
        ],
        "Other changes, other strengths, adversarial ones; networks trained to the end. Networks of"
        " lower accuracy have less to lose; batch norm's are the best on clean images.",
    )


def looked_into(cells: Cells) -> Cells:
    """The cells whose networks are looked into: those at a batch of 2 and of 32."""
    return {key: seeds for key, seeds in cells.items() if key[1] in (SMALL, USUAL)}
