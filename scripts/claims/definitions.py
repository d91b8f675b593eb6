"""Claims about definitions: the article's code, dimensions, batch norm's steps, N×C examples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from claims.base import HOLDS, NOT, OPEN, PARTLY, Finding, Table, number
from claims.layers import EXACT, configured, layer, measured_shortfall, random, theory


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


def code(found: dict[str, Any], trained: dict[str, Any]) -> Finding:
    """The article's code against the definition."""
    rows = [
        [r["label"], f"{r['m']:,}", number(100 * r["measured"]), number(100 * r["theory"])]
        for r in found["rows"]
    ]
    agrees = all(abs(r["measured"] - r["theory"]) < 1e-6 for r in found["rows"])
    assert agrees, "the output is not smaller by √((m-1)/m)"
    return Finding(
        "The article's GroupNorm against the definition",
        "The from-scratch module is group normalization; its example prints the shape.",
        "The module as described (unbiased `var`) against the definition with the biased variance"
        " and against `torch.nn.GroupNorm`, float64; how much smaller its output is, for groups of"
        " m values (ε = 10⁻¹²), next to 1 - √((m-1)/m). Then its formula in place of the layers of"
        " trained ResNet-8 (norm=group).",
        PARTLY,
        f"The shape is right ({'×'.join(map(str, found['shape']))}) and the grouping too, but `var`"
        " divides by m - 1, so that the output is too small by 1 - √((m-1)/m) exactly:"
        f" {number(100 * found['rows'][-1]['measured'])} % in the article's own example (largest"
        f" difference from PyTorch {number(found['article to PyTorch'])}; the definition's:"
        f" {number(found['definition to PyTorch'])}), where nobody would notice, and"
        f" {number(100 * found['rows'][0]['measured'], 3)} % for two values. With one value a"
        f" group it gives NaN. In trained networks it changes {trained['changed']} of the"
        f" predictions, and {trained['accuracy']}.",
        [
            Table(
                "How much smaller the output is, in %",
                ["input", "m", "measured", "1 - √((m-1)/m)"],
                rows,
            )
        ],
        "Whether a network trained with the unbiased variance ends elsewhere; a network can learn"
        " most of a constant factor away in γ.",
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


def dimensions(found: dict[str, Any]) -> Finding:
    """One-, two- and three-dimensional inputs."""
    names = ("definition", "gradient", "PyTorch")
    rows = [
        [label, *(number(each[name]) for name in names), each["article"]]
        for label, each in found.items()
    ]
    right = all(each[name] < EXACT for each in found.values() for name in names)
    return Finding(
        "One, two and three dimensions",
        "GroupNorm works on one-, two- and three-dimensional inputs, so on different networks.",
        "norm=group (automatic groups, 16 channels) against its definition over explicit axes,"
        " values and gradients, and against `torch.nn.GroupNorm`, float64; and whether the"
        " article's own module takes the input.",
        HOLDS if right else NOT,
        "The definition asks only for channels; values and gradients agree in every dimension, and"
        " on N×C without any. The article's own module takes pictures only: its forward unpacks"
        " four axes. On N×C, one channel a group would make every output β; normbench refuses it.",
        [
            Table(
                "Largest difference",
                ["input", "from the definition", "its gradient", "PyTorch", "the article's module"],
                rows,
            )
        ],
        "That group norm trains well on sequences and volumes: only pictures were trained.",
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


def steps(found: dict[str, Any]) -> Finding:
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
        "The three steps are as described, with the biased variance. Step 3 can undo step 2 to"
        " rounding for one batch only: no γ and β make it the identity on the next one, so that"
        " what a network with batch norm represents in training stays tied to its batches. The"
        " article leaves out a fourth step: in evaluation, running averages (of the *unbiased*"
        " variance) take the batch's place, and after one step they hardly normalize anything.",
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


def layer_example(found: dict[str, Any]) -> Finding:
    """Layer norm: every sample has a similar distribution."""
    right = max(found[k] for k in ("mean", "variance", "ours")) < EXACT
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
        "The article's example in float64 on exponentials of random numbers, whose samples are"
        " skewed to different degrees; mean, variance and skewness of each sample, before γ and β.",
        PARTLY if right else NOT,
        "Every sample gets mean 0 and variance 1 (before γ and β). Only these two become similar:"
        " the shape of a sample's distribution is left exactly as it was, here with a skewness from"
        f" {found['skew low']:.1f} to {found['skew high']:.1f}.",
        [Table("LayerNorm(64) on (32, 64)", ["what", "found"], rows)],
    )


def measure_sequences() -> dict[str, Any]:
    """How far the outputs of real tokens move when a sequence is padded further."""
    x = random(8, 64, 12)  # N×C×L
    padded = torch.cat([x, torch.zeros(8, 64, 12, dtype=torch.float64)], 2)
    language = nn.LayerNorm(64).double()
    found = {"token": (language(x.mT), language(padded.mT)[:, :12])}
    for name in ("batch", "layer", "instance", "group"):
        found[name] = (layer(name, 64)(x), layer(name, 64)(padded)[..., :12])
    return {
        name: float((second - first).std() / first.std()) for name, (first, second) in found.items()
    }


def sequences(found: dict[str, Any]) -> Finding:
    """Layer norm for sequences."""
    labels = {"token": "layer norm over the features of a token, as in language models"}
    rows = [[labels.get(name, f"norm={name}"), number(each)] for name, each in found.items()]
    return Finding(
        "Layer norm for sequences",
        "Layer norm is better suited than batch norm to sequences, as in text tasks.",
        "No text was trained. A property that speaks for it, in float64: 8 sequences of 12 tokens"
        " with 64 features, padded by zeros to 24; how far the outputs of the 12 real tokens move"
        " (deviation of the change, relative to the output's).",
        OPEN,
        "Layer norm over a token's features does not see padding, length or neighbours at all, and"
        " batch norm's output depends on all three. But that is not the layer norm of the article's"
        " own picture, C·H·W: taken over a whole sequence it depends on the padding as well.",
        [Table("Change of the real tokens' outputs by padding", ["norm", "change"], rows)],
        "Which trains better on text.",
    )
