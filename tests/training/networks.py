"""What the tables of networks have in common: how a row is written, and pieces of networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from normbench import stack
from normbench.norms.parts import Part
from normbench.training.stacking import StackError

IMAGES = (4, 3, 8, 8)
VECTORS = (4, 6)

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Row:
    """A network, what input it takes, and what becomes of a stack of it."""

    name: str
    build: Build
    refused: str = ""
    shape: Sequence[int] = IMAGES
    replicas: int = 2
    then: Callable[[list[Any]], object] = field(default=lambda models: None)


class Net(nn.Module):
    """Convolution, ``between`` on its output, convolution, mean: what a forward pass can do."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3)
        self.between = between
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.between(self, self.first(x)))
        return y.mean((2, 3))


def net(between: Callable[[Any, Tensor], Tensor], **layers: Build) -> Build:
    return lambda: Net(between, **{name: build() for name, build in layers.items()})


def sequential(*layers: Build) -> Build:
    return lambda: nn.Sequential(*(build() for build in layers))


def conv(*args: Any, **settings: Any) -> Build:
    return lambda: nn.Conv2d(*args, **settings)


def changed(build: Build, change: Callable[[Any], object]) -> Build:
    def changed_build() -> nn.Module:
        model = build()
        change(model)
        return model

    return changed_build


PLAIN = sequential(conv(3, 4, 3), lambda: nn.BatchNorm2d(4), nn.ReLU, conv(4, 5, 3))


def resnet(block: Any = BasicBlock, **settings: Any) -> Any:
    """The first half of torchvision's smallest: the others are larger and no different."""
    model = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=5, **settings)
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128 * block.expansion, 5)
    return model


def tied_convolutions() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 3))
    model[2].weight = model[0].weight
    return model


class Exact(torch.autograd.Function):
    """The identity with a gradient of its own that treats each value by itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 0.5 * grad


class Gain(Part):
    """A layer that says itself how it stacks: a gain a channel, and one a network."""

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight, self.gain = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        gains = self.gain.repeat_interleave(self.channels // len(self.gain))
        return x * (self.weight * gains).view(1, -1, 1, 1)


def built(row: Row) -> list[nn.Module]:
    models = []
    for seed in range(row.replicas):
        torch.manual_seed(seed)
        models.append(row.build())
    row.then(models)
    return models


def example(row: Row, seed: int = 9) -> Tensor:
    return torch.randn(*row.shape, generator=torch.Generator().manual_seed(seed))


def assert_refused(row: Row) -> None:
    """A stack of the row's networks is an error of one line, which says what it has to."""
    models = built(row)
    with pytest.raises(StackError, match=row.refused) as caught:
        stack(models, example(row))
    assert row.refused
    assert "\n" not in str(caught.value)
