"""Switchable normalization: learns how much of instance, layer and batch statistics to use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normbench.norms.base import NORMS, NormConfig, State, spatial_size
from normbench.norms.batch import BatchNorm
from normbench.norms.moments import Moments, sum_over
from normbench.norms.parts import finished, mean_over, per_example, positions, spread
from normbench.norms.published import Published
from normbench.norms.settings import setting


class SwitchableNorm(BatchNorm):
    """Switchable normalization (Luo et al. 2018, arXiv 1806.10779, equations 3 to 5).

    The mean is a weighted mean of those of instance, layer and batch norm, and so is the variance;
    the weights are softmaxes of three learned numbers each, which a layer has once. In evaluation
    running statistics take the place of the batch's; the paper's batch average is what re-estimated
    statistics are.

    The official code (switchablenorms/Switchable-Normalization, ``devkit``) has the defaults that
    are here: ε 1e-5, running statistics that keep 0.9 of the old value (0.997 in its first version
    and for one and three dimensions). There variances are unbiased over H·W; here all are biased,
    as in the paper, so that the three agree. There the running variance starts at 0 and not at 1,
    [N, C] has no instance statistics, γ starts at 0 where a residual branch ends, and 1 image a GPU
    is trained without the batch statistics, which are then instance norm's.

    Attributes:
        mean_weight, var_weight: the numbers behind the weights of instance, layer and batch
            statistics, shape [1, 3], ones at the start.
        running_mean, running_var: of the batch statistics, shape [C].
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels", "replicas")
    setting: ClassVar[str] = "switchable"
    correction: ClassVar[int] = 0

    def __init__(
        self,
        channels: int,
        *,
        eps: float,
        momentum: float,
        affine: bool,
        act: bool,
        norm_batch: int | None,
    ) -> None:
        super().__init__(
            channels, eps=eps, momentum=momentum, affine=affine, act=act, norm_batch=norm_batch
        )
        self.replicas = 1
        self.mean_weight = nn.Parameter(torch.ones(1, 3))
        self.var_weight = nn.Parameter(torch.ones(1, 3))

    @property
    def axes(self) -> str:
        return "H·W, C·H·W, N·H·W"

    def values_per_statistic(self, shape: torch.Size) -> int | None:
        return None  # where one of the means runs over a single value, the others do not

    def normalize(self, x: Tensor) -> Tensor:
        # Everything but the last line works on numbers per example and channel.
        x = x.to(self.running_mean.dtype)
        if self.training and len(x) > 0:
            trained: Tensor = _Switched.apply(
                x, self.weight, self.bias, self.mean_weight, self.var_weight, self
            )
            return trained
        own = self.split(1, *Moments.apply(x))
        batch = torch.stack((self.running_mean, self.running_var)).view(2, 1, 1, self.replicas, -1)
        sets = (own, _joint(own, -1), batch)
        centre, variance = _mixed(_shares(self.mean_weight, self.var_weight), sets)
        factor, term = self.affine(centre, (variance + self.eps).rsqrt())
        return torch.addcmul(per_example(term, x), x, per_example(factor, x))

    def split(self, parts: int, mean: Tensor, variance: Tensor) -> Tensor:
        """Two times [N, C, 1, ...] as [2, sub-batches, N of each, replicas, C of each]."""
        n, c = mean.shape[:2]
        both = torch.stack((mean, variance))
        return both.view(2, parts, n // parts, self.replicas, c // self.replicas)

    def affine(self, centre: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """The factor and the term of the input, each [N, C]."""
        factor = inverse.view(-1, self.channels)
        if self.weight is not None:
            factor = factor * self.weight
        centre = centre.view(-1, self.channels)
        if self.bias is None:
            return factor, -centre * factor
        return factor, torch.addcmul(self.bias, centre, factor, value=-1)

    def move(self, batch: Tensor) -> None:
        """Moves the running statistics by those of the sub-batches, as :meth:`split` has them."""
        mean, variance = batch.mean(1).flatten(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


class _Switched(torch.autograd.Function):
    """Training, forward and back: the statistics of an example's channels are few numbers, for
    which autograd's own steps would take longer than what they do."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean_weight: Tensor,
        var_weight: Tensor,
        layer: SwitchableNorm,
    ) -> Tensor:
        own = layer.split(layer.num_sub_batches(x.shape), *Moments.forward(x))
        sets = (own, _joint(own, -1), _joint(own, -3))
        layer.move(sets[2])
        shares = _shares(mean_weight, var_weight)
        centre, variance = _mixed(shares, sets)
        inverse = (variance + layer.eps).rsqrt()
        factor, term = layer.affine(centre, inverse)
        ctx.affine = weight is not None
        ctx.save_for_backward(x, shares, *sets, centre, inverse, factor)
        return torch.addcmul(per_example(term, x), x, per_example(factor, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, shares, *sets, centre, inverse, factor = ctx.saved_tensors
        own, layer, batch = sets
        # Of y = factor·x + term, with factor = γ/√(variance + ε) and term = β - centre·factor:
        to_term = sum_over(grad, positions(x)).view_as(centre)
        to_factor = sum_over(grad * x, positions(x)).view_as(centre) - centre * to_term
        to_gamma, gain = inverse * to_factor, factor.view_as(centre)
        to_mixed = torch.stack((-gain * to_term, -0.5 * gain * inverse * to_gamma))
        by_layer, by_batch = to_mixed.mean(-1, keepdim=True), to_mixed.mean(-3, keepdim=True)
        to_mean, to_variance = _mixed(shares, (to_mixed, by_layer, by_batch))
        for joint, share, each in ((layer, shares[1], by_layer), (batch, shares[2], by_batch)):
            # The variance of a set is the mean of its parts' plus the variance of their means.
            to_mean = to_mean.addcmul(own[0] - joint[0], share[1] * each[1], value=2)
        along = torch.stack([(to_mixed * each).sum((1, 2, 4)) for each in sets])
        shares = shares.view_as(along)
        to_learned = (shares * (along - (shares * along).sum(0))).permute(1, 2, 0)
        m = spatial_size(x.shape)
        slope = 2 / m * to_variance
        constant = (to_mean / m).addcmul_(own[0], slope, value=-1)
        n, c = x.shape[:2]
        dx = torch.addcmul(per_example(constant.view(n, c), x), x, per_example(slope.view(n, c), x))
        dx.addcmul_(grad, per_example(factor, x))
        affine = (to_gamma.view(n, c).sum(0), to_term.view(n, c).sum(0))
        return dx, *(affine if ctx.affine else (None, None)), *to_learned, None


def _shares(mean_weight: Tensor, var_weight: Tensor) -> Tensor:
    """The weights of the three sets, for their means and variances, [3, 2, 1, 1, replicas, 1]."""
    shares = torch.stack((mean_weight, var_weight)).softmax(2)
    return shares.permute(2, 0, 1).reshape(3, 2, 1, 1, -1, 1)


def _mixed(shares: Tensor, sets: Sequence[Tensor]) -> Tensor:
    """The weighted sum of what there is of each set, [2, ...]: mean and variance."""
    own, layer, batch = shares.unbind()
    return (own * sets[0]).addcmul(layer, sets[1]).addcmul(batch, sets[2])


def _joint(both: Tensor, axis: int) -> Tensor:
    """Mean and variance, [2, ...], of the union of equally large sets along ``axis``."""
    mean, variance = both
    joint = mean.mean(axis, keepdim=True)
    between = (mean - joint).square()
    return torch.stack((joint, (variance + between).mean(axis, keepdim=True)))


@NORMS.register("switchable")
@dataclass(kw_only=True, slots=True)
class SwitchableNormConfig(NormConfig):
    """Switchable normalization."""

    name: str = "switchable"

    momentum: float = setting(0.1, above=0, most=1)
    """How far the running statistics move toward each batch's; above 0, at most 1."""

    title: ClassVar[str] = "Switchable normalization"
    axes: ClassVar[str] = "H·W, C·H·W, N·H·W"
    formula: ClassVar[str] = (
        "μ_k, σ²_k = mean and variance of instance, layer and batch norm, k = in, ln, bn\n"
        "w_k = exp(λ_k) / Σ exp(λ_k), w'_k likewise with λ'_k; λ, λ' are learned\n"
        "y = γ_c · (x - Σ w_k μ_k) / √(Σ w'_k σ²_k + ε) + β_c\n"
        "evaluation uses running averages of μ_bn and σ²_bn"
    )
    paper: ClassVar[str] = (
        "Luo, Ren, Peng, Zhang & Li, Differentiable Learning-to-Normalize via Switchable"
        " Normalization, 2018, arXiv 1806.10779, equations 3 to 5"
    )
    cite: ClassVar[str] = "Luo et al. 2018, 1806.10779"
    starts: ClassVar[dict[str, float]] = {
        **{"mean_weight": 1.0, "var_weight": 1.0, "running_mean": 0.0, "running_var": 1.0}
    }
    batch_dependent: ClassVar[bool] = True
    evaluation: ClassVar = "running statistics"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-50, ImageNet, accuracy in %, 8 GPUs, by images per GPU",
            results={"32": 76.9, "16": 76.7, "8": 76.7, "4": 75.9, "2": 75.6, "1": 75.0},
            smallest=1,
            source="README of switchablenorms/Switchable-Normalization",
            basis="seen",
        ),
        Published(
            measured="ResNet-50, ImageNet, accuracy in %, one GPU, by batch size",
            results={"32": 76.6, "16": 76.3, "8": 75.9},
            smallest=8,
            source="README of switchablenorms/Switchable-Normalization",
            basis="seen",
        ),
    )

    def build(
        self, channels: int, *, act: bool = True, norm_batch: int | None = None
    ) -> SwitchableNorm:
        return SwitchableNorm(
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
        sets = [_moments(x, positions(x)), _moments(x, (1, *positions(x)))]
        if training:
            parts = x.split(norm_batch or len(x))
            found = [_moments(part, (0, *positions(x))) for part in parts]
            for key, values in zip(("mean", "var"), zip(*found, strict=True), strict=True):
                old, new = state[f"running_{key}"], torch.stack(values).mean(0).detach().flatten()
                state[f"running_{key}"] = (1 - self.momentum) * old + self.momentum * new
            sizes = torch.tensor([len(part) for part in parts])
            mean, variance = (torch.cat(values) for values in zip(*found, strict=True))
            sets += [(mean.repeat_interleave(sizes, 0), variance.repeat_interleave(sizes, 0))]
        else:
            sets += [(spread(state["running_mean"], x), spread(state["running_var"], x))]
        weights, weights2 = state["mean_weight"][0].softmax(0), state["var_weight"][0].softmax(0)
        mean = torch.zeros_like(x)
        variance = torch.zeros_like(x)
        for (each_mean, each_variance), w, w2 in zip(sets, weights, weights2, strict=True):
            mean = mean + w * each_mean
            variance = variance + w2 * each_variance
        y = (x - mean) / (variance + self.eps).sqrt()
        return finished(y, state, act)


def _moments(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mean = mean_over(x, axes)
    return mean, mean_over((x - mean) ** 2, axes)
