"""EvoNorm-B0: normalization and activation in one, batch-dependent."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normbench.norms.base import NORMS, Norm, NormConfig, State, spatial_size
from normbench.norms.batch import num_sub_batches
from normbench.norms.evonorm_s0 import PAPER, PLAIN, scaled_copy
from normbench.norms.moments import Moments, above_zero, sum_over
from normbench.norms.parts import mean_over, positions, scale_and_shift, spread
from normbench.norms.settings import setting


class EvoNormB0(Norm):
    """EvoNorm-B0 (Liu et al. 2020, arXiv 2004.02967): γ·x/max(s_b, v·x + s_i) + β.

    s_b is the root of the biased variance of a channel over N·H·W, in evaluation of its running
    average, and s_i that of an example's channel over H·W. The activation is part of it: without
    it, before a residual addition, the layer is γ·x + β, as in the paper's code. ``norm_batch`` and
    the running average are those of batch norm.

    The official code (see :class:`EvoNormS0`) has the ε, the momentum and the start of v that are
    here. Its running average is of the biased variance; here it is of the unbiased one, as batch
    norm's and timm's, since at a small batch evaluation would see deviations that are too small.

    Attributes:
        v: shape [C], ones at the start; None without ``act``.
        running_var: shape [C]; None without ``act``.
    """

    activation: ClassVar[str] = "x/max(s_b, v·x + s_i)"
    constant: ClassVar[str] = "divided by √ε alone"
    remedy: ClassVar[str] = "a larger batch or larger images, or norm=evonorm_s0"

    running_var: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        eps: float,
        momentum: float,
        affine: bool,
        act: bool,
        norm_batch: int | None = None,
    ) -> None:
        super().__init__(channels, eps=eps, affine=affine, act=act)
        self.momentum = momentum
        self.norm_batch = norm_batch
        self.batch_dependent = act
        self.v = nn.Parameter(torch.ones(channels)) if act else None
        self.register_buffer("running_var", torch.ones(channels) if act else None)

    @property
    def axes(self) -> str:
        if not self.act:
            return "-"
        return "N·H·W" if self.norm_batch is None else f"{self.norm_batch} of N·H·W"

    def values_per_statistic(self, shape: torch.Size) -> int | None:
        sharing = min(self.norm_batch or shape[0], shape[0])
        return sharing * spatial_size(shape) if self.act else None

    def _cause(self, batch: int) -> str:
        shared = self.norm_batch is not None and self.norm_batch <= batch
        key = f"norm_batch={self.norm_batch}" if shared else f"batch={batch}"
        return f"norm=evonorm_b0 {key}"

    def normalize(self, x: Tensor) -> Tensor:
        if self.v is None:
            return scaled_copy(x, self.weight, self.bias)
        assert self.running_var is not None
        x = x.to(self.running_var.dtype)
        if self.training and len(x) > 0:
            if self.values_per_statistic(x.shape) == 1:
                raise self.single_value(x.shape)
            trained: Tensor = _Divided.apply(x, self.weight, self.bias, self.v, self)
            return trained
        _, instance = Moments.apply(x)
        own, shared = (instance + self.eps).sqrt(), (self.running_var + self.eps).sqrt()
        y = x / torch.maximum(spread(shared, x), spread(self.v, x) * x + own)
        return scale_and_shift(y, self.weight, self.bias)

    def activate(self, y: Tensor) -> Tensor:
        return y

    def batch_variance(self, mean: Tensor, variance: Tensor, values: int) -> Tensor:
        """The variance of each sub-batch, [sub-batches, 1, C]; the running average moves.

        Args:
            mean, variance: of each example's channel, [sub-batches, N of each, C].
            values: how many values each variance is over.
        """
        assert self.running_var is not None
        between = (mean - mean.mean(1, keepdim=True)).square()
        batch = (variance + between).mean(1, keepdim=True)
        unbiased = batch.mean((0, 1)) * (values / (values - 1))
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return batch


class _Divided(torch.autograd.Function):
    """Training, forward and back: y = γ·x/d + β with d = max(shared, v·x + own), where ``shared``
    is the deviation of a channel over the sub-batch, and ``own`` that over an example."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        v: Tensor,
        layer: EvoNormB0,
    ) -> Tensor:
        parts = num_sub_batches(len(x), layer.norm_batch)
        mean, variance = (each.view(parts, -1, x.shape[1]) for each in Moments.forward(x))
        batch = layer.batch_variance(mean, variance, x.numel() // (parts * x.shape[1]))
        own, shared = (variance + layer.eps).sqrt_(), (batch + layer.eps).sqrt_()
        own_x, shared_x = _at_examples(own, x), _at_examples(shared.expand_as(own), x)
        # No narrower than the deviations: rounded, it would be above what it was clamped to.
        denominator = (x.to(own.dtype) * spread(v, x)).add_(own_x).clamp_min_(shared_x)
        ctx.save_for_backward(x, weight, v, mean, own, shared, denominator)
        y = x / denominator
        if weight is None:
            return y
        assert bias is not None
        return torch.addcmul(spread(bias, x), y, spread(weight, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, v, mean, own, shared, denominator = ctx.saved_tensors
        gamma = torch.ones_like(v) if weight is None else weight
        axes = positions(x)
        by_x = grad / denominator
        product = by_x * x
        to_gamma = None if weight is None else sum_over(product, (0, *axes)).flatten()
        # d/dd of x/d is -x/d², which goes to what the maximum took.
        by_d = product.div_(denominator)
        whole = sum_over(by_d, axes).view_as(own)
        by_d = above_zero(by_d, denominator - _at_examples(shared.expand_as(own), x))
        to_own = sum_over(by_d, axes).view_as(own)
        by_x.addcmul_(by_d, spread(v, x), value=-1)
        to_v = -gamma * sum_over(by_d.mul_(x), (0, *axes)).flatten()
        by_batch = 0.5 * gamma * ((to_own - whole) / shared).mean(1, keepdim=True)
        by_variance = torch.sub(by_batch, gamma * to_own / own, alpha=0.5)
        m = spatial_size(x.shape)
        slope = 2 / m * by_variance
        between = 2 / m * by_batch * (mean - mean.mean(1, keepdim=True))
        constant = torch.addcmul(between, slope, mean, value=-1)
        dx = torch.addcmul(_at_examples(constant, x), x, _at_examples(slope, x))
        dx.addcmul_(by_x, spread(gamma, x))
        to_beta = None if weight is None else sum_over(grad, (0, *axes)).flatten()
        return dx, to_gamma, to_beta, to_v, None


def _at_examples(values: Tensor, x: Tensor) -> Tensor:
    """[sub-batches, N of each, C] as a factor or term of ``x`` [N, C, ...]."""
    return values.reshape(*x.shape[:2], *(1,) * (x.dim() - 2))


@NORMS.register("evonorm_b0")
@dataclass(kw_only=True, slots=True)
class EvoNormB0Config(NormConfig):
    """EvoNorm-B0: batch-dependent."""

    name: str = "evonorm_b0"

    momentum: float = setting(0.1, above=0, most=1)
    """How far the running variance moves toward each batch's; above 0, at most 1."""

    title: ClassVar[str] = "EvoNorm-B0"
    axes: ClassVar[str] = "N·H·W"
    formula: ClassVar[str] = (
        "σ²_c = variance of x[n, c, h, w] over n, h, w; in evaluation its running average\n"
        "s²_nc = variance of x[n, c, h, w] over h, w\n"
        "y = γ_c · x / max(√(σ²_c + ε), v_c · x + √(s²_nc + ε)) + β_c\n"
        f"{PLAIN}"
    )
    paper: ClassVar[str] = PAPER
    cite: ClassVar[str] = "Liu et al. 2020, 2004.02967"
    batch_dependent: ClassVar[bool] = True
    evaluation: ClassVar = "running statistics"
    norm_activation: ClassVar[bool] = True
    needs: ClassVar[str] = "the places of activations"
    starts: ClassVar[dict[str, float]] = {"v": 1.0, "running_var": 1.0}

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> EvoNormB0:
        return EvoNormB0(
            channels,
            eps=self.eps,
            momentum=self.momentum,
            affine=self.affine,
            act=act,
            norm_batch=norm_batch,
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
            if training:
                parts = x.split(norm_batch or len(x))
                variances = [self._variance(part, (0, *positions(x))) for part in parts]
                count = parts[0].numel() // x.shape[1]
                unbiased = torch.stack(variances).detach().mean(0).flatten() * count / (count - 1)
                kept = (1 - self.momentum) * state["running_var"]
                state["running_var"] = kept + self.momentum * unbiased
                pairs = zip(variances, parts, strict=True)
                batch = torch.cat([v.expand(len(part), *v.shape[1:]) for v, part in pairs])
            else:
                batch = spread(state["running_var"], x)
            instance = self._variance(x, positions(x))
            own = spread(state["v"], x) * x + (instance + self.eps).sqrt()
            y = x / torch.maximum((batch + self.eps).sqrt(), own)
        return scale_and_shift(y, state.get("weight"), state.get("bias"))

    def _variance(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return mean_over((x - mean_over(x, axes)) ** 2, axes)
