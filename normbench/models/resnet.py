"""Residual networks for small images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models.base import MODELS, ModelConfig
from normbench.norms import Norm, NormConfig
from normbench.norms.parts import BranchEnd, Slot


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, arXiv 1512.03385, figure 2).

    The shortcut is the identity, or a strided 1×1 convolution where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, cardinality: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            inputs, outputs, 3, stride, padding=1, groups=cardinality, bias=False
        )
        self.norm1 = Slot(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=cardinality, bias=False)
        self.norm2 = Slot(outputs, act=False)
        self.branch_end = BranchEnd()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), Slot(outputs, act=False)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch_end(self.norm2(self.conv2(self.norm1(self.conv1(x)))))
        # In place: the norm's output is not needed for its gradient, and memory passes are most
        # of the cost of a small network.
        y += self.shortcut(x)
        out: Tensor = self.relu(y)
        return out


def stages(
    block: Callable[[int, int, int, int], nn.Module], blocks: int, width: int, cardinality: int
) -> nn.Sequential:
    """Three stages of ``blocks`` blocks: ``block(inputs, outputs, stride, cardinality)``.

    They have ``width``, 2·``width`` and 4·``width`` channels at full, half and quarter resolution.
    """
    layers: list[nn.Module] = []
    channels = width
    for stage in range(3):
        for number in range(blocks):
            stride = 2 if stage > 0 and number == 0 else 1
            outputs = width * 2**stage
            layers.append(block(channels, outputs, stride, cardinality))
            channels = outputs
    return nn.Sequential(*layers)


class ResNet(nn.Module):
    """A residual network of depth 6n+2 for 32×32 images (He et al. 2016, section 4.2).

    Images [N, 3, H, W] to logits [N, classes], through three stages of ``blocks`` blocks with
    ``width``, 2·``width`` and 4·``width`` channels at full, half and quarter resolution.
    """

    def __init__(self, *, blocks: int, width: int, cardinality: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = Slot(width)
        self.blocks = stages(BasicBlock, blocks, width, cardinality)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.flatten(self.pool(self.blocks(self.norm(self.stem(x))))))
        return y


@dataclass(kw_only=True, slots=True)
class SmallResNetConfig(ModelConfig):
    """A residual network for small images: what the kinds of its blocks have in common."""

    depth: int = 8
    """The number of weighted layers, 6n+2: 8, 14, 20, 32, 44, 56, 110."""

    width: int = 16
    """Channels of the first stage; the second has twice, the third four times as many."""

    cardinality: int = 1
    """Groups of the 3×3 convolutions (ResNeXt's cardinality); must divide the width."""

    prefix: ClassVar[str] = ""
    """What papers write before the network's name."""

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise UsageError(
                f"model.depth={self.depth}: must be 6n+2, for example 8, 14, 20, 32, 44, 56, 110"
            )
        if not 1 <= self.width <= 65536:
            raise UsageError(f"model.width={self.width}: must be from 1 to 65536")
        if self.cardinality < 1 or self.width % self.cardinality:
            allowed = [c for c in range(1, self.width + 1) if self.width % c == 0]
            raise UsageError(
                f"model.cardinality={self.cardinality} does not divide model.width={self.width};"
                f" allowed: {', '.join(map(str, allowed))}"
            )

    @property
    def title(self) -> str:
        name = "ResNet" if self.cardinality == 1 else f"ResNeXt(C={self.cardinality})"
        return f"{self.prefix}{name}-{self.depth}" + (
            "" if self.width == 16 else f", width {self.width}"
        )

    @property
    def norm_channels(self) -> tuple[int, ...]:
        return (self.width, 2 * self.width, 4 * self.width)


@MODELS.register("resnet")
@dataclass(kw_only=True, slots=True)
class ResNetConfig(SmallResNetConfig):
    """A CIFAR ResNet, optionally with group convolution."""

    name: str = "resnet"

    zero_init: bool = False
    """Whether each block's last γ starts at 0, so that blocks start as the identity (Goyal et al.
    2017, arXiv 1706.02677, section 5.1; the Group Normalization paper does so), unless γ is
    carried."""

    paper: ClassVar[str] = (
        "He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, 2016,"
        " arXiv 1512.03385, section 4.2; cardinality: Xie et al. 2017, arXiv 1611.05431"
    )

    def network(self, classes: int) -> nn.Module:
        return ResNet(
            blocks=(self.depth - 2) // 6,
            width=self.width,
            cardinality=self.cardinality,
            classes=classes,
        )

    def build(
        self,
        norm: NormConfig,
        classes: int,
        generator: torch.Generator,
        *,
        norm_batch: int | None = None,
    ) -> nn.Module:
        model = ModelConfig.build(self, norm, classes, generator, norm_batch=norm_batch)
        if self.zero_init and not self.carry:
            for module in model.modules():
                if isinstance(module, BasicBlock):
                    _zero_scale(module.norm2)
        return model


def _zero_scale(norm: nn.Module) -> None:
    assert isinstance(norm, Norm)
    if norm.weight is None:
        raise UsageError("model.zero_init=true needs norm.affine=true: there is no γ to set to 0")
    nn.init.zeros_(norm.weight)
