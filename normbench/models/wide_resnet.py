"""Wide residual networks for small images."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models.base import MODELS, ModelConfig
from normbench.norms.parts import BranchEnd, Slot


class WideBlock(nn.Module):
    """Two 3×3 convolutions, each behind a norm and an activation, and a shortcut.

    (Zagoruyko & Komodakis 2016, arXiv 1605.07146, figure 1d, without dropout.) The shortcut is the
    identity or, where the shape changes, a 1×1 convolution of what the first norm gives.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = Slot(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = Slot(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.branch_end = BranchEnd()
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm1(x)
        y: Tensor = self.branch_end(self.conv2(self.norm2(self.conv1(first))))
        y += x if self.shortcut is None else self.shortcut(first)
        return y


class WideResNet(nn.Module):
    """A wide residual network of depth 6n+4 (Zagoruyko & Komodakis 2016, table 1).

    Images [N, 3, H, W] to logits [N, classes], through three stages of ``blocks`` blocks with
    16·``widen``, 32·``widen`` and 64·``widen`` channels at full, half and quarter resolution.
    """

    def __init__(self, *, blocks: int, widen: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        channels = 16
        for stage in range(3):
            for block in range(blocks):
                outputs = 16 * widen * 2**stage
                layers.append(WideBlock(channels, outputs, 2 if stage > 0 and block == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*layers)
        self.norm = Slot(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.flatten(self.pool(self.norm(self.blocks(self.stem(x))))))
        return y


@MODELS.register("wide_resnet")
@dataclass(kw_only=True, slots=True)
class WideResNetConfig(ModelConfig):
    """A wide ResNet: fewer layers, more channels."""

    name: str = "wide_resnet"

    depth: int = 16
    """The number of convolutions, 6n+4: 10, 16, 22, 28, 40."""

    widen: int = 2
    """The widening factor k: the stages have 16k, 32k and 64k channels; 1 to 4096."""

    paper: ClassVar[str] = (
        "Zagoruyko & Komodakis, Wide Residual Networks, 2016, arXiv 1605.07146, table 1"
    )

    def __post_init__(self) -> None:
        if self.depth < 10 or self.depth % 6 != 4:
            raise UsageError(
                f"model.depth={self.depth}: must be 6n+4, for example 10, 16, 22, 28, 40"
            )
        if not 1 <= self.widen <= 4096:
            raise UsageError(f"model.widen={self.widen}: must be from 1 to 4096")

    @property
    def title(self) -> str:
        return f"WRN-{self.depth}-{self.widen}"

    @property
    def norm_channels(self) -> tuple[int, ...]:
        stages = (16 * self.widen, 32 * self.widen, 64 * self.widen)
        return tuple(dict.fromkeys((16, *stages)))

    def network(self, classes: int) -> nn.Module:
        return WideResNet(blocks=(self.depth - 4) // 6, widen=self.widen, classes=classes)
