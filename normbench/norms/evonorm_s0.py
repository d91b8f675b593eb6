"""EvoNorm-S0: normalization and activation in one, batch-independent."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.norms.base import NORMS, State
from normbench.norms.group import GroupedConfig, GroupNorm
from normbench.norms.moments import Moments, over_groups, pooled, sum_over
from normbench.norms.parts import mean_over, positions, scale_and_shift, spread
from normbench.norms.published import Published

PAPER = (
    "Liu, Brock, Simonyan & Le, Evolving Normalization-Activation Layers, 2020, arXiv 2004.02967"
)
PLAIN = "where no activation follows, before a residual addition: y = γ_c · x + β_c"


class EvoNormS0(GroupNorm):
    """EvoNorm-S0 (Liu et al. 2020, arXiv 2004.02967): γ · x·sigmoid(v·x) / s + β.

    s is the root of the biased variance over the (C/G)·H·W values of a group. The activation is
    part of it: without it, before a residual addition, the layer is γ·x + β, as in the paper's
    code, and no mean is taken.

    The official code (tensorflow/tpu, ``models/official/resnet/resnet_model.py``) has the ε and the
    start of v that are here. There G is the largest number up to 32 that divides C, which is
    instance norm's at up to 32 channels; here two channels at least share a deviation. There γ
    starts at 0 where a residual branch ends.

    Attributes:
        v: shape [C], ones at the start; None without ``act``.
    """

    activation: ClassVar[str] = "x·sigmoid(v·x)"
    constant: ClassVar[str] = "divided by √ε alone"
    remedy: ClassVar[str] = "fewer groups or larger images"

    def __init__(
        self, channels: int, num_groups: int, *, eps: float, affine: bool, act: bool
    ) -> None:
        super().__init__(channels, num_groups, eps=eps, affine=affine, act=act)
        self.v = nn.Parameter(torch.ones(channels)) if act else None

    @property
    def axes(self) -> str:
        return super().axes if self.act else "-"

    def values_per_statistic(self, shape: torch.Size) -> int | None:
        return super().values_per_statistic(shape) if self.act else None

    def normalize(self, x: Tensor) -> Tensor:
        if self.v is None:
            return scaled_copy(x, self.weight, self.bias)
        if self.values_per_statistic(x.shape) == 1:
            raise self.single_value(x.shape)
        mean, variance = Moments.apply(x)
        variance = pooled(mean, variance, lambda each: over_groups(each, self.num_groups))
        # One factor for each example and channel, so that there are few passes over the input.
        factor = (variance + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * spread(self.weight, x)
        v = spread(self.v, x)
        swish: Tensor = Swish.apply(x, v, sigmoid_of(x, v))
        if self.bias is None:
            return swish * factor
        return torch.addcmul(spread(self.bias, x), swish, factor)

    def activate(self, y: Tensor) -> Tensor:
        return y


@torch.no_grad()
def sigmoid_of(x: Tensor, v: Tensor) -> Tensor:
    """sigmoid(v·x), without a gradient: :class:`Swish` knows it."""
    return (x * v).sigmoid_()


class Swish(torch.autograd.Function):
    """x·sigmoid(v·x), for x [N, C, ...] and v [1, C, 1, ...], with few tensors of x's size.

    The sigmoid comes as an argument: only arguments and results can be kept where torch.func is
    to take it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, v: Tensor, sigmoid: Tensor) -> Tensor:
        """The product, shaped like x."""
        return x * sigmoid

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keeps what the backward pass needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """With s = sigmoid(v·x): dy/dx = s + v·x·s·(1 - s) and dy/dv = x²·s·(1 - s)."""
        x, v, sigmoid = ctx.saved_tensors
        slope = (1 - sigmoid).mul_(sigmoid).mul_(x)
        of_v = sum_over((slope * x).mul_(grad), (0, *positions(x)))
        return slope.mul_(v).add_(sigmoid).mul_(grad), of_v, None


def scaled_copy(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """γ·x + β as a new tensor: what is left of an EvoNorm without its activation."""
    return x.clone() if weight is None else scale_and_shift(x, weight, bias)


@NORMS.register("evonorm_s0")
@dataclass(kw_only=True, slots=True)
class EvoNormS0Config(GroupedConfig):
    """EvoNorm-S0: batch-independent."""

    name: str = "evonorm_s0"

    title: ClassVar[str] = "EvoNorm-S0"
    formula: ClassVar[str] = (
        "g = the group of channel c: ⌊c / (C/G)⌋\n"
        "σ²_ng = variance of x[n, c, h, w] over the C/G channels of g and over h, w\n"
        "y = γ_c · x · sigmoid(v_c · x) / √(σ²_ng + ε) + β_c\n"
        f"{PLAIN}"
    )
    paper: ClassVar[str] = PAPER
    cite: ClassVar[str] = "Liu et al. 2020, 2004.02967"
    norm_activation: ClassVar[bool] = True
    needs: ClassVar[str] = "the places of activations"
    starts: ClassVar[dict[str, float]] = {"v": 1.0}
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="accuracy above batch norm's with ReLU, in points, at a small batch",
            results={"evonorm_s0": 7.8},
            source="arXiv 2004.02967, table 4",
            basis="claimed",
        ),
    )

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> EvoNormS0:
        return EvoNormS0(
            channels, self.num_groups(channels), eps=self.eps, affine=self.affine, act=act
        )

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        y = x
        if act:
            n, c, *space = x.shape
            g = self.num_groups(c)
            groups = x.reshape(n, g, c // g, *space)
            mean = mean_over(groups, positions(groups))
            variance = mean_over((groups - mean) ** 2, positions(groups))
            deviation = (variance + self.eps).sqrt().expand_as(groups).reshape(x.shape)
            y = x * torch.sigmoid(spread(state["v"], x) * x) / deviation
        return scale_and_shift(y, state.get("weight"), state.get("bias"))
