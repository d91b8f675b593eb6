"""Switchable normalization: learns how much of instance, layer and batch statistics to use."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.norms.base import NORMS, NormConfig, State
from normbench.norms.batch import BatchNorm
from normbench.norms.moments import moments
from normbench.norms.parts import (
    mean_over,
    per_example,
    positions,
    scale_and_shift,
    spread,
)
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
        # Everything but the last line works on numbers per example and channel, [N, C].
        x = x.to(self.running_mean.dtype)
        mean, var = moments(x)
        means, variances = zip(
            (mean, var), self._of_layer(mean, var), self._of_batch(mean, var), strict=True
        )
        centre = self._mixed(self.mean_weight, means)
        factor = (self._mixed(self.var_weight, variances) + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * self.weight
        term = -centre * factor
        if self.bias is not None:
            term = term + self.bias
        return torch.addcmul(per_example(term, x), x, per_example(factor, x))

    def _mixed(self, learned: Tensor, statistics: tuple[Tensor, ...]) -> Tensor:
        """The weighted mean of three statistics."""
        per_channel = learned.softmax(1).repeat_interleave(self.channels // self.replicas, 0)
        a, b, c = per_channel.unbind(1)
        return a * statistics[0] + b * statistics[1] + c * statistics[2]

    def _of_layer(self, mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
        """Mean and variance over the channels of each replica, for each of them."""
        split = (self.replicas, -1)
        found = _joint(mean.unflatten(1, split), var.unflatten(1, split), 2)
        return tuple(each.repeat_interleave(self.channels // self.replicas, 1) for each in found)

    def _of_batch(self, mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
        """Mean and variance over the batch; in training the running ones move."""
        if not self.training or len(mean) == 0:
            return self.running_mean, self.running_var
        parts = self.num_sub_batches(mean.shape)
        found = _joint(mean.unflatten(0, (parts, -1)), var.unflatten(0, (parts, -1)), 1)
        with torch.no_grad():
            for running, each in zip((self.running_mean, self.running_var), found, strict=True):
                running.lerp_(each.mean(0), self.momentum)
        return tuple(each.repeat_interleave(len(mean) // parts, 0) for each in found)


def _joint(mean: Tensor, var: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of the union of equally large sets along ``axis`` with these."""
    joint = mean.mean(axis, keepdim=True)
    return joint.squeeze(axis), (var + (mean - joint).square()).mean(axis)


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
        y = scale_and_shift(y, state.get("weight"), state.get("bias"))
        return y.relu() if act else y


def _moments(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mean = mean_over(x, axes)
    return mean, mean_over((x - mean) ** 2, axes)
