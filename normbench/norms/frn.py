"""Filter response normalization with its thresholded linear unit."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.norms.base import NORMS, Norm, NormConfig, State, spatial_size
from normbench.norms.moments import MeanSquare, above_zero, sum_over
from normbench.norms.parts import mean_over, positions, scale_and_shift, spread
from normbench.norms.published import Published
from normbench.norms.settings import setting


class FilterResponseNorm(Norm):
    """Filter response normalization (Singh & Krishnan 2019, arXiv 1911.09737, equations 1 to 4).

    Each channel of each example is divided by the root of the mean square over its H·W values. The
    activation is the thresholded linear unit (TLU): the larger of the output and a learned τ.
    Without it, before a residual addition, there is no τ: normalization, γ and β alone.

    The paper prints its code, whose defaults are here: ε 1e-6, a learned ε from 1e-4, γ = 1,
    β = τ = 0. timm's layer has ε 1e-5.

    Attributes:
        threshold: τ, shape [C], zeros at the start; None without ``act``.
        learned_eps: shape [C], 1e-4 at the start; its absolute value is added to ``eps``. None
            unless asked for.
    """

    activation: ClassVar[str] = "TLU"
    constant: ClassVar[str] = "±γ + β"
    remedy: ClassVar[str] = "norm.learned_eps=true, as the paper does, or larger images"

    def __init__(
        self, channels: int, *, eps: float, affine: bool, act: bool, learned_eps: bool
    ) -> None:
        super().__init__(channels, eps=eps, affine=affine, act=act)
        self.threshold = nn.Parameter(torch.zeros(channels)) if act else None
        self.learned_eps = nn.Parameter(torch.full((channels,), 1e-4)) if learned_eps else None

    @property
    def axes(self) -> str:
        return "H·W"

    def values_per_statistic(self, shape: torch.Size) -> int | None:
        return spatial_size(shape) if self.learned_eps is None else None

    def normalize(self, x: Tensor) -> Tensor:
        if self.values_per_statistic(x.shape) == 1:
            raise self.single_value(x.shape)
        square: Tensor = MeanSquare.apply(x)
        eps = self.eps if self.learned_eps is None else self.eps + spread(self.learned_eps.abs(), x)
        # One factor for each example and channel, so that the input is passed over once more only.
        factor = (square + eps).rsqrt()
        if self.weight is not None:
            factor = factor * spread(self.weight, x)
        return x * factor if self.bias is None else torch.addcmul(spread(self.bias, x), x, factor)

    def activate(self, y: Tensor) -> Tensor:
        assert self.threshold is not None
        z: Tensor = Threshold.apply(y, spread(self.threshold, y))
        return z


class Threshold(torch.autograd.Function):
    """max(y, τ), for y [N, C, ...] and τ [1, C, 1, ...]; where they are equal, it is τ.

    The backward pass of ``torch.maximum`` takes several times as long on a CPU.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, threshold: Tensor) -> Tensor:
        """The larger, shaped like y."""
        return torch.maximum(y, threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keeps what the backward pass needs."""
        ctx.save_for_backward(output, inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient goes to what was larger."""
        z, threshold = ctx.saved_tensors
        kept = above_zero(grad, z - threshold)
        axes = (0, *positions(z))
        return kept, sum_over(grad, axes) - sum_over(kept, axes)


@NORMS.register("frn")
@dataclass(kw_only=True, slots=True)
class FilterResponseNormConfig(NormConfig):
    """Filter response normalization."""

    name: str = "frn"

    eps: float = setting(1e-6, above=0, below=1)
    """Added to the mean square before its root is taken; above 0."""

    learned_eps: bool = False
    """Whether to add the absolute value of a learned number per channel to ``eps``. Where one
    position is left (H·W = 1) it has to be: the output would be a sign."""

    title: ClassVar[str] = "Filter response normalization"
    axes: ClassVar[str] = "H·W"
    formula: ClassVar[str] = (
        "ν²_nc = mean of x[n, c, h, w]² over h, w\n"
        "y = γ_c · x / √(ν²_nc + ε) + β_c; with learned_eps=true ε + |ε_c|\n"
        "its activation (TLU): z = max(y, τ_c); before a residual addition there is none"
    )
    paper: ClassVar[str] = (
        "Singh & Krishnan, Filter Response Normalization Layer: Eliminating Batch Dependence in the"
        " Training of Deep Neural Networks, 2019, arXiv 1911.09737, equations 1 to 4; the paper"
        " trains it with a warm-up of the learning rate"
    )
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-20, CIFAR-10, accuracy in %, 400 epochs, by norm and images per GPU",
            results={
                "frn at 128": 92.3,
                "frn at 32": 92.3,
                "batch at 128": 93.01,
                "batch at 32": 91.2,
            },
            smallest=32,
            source="README of T1anZhenYu/pytorch_Filter_Response_Norm",
            basis="seen",
        ),
        Published(
            measured="ResNet-50, ImageNet, error in %, with a recipe made for batch norm",
            results={"batch": 23.6, "frn": 24.0},
            source="README of ppwwyyxx/FRN-on-common-ImageNet-baseline",
            basis="seen",
        ),
        Published(
            measured="ImageNet, more than a point better than group norm at small batches",
            results={},
            source="arXiv 1911.09737, abstract",
            basis="claimed",
        ),
    )
    starts: ClassVar[dict[str, float]] = {"threshold": 0.0, "learned_eps": 1e-4}
    cite: ClassVar[str] = "Singh & Krishnan 2019, 1911.09737"

    def build(
        self, channels: int, *, act: bool = True, norm_batch: int | None = None
    ) -> FilterResponseNorm:
        return FilterResponseNorm(
            channels, eps=self.eps, affine=self.affine, act=act, learned_eps=self.learned_eps
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
        eps = torch.full_like(x, self.eps)
        if self.learned_eps:
            eps = eps + spread(state["learned_eps"].abs(), x)
        normalized = x / (mean_over(x**2, positions(x)) + eps).sqrt()
        y = scale_and_shift(normalized, state.get("weight"), state.get("bias"))
        return torch.maximum(y, spread(state["threshold"], x)) if act else y
