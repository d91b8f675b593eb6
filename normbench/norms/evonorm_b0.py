"""EvoNorm-B0: normalization and activation in one, batch-dependent."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.norms.base import NORMS, Norm, NormConfig, State, spatial_size
from normbench.norms.evonorm_s0 import PAPER, PLAIN, scaled_copy
from normbench.norms.moments import Moments, above_zero, pooled, sum_over
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
        mean, instance = Moments.apply(x)
        if self.training and len(x):
            batch = self._batch_variance(mean, instance, x.shape)
        else:
            batch = spread(self.running_var, x)
        v = spread(self.v, x)
        own, shared = (instance + self.eps).sqrt(), (batch + self.eps).sqrt()
        y: Tensor = Quotient.apply(x, v, own, shared, larger(x, v, own, shared))
        if self.weight is None:
            return y
        assert self.bias is not None
        return torch.addcmul(spread(self.bias, x), y, spread(self.weight, x))

    def activate(self, y: Tensor) -> Tensor:
        return y

    def _batch_variance(self, mean: Tensor, variance: Tensor, shape: torch.Size) -> Tensor:
        """The variance of each example's batch or sub-batch, [N, C, 1, ...]; the average moves."""
        assert self.running_var is not None
        n, size = shape[0], min(self.norm_batch or shape[0], shape[0])
        if n % size:
            raise UsageError(f"norm_batch={size} does not divide a batch of {n}")
        count = size * spatial_size(shape)
        if count == 1:
            raise self.single_value(shape)

        def over_sub_batches(values: Tensor) -> Tensor:
            parts: Tensor = values.unflatten(0, (-1, size))
            return parts.mean(1, keepdim=True).expand_as(parts).flatten(0, 1)

        batch = pooled(mean, variance, over_sub_batches)
        unbiased = batch.detach().mean(0).flatten() * (count / (count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return batch


@torch.no_grad()
def larger(x: Tensor, v: Tensor, own: Tensor, shared: Tensor) -> Tensor:
    """max(shared, v·x + own), without a gradient: :class:`Quotient` knows it."""
    return (x * v).add_(own).clamp_min_(shared)


class Quotient(torch.autograd.Function):
    """x / max(shared, v·x + own), for x [N, C, ...], v [1, C, 1, ...], the others [N, C, 1, ...].

    The backward pass of ``torch.maximum`` alone takes longer on a CPU. The denominator comes as an
    argument: only arguments and results can be kept where torch.func is to take it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, v: Tensor, own: Tensor, shared: Tensor, denominator: Tensor) -> Tensor:
        """The quotient, shaped like x; ``shared`` may be [1, C, 1, ...] if it is constant."""
        return x / denominator

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keeps what the backward pass needs."""
        x, v, _, shared, denominator = inputs
        ctx.save_for_backward(x, v, output, shared, denominator)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With y = x/d: dy/dx = 1/d and dy/dd = -y/d, which goes to what the maximum took."""
        x, v, y, shared, denominator = ctx.saved_tensors
        of_x = grad / denominator
        of_maximum = of_x * y
        whole = sum_over(of_maximum, positions(x))
        of_maximum = above_zero(of_maximum, denominator - shared)
        own = sum_over(of_maximum, positions(x))
        of_x.addcmul_(of_maximum, v, value=-1)
        of_v = sum_over(of_maximum.mul_(x), (0, *positions(x)))
        of_shared = own - whole if ctx.needs_input_grad[3] else None
        return of_x, -of_v, -own, of_shared, None


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
