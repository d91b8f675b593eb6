"""Claims about the layers alone: what they average over, groups, dimensions, definitions.

Everything is computed in float64 on seeded random numbers, and on a trained network's activations
where that could matter.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import gcd, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from claims.base import HOLDS, NOT, PARTLY, Finding, Table, number
from normbench.errors import UsageError
from normbench.norms import NORMS, NormConfig
from normbench.norms.group import GroupNormConfig

ORDER = ("batch", "layer", "instance", "group", "none")
STATED = {"batch": "N·H·W", "layer": "C·H·W", "instance": "H·W", "group": "(C/G)·H·W"}
EXACT = 1e-9
"""What counts as equal in float64."""


def random(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers in float64 whose mean and deviation differ along every axis."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    for axis, size in enumerate(shape):
        sides = [1] * len(shape)
        sides[axis] = size
        shift, log_scale = torch.randn(2, size, generator=generator, dtype=torch.float64)
        x = x * (0.5 * log_scale).exp().view(sides) + shift.view(sides)
    return x


def configured(name: str, **settings: Any) -> NormConfig:
    """A norm's configuration."""
    made: Any = NORMS[name]
    config: NormConfig = made(**settings)
    return config


def layer(name: str, channels: int, *, eps: float = 1e-5, **settings: Any) -> nn.Module:
    """A norm with γ = 1 and β = 0, in float64 and training mode, without the activation."""
    made = configured(name, eps=eps, **settings).build(channels, act=False)
    return made.double().requires_grad_(False)


def normalized_axes(y: Tensor, groups: int, tolerance: float = 1e-6) -> str | None:
    """The smallest set of axes over which every mean of ``y`` is 0 and every variance 1.

    Args:
        y: [N, C, H, W], the output of a norm without γ and β.
        groups: G; the channels are looked at as G axes of C/G each.
        tolerance: how far from 0 and 1 is still 0 and 1.
    """
    n, c, h, w = y.shape
    parts = y.view(n, groups, c // groups, h, w)
    for count in range(1, 6):
        for axes in combinations(range(5), count):
            variance, mean = torch.var_mean(parts, axes, correction=0)
            if mean.abs().max() < tolerance and (variance - 1).abs().max() < tolerance:
                return _in_words(axes)
    return None


def _in_words(axes: tuple[int, ...]) -> str:
    names = ["N" if 0 in axes else ""]
    names += [
        {(True, True): "C", (False, True): "(C/G)", (True, False): "G"}.get(
            (1 in axes, 2 in axes), ""
        )
    ]
    names += ["H" if 3 in axes else "", "W" if 4 in axes else ""]
    return "·".join(filter(None, names))


def reach(norm: nn.Module, x: Tensor) -> int:
    """How many input values the output at the first position depends on, by its gradient."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(norm(x)[(0,) * x.dim()], x)
    return int((gradient != 0).sum())


def measure_axes(activations: Tensor) -> dict[str, Any]:
    """For each norm, what its output shows of its axes, on random numbers and on activations."""
    inputs = {"random": (random(6, 8, 5, 3), 4), "activations": (activations, 8)}
    found: dict[str, Any] = {}
    for name in ORDER:
        found[name] = {}
        for kind, (x, groups) in inputs.items():
            settings = {"groups": groups} if name == "group" else {}
            norm = layer(name, x.shape[1], eps=1e-12, **settings)
            found[name][kind] = {
                "axes": normalized_axes(norm(x), groups),
                "reach": reach(norm, x),
                "shape": [*x.shape, groups],
            }
    return found


def axes(found: dict[str, Any]) -> Finding:
    """What each norm averages over."""
    rows, right = [], True
    for name in ORDER:
        first, second = found[name]["random"], found[name]["activations"]
        right &= first["axes"] == second["axes"] == STATED.get(name)
        cells = [f"{each['axes'] or '-'} ({each['reach']:,})" for each in (first, second)]
        rows.append([name, STATED.get(name, "-"), *cells])
    shape = found["group"]["activations"]["shape"]
    return Finding(
        "What each norm averages over",
        "Batch norm: N·H·W; layer norm: C·H·W; instance norm: H·W; group norm: (C/G)·H·W.",
        "On the output, not the code: the smallest set of the axes N, G, C/G, H, W over which every"
        " mean is 0 and every variance 1; in brackets, how many input values one output value"
        " depends on. float64, ε = 10⁻¹², γ = 1, β = 0, training mode; random numbers (6×8×5×3,"
        f" G = 4) and activations of a trained network ({'×'.join(map(str, shape[:4]))}, G ="
        f" {shape[4]}).",
        HOLDS if right else NOT,
        "Every norm averages over exactly the axes that the article names.",
        [
            Table(
                "Axes found, and in brackets how many inputs an output depends on",
                ["norm", "the article", "found, random", "found, activations"],
                rows,
            )
        ],
        "Layer norm is the article's, over C·H·W. Language models take it over C alone: see the"
        " claim"
        " on sequences.",
    )


def measure_groups(activations: Tensor, scale: Tensor, shift: Tensor) -> dict[str, Any]:
    """How equal the features of a group are, before and after the norms."""
    n, c = activations.shape[:2]
    found: dict[str, Any] = {"channels": c, "groups": 8}

    def look(y: Tensor) -> dict[str, float]:
        of_channel = y.flatten(2)
        grouped = y.reshape(n, 8, -1)
        sizes = of_channel.std(2, correction=0)
        return {
            "group mean": float(grouped.mean(2).detach().abs().max()),
            "group variance": float((grouped.var(2, correction=0) - 1).abs().max()),
            "channel mean": float(of_channel.mean(2).abs().mean()),
            "low": float(sizes.quantile(0.05)),
            "high": float(sizes.quantile(0.95)),
        }

    group = layer("group", c, eps=1e-12, groups=8)(activations)
    found["before"] = look(activations)
    found["group"] = look(group)
    found["group with γ and β"] = look(group * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))
    found["instance"] = look(layer("instance", c, eps=1e-12)(activations))
    return found


def groups(found: dict[str, Any]) -> Finding:
    """Whether the features of a group have the same mean and variance."""
    rows = []
    for kind in ("before", "group", "group with γ and β", "instance"):
        each = found[kind]
        rows.append(
            [
                kind,
                number(each["group mean"]),
                number(each["group variance"]),
                number(each["channel mean"]),
                f"{each['low']:.2f} to {each['high']:.2f}",
            ]
        )
    group = found["group"]
    pooled = group["group mean"] < 1e-6 and group["group variance"] < 1e-6
    return Finding(
        "The features of a group have the same mean and variance",
        "GroupNorm normalizes within each group, so that the features of a group have the same mean"
        " and variance.",
        f"Activations of a trained network ({found['channels']} channels in {found['groups']}"
        " groups, float64): mean and variance of each image's groups, and of each single channel"
        " inside of them.",
        (PARTLY if group["channel mean"] > 1e-3 else HOLDS) if pooled else NOT,
        "A group as a whole has mean 0 and variance 1, but its features do not share them. A"
        f" channel's own mean lies {group['channel mean']:.2f} from 0 on average, its deviation"
        f" between {group['low']:.2f} and {group['high']:.2f}. Equal channels are what instance"
        " norm"
        " makes. γ and β, which every framework adds, change both.",
        [
            Table(
                "Largest distance from mean 0 and variance 1 of a group; mean distance from 0 of a"
                " channel's mean; the 5 % and 95 % quantiles of a channel's deviation",
                ["after", "group mean", "group variance", "channel mean", "channel deviation"],
                rows,
            )
        ],
    )


RULES: dict[str, Callable[[int], int]] = {
    "gcd(32, C)": lambda c: gcd(32, c),
    "min(32, C)": lambda c: min(32, c),
}


def measure_rules() -> dict[str, Any]:
    """G by the automatic rule and by the two naive ones, for many C; and what the layer becomes."""
    found: dict[str, Any] = {}
    for c in (3, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256):
        x = random(4, c, 5, 3)
        extremes = {"instance": layer("instance", c)(x), "layer": layer("layer", c)(x)}
        choices: dict[str, Any] = {}
        for rule, choose in {"auto": GroupNormConfig().num_groups, **RULES}.items():
            try:
                g = choose(c)
                y = layer("group", c, groups=g)(x)
            except UsageError:
                choices[rule] = {"groups": None, "same": "refused"}
                continue
            same = [k for k, other in extremes.items() if (y - other).abs().max() < EXACT]
            choices[rule] = {"groups": g, "same": " and ".join(same)}
        found[str(c)] = choices
    return found


def rules(found: dict[str, Any]) -> Finding:
    """Groups by hand or automatically."""

    def cell(choice: dict[str, Any], c: int) -> str:
        if choice["groups"] is None:
            return "an error"
        same = f" = **{choice['same']} norm**" if choice["same"] else ""
        return f"{choice['groups']} × {c // choice['groups']}{same}"

    names = ("auto", *RULES)
    rows = [[c, *(cell(each[rule], int(c)) for rule in names)] for c, each in found.items()]
    degenerate = [c for c, each in found.items() if each["gcd(32, C)"]["same"] == "instance"]
    failing = [c for c, each in found.items() if each["min(32, C)"]["groups"] is None]
    # The automatic rule may refuse a number of channels; it may not make another norm of it.
    sound = all(each["auto"]["same"] in ("", "refused") for each in found.values())
    return Finding(
        "Groups by hand or automatically",
        "The group size is a hyper-parameter, set by hand or determined automatically.",
        "Groups × channels in each, by normbench's automatic rule (the largest divisor of C up to"
        " 32"
        " that leaves two channels a group or more) and by two rules common in public code. Whether"
        " the layer equals instance or layer norm is tested on its output (float64, to 10⁻⁹).",
        (PARTLY if degenerate or failing else HOLDS) if sound else NOT,
        "By hand they can be set; automatically there is only a rule for a divisor of C, and"
        " nothing"
        " is determined from data. Careless rules change the norm: gcd(32, C) and min(32, C) give"
        f" one channel a group, which is instance norm, at C = {', '.join(degenerate)}; min(32, C)"
        f" does not divide {', '.join(failing)}.",
        [Table("Groups × channels in each", ["C", *names], rows)],
        "Which number of groups is best: see [groups](groups/report.md).",
    )


def unbiased_group_norm(x: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """The article's from-scratch GroupNorm, for an input of any dimension: ``var`` as it is."""
    parts = x.reshape(x.shape[0], groups, -1)
    mean, variance = parts.mean(2, keepdim=True), parts.var(2, keepdim=True)
    return ((parts - mean) / (variance + eps).sqrt()).reshape(x.shape)


def theory(size: int) -> float:
    """How much smaller the unbiased variance makes the output of a group of so many values."""
    return 1 - sqrt((size - 1) / size)


def measured_shortfall(x: Tensor, groups: int, eps: float = 1e-12) -> float:
    """How much smaller, as a share, the article's output is than the definition's."""
    config = GroupNormConfig(groups=groups, eps=eps)
    right = config.reference(x, {}, act=False)
    return 1 - float((unbiased_group_norm(x, groups, eps) * right).sum() / right.square().sum())
