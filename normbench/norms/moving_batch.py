"""Moving average batch normalization (MABN): averages over steps, forward and backward."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normbench.norms.base import NORMS, Norm, NormConfig, State, spatial_size
from normbench.norms.batch import folded, num_sub_batches, unfolded
from normbench.norms.moments import channel_sums
from normbench.norms.parts import Convolution, NormConv, positions, scale_and_shift, spread
from normbench.norms.published import MABN_COCO, MABN_IMAGENET, Published
from normbench.norms.settings import setting
from normbench.norms.weight_standardization import fan_in


class CentredConv(NormConv):
    """A convolution whose weight has mean 0 for each output channel (MABN's CenConv2d).

    Autograd's way is as fast here as a backward pass by hand.
    """

    def prepare(self) -> None:
        """Refuses a convolution whose weights would all be 0."""
        fan_in(self)

    def transform(self, weight: Tensor) -> Tensor:
        return weight - weight.mean(tuple(range(1, weight.dim())), keepdim=True)


class MovingBatchNorm(Norm):
    """Moving average batch normalization (Yan et al. 2020, arXiv 2001.06838, algorithm 1).

    There are no means: the weights of the convolutions before it are centred instead. In training,
    each channel is divided by the root of χ̄², the mean of its mean square over the last ``window``
    steps, and brought to the scale of a longer, exponential average by the factor r, which is
    limited and a constant in the backward pass. The statistic of the gradient is averaged over the
    steps, too. In the first ``warmup`` steps the batch's own statistics are used, and r = 1. In
    evaluation the exponential average is used.

    The official code (megvii-model/MABN) has three variants, whose defaults are here (ε 1e-5,
    momentum 0.98 of the old value, r within 1/5 to 5, 100 steps of warm-up, a window of 16 for 2
    images a step); in all r compares with the exponential average before the step moves it, as
    here. Where they differ, this takes one: the first step sets the exponential average (ImageNet's
    variant; in the others it starts at 1), and r counts from the end of the warm-up on (the others:
    from step 1,000). Unlike there, the exponential average takes the mean square of the step, as in
    algorithm 1, and not of the window, and a window that is not full yet is averaged over what it
    holds. There the window is 32 images whatever the batch; here it is a number of steps.

    With ``norm_batch`` the averages go over sub-batches, one after another in the order of the
    batch, as if each were a step; the warm-up still counts whole steps.

    Attributes:
        running_square: the exponential average, shape [C].
        square_window, gradient_window: the statistics of the last (sub-)batches, forward and
            backward, the newest last, shape [C, window].
        steps: how many steps there have been, a single number.
    """

    batch_dependent = True
    remedy: ClassVar[str] = "a larger batch or larger images, or norm=group"
    constant: ClassVar[str] = "±γ + β"

    running_square: Tensor
    square_window: Tensor
    gradient_window: Tensor
    steps: Tensor

    def __init__(
        self, channels: int, config: "MovingBatchNormConfig", *, act: bool, norm_batch: int | None
    ) -> None:
        super().__init__(channels, eps=config.eps, affine=config.affine, act=act)
        self.momentum, self.limit, self.warmup = config.momentum, config.limit, config.warmup
        self.norm_batch = norm_batch
        self.register_buffer("running_square", torch.ones(channels))
        self.register_buffer("square_window", torch.zeros(channels, config.window))
        self.register_buffer("gradient_window", torch.zeros(channels, config.window))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def axes(self) -> str:
        return "steps·N·H·W"

    def values_per_statistic(self, shape: torch.Size) -> int:
        return min(self.norm_batch or shape[0], shape[0]) * spatial_size(shape)

    def normalize(self, x: Tensor) -> Tensor:
        # In float16 a sum of squares would be infinite.
        x = x.to(torch.promote_types(self.running_square.dtype, torch.float32))
        if not self.training or len(x) == 0:
            factor = (self.running_square + self.eps).rsqrt()
            return scale_and_shift(x, self._times_gamma(factor), self.bias)
        if self.values_per_statistic(x.shape) == 1:
            raise self.single_value(x.shape)
        parts = num_sub_batches(len(x), self.norm_batch)
        y: Tensor = _Normalize.apply(
            folded(x, parts) if parts > 1 else x, self.weight, self.bias, self, parts
        )
        return unfolded(y, parts) if parts > 1 else y

    def _times_gamma(self, factor: Tensor) -> Tensor:
        return factor if self.weight is None else factor * self.weight

    def held(self, parts: int) -> Tensor:
        """How many statistics the windows hold after each of this step's, [sub-batches]."""
        counts = torch.arange(1, parts + 1, device=self.steps.device) + self.steps * parts
        return counts.clamp_(max=self.square_window.shape[1])

    def correction(self, square: Tensor, used: Tensor) -> Tensor:
        """r after the warm-up, [sub-batches, C]; moves the exponential average and the steps.

        Args:
            square: the mean square of each sub-batch, [sub-batches, C].
            used: what it uses instead.
        """
        averages = [torch.where(self.steps == 0, square[0], self.running_square)]
        for each in square:
            averages.append(averages[-1].lerp(each, self.momentum))
        self.running_square.copy_(averages[-1])
        self.steps.add_(1)
        r = ((used + self.eps) / (torch.stack(averages[:-1]) + self.eps)).sqrt_()
        return r.clamp_(1 / self.limit, self.limit)


def over_window(window: Tensor, new: Tensor, held: Tensor, warm: Tensor) -> Tensor:
    """What is used instead of the sub-batches' own statistics, which enter ``window``.

    Args:
        window: [C, window].
        new: the own statistics, [sub-batches, C].
        held: how many the window holds after each.
        warm: whether these are the first steps, which use their own.
    """
    size = window.shape[1]
    row = torch.cat([window, new.t()], 1)
    mean = row.unfold(1, size, 1)[:, 1:].sum(2) / held
    window.copy_(row[:, -size:])
    return torch.where(warm, new, mean.t())


class _Normalize(torch.autograd.Function):
    """Training: forward and backward pass, with one factor a channel each.

    y = γ·r·z + β with z = x/χ̄ and χ̄ = √(χ̄² + ε); for g = γ·r·∂L/∂y the backward pass is
    ∂L/∂x = (g - z·ψ̄)/χ̄, where ψ̄ is the mean over the window of ψ, the mean of g·z.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        layer: MovingBatchNorm,
        parts: int,
    ) -> Tensor:
        ctx.layer, ctx.affine = layer, weight is not None
        held, warm = layer.held(parts), layer.steps < layer.warmup
        _, squares = channel_sums(x, x)
        square = squares.view(parts, -1) / (x.numel() // x.shape[1])
        used = over_window(layer.square_window, square, held, warm)
        r = layer.correction(square, used).masked_fill_(warm, 1)
        inverse = (used + layer.eps).rsqrt()
        gain = r if weight is None else r * weight
        ctx.save_for_backward(x, inverse, r, gain, held, warm)
        factor = spread((gain * inverse).flatten(), x)
        if bias is None:
            return x * factor
        return torch.addcmul(spread(bias.repeat(parts), x), x, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, inverse, r, gain, held, warm = ctx.saved_tensors
        layer = ctx.layer
        first, second = (each.view_as(r) for each in channel_sums(grad, x))
        psi = gain * inverse * second / (x.numel() // x.shape[1])
        used = over_window(layer.gradient_window, psi, held, warm)
        slope = spread((inverse * gain).flatten(), x)
        pull = spread((inverse.square() * used).flatten(), x)
        dx = (grad * slope).addcmul_(x, pull, value=-1)
        if not ctx.affine:
            return dx, None, None, None, None
        return dx, (r * inverse * second).sum(0), first.sum(0), None, None


@NORMS.register("moving_batch")
@dataclass(kw_only=True, slots=True)
class MovingBatchNormConfig(NormConfig):
    """Moving average batch normalization."""

    name: str = "moving_batch"

    momentum: float = setting(0.02, above=0, most=1)
    """How far the exponential average moves toward each step's; above 0, at most 1."""

    window: int = setting(16, least=2)
    """How many steps the statistics are averaged over in training, forward and backward."""

    warmup: int = setting(100, least=1)
    """How many steps use their own batch's statistics at first."""

    limit: float = setting(5.0, least=1)
    """The limit of r, which is kept from 1/limit to limit; at least 1."""

    title: ClassVar[str] = "Moving average batch normalization"
    axes: ClassVar[str] = "steps·N·H·W"
    formula: ClassVar[str] = (
        "χ²_c = mean of x[n, c, h, w]² over n, h, w\n"
        "χ̄²_c = mean of χ²_c over the last steps; χ̂²_c = exponential average of it\n"
        "r_c = √(χ̄²_c + ε) / √(χ̂²_c + ε), kept from 1/limit to limit\n"
        "z = x / √(χ̄²_c + ε), y = γ_c · r_c · z + β_c\n"
        "backward, with g = γ_c · r_c · ∂L/∂y: ψ_c = mean of g · z over n, h, w\n"
        "∂L/∂x = (g - z · mean of ψ_c over the last steps) / √(χ̄²_c + ε)\n"
        "evaluation: y = γ_c · x / √(χ̂²_c + ε) + β_c\n"
        "convolutions use W - mean of W for each output channel"
    )
    paper: ClassVar[str] = (
        "Yan, Wan, Zhang, Zhang, Wei & Sun, Towards Stabilizing Batch Statistics in Backward"
        " Propagation of Batch Normalization, 2020, arXiv 2001.06838, algorithm 1 and section 4.3"
    )
    cite: ClassVar[str] = "Yan et al. 2020, 2001.06838"
    starts: ClassVar[dict[str, float]] = {
        **{"running_square": 1.0, "square_window": 0.0, "gradient_window": 0.0, "steps": 0}
    }
    batch_dependent: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    evaluation: ClassVar = "running statistics"
    folds: ClassVar[bool] = True
    published: ClassVar[tuple[Published, ...]] = (MABN_IMAGENET, MABN_COCO)

    def build(
        self, channels: int, *, act: bool = True, norm_batch: int | None = None
    ) -> MovingBatchNorm:
        return MovingBatchNorm(channels, self, act=act, norm_batch=norm_batch)

    def convolution(self, conv: Convolution) -> nn.Module:
        return CentredConv.of(conv)

    def reference_convolution(self, state: State) -> tuple[Tensor, Tensor | None]:
        rows = state["weight"].flatten(1)
        centred = rows - rows.mean(1, keepdim=True)
        return centred.view(state["weight"].shape), state.get("bias")

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        gamma = state.get("weight", torch.ones_like(state["running_square"]))
        beta = state.get("bias", torch.zeros_like(gamma))
        if training:
            y: Tensor = _MovingReference.apply(x, gamma, beta, state, self, norm_batch or len(x))
        else:
            y = x / spread((state["running_square"] + self.eps).sqrt(), x)
            y = scale_and_shift(y, gamma, beta)
        return y.relu() if act else y


class _MovingReference(torch.autograd.Function):
    """Training, forward and backward, as the formula has it, one step after another."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        state: State,
        config: MovingBatchNormConfig,
        size: int,
    ) -> Tensor:
        axes, ys, ctx.kept = (0, *positions(x)), [], []
        parts, steps = x.split(size), int(state["steps"])
        for number, part in enumerate(parts):
            held = min(config.window, steps * len(parts) + number + 1)
            own = (part**2).mean(axes)
            state["square_window"] = torch.cat([state["square_window"][:, 1:], own[:, None]], 1)
            chi2, r, average = own, torch.ones_like(own), state["running_square"]
            if steps >= config.warmup:
                chi2 = state["square_window"].sum(1) / held
                r = (chi2 + config.eps).sqrt() / (average + config.eps).sqrt()
                r = r.clip(1 / config.limit, config.limit)
            keep = 0.0 if steps == number == 0 else 1 - config.momentum
            state["running_square"] = keep * average + (1 - keep) * own
            chi = (chi2 + config.eps).sqrt()
            ys.append(spread(gamma * r, x) * (part / spread(chi, x)) + spread(beta, x))
            ctx.kept.append((part, r, chi, held))
        state["steps"] = state["steps"] + 1
        ctx.gamma, ctx.state, ctx.size = gamma, state, size
        ctx.warm = steps < config.warmup
        return torch.cat(ys)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        axes, state = (0, *positions(grad)), ctx.state
        dxs, dgamma = [], torch.zeros_like(ctx.gamma)
        for dy, (part, r, chi, held) in zip(grad.split(ctx.size), ctx.kept, strict=True):
            z = part / spread(chi, part)
            g = spread(ctx.gamma * r, part) * dy
            psi = (g * z).mean(axes)
            window = torch.cat([state["gradient_window"][:, 1:], psi[:, None]], 1)
            state["gradient_window"] = window
            if not ctx.warm:
                psi = window.sum(1) / held
            dxs.append((g - z * spread(psi, part)) / spread(chi, part))
            dgamma = dgamma + (dy * spread(r, part) * z).sum(axes)
        return torch.cat(dxs), dgamma, grad.sum(axes), None, None, None
