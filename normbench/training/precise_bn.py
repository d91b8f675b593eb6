"""Why batch norm fails at a small batch, in two parts, measured on one set of trained weights.

A network can be evaluated with the running averages, as usual; with statistics estimated anew from
training images, which fit the final weights (PreciseBN: Wu & Johnson 2021, Rethinking "Batch" in
BatchNorm, arXiv 2105.07576, section 3); and with the statistics of batches of the training size.
What the first loses against the second is lost to the running averages alone; what the second
still loses is lost to training on noisy statistics. The third are of test images, which are not
padded, cropped and mirrored as training images are: even batches of a thousand differ from the
running averages by that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from normbench.data.batches import Split, Training
from normbench.norms.batch import BatchNorm
from normbench.training.loop import EVALUATION_BATCH, nothing, score

IMAGES = 10_000
"""How many training images the statistics are estimated anew from, at most."""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Accuracies (0..1) of the same weights, one of each a replica.

    Attributes:
        reestimated: with statistics estimated anew from training images.
        batch: with the statistics of each batch of the training size, over whole batches.
    """

    reestimated: list[float]
    batch: list[float]


def decompose(
    model: nn.Module,
    training: Training,
    test: Split,
    *,
    epoch: int,
    size: int,
    autocast: bool = False,
    check: Callable[[], None] = nothing,
) -> Decomposition | None:
    """Evaluates a network, or each replica of a stack, with other statistics than the running ones.

    The running statistics are afterwards what they were.

    Args:
        model: the network.
        training: the training images of its replicas.
        test: what is evaluated on.
        epoch: the epoch whose order and augmentation the estimate uses: one never trained on.
        size: how many images share statistics in training.
        autocast: whether to compute in bfloat16 where that is safe.
        check: called now and then; may raise to end the evaluation.

    Returns:
        None where no layer has running statistics.
    """
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    if not layers:
        return None
    replicas = len(training.seeds)
    size = min(size, len(test))
    shuffled = test.shuffled(len(test) // size * size)  # one class has statistics of its own

    def accuracy(split: Split, batch: int) -> list[float]:
        return score(
            model, split, replicas=replicas, batch=batch, autocast=autocast, check=check
        ).accuracy

    with _restoring(model, layers):
        model.eval()
        for layer in layers:
            layer.train()
            layer.norm_batch = size
        by_batch = accuracy(shuffled, max(1, EVALUATION_BATCH // size) * size)
        for layer in layers:
            layer.norm_batch = None
        _reestimate(model, layers, training, epoch, autocast=autocast, check=check)
        model.eval()
        return Decomposition(reestimated=accuracy(test, EVALUATION_BATCH), batch=by_batch)


@contextmanager
def _restoring(model: nn.Module, layers: list[BatchNorm]) -> Iterator[None]:
    """Puts mode and statistics back in the end."""
    mode = model.training
    kept = [(x.norm_batch, x.running_mean.clone(), x.running_var.clone()) for x in layers]
    try:
        yield
    finally:
        for layer, (size, mean, var) in zip(layers, kept, strict=True):
            layer.norm_batch = size
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
        model.train(mode)


@torch.no_grad()
def _reestimate(
    model: nn.Module,
    layers: list[BatchNorm],
    training: Training,
    epoch: int,
    *,
    autocast: bool,
    check: Callable[[], None],
) -> None:
    """Sets the running statistics to μ = E[μ_B] and σ² = E[σ²_B + μ_B²] - μ²."""
    zero = {layer: torch.zeros_like(layer.running_mean, dtype=torch.float64) for layer in layers}
    sums = {layer: (zero[layer], zero[layer]) for layer in layers}

    def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, BatchNorm)
        x = inputs[0].double()
        var, mean = torch.var_mean(x, (0, *range(2, x.dim())), correction=0)
        first, second = sums[layer]
        sums[layer] = (first + mean, second + var + mean**2)

    batch = min(EVALUATION_BATCH, len(training.split))
    batches = Training(training.split, seeds=training.seeds, batch=batch, flip=training.flip)
    count = 0
    hooks: list[Any] = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        for images, _ in islice(batches.epoch(epoch), max(1, IMAGES // batch)):
            check()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
                model(images)
            count += 1
    finally:
        for hook in hooks:
            hook.remove()
    for layer, (first, second) in sums.items():
        mean = first / count
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(second / count - mean**2)
