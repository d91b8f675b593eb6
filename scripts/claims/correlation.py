"""Whether group norm reduces the correlation between features.

Two kinds of correlation of two channels are told apart. *Within an image*: over the positions of
one image. *Pooled*: over the positions of all images, which also counts what the channels of an
image share as a whole, its brightness or contrast. A norm that maps every value of an image and a
channel by one rising straight line cannot change the first kind; all norms here do, before γ and β.
"""

from __future__ import annotations

from math import inf
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from claims.base import NOT, OPEN, PARTLY, Finding, Table, fixed, number, said
from claims.layers import layer
from claims.networks import Cells, Images, Seed, norm_inputs, slots
from normbench.report.compare.statistics import Estimate, paired

NORMS_APPLIED = ("batch", "group", "layer", "instance")
COUNT = 500
KINDS = ("all", "within", "between", "image")


def correlation(x: Tensor) -> Tensor:
    """The correlations [C, C] of the channels of [N, C, ...], pooled over images and positions."""
    return torch.corrcoef(x.double().transpose(0, 1).flatten(1))


def correlation_within_images(x: Tensor) -> Tensor:
    """The correlations [N, C, C] of the channels of [N, C, ...] over each image's positions.

    NaN where a channel is constant.
    """
    flat = x.double().flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    size = flat.square().sum(2, keepdim=True).sqrt()
    constant = size <= 1e-9 * x.double().abs().amax()
    flat = torch.where(constant, float("nan"), flat / size)
    return flat @ flat.mT


def mean_off_diagonal(found: Tensor, groups: int) -> dict[str, float]:
    """Means of |r| over the pairs of different channels: of all, within and between groups.

    Args:
        found: [..., C, C].
        groups: G, of C/G neighbouring channels.
    """
    c = found.shape[-1]
    group = torch.arange(c) // (c // groups)
    same, other = group[:, None] == group, ~torch.eye(c, dtype=torch.bool)

    def mean(pairs: Tensor) -> float:
        return float(found[..., pairs].abs().nanmean())

    return {"all": mean(other), "within": mean(same & other), "between": mean(~same)}


def look(x: Tensor, y: Tensor, groups: int) -> dict[str, Any]:
    """The correlations before and after a norm, and how far those within images moved."""
    before, after = correlation_within_images(x), correlation_within_images(y)
    known = ~(before.isnan() | after.isnan())
    moved = (after.abs() - before.abs())[known].abs().max()  # a γ below 0 turns the sign
    found: dict[str, Any] = {"moved": float(moved)}
    for when, z, inside in (("before", x, before), ("after", y, after)):
        found[when] = mean_off_diagonal(correlation(z), groups)
        found[when]["image"] = mean_off_diagonal(inside, groups)["all"]
    return found


def average(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the layers of a network."""
    found: dict[str, Any] = {"moved": max(each["moved"] for each in layers)}
    for when in ("before", "after"):
        found[when] = {kind: fmean(each[when][kind] for each in layers) for kind in KINDS}
    return found


def usable(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """In float64, without the channels that are the same everywhere and have no correlation."""
    found = {}
    for name, x in inputs.items():
        assert float(x.var((0, 2, 3)).min()) > 0, f"a dead channel before {name}"
        found[name] = x.double()
    return found


@torch.no_grad()
def measure_applied(seed: Seed, images: Images) -> dict[str, Any]:
    """What each norm does to the same activations, those of one network, averaged over layers."""
    inputs = usable(norm_inputs(seed.network(), images.some(COUNT)[0]))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in NORMS_APPLIED}
    for x in inputs.values():
        c = x.shape[1]
        for name in NORMS_APPLIED:
            norm = layer(name, c, eps=1e-12)
            found[name].append(look(x, norm(x), c // 2))
    return {name: average(layers) for name, layers in found.items()}


@torch.no_grad()
def measure_trained(seed: Seed, images: Images) -> dict[str, Any]:
    """Before and after the norms of a trained network as it evaluates, averaged over layers."""
    network = seed.network()
    inputs = usable(norm_inputs(network, images.some(COUNT)[0]))
    looks, names = [], []
    for name, norm in slots(network):
        x = inputs[name]
        looks.append(look(x, norm.double().normalize(x), x.shape[1] // 2))
        names.append(name)
    found = average(looks)
    found["layers"] = {
        name: [each["before"]["all"], each["after"]["all"]]
        for name, each in zip(names, looks, strict=True)
    }
    return found


def measure_constructed() -> dict[str, Any]:
    """Inputs made so that the answer is known."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    found: dict[str, Any] = {}
    for size in (2, 4, 8, 16):
        x = noise(20_000, 32)
        y = layer("group", 32, eps=1e-12, groups=32 // size)(x)
        found[f"independent, N×C, {size} a group"] = _signed(x, y, 32 // size, -1 / (size - 1))
    x = noise(500, 16, 8, 8)
    y = layer("group", 16, eps=1e-12, groups=8)(x)
    found["independent, 8×8, 2 a group"] = _signed(x, y, 8, 0.0)
    shared = noise(500, 16, 8, 8) * noise(500, 1, 1, 1).exp() + 3 * noise(500, 1, 1, 1)
    y = layer("group", 16, eps=1e-12, groups=8)(shared)
    found["independent but for each image's own mean and deviation"] = _signed(shared, y, 8, 0.0)
    mixed = noise(500, 16, 8, 8) + 2 * noise(500, 1, 8, 8)
    y = layer("group", 16, eps=1e-12, groups=8)(mixed)
    found["a pattern of positions that all channels share"] = _signed(mixed, y, 8, 0.8)
    return found


def _signed(x: Tensor, y: Tensor, groups: int, theory: float) -> dict[str, float]:
    """Mean correlation with its sign, within groups, before and after."""
    c = x.shape[1]
    group = torch.arange(c) // (c // groups)
    pairs = (group[:, None] == group) & ~torch.eye(c, dtype=torch.bool)
    means = [float(correlation(z)[pairs].mean()) for z in (x, y)]
    return {"before": means[0], "after": means[1], "theory": theory}


def _pair(per_seed: dict[int, dict[str, Any]], kind: str) -> tuple[str, Estimate | None]:
    """``before → after`` and the change, paired by seed."""
    if not per_seed:
        return "-", None
    before = {s: each["before"][kind] for s, each in per_seed.items()}
    after = {s: each["after"][kind] for s, each in per_seed.items()}
    text = f"{fmean(before.values()):.3f} → {fmean(after.values()):.3f}"
    return text, paired(after, before)


def _changes(per_seed: dict[int, dict[str, Any]]) -> list[str]:
    cells = []
    for kind in ("within", "between"):
        text, change = _pair(per_seed, kind)
        cells += [text, fixed(change, 3)]
    return [*cells, number(max((each["moved"] for each in per_seed.values()), default=inf), 2)]


def _constructed_table(found: dict[str, Any]) -> Table:
    rows = [
        [label, *(f"{each[key]:+.3f}" for key in ("before", "after", "theory"))]
        for label, each in found.items()
    ]
    return Table(
        "Constructed inputs: mean correlation, with its sign, within the groups of group norm",
        ["channels", "before", "after", "expected after"],
        rows,
    )


def gather(
    store: Any, images: Images, plain: dict[int, Seed], trained: Cells
) -> dict[str, dict[Any, dict[int, dict[str, Any]]]]:
    """All measurements, by norm (applied) or cell (trained) and seed."""
    applied: dict[Any, dict[int, dict[str, Any]]] = {name: {} for name in NORMS_APPLIED}
    for number_, seed in plain.items():
        each = store.measure(
            f"correlation/applied/seed-{number_}",
            measure_applied,
            seed,
            images,
            weights=seed.digest,
            data=images.all.sha256,
            images=COUNT,
        )
        for name in NORMS_APPLIED:
            applied[name][number_] = each[name]
    networks: dict[Any, dict[int, dict[str, Any]]] = {}
    for (norm, batch), seeds in trained.items():
        networks[norm, batch] = {
            number_: store.measure(
                f"correlation/trained/{norm}-b{batch}/seed-{number_}",
                measure_trained,
                seed,
                images,
                weights=seed.digest,
                data=images.all.sha256,
                images=COUNT,
            )
            for number_, seed in seeds.items()
        }
    return {"applied": applied, "trained": networks}


def finding(found: dict[str, dict[Any, Any]], made: dict[str, Any]) -> Finding:
    """Less correlation between features."""
    head = ["norm", "|r| within groups", "change", "|r| between groups", "change", "within images"]
    applied = [[name, *_changes(seeds)] for name, seeds in found["applied"].items()]
    networks = [
        [f"{norm}, batch {batch}", *_changes(seeds)]
        for (norm, batch), seeds in sorted(found["trained"].items(), key=lambda kv: kv[0][::-1])
    ]
    group = found["applied"]["group"]
    changes = {kind: _pair(group, kind)[1] for kind in ("within", "between")}
    own = {
        name: {n: each["after"]["within"] for n, each in found["applied"][name].items()}
        for name in ("group", "layer")
    }
    grouping = said(
        paired(own["group"], own["layer"]),
        "{} above layer norm's",
        "{} below layer norm's",
        "not told from layer norm's (group minus layer norm: {})",
        3,
    )
    layered = fixed(_pair(found["applied"]["layer"], "within")[1], 3)
    moves = [each["moved"] for seeds in found["applied"].values() for each in seeds.values()]
    moved = number(max(moves, default=inf), 2)
    verdict, why = decide(changes["within"], changes["between"])
    return Finding(
        "Less correlation between features",
        "The features of a group have the same mean and variance, which reduces correlation between"
        " features.",
        f"Mean |r| over pairs of different channels right before and after each norm, {COUNT} test"
        " images, float64, averaged over the nine norms of ResNet-8. r is pooled over all images"
        " and positions; `within images` is the largest change of any r over the positions of a"
        " single image. First every norm on the *same* activations (networks trained without a"
        " norm), then the trained networks as they evaluate; groups are neighbouring pairs of"
        " channels (the automatic rule) for all norms. Then inputs whose answer is known.",
        verdict,
        f"{why} Layer norm, which has no groups, changes that within groups by {layered}, and what"
        f" group norm leaves there is {grouping}.{_ends(found['trained'])} Within an image no norm"
        f" changes any correlation (largest change {moved}, rounding): a group's values of one"
        " image are mapped by one rising straight line each"
        " channel, and correlation does not see those; for the same reason batch norm in evaluation"
        " changes none at all. What group norm can remove is only what the channels of an image"
        " share as a whole, its mean and deviation; a pattern of positions that they share stays."
        " And over few values it *creates* correlation: of two channels a group on N×C, one becomes"
        " the other's negative, r = -1.",
        [
            Table(
                "On the same activations (networks trained without a norm); ± is the 95 % interval"
                f" over n = {len(group)} seeds",
                head,
                applied,
            ),
            Table("In the trained networks, before → after their own norms", head, networks),
            _constructed_table(made),
        ],
        "Whether correlation between features matters for accuracy at all. Networks trained with"
        " different norms differ in everything, so that the second table does not say why.",
        "article-correlation.png",
    )


def _ends(trained: dict[Any, Any]) -> str:
    """Whether networks of group norm end with less correlation than those of batch norm."""
    phrases = []
    for batch in sorted({batch for _, batch in trained}):
        after = {
            norm: {n: each["after"]["all"] for n, each in trained.get((norm, batch), {}).items()}
            for norm in ("group", "batch")
        }
        more = paired(after["group"], after["batch"])
        if more is not None:
            at = f"at a batch of {batch}"
            phrases.append(
                said(
                    more,
                    f"{at} {{}} above 0",
                    f"{at} {{}} below 0",
                    f"{at} not told from 0 ({{}})",
                    3,
                )
            )
    if not phrases:
        return ""
    return (
        " After training, the mean |r| of group norm's networks minus batch norm's is"
        f" {', '.join(phrases)}."
    )


def decide(within: Estimate | None, between: Estimate | None) -> tuple[str, str]:
    """The verdict and what was seen of it.

    Less correlation is no more than part of the claim, which also says why.
    """
    if within is None or within.half is None:
        return OPEN, "Too few seeds for an interval."
    seen = (
        "Applied to the same activations, group norm changes the mean |r| within groups by"
        f" {fixed(within, 3)} and between groups by {fixed(between, 3)}."
    )
    if within.above(0):
        return NOT, seen + " That is more correlation, not less."
    if within.below(0):
        return PARTLY, seen
    return OPEN, seen + " The first is not told from 0."
