"""Vanishing and exploding gradients: gradients by depth in deep networks at their start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log10
from statistics import fmean, median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from claims.base import HOLDS, NOT, OPEN, PARTLY, Finding, Store, Table, fixed, number, spread
from claims.layers import configured
from claims.networks import Images
from normbench.models.base import initialize
from normbench.models.resnet import ResNetConfig
from normbench.norms import swap_norm
from normbench.norms.parts import Slot
from normbench.report.compare.statistics import Estimate, estimate, paired, welch

SEEDS = range(5)
COUNT = 32
LAYERS = 50
GAINS = (0.5, 1.0, 2.0)


class Plain(nn.Module):
    """A stack of 3×3 convolutions with norms and ReLUs, all alike, without shortcuts."""

    def __init__(self, layers: int = LAYERS, width: int = 16) -> None:
        super().__init__()
        stem = nn.Conv2d(3, width, 3, 2, padding=1, bias=False)
        body: list[nn.Module] = [stem, Slot(width)]
        for _ in range(layers):
            body += [nn.Conv2d(width, width, 3, padding=1, bias=False), Slot(width)]
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x).mean((2, 3)))
        return y


def network(kind: str, norm: str, gain: float, seed: int) -> nn.Module:
    """A network at its start, in float64, its convolutions' weights multiplied by ``gain``."""
    generator = torch.Generator().manual_seed(seed)
    config = configured(norm.removesuffix(", γ=0"))
    if kind == "plain":
        made: nn.Module = Plain()
        initialize(made, generator)
        swap_norm(made, config)
    else:
        made = ResNetConfig(depth=56, zero_init=norm.endswith("γ=0")).build(config, 10, generator)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data *= gain
    return made.double()


def profile(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """The loss, and log₁₀ of each 3×3 convolution's gradient relative to its weights, by depth.

    The first convolution is left out: its input is the image. None stands for a gradient of 0.
    """
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    sizes: list[float | None] = []
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            assert module.weight.grad is not None
            size = float(module.weight.grad.norm() / module.weight.detach().norm())
            sizes.append(log10(size) if size > 0 else None)
    return {"loss": float(loss.detach()), "sizes": sizes[1:]}


def measure(kind: str, norm: str, gain: float, images: Images) -> dict[str, Any]:
    """Profiles of all seeds, in training mode."""
    pixels, labels = images.some(COUNT, torch.float64)
    profiles = [profile(network(kind, norm, gain, seed), pixels, labels) for seed in SEEDS]
    return {key: [each[key] for each in profiles] for key in ("loss", "sizes")}


CASES = (
    *(("ResNet-56", norm, 1.0) for norm in ("none", "none, γ=0", "batch", "group", "layer")),
    *(("plain", norm, gain) for norm in ("none", "batch", "group") for gain in GAINS),
)


def gather(store: Store, images: Images) -> dict[tuple[str, str, float], dict[str, Any]]:
    """All cases."""
    return {
        case: store.measure(
            "gradients/" + "/".join(map(str, case)),
            measure,
            *case,
            images,
            data=images.all.sha256,
            seeds=len(SEEDS),
            images=COUNT,
            layers=LAYERS,
        )
        for case in CASES
    }


Cases = dict[tuple[str, str, float], dict[str, Any]]
"""What :func:`measure` says, by network, norm and gain."""


def ends(found: dict[str, Any]) -> dict[int, float]:
    """log₁₀ of the first layer's relative gradient over the last one's, by seed."""
    return {n: s[0] - s[-1] for n, s in enumerate(found["sizes"]) if None not in s}


def middles(found: dict[str, Any]) -> dict[int, float]:
    """log₁₀ of the median layer's relative gradient, by seed."""
    return {n: median(s) for n, s in enumerate(found["sizes"]) if None not in s}


def _row(case: tuple[str, str, float], found: dict[str, Any]) -> list[str]:
    kind, norm, gain = case
    name = kind if kind != "plain" else f"plain, {LAYERS} layers"
    cells = [name, norm, f"{gain:g}", number(median(found["loss"]), 3)]
    if not ends(found):
        return [*cells, "all 0 before the first step", "-", "-"]
    ranges = [max(s) - min(s) for s in found["sizes"] if None not in s]
    sizes = [spread(list(each(found).values()), 1) for each in (middles, ends)]
    return [*cells, *sizes, f"{fmean(ranges):.1f}"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the verdict rests on: differences of log₁₀.

    Attributes:
        deep: the median layer's gradient in ResNet-56, no norm minus batch norm.
        moved: by norm, the plain stack's at a gain of 0.5 and of 2 minus that at 1, paired: the
            same network with other weights.
        grown: by norm, first over last layer in the plain stack.
        apart: of these, batch norm minus no norm.
    """

    deep: Estimate | None
    moved: Mapping[str, tuple[Estimate | None, Estimate | None]]
    grown: Mapping[str, Estimate | None]
    apart: Estimate | None


def seen(found: Cases) -> Seen:
    """The differences."""
    deep = (middles(found["ResNet-56", norm, 1.0]) for norm in ("none", "batch"))
    usual = {norm: found["plain", norm, 1.0] for norm in ("none", "batch")}
    halved, doubled = (
        {norm: paired(middles(found["plain", norm, g]), middles(usual[norm])) for norm in usual}
        for g in (0.5, 2.0)
    )
    return Seen(
        welch(*deep),
        {norm: (halved[norm], doubled[norm]) for norm in usual},
        {norm: estimate(list(ends(each).values())) for norm, each in usual.items()},
        welch(ends(usual["batch"]), ends(usual["none"])),
    )


def _within(found: Estimate | None, size: float) -> bool:
    return found is not None and found.above(-size) and found.below(size)


def worse(of: Seen) -> bool:
    """Whether batch norm makes gradients grow toward the input that do not grow without a norm."""
    own = of.grown["batch"]
    return own is not None and own.above(0.5) and of.apart is not None and of.apart.above(0.5)


def decide(of: Seen) -> str:
    """The verdict: an effect counts where its interval is clear of one power of ten, or of three.

    It helps where the gradients are far smaller in ResNet-56, and where they shrink and grow with
    the weights' scale without a norm and stay within a power of ten with batch norm.
    """
    steady = all(_within(each, 1) for each in of.moved["batch"])
    halved, doubled = of.moved["none"]
    helps = [
        of.deep is not None and of.deep.above(1),
        steady and halved is not None and halved.below(-3),
        steady and doubled is not None and doubled.above(3),
    ]
    if not any(helps):
        return NOT if of.deep is not None and of.deep.below(0) else OPEN
    return HOLDS if all(helps) and not worse(of) else PARTLY


def _why(found: Cases, of: Seen) -> str:
    loss = {norm: median(found["ResNet-56", norm, 1.0]["loss"]) for norm in ("none", "batch")}
    moved = {norm: " and ".join(f"10^({fixed(e, 1)})" for e in of.moved[norm]) for norm in of.moved}
    explodes = (
        f" That is an explosion toward the input, over {LAYERS} layers, as theory says (Yang et al."
        " 2019, arXiv 1902.08129)."
    )
    grow = ", but without shortcuts batch norm makes them grow toward the input" * worse(of)
    return (
        f"In ResNet-56 the gradients without a norm are 10^({fixed(of.deep, 1)}) times those with"
        f" batch norm{grow}. The loss starts at {number(loss['none'])} without a norm and at"
        f" {loss['batch']:.1f} with batch norm; the other norms do the same, and so does starting"
        " each block at 0. In a plain stack, halved and doubled weights multiply the gradients by"
        f" {moved['none']} without a norm and by {moved['batch']} with batch norm. The first"
        " layer's"
        f" gradient is 10^({fixed(of.grown['none'], 1)}) times the last one's without a norm and"
        f" 10^({fixed(of.grown['batch'], 1)}) times with batch norm."
        + (explodes if worse(of) else "")
    )


def finding(found: Cases) -> Finding:
    """Vanishing and exploding gradients."""
    rows = [_row(case, each) for case, each in found.items()]
    of = seen(found)
    return Finding(
        "Vanishing and exploding gradients",
        "Batch norm helps against vanishing and exploding gradients.",
        f"Networks at their start, training mode, {COUNT} test images, float64, {len(SEEDS)} seeds:"
        " the loss, and of each 3×3 convolution the gradient's norm relative to its weights',"
        f" as log₁₀. ResNet-56 with He initialization, and a plain stack of {LAYERS} equal"
        " convolutions without shortcuts, its weights also halved and doubled (gain)."
        " `none, γ=0` has no norm, but every block starts at 0. It helps fully if no norm's"
        " gradients"
        " are over 10 times larger in ResNet-56 and move over 1,000 times with the weights where"
        " batch norm's stay within 10 times, and batch norm makes nothing worse by over 3 times.",
        decide(of),
        _why(found, of),
        [
            Table(
                "log₁₀ of ‖gradient‖/‖weights‖: median layer; first over last layer (above 0:"
                " growing toward the input); range over layers",
                ["network", "norm", "gain", "loss", "median layer", "first/last", "range"],
                rows,
            )
        ],
        "Gradients later in training; other initializations.",
        "article-gradients.png",
    )
