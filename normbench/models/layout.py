"""How a network wants its images stored.

All images here are stored position by position (channels last), which convolutions compute on
faster. A network may be written for the other way, such as one that flattens with ``view``.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from normbench.models.drawing import drawing

M = TypeVar("M", bound=nn.Module)


def settle_layout(model: nn.Module, images: Tensor) -> None:
    """Has ``model`` given its images channel by channel where it takes them in no other way.

    Args:
        model: images [N, 3, H, W] to logits; it gets a hook, see :func:`layout_of`, or nothing.
        images: some, on its device.
    """
    # A network may compute in its own way in training; that may need more images than these.
    for modes in ((False, True), (False,)):
        if _takes(model, images, torch.channels_last, modes):
            return
        if _takes(model, images, torch.contiguous_format, modes):
            model.register_forward_pre_hook(channel_by_channel)
            return


def layout_of(model: nn.Module) -> torch.memory_format:
    """How the weights of ``model`` are to be stored."""
    settled = any(channel_by_channel in m._forward_pre_hooks.values() for m in model.modules())
    return torch.contiguous_format if settled else torch.channels_last


def with_layout_of(model: nn.Module, other: M) -> M:
    """``other``, given its images as ``model`` is."""
    if channel_by_channel in model._forward_pre_hooks.values():
        other.register_forward_pre_hook(channel_by_channel)
    return other


def _takes(
    model: nn.Module, images: Tensor, layout: torch.memory_format, modes: Sequence[bool]
) -> bool:
    """Whether ``model`` computes images stored so, in evaluation (False) and training (True)."""
    try:
        trial = deepcopy(model).to(memory_format=layout)
        with torch.no_grad(), drawing():
            for training in modes:
                trial.train(training)(images.contiguous(memory_format=layout))
    except Exception:  # whatever a network raises that somebody wrote
        return False
    return True


def channel_by_channel(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The hook of a network that takes its images channel by channel alone."""
    return tuple(each.contiguous() for each in arguments)
