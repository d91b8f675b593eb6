"""What every normalization layer has in common: its configuration and its shape checks.

A norm takes ``[N, C]``, ``[N, C, L]``, ``[N, C, H, W]`` or ``[N, C, D, H, W]``. It fills a *slot*:
normalization followed by the activation, because some norms bring a nonlinearity of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.norms.parts import BranchEnd, Convolution, Part
from normbench.norms.published import Published
from normbench.norms.settings import check_settings, setting
from normbench.registry import Registry

State = MutableMapping[str, Tensor]
"""A layer's parameters and buffers by name, as in its ``state_dict``."""


class Norm(Part, ABC):
    """A normalization slot: normalize, scale by γ, shift by β, then the activation if ``act``.

    It takes empty batches, and can be traced, exported, compiled and differentiated by torch.func;
    in training torch.func takes no norm with running statistics but ``batch``. ``torch.jit.script``
    takes none, ``torch.vmap`` those that update no running statistics.

    Args:
        channels: the number of channels C of the input.
        eps: added to the variance before its square root is taken.
        affine: whether there are a learned scale γ and shift β, one of each per channel.
        act: whether the activation follows.

    Attributes:
        weight: γ, shape [C], ones at the start; None without ``affine``.
        bias: β, shape [C], zeros at the start; None without ``affine``.
        keeps_activation: whether it stands in a network that does not know this package's slots,
            whose activations stay where they are.
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels",)

    activation: ClassVar[str] = "ReLU"
    """What :meth:`activate` computes, in words."""

    batch_dependent: bool = False
    """Whether in training an example's output depends on the rest of its batch."""

    remedy: ClassVar[str] = "larger images or another norm"
    """What to use where a mean would run over a single value."""

    constant: ClassVar[str] = "β whatever the input"
    """What the output would be where a mean runs over a single value."""

    def __init__(self, channels: int, *, eps: float, affine: bool, act: bool) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.act = act
        self.keeps_activation = False
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    @property
    @abstractmethod
    def axes(self) -> str:
        """What one mean runs over in this layer, for example ``(C/G)·H·W``."""

    @property
    def num_groups(self) -> int | None:
        """The number of channel groups G that are normalized separately; None where it has none."""
        return None

    def values_per_statistic(self, shape: torch.Size) -> int | None:
        """How many values one mean runs over, for an input of ``shape``.

        None where there is no mean, or where a single value is enough.
        """
        return None

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """Normalizes, scales and shifts ``x``; the output is a new tensor of the same shape."""

    def activate(self, y: Tensor) -> Tensor:
        """The activation; may work in place."""
        return F.relu(y, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, ...] to the same shape.

        Raises:
            ValueError: the channels do not fit, or a mean would run over a single value.
        """
        if x.shape[1] != self.channels:
            raise ValueError(f"expected {self.channels} channels, got an input of {list(x.shape)}")
        y = self.normalize(x)
        if y.dtype != x.dtype and self._stays(x):
            y = y.to(x.dtype)
        return self.activate(y) if self.act else y

    def _stays(self, x: Tensor) -> bool:
        """Whether the output has to be of the dtype of ``x``: in a network of half precision, not
        under autocast or with tensors of its own that are wider."""
        own = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        same = all(t.dtype == x.dtype for t in own if t.is_floating_point())
        return same and not torch.is_autocast_enabled(x.device.type)

    def single_value(self, shape: torch.Size, layer: str = "the layer") -> UsageError:
        """The error for an input of ``shape`` whose means would each run over a single value."""
        return UsageError(
            f"{self._cause(shape[0])}: {layer} takes each mean over a single value (input"
            f" {list(shape)}), so its output would be {self.constant}; use {self.remedy}"
        )

    def _cause(self, batch: int) -> str:
        return f"means over {self.axes}"

    @property
    def suffix(self) -> str:
        return f" + {self.activation}" if self.act else ""

    def extra_repr(self) -> str:
        groups = "" if self.num_groups is None else f", num_groups={self.num_groups}"
        return f"{self.channels}, axes={self.axes}{groups}, eps={self.eps}, act={self.act}"


def spatial_size(shape: torch.Size) -> int:
    """The number of positions of an input of shape [N, C, ...]: 1, L, H·W or D·H·W."""
    return prod(shape[2:])


@dataclass(kw_only=True, slots=True)
class NormConfig(ABC):
    """A normalization layer as the configuration describes it; builds the layer.

    An ordinary norm defines ``build``, ``reference`` and its texts. One that changes more of a
    network says so in ``convolution`` and ``branch_end``; one that changes gradients, or changes in
    the course of training, in its layers (:class:`Part`).
    """

    name: str
    """The norm's name in the registry; chosen with ``norm=NAME``, not set by hand."""

    eps: float = setting(1e-5, above=0, below=1)
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

    starts: ClassVar[dict[str, float]] = {}
    """Where the layer's parameters and buffers start, besides γ = 1 and β = 0, by name."""

    batch_dependent: ClassVar[bool] = False
    """Whether in training an example's output depends on its batch mates."""

    sub_batches: ClassVar[bool] = True
    """Whether ``norm_batch`` can tell one that depends on the batch how many examples share
    statistics; where it cannot, it is not recorded."""

    evaluation: ClassVar[Literal["same as training", "running statistics"]] = "same as training"
    """What it normalizes with in evaluation, where no output depends on the batch."""

    folds: ClassVar[bool] = False
    """Whether in evaluation it is one factor and one term per channel, whatever the input, so that
    it folds into the convolution before it."""

    published: ClassVar[tuple[Published, ...]] = ()
    """What has been published of it at a small batch."""

    differentiable: ClassVar[bool] = True
    """Whether its backward pass is the derivative of its forward pass. Where it is not, the
    reference spells the backward pass out in a ``torch.autograd.Function``."""

    norm_activation: ClassVar[bool] = False
    """Whether normalization and activation are one: where no activation belongs, as before a
    residual addition, such a layer does not normalize; it scales and shifts."""

    needs: ClassVar[str] = ""
    """Which places of a network it cannot do without, such as ``the ends of residual branches``;
    networks that do not know this package's slots do not give them."""

    picture: ClassVar[dict[str, int]] = {}
    """The settings for the picture of what it averages over, 6 channels; empty: the defaults."""

    def __post_init__(self) -> None:
        check_settings(self, "norm")

    @abstractmethod
    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> Norm:
        """Makes the layer for ``channels`` channels.

        Networks are given their norms by ``ModelConfig.build`` and ``swap_norm`` only, which also
        see to convolutions and residual branches.

        Args:
            channels: the number of channels C.
            act: whether the activation is part of the slot.
            norm_batch: how many examples share batch statistics; None means the whole batch.
                Norms that look at one example at a time ignore it.

        Raises:
            UsageError: the settings do not fit ``channels``; the message names what would.
        """

    @abstractmethod
    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        """The definition in plain lines over explicit axes, with the biased variance.

        The layer must equal it in float64: output, gradients and, after a training step, buffers.

        Args:
            x: [N, C, ...].
            state: all of the layer's parameters and buffers; what is missing is left out of the
                formula. New values of buffers are written into it.
            act, norm_batch: as in :meth:`build`.
            training: whether the layer is in training mode.
        """

    def convolution(self, conv: Convolution) -> nn.Module:
        """What takes the place of a convolution, with its very weights: itself by default.

        One that changes the weight before it is used is a ``NormConv.of(conv)``.
        """
        return conv

    def reference_convolution(self, state: State) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias with which a convolution computes, given all of its tensors."""
        return state["weight"], state.get("bias")

    def branch_end(self) -> BranchEnd:
        """What ends each residual branch: nothing by default."""
        return BranchEnd()

    def reference_branch(self, x: Tensor, state: State) -> Tensor:
        """What the end of a residual branch computes, given all of its tensors."""
        return x

    def reference_gradient(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """What becomes of the gradient of one of its layers' parameters before the update."""
        return gradient

    def note(self, channels: int) -> str | None:
        """What is to be said of a layer of ``channels`` channels, as where the settings made it
        another norm; None by default."""
        return None


NORMS: Registry[NormConfig] = Registry("norm")
"""Every norm by name."""
