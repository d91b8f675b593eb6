"""Layer normalization: over an example, which is one group, or over a position's channels."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.norms.base import NORMS, Norm, NormConfig, State
from normbench.norms.group import GroupNorm
from normbench.norms.parts import finished, scale_and_shift
from normbench.norms.published import Published


class ChannelLayerNorm(Norm):
    """Layer normalization over the channels of each position, as in ConvNeXt (Liu et al. 2022,
    arXiv 2201.03545, section 2.6).

    Attributes:
        replicas: how many layers a stack has joined in this one, each with channels of its own.
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels", "replicas")
    remedy: ClassVar[str] = "more channels or another norm"

    def __init__(self, channels: int, *, eps: float, affine: bool, act: bool) -> None:
        super().__init__(channels, eps=eps, affine=affine, act=act)
        self.replicas = 1

    @property
    def axes(self) -> str:
        return "C"

    def values_per_statistic(self, shape: torch.Size) -> int:
        return self.channels // self.replicas

    def normalize(self, x: Tensor) -> Tensor:
        count = self.channels // self.replicas
        if count == 1:
            raise self.single_value(x.shape)
        rows = x.movedim(1, -1)  # a view, and contiguous where images are stored channels last
        if self.replicas == 1:
            y = F.layer_norm(rows, (count,), self.weight, self.bias, self.eps)
            return y.movedim(-1, 1)
        y = F.layer_norm(rows.unflatten(-1, (-1, count)), (count,), eps=self.eps)
        # Under autocast, of the dtype that one network's has.
        return scale_and_shift(y.flatten(-2).movedim(-1, 1), self.weight, self.bias).to(y.dtype)


class Over(StrEnum):
    """What a mean of layer norm runs over."""

    all = "all"
    channels = "channels"


@NORMS.register("layer")
@dataclass(kw_only=True, slots=True)
class LayerNormConfig(NormConfig):
    """Layer normalization, with γ and β per channel as Wu & He apply it to images."""

    name: str = "layer"

    over: Over = Over.all
    """What one mean runs over: all, C·H·W; or channels, C alone, at each position by itself, as in
    ConvNeXt and transformers."""

    title: ClassVar[str] = "Layer normalization"
    axes: ClassVar[str] = "C·H·W"
    formula: ClassVar[str] = (
        "μ_n = mean of x[n, c, h, w] over c, h, w\n"
        "σ²_n = mean of (x - μ_n)² over c, h, w\n"
        "y = γ_c · (x - μ_n) / √(σ²_n + ε) + β_c\n"
        "with over=channels, means over c alone, for each h, w"
    )
    paper: ClassVar[str] = (
        "Ba, Kiros & Hinton, Layer Normalization, 2016, arXiv 1607.06450, equation 3;"
        " for images: Wu & He 2018, arXiv 1803.08494, equation 5; over channels:"
        " Liu et al., A ConvNet for the 2020s, 2022, arXiv 2201.03545, section 2.6"
    )
    cite: ClassVar[str] = "Ba et al. 2016, 1607.06450"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-50, ImageNet, error in %, by images per GPU",
            results={"32": 25.3},
            smallest=32,
            source="arXiv 1803.08494",
            basis="claimed",
        ),
    )

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> Norm:
        if self.over == Over.channels:
            return ChannelLayerNorm(channels, eps=self.eps, affine=self.affine, act=act)
        return GroupNorm(channels, 1, eps=self.eps, affine=self.affine, act=act)

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        axes = (1,) if self.over == Over.channels else tuple(range(1, x.dim()))
        mean = x.mean(axes, keepdim=True)
        variance = ((x - mean) ** 2).mean(axes, keepdim=True)
        return finished((x - mean) / (variance + self.eps).sqrt(), state, act)
