"""What every normalization layer has in common: its configuration and its shape checks.

A norm takes ``[N, C]``, ``[N, C, L]``, ``[N, C, H, W]`` or ``[N, C, D, H, W]``. It fills a *slot*:
normalization followed by the activation, because some norms bring a nonlinearity of their own.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.registry import Registry


class Norm(nn.Module, ABC):
    """A normalization slot: normalize, scale by γ, shift by β, then ReLU if ``act``.

    It takes empty batches, and can be traced, exported, compiled and differentiated by torch.func.
    ``torch.jit.script`` does not take it; ``torch.vmap`` takes what does not update running
    statistics.

    Args:
        channels: the number of channels C of the input.
        eps: added to the variance before its square root is taken.
        affine: whether there are a learned scale γ and shift β, one of each per channel.
        act: whether a ReLU follows.

    Attributes:
        weight: γ, shape [C], ones at the start; None without ``affine``.
        bias: β, shape [C], zeros at the start; None without ``affine``.
    """

    remedy: ClassVar[str] = "larger images or another norm"
    """What to use where a mean would run over a single value."""

    def __init__(self, channels: int, *, eps: float, affine: bool, act: bool) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.act = act
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    @property
    @abstractmethod
    def axes(self) -> str:
        """What one mean and one variance run over, for example ``(C/G)·H·W``."""

    @property
    @abstractmethod
    def batch_dependent(self) -> bool:
        """Whether in training an example's output depends on the rest of its batch."""

    @property
    def num_groups(self) -> int | None:
        """The number of channel groups G that are normalized separately; None where it has none."""
        return None

    @abstractmethod
    def values_per_statistic(self, shape: torch.Size) -> int:
        """How many values one mean is taken over, for an input of ``shape``."""

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """Normalizes, scales and shifts ``x``; the output is a new tensor of the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, ...] to the same shape.

        Raises:
            ValueError: the channels do not fit, or a mean would run over a single value (the
                output would be β whatever the input).
        """
        if x.shape[1] != self.channels:
            raise ValueError(f"expected {self.channels} channels, got an input of {list(x.shape)}")
        y = self.normalize(x)
        return F.relu(y, inplace=True) if self.act else y

    def single_value(self, shape: torch.Size, layer: str = "the layer") -> UsageError:
        """The error for an input of ``shape`` whose means would each run over a single value."""
        return UsageError(
            f"{self._cause(shape[0])}: {layer} takes each mean over a single value (input"
            f" {list(shape)}), so its output would be β whatever the input; use {self.remedy}"
        )

    def _cause(self, batch: int) -> str:
        return f"means over {self.axes}"

    def extra_repr(self) -> str:
        groups = "" if self.num_groups is None else f", num_groups={self.num_groups}"
        return f"{self.channels}, axes={self.axes}{groups}, eps={self.eps}, act={self.act}"


def spatial_size(shape: torch.Size) -> int:
    """The number of positions of an input of shape [N, C, ...]: 1, L, H·W or D·H·W."""
    return prod(shape[2:])


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """γ·x + β with γ and β of shape [C] broadcast over [N, C, ...]; for the references."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    if weight is not None:
        x = x * weight.view(shape)
    if bias is not None:
        x = x + bias.view(shape)
    return x


@dataclass(kw_only=True, slots=True)
class NormConfig(ABC):
    """A normalization layer as the configuration describes it; builds the layer."""

    name: str
    """The norm's name in the registry; chosen with ``norm=NAME``, not set by hand."""

    eps: float = 1e-5
    """Added to the variance before its square root is taken; above 0."""

    affine: bool = True
    """Whether to learn a scale γ and a shift β per channel."""

    title: ClassVar[str]
    """The norm's full name."""

    axes: ClassVar[str]
    """What one mean runs over, as a product of axes."""

    formula: ClassVar[str]
    """The definition, in plain text, a line a step."""

    paper: ClassVar[str]
    """Authors, title, year, arXiv number and equation."""

    cite: ClassVar[str] = "-"
    """The paper as a table has it: authors, year, arXiv number."""

    batch_dependent: ClassVar[bool] = False
    """Whether in training an example's output depends on its batch mates."""

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise UsageError(f"norm.eps={self.eps}: must be above 0 and below 1")

    @abstractmethod
    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> Norm:
        """Makes the layer for ``channels`` channels.

        Args:
            channels: the number of channels C.
            act: whether a ReLU follows inside the slot.
            norm_batch: how many examples share batch statistics; None means the whole batch.
                Norms that look at one example at a time ignore it.

        Raises:
            UsageError: the settings do not fit ``channels``; the message names what would.
        """

    @abstractmethod
    def reference(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The definition over explicit axes, with the biased variance, without the activation.

        The fast layer must equal it, values and gradients, in float64. ``x`` is [N, C, ...].
        """


NORMS: Registry[NormConfig] = Registry("norm")
"""Every norm by name."""
