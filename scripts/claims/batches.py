"""Claims about batches: whose output depends on its batch mates, what group convolution costs."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from claims.base import HOLDS, NOT, PARTLY, Finding, Table, number, said, spread
from claims.layers import configured, layer
from claims.networks import Images, Seed, logits, slots
from normbench.models.inspection import layers, memory_of_step
from normbench.models.resnet import ResNetConfig
from normbench.norms import Norm
from normbench.report.compare.statistics import estimate

BATCHES = (2, 8, 32, 128)
NAMES = ("batch", "group", "layer", "instance", "none")


def dependence(norm: nn.Module, x: Tensor, batch: int, trials: int = 20) -> float:
    """How far the first example's output moves when its batch mates change.

    The root mean square of the change between two random sets of mates, relative to the output's
    deviation.

    Args:
        norm: in the mode to look at.
        x: [N, C, ...], the example first and the mates to draw from.
        batch: how many are normalized together.
        trials: how many pairs of sets.
    """
    generator = torch.Generator().manual_seed(0)
    squares, size = [], 1.0
    for _ in range(trials):
        order = 1 + torch.randperm(len(x) - 1, generator=generator)
        first, second = order[: batch - 1], order[-(batch - 1) :]
        outputs = [norm(torch.cat([x[:1], x[mates]]))[0] for mates in (first, second)]
        squares.append(float((outputs[1] - outputs[0]).square().mean()))
        size = float(outputs[0].var(correction=0))
    return float((fmean(squares) / size) ** 0.5)


@torch.no_grad()
def measure_layers(activations: Tensor) -> dict[str, Any]:
    """:func:`dependence` of each norm alone, in training and in evaluation."""
    found: dict[str, Any] = {}
    for name in NAMES:
        norm = layer(name, activations.shape[1])
        training = {str(b): dependence(norm, activations, b) for b in BATCHES}
        alone = norm(activations[:1])[0] if name != "batch" else norm(activations)[0]
        together = norm(activations)[0]
        norm.eval()
        found[name] = {
            "training": training,
            "alone": float((alone - together).abs().max()),
            "evaluation": dependence(norm, activations, 8),
        }
    return found


@torch.no_grad()
def measure_network(seed: Seed, images: Images, count: int = 512) -> dict[str, Any]:
    """How far a trained network's logits move, in training mode, when the batches are redealt."""
    pixels, _ = images.some(count)
    network = seed.network().train()
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {}
    for batch in BATCHES:
        said = []
        for _ in range(2):
            order = torch.randperm(count, generator=generator)
            outputs = torch.empty(count, 10)
            outputs[order] = logits(network, pixels[order], batch)
            said.append(outputs)
        change = (said[1] - said[0]).square().mean().sqrt() / said[0].std()
        other = (said[1].argmax(1) != said[0].argmax(1)).double().mean()
        found[str(batch)] = {"change": float(change), "predictions": float(other)}
    return found


def independence(
    alone: Mapping[str, Any], networks: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> Finding:
    """Whose output depends on the other examples of its batch."""
    rows = [
        [
            name,
            *(number(each["training"][str(b)], 2) for b in BATCHES),
            number(each["evaluation"], 2),
        ]
        for name, each in alone.items()
    ]
    others = [each for name, each in alone.items() if name != "batch"]
    never = all(max(e["training"].values()) == e["evaluation"] == 0 for e in others)
    batch = alone["batch"]
    always = min(batch["training"].values()) > 0.01 and batch["evaluation"] == 0
    whole = []
    for label, seeds in networks.items():
        changed = ([each[str(b)]["predictions"] for each in seeds.values()] for b in BATCHES)
        whole.append([label, str(len(seeds)), *(spread(each, 1, 100) for each in changed)])
    return Finding(
        "Group norm's independence of the batch",
        "GroupNorm depends less on the batch size than BatchNorm.",
        "On the layers (activations of a trained network, float64): how far one example's output"
        " moves when the other images of its batch are exchanged, root mean square relative to the"
        " output's deviation. On trained ResNet-8 in training mode: how many predictions of 512"
        " test images change when the images are put into other batches.",
        HOLDS if never and always else NOT,
        "Group, layer and instance norm do not depend on the batch at all: one example's output is"
        " the same, to the bit, at every batch size and in evaluation. Batch norm's depends on the"
        " other examples in training, more in smaller batches, and not in evaluation.",
        [
            Table(
                "Layers alone, by batch size",
                ["norm", *(f"training, {b}" for b in BATCHES), "evaluation"],
                rows,
            ),
            Table(
                "Predictions changed in %, by the size of the batches dealt",
                ["network", "n", *(f"batches of {b}" for b in BATCHES)],
                whole,
            ),
        ],
        "Training as a whole depends on the batch size with every norm, through gradient noise and"
        " learning rate: see the next claim.",
    )


def unbiased(norm: Norm) -> None:
    """Makes a group norm divide by m - 1, as the article's code does."""
    groups, weight, bias = norm.num_groups, norm.weight, norm.bias
    assert groups is not None

    def normalize(x: Tensor) -> Tensor:
        parts = x.reshape(len(x), groups, -1)
        y = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, keepdim=True) + norm.eps).sqrt()
        shape = (1, -1, 1, 1)
        y = y.reshape(x.shape)
        assert weight is not None
        assert bias is not None
        return y * weight.view(shape) + bias.view(shape)

    norm.normalize = normalize  # type: ignore[method-assign]


def measure_unbiased(seed: Seed, images: Images, count: int = 2000) -> dict[str, Any]:
    """What the unbiased variance changes in a trained network of group norms."""
    pixels, labels = images.some(count)
    right, wrong = seed.network(), seed.network()
    for _, norm in slots(wrong):
        unbiased(norm)
    first, second = (logits(each, pixels).argmax(1) for each in (right, wrong))
    scores = [float((said == labels).double().mean()) for said in (first, second)]
    return {"changed": float((first != second).double().mean()), "scores": scores}


def unbiased_in_words(found: Mapping[int, Mapping[str, Any]]) -> str:
    """How predictions and accuracy change, over seeds; each change is within one network."""
    if not found:
        return "No trained network of group norm is there to try it in."
    changed = [each["changed"] for each in found.values()]
    moved = estimate(each["scores"][1] - each["scores"][0] for each in found.values())
    return (
        f"In trained networks (n = {len(found)}) it changes {spread(changed, 2, 100)} % of the"
        f" predictions; the accuracy is {said(moved, 'higher', 'lower', digits=2)}."
    )


def measure_convolution() -> dict[str, Any]:
    """FLOPs, parameters and memory by the number of groups of the convolutions, and by norm."""
    found: dict[str, Any] = {"cardinality": {}, "norm": {}}
    images, labels = torch.randn(32, 3, 32, 32), torch.zeros(32, dtype=torch.int64)

    def cost(norm: str, groups: int) -> dict[str, int]:
        config = ResNetConfig(cardinality=groups)
        model = config.build(configured(norm), 10, torch.Generator().manual_seed(0))
        infos = layers(model, (32, 32))
        inner = [i for i in infos if i.name.startswith("blocks") and ".conv" in i.name]
        return {
            "flops": sum(i.flops for i in infos),
            "inner": sum(i.flops for i in inner),
            "parameters": sum(i.parameters for i in infos),
            "memory": memory_of_step(model.train(), images, labels),
        }

    for groups in (1, 2, 4, 8, 16):
        found["cardinality"][str(groups)] = cost("none", groups)
    for norm in NAMES:
        found["norm"][norm] = cost(norm, 1)
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    conv = nn.Conv2d(16, 16, 3, groups=4, bias=False).double()
    norm_layer = layer("group", 16, eps=1e-12, groups=4)
    found["doubling"] = {
        name: float((f(2 * x).norm() / f(x).norm()).detach())
        for name, f in (("convolution", conv), ("norm", norm_layer))
    }
    return found


def convolution(found: dict[str, Any]) -> Finding:
    """Group convolution."""
    whole = found["cardinality"]["1"]
    rows = [
        [
            groups,
            *(
                f"{each[key] / 1e6:,.2f} ({each[key] / whole[key]:.3f})"
                for key in ("inner", "flops")
            ),
            f"{each['parameters']:,} ({each['parameters'] / whole['parameters']:.3f})",
            f"{each['memory'] / 1e6:.1f}",
        ]
        for groups, each in found["cardinality"].items()
    ]
    plain = found["norm"]["none"]["memory"]
    norms = [
        [name, f"{each['memory'] / 1e6:.2f} ({each['memory'] / plain:.4f})"]
        for name, each in found["norm"].items()
    ]
    exact = all(
        each["inner"] * int(groups) == whole["inner"]
        for groups, each in found["cardinality"].items()
    )
    doubling = found["doubling"]
    last = found["cardinality"]["16"]
    return Finding(
        "Group convolution",
        "A variant is group convolution, which splits the input channels into groups and convolves"
        " within each, reducing computation.",
        "`normbench show norm=none model.cardinality=G`: FLOPs of a forward pass of one image,"
        " parameters, and the bytes that a training step of 32 images holds; ResNet-8, whose 3×3"
        " convolutions inside of blocks have G groups.",
        PARTLY if exact else NOT,
        "G groups divide the computation of a convolution by G, but group convolution is no variant"
        f" of group norm. It takes no statistics, learns weights and is linear: twice the input"
        f" gives {doubling['convolution']:.0f} times the output (group norm:"
        f" {doubling['norm']:.0f} time). The whole network keeps"
        f" {last['flops'] / whole['flops']:.2f} of its FLOPs at G = 16, and nearly all of its"
        " memory, which is activations.",
        [
            Table(
                "Millions of FLOPs and parameters (share of G = 1); memory in MB",
                ["G", "block convolutions", "network", "parameters", "memory"],
                rows,
            ),
            Table("Memory of a step by norm, in MB (relative to none)", ["norm", "memory"], norms),
        ],
        "Seconds; accuracy.",
    )
