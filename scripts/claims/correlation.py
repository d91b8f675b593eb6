"""Whether group norm reduces the correlation between features.

Two kinds of correlation of two channels are told apart. *Within an image*: over the positions of
one image. *Pooled*: over the positions of all images, which also counts what the channels of an
image share as a whole, its brightness or contrast. A norm that maps every value of an image and a
channel by one rising straight line cannot change the first kind; all norms here do, before γ and β.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from claims.base import NOT, OPEN, PARTLY, Finding, Store, Table, fixed, number, said
from claims.layers import layer
from claims.networks import Cells, Images, Seed, Seeds, called, measured, norm_inputs, slots
from claims.runs import SMALL, USUAL, labelled
from normbench.report.compare.statistics import Estimate, paired, welch

NORMS_APPLIED = ("batch", "group", "layer", "instance")
COUNT = 500
KINDS = ("all", "within", "between", "image")

PerSeed = Mapping[int, Mapping[str, Any]]
"""What :func:`look` says, averaged over a network's layers, by seed."""


@dataclass(frozen=True, slots=True)
class Found:
    """All that was measured on networks.

    Attributes:
        applied: by norm, on the activations of networks without one.
        trained: by network, before and after its own norms.
    """

    applied: Mapping[str, PerSeed]
    trained: Mapping[str, PerSeed]


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


def change(found: PerSeed, kind: str) -> Estimate | None:
    """After minus before, in the same networks."""
    return paired(_after(found, kind), {n: each["before"][kind] for n, each in found.items()})


def _changes(found: PerSeed) -> list[str]:
    cells = []
    for kind in ("within", "between"):
        before, after = (
            fmean(each[when][kind] for each in found.values()) if found else nan
            for when in ("before", "after")
        )
        cells += [f"{before:.3f} → {after:.3f}", fixed(change(found, kind), 3)]
    return [*cells, number(max((each["moved"] for each in found.values()), default=inf), 2)]


def _constructed_table(found: Mapping[str, Any]) -> Table:
    rows = [
        [label, *(f"{each[key]:+.3f}" for key in ("before", "after", "theory"))]
        for label, each in found.items()
    ]
    return Table(
        "Constructed inputs: mean correlation, with its sign, within the groups of group norm",
        ["channels", "before", "after", "expected after"],
        rows,
    )


def gather(store: Store, images: Images, plain: Seeds, cells: Cells) -> Found:
    """All measurements: every norm on the same activations, and by trained network."""
    given = measured(store, "correlation/applied", measure_applied, {"none": plain}, images)
    applied = {
        name: {n: each[name] for n, each in given.get("none", {}).items()} for name in NORMS_APPLIED
    }
    networks = measured(store, "correlation/trained", measure_trained, labelled(cells), images)
    return Found(applied, networks)


def _after(found: PerSeed, kind: str) -> dict[int, float]:
    return {n: each["after"][kind] for n, each in found.items()}


def _ends(trained: Mapping[str, PerSeed]) -> str:
    """Whether networks of group norm end with less correlation than those of batch norm."""
    found = []
    for batch in (SMALL, USUAL):
        group, other = (trained.get(called(norm, batch), {}) for norm in ("group", "batch"))
        if more := welch(_after(group, "all"), _after(other, "all")):
            found.append(f"at batch size {batch} {said(more, 'higher', 'lower', '', 3, 1)}")
    if not found:
        return ""
    return f" After training, mean |r| of group norm's against batch norm's: {', '.join(found)}."


def decide(within: Estimate | None) -> str:
    """The verdict: less correlation is part of the claim, which also says why."""
    if within is None or not within.clear:
        return OPEN
    return PARTLY if within.below(0) else NOT


def finding(found: Found, made: Mapping[str, Any]) -> Finding:
    """Less correlation between features."""
    head = ["norm", "|r| within groups", "change", "|r| between groups", "change", "within images"]
    group, layer_ = found.applied["group"], found.applied["layer"]
    within, between = (change(group, kind) for kind in ("within", "between"))
    beside = paired(_after(group, "within"), _after(layer_, "within"))
    every = [seeds for part in (found.applied, found.trained) for seeds in part.values()]
    moved = max((each["moved"] for seeds in every for each in seeds.values()), default=inf)
    return Finding(
        "Less correlation between features",
        "The features of a group have the same mean and variance, which reduces correlation between"
        " features.",
        f"Mean |r| over pairs of different channels before and after each norm, {COUNT} test"
        " images, float64, averaged over the norms of ResNet-8. r is pooled over images and"
        " positions; `within images` is the largest change of any r over the positions of one"
        " image. First every norm on the same activations (networks trained without a norm), then"
        " trained networks in evaluation mode. Groups are neighbouring pairs of channels. Changes"
        " are paired: before and after are the same network.",
        decide(within),
        "On the same activations, group norm changes mean |r| within groups by"
        f" {fixed(within, 3)} and between groups by {fixed(between, 3)}. Layer norm, which has"
        f" no groups, changes the first by {fixed(change(layer_, 'within'), 3)}; what group norm"
        " leaves against layer norm:"
        f" {said(beside, 'more', 'less', '', 3, 1)}.{_ends(found.trained)} No norm changes a"
        f" correlation within an image (at most {number(moved, 2)}, rounding): it maps a channel's"
        " values by one rising straight line. Group norm removes only what the channels of an image"
        " share as a whole, its mean and deviation. Over few values it creates correlation: of two"
        " channels a group on N×C, one becomes the other's negative.",
        [
            Table(
                "On the same activations",
                head,
                [[name, *_changes(seeds)] for name, seeds in found.applied.items()],
            ),
            Table(
                "In trained networks, before → after their own norms",
                head,
                [[name, *_changes(seeds)] for name, seeds in found.trained.items()],
            ),
            _constructed_table(made),
        ],
        "Whether correlation between features matters for accuracy.",
        "article-correlation.png",
    )
