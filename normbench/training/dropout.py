"""Dropout whose masks follow from a replica's seed and the step alone.

They are the same in a stack as alone and after resuming, and nothing has to be saved of them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normbench.training.alike import is_dropout


class SeededDropout(nn.Module):
    """Zeroes values of [N, K·C, ...], each replica's by a generator of its own.

    Args:
        p: the share that is zeroed; the others are divided by 1 - p.
        whole: whether channels are zeroed as a whole.

    Attributes:
        generators: one a replica, of all layers of a network.
        before: where they stood before each of the layer's calls in this step.
    """

    def __init__(self, p: float, *, whole: bool) -> None:
        super().__init__()
        self.p = p
        self.whole = whole
        self.generators: list[torch.Generator] = []
        self.before: list[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes values in training."""
        if not self.training or self.p == 0:
            return x
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("dropout draws other masks in later steps than in those recorded")
        if torch._C._current_graph_task_id() == -1:
            self.before.append(self._states())
            return self._dropped(x)
        # Within a backward pass an activation checkpoint computes again what it has not kept.
        if len(self.before) != 1:
            raise RuntimeError(
                "a dropout layer inside an activation checkpoint can be used once a step, not"
                f" {len(self.before)} times"
            )
        now = self._states()
        self._go_to(self.before[0])
        try:
            return self._dropped(x)
        finally:
            self._go_to(now)

    def _states(self) -> list[Tensor]:
        return [each.get_state() for each in self.generators]

    def _go_to(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def _dropped(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.generators), 1) if len(self.generators) > 1 else [x]
        masks = [self._mask(part, each) for part, each in zip(parts, self.generators, strict=True)]
        return x * (torch.cat(masks, 1) if len(masks) > 1 else masks[0])

    def _mask(self, x: Tensor, generator: torch.Generator) -> Tensor:
        shape = (*x.shape[:2], *(1,) * (x.dim() - 2)) if self.whole else x.shape
        kept = torch.empty(shape, dtype=x.dtype, device=x.device)
        return kept.bernoulli_(1 - self.p, generator=generator).div_((1 - self.p) or 1.0)


def seed_dropout(model: nn.Module, seeds: Sequence[int]) -> Callable[[int], None]:
    """Puts a :class:`SeededDropout` in the place of each dropout layer of ``model``.

    Args:
        model: a network or a stack, on its device.
        seeds: one a replica.

    Returns:
        What is to be called with the number of each step before it.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    generators = [torch.Generator(device) for _ in seeds]
    found: dict[nn.Module, SeededDropout] = {}
    for module in [*model.modules()]:
        for name, child in [*module._modules.items()]:
            if is_dropout(child):
                seeded = SeededDropout(child.p, whole=type(child) is not nn.Dropout)
                module._modules[name] = found.setdefault(child, seeded.train(child.training))
    layers = [layer for layer in model.modules() if isinstance(layer, SeededDropout)]
    for layer in layers:
        layer.generators = generators

    def at(step: int) -> None:
        if not layers:
            return
        for layer in layers:
            layer.before.clear()
        for seed, generator in zip(seeds, generators, strict=True):
            # On a CPU 32 bits count; the products with large odd constants keep the pairs apart.
            generator.manual_seed((seed * 0x85EBCA6B + step) * 0x9E3779B1 % 2**32)

    return at
