"""Pre-activation residual networks for small images: a norm and its activation are never parted."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.models.base import MODELS
from normbench.models.resnet import SmallResNetConfig, stages
from normbench.norms.parts import BranchEnd, Slot


class PreActBlock(nn.Module):
    """Norm, activation and 3×3 convolution, twice, and a shortcut with nothing in its way (He et
    al. 2016b, arXiv 1603.05027, figure 1b).

    Where the shape changes, the shortcut is a strided 1×1 convolution of the first activation's
    output.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, cardinality: int) -> None:
        super().__init__()
        self.norm1 = Slot(inputs)
        self.conv1 = nn.Conv2d(
            inputs, outputs, 3, stride, padding=1, groups=cardinality, bias=False
        )
        self.norm2 = Slot(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=cardinality, bias=False)
        self.branch_end = BranchEnd()
        self.projection: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.norm1(x)
        shortcut = x if self.projection is None else self.projection(activated)
        y: Tensor = self.branch_end(self.conv2(self.norm2(self.conv1(activated))))
        y += shortcut
        return y


class PreActResNet(nn.Module):
    """A pre-activation residual network of depth 6n+2 (He et al. 2016b, arXiv 1603.05027).

    Images [N, 3, H, W] to logits [N, classes]: a convolution, three stages of ``blocks`` blocks
    with ``width``, 2·``width`` and 4·``width`` channels at full, half and quarter resolution, then
    the last norm and activation.

    In ``ResNet`` a norm stands before each residual addition, and the activation after it. What
    brings its own activation has nothing to do there: EvoNorm scales and shifts only, and filter
    response normalization normalizes without its threshold. Here every norm has its activation.
    """

    def __init__(self, *, blocks: int, width: int, cardinality: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks = stages(PreActBlock, blocks, width, cardinality)
        self.norm = Slot(4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.flatten(self.pool(self.norm(self.blocks(self.stem(x))))))
        return y


@MODELS.register("preact_resnet")
@dataclass(kw_only=True, slots=True)
class PreActResNetConfig(SmallResNetConfig):
    """A pre-activation CIFAR ResNet, optionally with group convolution."""

    name: str = "preact_resnet"

    paper: ClassVar[str] = (
        "He, Zhang, Ren & Sun, Identity Mappings in Deep Residual Networks, 2016, arXiv 1603.05027;"
        " cardinality: Xie et al. 2017, arXiv 1611.05431"
    )
    prefix: ClassVar[str] = "PreAct-"

    def network(self, classes: int) -> nn.Module:
        return PreActResNet(
            blocks=(self.depth - 2) // 6,
            width=self.width,
            cardinality=self.cardinality,
            classes=classes,
        )
