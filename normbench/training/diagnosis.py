"""What happens inside while training: how far batches stray from the running statistics, gradients.

Batch norm normalizes by a batch's mean and variance in training and by running averages afterwards.
The further the two are apart, the less the network that is evaluated is the one that was trained.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normbench.norms.batch import BatchNorm
from normbench.norms.moments import Moments
from normbench.training.stacking import Stack

DIGITS = 5
"""Significant digits that are kept."""


class Diagnosis:
    """What was found in one step, by name, one number a replica.

    ``gradient/norm`` is the Euclidean norm of all gradients. For each batch norm layer,
    ``stray_mean/LAYER`` is the mean over channels of |μ_B - μ|/√(σ² + ε), and
    ``stray_variance/LAYER`` that of |log((σ²_B + ε)/(σ² + ε))|, where μ and σ² are the running
    statistics before the step, and μ_B and σ²_B those of its batch; with ghost statistics, the
    mean over the sub-batches that are normalized each for itself.

    Args:
        model: a network, or a stack of networks.
        replicas: how many.
    """

    def __init__(self, model: nn.Module, replicas: int) -> None:
        self._model = model
        self._replicas = replicas
        self._found: dict[str, Tensor] = {}

    @property
    def values(self) -> dict[str, list[float]]:
        """What was found."""
        return {name: [_rounded(x) for x in each.tolist()] for name, each in self._found.items()}

    @contextmanager
    def watching(self) -> Iterator[Callable[[], None]]:
        """Within it, forward passes are watched; what it gives is to be called after backward."""
        network = self._model.network if isinstance(self._model, Stack) else self._model
        hooks = [
            module.register_forward_pre_hook(self._hook(name))
            for name, module in network.named_modules()
            if isinstance(module, BatchNorm)
        ]
        try:
            yield self._gradients
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, name: str) -> Any:
        def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, BatchNorm)
            x = inputs[0].detach()
            # Of each example, then of each sub-batch's: [sub-batches, their size, C].
            means, within = (
                each.flatten(1).unflatten(0, (-1, layer.norm_batch or len(x)))
                for each in Moments.apply(x)
            )
            between, mean = torch.var_mean(means, 1, correction=0)
            var = within.mean(1) + between
            running = layer.running_var + layer.eps
            by_mean = ((mean - layer.running_mean).abs() / running.sqrt()).mean(0)
            by_variance = ((var + layer.eps) / running).log().abs().mean(0)
            self._found[f"stray_mean/{name}"] = by_mean.view(self._replicas, -1).mean(1)
            self._found[f"stray_variance/{name}"] = by_variance.view(self._replicas, -1).mean(1)

        return look

    @torch.no_grad()
    def _gradients(self) -> None:
        # Every tensor of a stack has its replicas first.
        squares = [
            parameter.grad.reshape(self._replicas, -1).double().square().sum(1)
            for parameter in self._model.parameters()
            if parameter.grad is not None
        ]
        self._found["gradient/norm"] = torch.stack(squares).sum(0).sqrt()


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
