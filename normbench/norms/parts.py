"""What a norm and a network agree on: the places a network offers, and the layers put there.

A network is written with places: a :class:`Slot` where a norm and perhaps an activation belong, and
a :class:`BranchEnd` where a residual branch ends. Its convolutions are places, too. ``swap_norm``
puts what a norm makes into them.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Part(nn.Module):
    """A layer that a norm brings, with what it wants of stacks and of the training loop.

    Every tensor of a part has channels, groups or (what a layer has once) replicas as its first
    dimension: K layers become one by concatenating tensors and multiplying ``stacked_counts`` by K.
    What a layer has once is stored as [1, ...], with an attribute ``replicas = 1`` in the counts;
    :func:`spread` brings such values to the channels. A number that is the same in all replicas,
    such as a count of steps, is a tensor of no dimension.
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ()
    """The integer attributes that a stack of K replicas multiplies by K."""

    @property
    def suffix(self) -> str:
        """What ``show`` writes behind the layer's name, such as `` + ReLU``."""
        return ""

    def norm_parameters(self) -> list[nn.Parameter]:
        """What it learns as a norm, which ``optim.decay_norm=false`` leaves without decay."""
        return list(self.parameters(recurse=False))

    def before_update(self) -> None:
        """Called between the backward pass and the optimizer's step; may change its gradients.

        It must do to each replica of a stack what it would do to it alone, and wait for no GPU.
        """

    def set_share(self, share: float) -> None:
        """Called before each training step with the share of all steps that are done, from 0.

        Steps may be recorded as a CUDA graph: what changes belongs in a tensor, changed in place.
        """


def share_hooks(model: nn.Module) -> list[Callable[[float], None]]:
    """The ``set_share`` of those layers of ``model`` that have one of their own."""
    parts = [module for module in model.modules() if isinstance(module, Part)]
    return [part.set_share for part in parts if type(part).set_share is not Part.set_share]


def update_hooks(model: nn.Module) -> list[Callable[[], None]]:
    """The ``before_update`` of those layers of ``model`` that have one of their own."""
    parts = [module for module in model.modules() if isinstance(module, Part)]
    own = [part for part in parts if type(part).before_update is not Part.before_update]
    return [part.before_update for part in own]


class Slot(nn.Module):
    """The place of a norm in a network; it computes nothing until a norm is put there.

    Args:
        channels: the number of channels C.
        act: whether an activation follows; False where it comes later, after a residual addition.
    """

    def __init__(self, channels: int, *, act: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Raises RuntimeError: there is no norm yet."""
        raise RuntimeError("a slot is empty: put a norm into the network with swap_norm")


class BranchEnd(Part):
    """The end of a residual branch, before the addition: the identity, unless a norm scales it."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, ...] to the same shape."""
        return x


class NormConv(Part, nn.modules.conv._ConvNd):
    """A convolution whose weight a norm transforms before each use.

    Subclasses say how, in :meth:`transform`, and give it what else it needs in :meth:`prepare`.
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels", "groups")

    @classmethod
    def of(cls, conv: Convolution, **settings: Any) -> Self:
        """The same convolution, of one to three dimensions, with the very weights of ``conv``."""
        made = _copy(conv)
        made.__class__ = _mixed(cls, type(conv))  # type: ignore[arg-type]
        assert isinstance(made, cls)
        made.prepare(**settings)
        return made

    def prepare(self, *_: Any, **settings: Any) -> None:
        """Takes the settings and adds the tensors that :meth:`transform` uses."""

    @abstractmethod
    def transform(self, weight: Tensor) -> Tensor:
        """The weight that is used instead of ``weight`` [outputs, inputs per group, ...]."""

    def used(self) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias with which it computes."""
        return self.transform(self.weight), self.bias

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = super()._conv_forward(input, *self.used())
        return y

    def norm_parameters(self) -> list[nn.Parameter]:
        own = self.named_parameters(recurse=False)
        return [parameter for name, parameter in own if name not in ("weight", "bias")]

    def __reduce__(self) -> tuple[Any, ...]:
        # Its class is made while a program runs, so that pickle does not find it by name.
        own, kind = type(self).__bases__
        return _blank, (own, kind), self.__dict__

    def plain(self) -> nn.Module:
        """The convolution without the transformation, with the very same weights."""
        made = _copy(self)
        made._parameters = {key: made._parameters[key] for key in ("weight", "bias")}
        made._buffers.clear()
        made.__class__ = next(kind for kind in CONVOLUTIONS if isinstance(self, kind))
        return made


@cache
def _mixed(cls: Any, kind: Any) -> type[nn.Module]:
    return type(f"{cls.__name__}{kind.__name__.removeprefix('Conv')}", (cls, kind), {})


def _blank(own: Any, kind: Any) -> nn.Module:
    made = _mixed(own, kind)
    return made.__new__(made)


def _copy(module: nn.Module) -> nn.Module:
    """A copy with the same tensors in dictionaries of its own."""
    made = copy.copy(module)
    for table in ("_parameters", "_buffers", "_modules"):
        made.__dict__[table] = made.__dict__[table].copy()
    return made


def spread(values: Tensor, x: Tensor) -> Tensor:
    """Values per channel, group or replica, [R], as a factor or term of ``x`` [N, C, ...].

    Channels c·C/R to (c+1)·C/R share value c. The result is [1, C, 1, ...].
    """
    channels = x.shape[1]
    if len(values) != channels:
        values = values.repeat_interleave(channels // len(values))
    return values.view(1, -1, *(1,) * (x.dim() - 2))


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """γ·x + β with γ and β of shape [C], each left out where it is None, over [N, C, ...]."""
    if weight is not None:
        x = x * spread(weight, x)
    if bias is not None:
        x = x + spread(bias, x)
    return x


def finished(normalized: Tensor, state: Mapping[str, Tensor], act: bool) -> Tensor:
    """What a reference does last: γ, β and the activation."""
    y = scale_and_shift(normalized, state.get("weight"), state.get("bias"))
    return y.relu() if act else y


def positions(x: Tensor) -> tuple[int, ...]:
    """The axes of the positions of [N, C, ...]; none for [N, C]."""
    return tuple(range(2, x.dim()))


def mean_over(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The mean over ``axes``, which are kept with size 1; over no axes it is ``x``."""
    return torch.mean(x, axes, keepdim=True) if axes else x


def per_example(values: Tensor, x: Tensor) -> Tensor:
    """Values per example and channel, [N, C], as a factor or term of ``x`` [N, C, ...]."""
    return values.view(*values.shape, *(1,) * (x.dim() - 2))
