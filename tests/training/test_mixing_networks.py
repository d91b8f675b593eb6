"""Negative controls: a network whose channels meet is found out, however well it hides it."""

import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.googlenet import Inception

from tests.training.networks import (
    Build,
    Exact,
    Gain,
    Net,
    Row,
    assert_refused,
    conv,
    net,
    sequential,
)


class Flipped(Exact):
    """The identity whose gradient mixes channels."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.flip(1)


class Clipped(Exact):
    """The identity with a gradient that is clipped by its norm over everything."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        shrunk: Tensor = grad * (10.0 / grad.norm().clamp_min(10.0))
        return shrunk


def hooked_in_forward(_: Net, x: Tensor) -> Tensor:
    x.register_hook(lambda grad: grad / grad.norm())
    return x


def clipped_by_a_hook(_: Net, x: Tensor) -> Tensor:
    x.register_hook(lambda grad: grad * (10.0 / grad.norm().clamp_min(10.0)))
    return x


class OneSize(Net):
    """The same with a head that takes one size of image."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__(between, head=nn.Linear(4 * 8 * 8, 5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule("head")(self.between(self, self.first(x)).flatten(1))
        return y


def mixed_when(condition: Callable[[Any, Tensor], object]) -> Build:
    return net(
        lambda self, x: x.flip(1) if condition(self, x) else x, norm=lambda: nn.BatchNorm2d(4)
    )


def counted(self: Any, x: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    return x.flip(1) if self.calls > 1000 else x


class Listing(nn.Module):
    """Keeps a list of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.sizes = nn.Conv2d(3, 4, 3), [0]

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        y: Tensor = self.conv(x)
        return y


def in_batches_tracked(self: Any, x: Tensor) -> Tensor:
    y: Tensor = self.norm(x)
    return y.flip(1) if self.norm.num_batches_tracked > 2 else y


class MiscountedGain(Gain):
    """The same without its count, which its forward pass needs."""

    stacked_counts: ClassVar[tuple[str, ...]] = ()


def densenet() -> Any:
    return torchvision.models.DenseNet(4, (2, 2), 8, num_classes=5)


def inception() -> Any:
    return Inception(3, 4, 4, 4, 4, 4, 4)


MIXED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "channels flipped": (lambda _, x: x.flip(1), "Conv2d at last"),
    "channels concatenated": (lambda _, x: torch.cat([x, x], 1)[:, ::2], "Conv2d at last"),
    "channels halved": (lambda _, x: torch.cat(x.chunk(2, 1)[::-1], 1), "Conv2d at last"),
    "channels shuffled": (lambda _, x: F.channel_shuffle(x, 2), "Conv2d at last"),
    "a softmax over channels": (lambda _, x: x.softmax(1), "Conv2d at last"),
    "a mean over everything": (lambda _, x: x - x.mean(), "Conv2d at last"),
    "a norm over everything": (lambda _, x: x / x.norm(), "Conv2d at last"),
    "a norm in groups": (lambda _, x: F.group_norm(x, 2), "Conv2d at last"),
    "channels counted": (lambda _, x: x * x.view(len(x), 4, -1).mean(2)[..., None, None], "Net"),
    "a gradient that mixes": (lambda _, x: Flipped.apply(x), "gradient of"),
    "a gradient clipped when large": (lambda _, x: Clipped.apply(x), "gradient of"),
    "a hook in the forward pass": (hooked_in_forward, "gradient of"),
    "random numbers": (lambda _, x: x * torch.rand(()), "random numbers outside of dropout"),
    "functional dropout": (lambda _, x: F.dropout(x), "random numbers outside of dropout"),
    "Python's random numbers": (
        lambda _, x: x if random.random() < 0.5 else 2 * x,
        "random numbers outside of dropout",
    ),
    "NumPy's random numbers": (
        lambda _, x: x * float(np.random.rand()),
        "random numbers outside of dropout",
    ),
    "a hook that clips": (clipped_by_a_hook, "gradient of"),
    "a count": (counted, "a forward pass changes calls of Net"),
}

MIXING = [
    *(Row(name, net(f), reason) for name, (f, reason) in MIXED.items()),
    Row(
        "mixed in evaluation only", mixed_when(lambda self, x: not self.training), "evaluation mode"
    ),
    Row("mixed in training only", mixed_when(lambda self, x: self.training), "training mode"),
    Row("mixed when large", mixed_when(lambda self, x: x.abs().max() > 30), "Conv2d at last"),
    Row(
        "mixed when large, of one size",
        lambda: OneSize(lambda _, x: x.flip(1) if x.abs().max() > 30 else x),
        "Linear at head",
    ),
    Row("a gradient clipped, of one size", lambda: OneSize(clipped_by_a_hook), "gradient of"),
    Row(
        "a layer for many channels",
        net(lambda self, x: x if x.shape[1] == 4 else self.more(x), more=conv(4, 4, 1)),
        "Conv2d at more",
    ),
    Row("mixed at another size", mixed_when(lambda self, x: x.shape[2] != 8), "Conv2d at last"),
    Row(
        "mixed after some steps",
        net(in_batches_tracked, norm=lambda: nn.BatchNorm2d(4)),
        "Conv2d at last",
    ),
    Row(
        "mixed with many channels",
        mixed_when(lambda self, x: x.shape[1] > 8),
        "Conv2d at last",
        replicas=3,
    ),
    Row(
        "a layer that names too few counts",
        sequential(conv(3, 4, 3), lambda: MiscountedGain(4)),
        "MiscountedGain at 1",
    ),
    Row("a list that grows", Listing, "a forward pass changes sizes of Listing"),
    Row(
        "torchvision densenet",
        densenet,
        r"differs is BatchNorm2d at features\.",
        shape=(2, 3, 32, 32),
    ),
    Row(
        "torchvision shufflenet",
        lambda: torchvision.models.ShuffleNetV2([2, 1, 1], [8, 8, 16, 16, 16], 5),
        r"Conv2d at stage2\.1",
        shape=(2, 3, 32, 32),
    ),
    Row(
        "torchvision squeezenet",
        lambda: torchvision.models.squeezenet1_1(num_classes=5),
        r"Fire at features\.3",
        shape=(2, 3, 32, 32),
    ),
    Row("torchvision googlenet's block", inception, "Inception"),
]


@pytest.mark.parametrize("row", MIXING, ids=lambda row: row.name)
def test_a_network_that_mixes_its_channels_is_refused_with_a_reason(row: Row) -> None:
    assert_refused(row)
