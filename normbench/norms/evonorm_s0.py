"""EvoNorm-S0: normalization and activation in one, batch-independent."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normbench.norms.base import NORMS, State, spatial_size
from normbench.norms.group import GroupedConfig, GroupNorm
from normbench.norms.moments import Moments, over_groups, sum_over
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
        x = x.to(self.v.dtype)
        y: Tensor = _Swished.apply(x, self.v, self.weight, self.bias, self.num_groups, self.eps)[0]
        return y

    def activate(self, y: Tensor) -> Tensor:
        return y


class _Swished(torch.autograd.Function):
    """γ·x·sigmoid(v·x)/s + β, forward and back, with few tensors of x's size.

    What the backward pass needs is among the results: only arguments and results can be kept where
    torch.func is to take it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        v: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        num_groups: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The output, the group's mean and 1/s, each [N, C, 1, ...], and the sigmoid."""
        mean, variance = Moments.forward(x)
        centre = over_groups(mean, num_groups)
        variance = over_groups(variance + (mean - centre).square(), num_groups)
        inverse = (variance + eps).rsqrt()
        factor = inverse if weight is None else inverse * spread(weight, x)
        sigmoid = (x * spread(v, x)).sigmoid_()
        swish = x * sigmoid
        if bias is None:
            return swish * factor, centre, inverse, sigmoid
        return torch.addcmul(spread(bias, x), swish, factor), centre, inverse, sigmoid

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what the backward pass needs."""
        x, v, weight, _, ctx.num_groups, _ = inputs
        ctx.save_for_backward(x, v, weight, *output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """With s = sigmoid(v·x): of x·s, d/dx = s + v·x·s·(1 - s) and d/dv = x²·s·(1 - s)."""
        x, v, weight, centre, inverse, sigmoid = ctx.saved_tensors
        axes, factor = positions(x), inverse if weight is None else inverse * spread(weight, x)
        product = (x * sigmoid).mul_(grad)
        along = sum_over(product, axes)
        product.mul_(1 - sigmoid)
        to_v = (sum_over(product * x, axes) * factor).sum(0).flatten()
        swish = product.mul_(spread(v, x)).addcmul_(grad, sigmoid)
        by_variance = over_groups(factor * along * inverse.square(), ctx.num_groups)
        slope = by_variance * (-1 / spatial_size(x.shape))
        dx = torch.addcmul(-slope * centre, x, slope).addcmul_(swish, factor)
        if weight is None:
            return dx, to_v, None, None, None, None
        to_beta = sum_over(grad, (0, *axes)).flatten()
        return dx, to_v, (along * inverse).sum(0).flatten(), to_beta, None, None


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
