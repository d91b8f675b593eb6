"""Claims about definitions: the article's code, dimensions, batch norm's steps, N×C examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from claims.base import HOLDS, NOT, PARTLY, Finding, Table, fixed, number
from claims.layers import EXACT, configured, layer, measured_shortfall, random, theory
from claims.networks import accuracies
from claims.training import Outcome
from normbench.report.compare.statistics import estimate


class ArticleGroupNorm(nn.Module):
    """The article's module as its text describes it: five axes by name, ``var`` as it is."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.weight = nn.Parameter(torch.ones(1, num_channels, 1, 1, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(1, num_channels, 1, 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, self.num_groups, c // self.num_groups, h, w)
        mean = x.mean((2, 3, 4), keepdim=True)
        variance = x.var((2, 3, 4), keepdim=True)
        x = ((x - mean) / (variance + self.eps).sqrt()).view(n, c, h, w)
        return x * self.weight + self.bias


def largest(first: Tensor, second: Tensor) -> float:
    """The largest difference between two tensors."""
    return float((first - second).detach().abs().max())


def attempt(compute: Callable[[], Tensor]) -> str:
    """``runs``, or the error in a few words."""
    try:
        compute()
    except Exception as error:
        return f"{type(error).__name__}"
    return "runs"


SIZES = (
    ("N×C, two a group", (32, 64), 32),
    ("N×C, 16 a group", (32, 64), 4),
    ("4×4, two a group", (8, 64, 4, 4), 32),
    ("8×8, two a group (ResNet-8's last stage)", (8, 64, 8, 8), 32),
    ("32×32, two a group (its first)", (8, 16, 32, 32), 8),
    ("32×32, 16 a group (the article's example)", (32, 64, 32, 32), 4),
)


def measure_code() -> dict[str, Any]:
    """The article's from-scratch GroupNorm against the definition and PyTorch's layer."""
    example = random(*SIZES[-1][1])
    theirs = ArticleGroupNorm(4, 64)(example)
    rows = []
    for label, shape, groups in SIZES:
        x = random(*shape)
        size = x[0].numel() // groups
        measured = measured_shortfall(x, groups)
        rows.append({"label": label, "m": size, "measured": measured, "theory": theory(size)})
    biased = configured("group", groups=4).reference(example, {}, act=False)
    return {
        "rows": rows,
        "definition to PyTorch": largest(biased, nn.GroupNorm(4, 64).double()(example)),
        "article to PyTorch": largest(theirs, nn.GroupNorm(4, 64).double()(example)),
        "shape": list(theirs.shape),
        "one value": str(bool(ArticleGroupNorm(4, 4)(random(2, 4, 1, 1)).isnan().all())),
    }


def code(found: Mapping[str, Any], in_networks: str) -> Finding:
    """The article's code against the definition."""
    rows = [
        [r["label"], f"{r['m']:,}", number(100 * r["measured"]), number(100 * r["theory"])]
        for r in found["rows"]
    ]
    agrees = all(abs(r["measured"] - r["theory"]) < 1e-6 for r in found["rows"])
    assert agrees, "the output is not smaller by √((m-1)/m)"
    first, last = (number(100 * found["rows"][i]["measured"]) for i in (0, -1))
    shaped = found["shape"] == list(SIZES[-1][1])
    exact = max(r["measured"] for r in found["rows"]) < EXACT
    return Finding(
        "The article's GroupNorm against the definition",
        "The from-scratch module is group normalization; its example prints the shape.",
        "The module as described (unbiased `var`) against the definition with the biased variance"
        " and `torch.nn.GroupNorm`, float64: how much smaller its output is, for groups of m values"
        " (ε = 10⁻¹²). Then its formula in place of the group norms of trained ResNet-8.",
        (HOLDS if exact else PARTLY) if shaped else NOT,
        "The shape and the groups are right, but the module divides the variance by m - 1, so its"
        f" output is too small by 1 - √((m-1)/m). That is {last} % in the article's own example and"
        f" {first} % for two values a group; one value gives NaN. Largest difference from PyTorch"
        f" in the example: {number(found['article to PyTorch'])} (the definition's:"
        f" {number(found['definition to PyTorch'])}). {in_networks}",
        [
            Table(
                "How much smaller the output is, in %",
                ["input", "m", "measured", "1 - √((m-1)/m)"],
                rows,
            )
        ],
        "A network trained with the unbiased variance.",
    )


def measure_dimensions() -> dict[str, Any]:
    """Every norm on inputs of zero to three spatial dimensions, and the article's module."""
    shapes = {
        "N×C": (6, 16),
        "N×C×L": (6, 16, 9),
        "N×C×H×W": (6, 16, 5, 4),
        "N×C×D×H×W": (6, 16, 3, 5, 4),
    }
    found: dict[str, Any] = {}
    for label, shape in shapes.items():
        x = random(*shape).requires_grad_()
        weights = random(*shape, seed=1)
        config = configured("group")
        ours = config.build(16, act=False).double()(x)
        groups = config.build(16).num_groups
        assert groups is not None
        theirs = nn.GroupNorm(groups, 16).double()(x)
        define = config.reference(x, {}, act=False)
        slopes = [
            torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0]
            for y in (ours, define)
        ]
        found[label] = {
            "PyTorch": largest(ours, theirs),
            "definition": largest(ours, define),
            "gradient": largest(*slopes),
            "article": attempt(partial(ArticleGroupNorm(8, 16), x)),
            "instance": attempt(partial(layer("instance", 16), x)),
        }
    return found


CHANCE = 0.1
"""The accuracy of guessing one of ten classes."""


def dimensions(found: Mapping[str, Any], others: Mapping[str, Outcome]) -> Finding:
    """One-, two- and three-dimensional inputs, and other networks.

    It works on a network if every seed finishes and the accuracy is above chance.
    """
    names = ("definition", "gradient", "PyTorch")
    rows = [
        [label, *(number(each[name]) for name in names), each["article"]]
        for label, each in found.items()
    ]
    right = all(each[name] < EXACT for each in found.values() for name in names)
    scores = {label: estimate(accuracies(arm.finished).values()) for label, arm in others.items()}
    groups = {label: each for label, each in scores.items() if label.endswith(", group")}
    learned = bool(groups) and all(each and each.above(CHANCE) for each in groups.values())
    words = "; ".join(f"{label}: {fixed(each, 1, 100)} %" for label, each in groups.items())
    return Finding(
        "One, two and three dimensions",
        "GroupNorm works on one-, two- and three-dimensional inputs, so on different networks.",
        "norm=group (automatic groups, 16 channels) against its definition over explicit axes,"
        " values and gradients, and against `torch.nn.GroupNorm`, float64; whether the article's"
        " module takes the input. Then two networks besides ResNet: a pre-activation ResNet and a"
        " plain network of three convolutions, batch size 2, 10,000 images, one epoch, learning"
        " rate 0.1 at batch size 32, not tuned, seeds 1 to 3. It works on a network if the accuracy"
        f" is above the {100 * CHANCE:.0f} % of chance.",
        (HOLDS if learned else PARTLY) if right else NOT,
        f"{'It works in every dimension' if right else 'It differs from its definition'}, and in"
        f" the other networks it {'learns' if learned else 'does not learn everywhere'}: {words}."
        " The article's own module takes pictures only: its forward unpacks four axes.",
        [
            Table(
                "Largest difference",
                ["input", "from the definition", "its gradient", "PyTorch", "the article's module"],
                rows,
            ),
            Table(
                "Other networks at batch size 2",
                ["network, norm", "n", "test accuracy, %"],
                [
                    [label, str(len(others[label].finished)), fixed(each, 1, 100)]
                    for label, each in scores.items()
                ],
            ),
        ],
        "Training on volumes.",
    )


def measure_steps() -> dict[str, Any]:
    """Batch norm's three steps, on the article's example BatchNorm1d(64) of (32, 64)."""
    x, other = random(64, 64).split(32)
    theirs = nn.BatchNorm1d(64, eps=1e-12).double()
    y = theirs(x)
    ours = layer("batch", 64, eps=1e-12)(x)
    variance, mean = torch.var_mean(x, 0, correction=0)
    with torch.no_grad():
        theirs.weight.copy_((variance + 1e-12).sqrt())
        theirs.bias.copy_(mean)
    restored = theirs(x)
    fresh = nn.BatchNorm1d(64).double()
    fresh(x)
    after = fresh.eval()(x)
    assert fresh.running_var is not None
    return {
        "mean": float(y.mean(0).abs().max()),
        "variance": float((y.var(0, correction=0) - 1).abs().max()),
        "ours": largest(y, ours),
        "identity": largest(restored, x),
        "another batch": float((theirs(other) - other).std() / other.std()),
        "input mean": float(mean.abs().mean()),
        "input deviation": float(variance.sqrt().mean()),
        "evaluation mean": float(after.mean(0).abs().mean()),
        "evaluation deviation": float(after.std(0, correction=0).mean()),
        "running variance": largest(fresh.running_var, 0.9 + 0.1 * variance * 32 / 31),
    }


def steps(found: Mapping[str, Any]) -> Finding:
    """Batch norm's three steps."""
    right = max(found[k] for k in ("mean", "variance", "ours", "identity")) < EXACT
    sizes = {
        k: f"{found[f'{k} mean']:.2f}, {found[f'{k} deviation']:.2f}"
        for k in ("input", "evaluation")
    }
    rows = [
        ["largest mean of a column after step 2", number(found["mean"])],
        ["largest distance of its variance from 1", number(found["variance"])],
        ["largest difference from norm=batch", number(found["ours"])],
        ["step 3 with γ = √(σ² + ε), β = μ: distance from the input", number(found["identity"])],
        ["the same γ and β on another batch: change, relative", number(found["another batch"])],
        ["size of a column's mean, and its deviation: input", sizes["input"]],
        ["the same in evaluation after one step of training", sizes["evaluation"]],
    ]
    return Finding(
        "Batch norm's three steps",
        "For each feature: mean and variance over the mini-batch; normalize to 0 and 1; scale and"
        " shift to restore what the model can represent. Example: BatchNorm1d(64) on (32, 64).",
        "The article's example in float64, ε = 10⁻¹²; γ and β set to undo the normalization.",
        HOLDS if right else NOT,
        "The three steps are as described, with the biased variance. Step 3 can undo step 2 for one"
        " batch, but not for the next one with the same γ and β. The article leaves out a fourth"
        " step: in evaluation, running averages (of the unbiased variance) take the batch's place;"
        " after one step they hardly normalize.",
        [Table("BatchNorm1d(64) on (32, 64)", ["what", "found"], rows)],
    )


def measure_layer_example() -> dict[str, Any]:
    """LayerNorm(64) on (32, 64): mean, variance and shape of each sample's distribution."""
    x = random(32, 64).exp()  # skewed, each sample differently
    y = nn.LayerNorm(64, eps=1e-12).double()(x)

    def skewness(z: Tensor) -> Tensor:
        z = z - z.mean(1, keepdim=True)
        return z.pow(3).mean(1) / z.pow(2).mean(1).pow(1.5)

    return {
        "mean": float(y.mean(1).abs().max()),
        "variance": float((y.var(1, correction=0) - 1).abs().max()),
        "ours": largest(y, layer("layer", 64, eps=1e-12)(x)),
        "skew low": float(skewness(y).min()),
        "skew high": float(skewness(y).max()),
        "skew change": largest(skewness(x), skewness(y)),
        "as groups": largest(y, layer("group", 64, eps=1e-12, groups=1)(x)),
    }


def layer_example(found: Mapping[str, Any]) -> Finding:
    """Layer norm: every sample has a similar distribution."""
    right = max(found[k] for k in ("mean", "variance", "ours")) < EXACT
    # Of the shape of a distribution skewness is a part: alike, if it is the same in all samples.
    alike = found["skew high"] - found["skew low"] < EXACT
    rows = [
        ["largest mean of a sample", number(found["mean"])],
        ["largest distance of its variance from 1", number(found["variance"])],
        ["largest difference from norm=layer", number(found["ours"])],
        ["from group norm of one group", number(found["as groups"])],
        ["skewness of the samples, from", number(found["skew low"])],
        ["to", number(found["skew high"])],
        ["largest change of a sample's skewness", number(found["skew change"])],
    ]
    return Finding(
        "Layer norm's example",
        "For each sample: mean and variance over its features, normalize, scale and shift, so that"
        " every sample has a similar distribution over features. Example: LayerNorm(64) on"
        " (32, 64).",
        "The article's example in float64 on exponentials of random numbers, which are skewed:"
        " mean, variance and skewness of each sample, before γ and β.",
        (HOLDS if alike else PARTLY) if right else NOT,
        "Every sample gets mean 0 and variance 1 (before γ and β), but the shape of its"
        f" distribution stays as it was: skewness from {found['skew low']:.1f} to"
        f" {found['skew high']:.1f}.",
        [Table("LayerNorm(64) on (32, 64)", ["what", "found"], rows)],
    )
