"""Norms to test, inputs for them, and their definitions in plain numpy."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normbench.norms import Norm, NormConfig
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNormConfig, InstanceNormConfig, LayerNormConfig
from normbench.norms.none import NoNormConfig

Array = NDArray[np.float64]

EPS = 1e-5
CHANNELS = 8
GROUPS = 4  # what groups=auto chooses for eight channels
CONFIGS: dict[str, Callable[..., NormConfig]] = {
    "batch": BatchNormConfig,
    "layer": LayerNormConfig,
    "instance": InstanceNormConfig,
    "group": GroupNormConfig,
    "none": NoNormConfig,
}
SHAPES = {
    "NC": (6, CHANNELS),
    "NCL": (4, CHANNELS, 5),
    "NCHW": (3, CHANNELS, 4, 3),
    "NCDHW": (2, CHANNELS, 2, 3, 2),
}
LAYOUTS = {
    **{name: (shape, torch.contiguous_format) for name, shape in SHAPES.items()},
    "NCHW channels_last": (SHAPES["NCHW"], torch.channels_last),
    "NCDHW channels_last": (SHAPES["NCDHW"], torch.channels_last_3d),
}
INDEPENDENT = [name for name in CONFIGS if name != "batch"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def laid_out(layout: str, seed: int = 0) -> Tensor:
    shape, memory_format = LAYOUTS[layout]
    scale = torch.linspace(0.5, 3.0, CHANNELS, dtype=torch.float64)
    broadcast = (1, -1) + (1,) * (len(shape) - 2)
    x = randn(*shape, seed=seed) * scale.view(broadcast) + (scale - 1.0).view(broadcast)
    return x.contiguous(memory_format=memory_format)


def build(name: str, channels: int = CHANNELS, *, act: bool = False, **settings: object) -> Norm:
    norm_batch = settings.pop("norm_batch", None)
    assert norm_batch is None or isinstance(norm_batch, int)
    layer = CONFIGS[name](**settings).build(channels, act=act, norm_batch=norm_batch)
    return layer.double()


def randomize(layer: Norm, seed: int = 1) -> Norm:
    """Gives γ and β values of which some are negative."""
    if layer.weight is not None and layer.bias is not None:
        with torch.no_grad():
            layer.weight.copy_(randn(layer.channels, seed=seed) + 0.5)
            layer.bias.copy_(randn(layer.channels, seed=seed + 1))
    return layer


def sharing(name: str, n: int, c: int, groups: int = GROUPS) -> NDArray[np.int64]:
    """Which mean each example and channel shares, [N, C]: equal numbers, equal mean."""
    example, channel = np.indices((n, c))
    shared: dict[str, NDArray[np.int64]] = {
        "batch": channel,
        "layer": example,
        "instance": example * c + channel,
        "group": example * groups + channel // (c // groups),
    }
    return shared[name]


class Definition:
    """A norm's values and gradients over explicit sets of values, in numpy's float64."""

    def __init__(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, name: str, *, act: bool
    ) -> None:
        values = x.detach().numpy()
        self.x = values.reshape(*values.shape[:2], -1)
        self.shape = values.shape
        n, c, _ = self.x.shape
        ones, zeros = np.ones(c), np.zeros(c)
        self.gamma: Array = ones if weight is None else weight.detach().numpy()
        self.beta: Array = zeros if bias is None else bias.detach().numpy()
        self.normalized = self.x.copy()
        self.scale = np.ones_like(self.x)
        self.sets: list[NDArray[np.bool_]] = []
        if name != "none":
            shared = sharing(name, n, c)
            self.sets = [shared == label for label in np.unique(shared)]
        for members in self.sets:
            mine = self.x[members]
            variance = np.sum((mine - np.sum(mine) / mine.size) ** 2) / mine.size
            self.scale[members] = 1.0 / np.sqrt(variance + EPS)
            self.normalized[members] = (mine - np.sum(mine) / mine.size) * self.scale[members]
        linear = self.gamma[:, None] * self.normalized + self.beta[:, None]
        self.passes = linear > 0 if act else np.ones_like(linear, dtype=np.bool_)
        self.output = np.where(self.passes, linear, 0.0).reshape(self.shape)

    def gradients(self, upstream: Tensor) -> tuple[Array, Array, Array]:
        """With respect to input, γ and β, by the textbook's formulas."""
        above = upstream.numpy().reshape(self.x.shape) * self.passes
        inner = above * self.gamma[:, None]
        down = inner.copy()
        for members in self.sets:
            g, z = inner[members], self.normalized[members]
            down[members] = self.scale[members] * (g - g.mean() - z * (g * z).mean())
        weight = (above * self.normalized).sum((0, 2))
        return down.reshape(self.shape), weight, above.sum((0, 2))


def assert_equal(actual: Tensor | None, expected: Array | Tensor) -> None:
    assert actual is not None
    wanted = expected if isinstance(expected, Tensor) else torch.from_numpy(np.asarray(expected))
    torch.testing.assert_close(actual.detach(), wanted.detach(), rtol=0, atol=1e-10)
