"""Means and variances that few passes over channels-last images give, and sums over them."""

from typing import Any

import torch
from torch import Tensor

from normbench.norms.base import spatial_size
from normbench.norms.parts import mean_over, positions


class Moments(torch.autograd.Function):
    """Mean and biased variance of each example's channel over its positions, [N, C, 1, ...].

    In two passes, so that no digits are lost where the mean is large. On a CPU it is many times as
    fast as ``torch.var``, whose kernel does not suit channels-last images, and its backward pass
    keeps to their layout.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the variance, in float32 at least."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = positions(x)
        mean = mean_over(x, axes) if axes else x.clone()
        centred = x - mean
        return mean, mean_over(centred.mul_(centred), axes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Keeps what the backward pass needs."""
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        """d mean/dx = 1/m and d variance/dx = 2·(x - mean)/m, with m = H·W."""
        x, mean = ctx.saved_tensors
        m = spatial_size(x.shape)
        slope = 2 / m * grad_variance
        grad: Tensor = (x * slope).add_(grad_mean / m - slope * mean)
        return grad


class MeanSquare(torch.autograd.Function):
    """The mean square of each example's channel over its positions, [N, C, 1, ...]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """The mean square, in float32 at least."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return mean_over(x.square(), positions(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keeps what the backward pass needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Its derivative is 2·x/m, with m = H·W."""
        (x,) = ctx.saved_tensors
        of_x: Tensor = 2 / spatial_size(x.shape) * grad * x
        return of_x


def above_zero(grad: Tensor, x: Tensor) -> Tensor:
    """``grad`` where x > 0, and 0 elsewhere; several times as fast as with a mask on a CPU."""
    kept: Tensor = torch.ops.aten.threshold_backward(grad, x, 0)
    return kept


def over_groups(values: Tensor, num_groups: int) -> Tensor:
    """Means over the channels of each group, of [N, C, ...], at the places of each."""
    n, c, *space = values.shape
    groups = values.view(n, num_groups, c // num_groups, *space)  # unflatten takes twice as long
    return groups.mean(2, keepdim=True).expand_as(groups).reshape(values.shape)


def sum_over(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sum over ``axes``, which are kept with size 1; over no axes a copy of ``x``."""
    return torch.sum(x, axes, keepdim=True) if axes else x.clone()


def channel_sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Σ g and Σ g·x for each channel, in one pass over [N, C, ...].

    They are what batch norm's backward kernel computes for β and γ where its mean is 0 and its
    deviation 1.
    """
    zeros, ones = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    _, product, total = torch.ops.aten.native_batch_norm_backward(
        g, x, ones, None, None, zeros, ones, True, 0.0, [False, True, True]
    )
    return total, product
