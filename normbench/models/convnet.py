"""A plain convolutional network: no shortcuts, so that norms matter more."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models.base import MODELS, ModelConfig
from normbench.norms.parts import Slot


class ConvNet(nn.Module):
    """Blocks of 3×3 convolution, norm, activation and 2×2 max-pooling, then a linear layer.

    Images [N, 3, H, W] to logits [N, classes]; block i has ``width``·2^i channels and halves the
    resolution, rounded up: one position stays one position.
    """

    def __init__(self, *, depth: int, width: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in range(depth):
            outputs = width * 2**block
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
                Slot(outputs),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
            channels = outputs
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.flatten(self.pool(self.blocks(x))))
        return y


@MODELS.register("convnet")
@dataclass(kw_only=True, slots=True)
class ConvNetConfig(ModelConfig):
    """A small plain network of convolutions and max-pooling."""

    name: str = "convnet"

    depth: int = 3
    """The number of convolutions, each followed by a halving of the resolution; 1 to 5."""

    width: int = 16
    """Channels of the first convolution; each further one has twice as many."""

    paper: ClassVar[str] = "after LeCun et al., Gradient-based learning, 1998"

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 5:
            raise UsageError(f"model.depth={self.depth}: must be 1 to 5 for model=convnet")
        if not 1 <= self.width <= 65536:
            raise UsageError(f"model.width={self.width}: must be from 1 to 65536")

    @property
    def title(self) -> str:
        return f"ConvNet-{self.depth}" + ("" if self.width == 16 else f", width {self.width}")

    @property
    def norm_channels(self) -> tuple[int, ...]:
        return tuple(self.width * 2**block for block in range(self.depth))

    def network(self, classes: int) -> nn.Module:
        return ConvNet(depth=self.depth, width=self.width, classes=classes)
