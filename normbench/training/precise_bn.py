"""Why batch norm fails at a small batch, in two parts, measured on one set of trained weights.

A network can be evaluated with the running averages, as usual; with statistics estimated anew from
training images, which fit the final weights (PreciseBN: Wu & Johnson 2021, Rethinking "Batch" in
BatchNorm, arXiv 2105.07576, section 3); and with the statistics of batches of the training size.
What the first loses against the second is lost to the running averages alone; what the second
still loses is lost to training on noisy statistics. The third are of test images, which are not
padded, cropped and mirrored as training images are: even batches of a thousand differ from the
running averages by that.

The running averages err in two ways. They are over few batches, which a lower momentum mends. And
what they average is that of batches, however many: the variance of n images lacks 1/n of the
variance between images, and each layer sees what the layers before it normalized batch by batch,
which in evaluation they do not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from normbench.data.batches import Batches, Split
from normbench.errors import UsageError
from normbench.norms.batch import BatchNorm
from normbench.training.loop import dtype_of, evaluate, nothing, score
from normbench.training.progress import Evaluation

IMAGES = 2_500
"""How many training images the statistics are estimated anew from, at most.

How far the accuracy with so many is from that with another draw of 10,000, by ``python
scripts/statistics_images.py`` (root of the mean square over three seeds and two draws, 2,000 test
images of cifar10-jpeg): 0.14 points; with 1,000 images 0.25, with other 10,000 images 0.07.
"""

BATCH = 250
"""How many of them are looked at together, where they are not large."""

PIXELS = BATCH * 96**2
"""How many pixels are looked at together, at most: a batch of large images would fill a memory that
training at a small batch does not."""

FEWEST = 32
"""So many images are looked at together all the same: fewer would have noisy statistics."""

TOGETHER = 32
"""How many test images are looked at together, or one batch of the training size: alone it needs no
copies."""

TESTED = 2_000
"""How many test images the accuracy with batch statistics is taken over, at most."""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Accuracies (0..1) of the same weights, one of each a network.

    Attributes:
        reestimated: with statistics estimated anew from training images, on all test images.
        batch: with the statistics of each batch of the training size, over whole batches of at most
            ``TESTED`` test images, in a fixed random order; None where a layer has but one value
            for a statistic.
    """

    reestimated: list[float]
    batch: list[float | None]


def decompose(
    networks: Sequence[nn.Module],
    training: Batches,
    test: Split,
    *,
    epoch: int,
    size: int,
    autocast: bool = False,
    check: Callable[[], None] = nothing,
) -> Decomposition | None:
    """Evaluates each network with other statistics than the running ones.

    The running statistics are afterwards what they were.

    Args:
        networks: one a seed of ``training``.
        training: the training images of the networks.
        test: what is evaluated on.
        epoch: the epoch whose order and augmentation the estimate uses: one never trained on.
        size: how many images share statistics in training.
        autocast: whether to compute in bfloat16 where that is safe.
        check: called now and then; may raise to end the evaluation.

    Returns:
        None where no layer is batch norm.
    """
    if not batch_norms(networks[0]):
        return None
    part = whole_batches(test, size)
    by_batch: list[float | None] = []
    reestimated: list[float] = []
    for network, seed in zip(networks, training.seeds, strict=True):
        with restoring(network):
            try:
                by_batch += with_batch_statistics(network, part, size, autocast, check).accuracy
            except UsageError:  # a layer would take a mean over one value: it was frozen
                by_batch.append(None)
            batches = estimation(training.split, seed=seed, flip=training.flip)
            reestimate(network, batches, epoch, autocast=autocast, check=check)
            reestimated += evaluate([network], test, autocast=autocast, check=check).accuracy
    return Decomposition(reestimated=reestimated, batch=by_batch)


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    """The layers of a network that are batch norm, plain or renormalized."""
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def whole_batches(test: Split, size: int) -> Split:
    """At most ``TESTED`` images in a fixed random order, as many as batches of ``size`` hold."""
    size = min(size, len(test))
    # In random order: one class has statistics of its own.
    return test.shuffled(max(size, min(TESTED, len(test)) // size * size))


def estimation(split: Split, *, seed: int, flip: bool, size: int = 1) -> Batches:
    """The batches of training images that statistics are estimated anew from.

    Each is of whole sub-batches of ``size``, which may not be more than the images.
    """
    height, width = split.size
    fitting = max(FEWEST, min(BATCH, PIXELS // (height * width)))
    batch = max(1, min(fitting, len(split)) // size) * size
    return Batches(split, seeds=[seed], batch=batch, flip=flip)


@contextmanager
def restoring(network: nn.Module) -> Iterator[None]:
    """Puts modes, settings and statistics back in the end."""
    layers, mode = batch_norms(network), network.training
    kept = [
        (x.norm_batch, x.momentum, x.frozen, [buffer.clone() for buffer in x.buffers()])
        for x in layers
    ]
    try:
        yield
    finally:
        for layer, (size, momentum, frozen, values) in zip(layers, kept, strict=True):
            layer.norm_batch, layer.momentum, layer.frozen = size, momentum, frozen
            for buffer, value in zip(layer.buffers(), values, strict=True):
                buffer.copy_(value)
        network.train(mode)


def _use_batches(network: nn.Module, size: int | None) -> None:
    """Evaluation mode, but each ``size`` images have their own statistics."""
    network.eval()
    for layer in batch_norms(network):
        layer.train()
        layer.set_share(0.0)  # before running statistics correct or replace the batch's
        layer.frozen = False
        layer.norm_batch = size


def with_batch_statistics(
    network: nn.Module,
    test: Split,
    size: int,
    autocast: bool = False,
    check: Callable[[], None] = nothing,
) -> Evaluation:
    """The evaluation where each ``size`` images have their own statistics.

    Args:
        network: its modes and statistics change, see :func:`restoring`.
        test: as :func:`whole_batches` gives it.
        size: how many images share statistics; all of them where there are fewer.
        autocast: whether to compute in bfloat16 where that is safe.
        check: called for each batch; may raise.
    """
    size = min(size, len(test))
    _use_batches(network, size)
    batch = max(1, TOGETHER // size) * size
    return score([network], test, batch=batch, autocast=autocast, check=check)


@torch.no_grad()
def reestimate(
    network: nn.Module,
    batches: Batches,
    epoch: int,
    *,
    size: int | None = None,
    autocast: bool = False,
    check: Callable[[], None] = nothing,
) -> None:
    """Sets the running statistics to μ = E[μ_B] and σ² = E[σ²_B + μ_B²] - μ².

    The means are over all calls of a layer: several a batch where it stands in several places.

    With ``size``, to what running averages over batches of so many images tend to with a momentum
    near 0: μ = E[μ_B] and σ² = E[σ²_B], where B is a sub-batch and σ²_B unbiased as the layer has
    it. ``batches`` are then of whole sub-batches.

    Modes and settings of the layers change, see :func:`restoring`.

    With a momentum of 1 a layer leaves each batch's own statistics behind: they cost no pass of
    their own. Only these vectors, one number a channel, are summed in float64.
    """
    layers, dtype = batch_norms(network), dtype_of(network)
    sums = {layer: torch.zeros(2, layer.channels, dtype=torch.float64) for layer in layers}
    calls = dict.fromkeys(layers, 0)

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, BatchNorm)
        count = inputs[0].numel() // layer.channels
        mean, var = layer.running_mean.double(), layer.running_var.double()
        if size is None:
            var = var * ((count - layer.correction) / count) + mean**2
        sums[layer] += torch.stack([mean, var]).cpu()
        calls[layer] += 1

    _use_batches(network, size)
    before = {layer: (layer.running_mean.clone(), layer.running_var.clone()) for layer in layers}
    for layer in layers:
        layer.momentum = 1.0
        layer.running_mean.zero_()  # what is no number stays none, whatever is averaged with it
        layer.running_var.fill_(1.0)
    hooks: list[Any] = [layer.register_forward_hook(add) for layer in layers]
    try:
        for images, _ in islice(batches.epoch(epoch), max(1, IMAGES // batches.batch)):
            check()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
                network(images.to(dtype))
    finally:
        for hook in hooks:
            hook.remove()
    for layer, total in sums.items():
        if calls[layer] == 0:  # evaluation does not come to it, as to a head for training alone
            layer.running_mean.copy_(before[layer][0])
            layer.running_var.copy_(before[layer][1])
            continue
        mean, var = total / calls[layer]
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var - mean**2 if size is None else var)
