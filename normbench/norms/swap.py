"""Puts a norm into a network: the one way from a norm to a network, new or there already."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.norms.base import Norm, NormConfig
from normbench.norms.foreign import (
    CARRIED,
    ForeignNorm,
    foreign_norm,
    is_unknown_norm,
    refuse_more,
)
from normbench.norms.parts import CONVOLUTIONS, BranchEnd, NormConv, Slot

M = TypeVar("M", bound=nn.Module)

_SIGNS = {"weight": "γ", "bias": "β", "running_mean": "running μ", "running_var": "running σ²"}


@dataclass(frozen=True, slots=True)
class Swap:
    """What became of one layer of a network.

    Attributes:
        name: the path of the new layer in the network; of a norm with an activation of the old
            one's behind it, the norm's own.
        old: what it was, such as ``BatchNorm2d(64)``.
        new: what it is; the same where it was kept.
        carried: the tensors it took over: ``weight``, ``bias``, ``running_mean``, ``running_var``.
        lost: those of the old layer that it did not.
        note: what is to be said of it, such as that group norm has become layer norm, or None.
    """

    name: str
    old: str
    new: str
    carried: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    note: str | None = None

    @property
    def kept(self) -> bool:
        """Whether the layer is a norm that is not known and was left as it was."""
        return self.new == self.old

    @property
    def carried_signs(self) -> str:
        """What it took over, such as ``γ, β``."""
        return _signs(self.carried)

    def __str__(self) -> str:
        if self.kept:
            return f"{self.name}: {self.old}, kept: {self.note}"
        said = f"{self.name}: {self.old} → {self.new}"
        said += f"; {self.carried_signs} carried" if self.carried else ""
        said += f"; {_signs(self.lost)} lost" if self.lost else ""
        return said + (f" ({self.note})" if self.note else "")


def _signs(names: tuple[str, ...]) -> str:
    return ", ".join(_SIGNS[name] for name in names)


@dataclass(frozen=True, slots=True)
class _Replacement:
    """A layer and what takes its place; they are the same where it stays."""

    old: nn.Module
    new: nn.Module
    swap: Swap | None = None


def swap_norm(
    model: nn.Module, norm: NormConfig, *, norm_batch: int | None = None, carry: bool = False
) -> nn.Module:
    """Fills every slot of ``model``, in place, with what ``norm`` builds; old norms go.

    Works on this package's networks, with norms or with empty slots, and on others, such as
    torchvision's and timm's: the layers that :func:`normbench.norms.foreign.foreign_norm` knows are
    replaced without an activation (theirs stays, in its place or behind the new norm), this
    package's slots keep theirs. Convolutions and ends of residual branches become what ``norm``
    wants of them, with the weights they have. The new norms are on the device, with the dtype and
    in the mode of the network. What becomes of each layer :func:`describe_swap` tells.

    Args:
        model: the network; if it is itself a norm, the replacement is what is returned.
        norm: the configuration of the new norm.
        norm_batch: see :meth:`NormConfig.build`.
        carry: whether γ, β and running statistics of the old norms are taken over where the new
            norm has them too, and with those γ and β that are parameters whether they are trained;
            otherwise it starts with γ = 1 and β = 0, which are trained. With a running σ² goes the
            old ε that is added to it, unless ``norm`` has another one than by default.

    Returns:
        ``model``.

    Raises:
        UsageError: ``norm`` does not fit the number of channels of a layer, or needs places that
            the network does not give; it is left as it was.
    """
    # Built first, put in afterwards: a norm that does not fit leaves the network as it was.
    for name, replacement in _plan(model, norm, norm_batch, carry).items():
        if replacement.new is replacement.old:
            continue
        if not name:
            return replacement.new
        model.set_submodule(name, replacement.new)
    return model


def describe_swap(
    model: nn.Module, norm: NormConfig, *, norm_batch: int | None = None, carry: bool = False
) -> list[Swap]:
    """What :func:`swap_norm` with the same arguments makes of each norm; nothing is changed.

    Norms that it does not know are told, too, as kept.

    Raises:
        UsageError: as in :func:`swap_norm`.
    """
    planned = _plan(model, norm, norm_batch, carry).values()
    return [replacement.swap for replacement in planned if replacement.swap is not None]


def _plan(
    model: nn.Module, norm: NormConfig, norm_batch: int | None, carry: bool
) -> dict[str, _Replacement]:
    """The layers of ``model`` that ``norm`` has a say in, by name."""
    default = next((t for t in model.parameters() if t.is_floating_point()), None)
    swapper = _Swapper(norm, norm_batch, carry, default)
    made: dict[nn.Module, _Replacement] = {}  # a layer used in several places stays one layer
    planned: dict[str, _Replacement] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if module not in made:
            made[module] = swapper.replacement(name, module)
        if made[module].new is not module or made[module].swap is not None:
            planned[name] = made[module]
    if norm.needs and any(_in_foreign_place(each) for each in made.values()):
        raise UsageError(
            f"norm={norm.name} needs {norm.needs}, which {type(model).__name__} does not tell;"
            " use a network of normbench's own"
        )
    return planned


def _in_foreign_place(replacement: _Replacement) -> bool:
    """Whether a norm in it stands in a network that does not know this package's slots."""
    if replacement.swap is None:
        return False
    return any(isinstance(m, Norm) and m.keeps_activation for m in replacement.new.modules())


@dataclass(frozen=True, slots=True)
class _Swapper:
    """Makes the layers that take the places of others; ``default`` is a tensor of the network."""

    norm: NormConfig
    norm_batch: int | None
    carry: bool
    default: Tensor | None

    def replacement(self, name: str, old: nn.Module) -> _Replacement:
        """What takes the place of ``old``, and what is to be told of it."""
        if isinstance(old, Slot | Norm):
            new = self._placed(self._build(old.channels, old.act), old)
            new.keeps_activation = isinstance(old, Norm) and old.keeps_activation
            tensors = old.state_dict(keep_vars=True) if isinstance(old, Norm) else {}
            return _Replacement(old, new, self._swap(name, old, new, tensors))
        if isinstance(old, BranchEnd):
            end = self.norm.branch_end()
            same = type(end) is type(old) is BranchEnd
            return _Replacement(old, old if same else self._placed(end, old))
        if isinstance(old, NormConv) or type(old) in CONVOLUTIONS:
            return self._convolution_replaced(name, old)
        if isinstance(old, CONVOLUTIONS) and self._changes_convolutions:
            raise UsageError(
                f"norm={self.norm.name} changes convolutions, and {name} is a"
                f" {type(old).__name__}, which computes in its own way; choose another norm"
            )
        foreign = foreign_norm(old)
        if foreign is not None:
            refuse_more(name, old, foreign)
            return self._foreign_replaced(name, old, foreign)
        return _Replacement(old, old, _kept(name, old) if is_unknown_norm(old) else None)

    def _convolution_replaced(self, name: str, old: nn.Module) -> _Replacement:
        if self._changes_convolutions and "weight" not in dict(old.named_parameters(recurse=False)):
            raise UsageError(
                f"norm={self.norm.name} changes convolutions, and the weight of {name or 'it'} is"
                " computed from others, as by weight_norm or spectral_norm; choose another norm"
            )
        plain = old.plain() if isinstance(old, NormConv) else old
        try:
            conv = self.norm.convolution(plain)  # type: ignore[arg-type]
        except UsageError as error:
            where = f"norm={self.norm.name}" + (f", {name}" if name else "")
            raise UsageError(f"{where}: {error}") from None
        return _Replacement(old, old if conv is old else self._placed(conv, old))

    @property
    def _changes_convolutions(self) -> bool:
        return type(self.norm).convolution is not NormConfig.convolution

    def _build(self, channels: int, act: bool) -> Norm:
        return self.norm.build(channels, act=act, norm_batch=self.norm_batch)

    def _foreign_replaced(self, name: str, old: nn.Module, foreign: ForeignNorm) -> _Replacement:
        new = self._placed(self._build(foreign.channels, act=False), old)
        new.keeps_activation = True
        own = f"{name}.0".removeprefix(".") if foreign.after else name
        swap = self._swap(own, old, new, foreign.tensors)
        if not foreign.after:
            return _Replacement(old, new, swap)
        both = nn.Sequential(new, *foreign.after)
        both.training = old.training
        return _Replacement(old, both, swap)

    def _placed(self, new: M, old: nn.Module) -> M:
        """``new`` in the mode of ``old``, and like its tensors or, without any, the network's."""
        own = (t for t in [*old.parameters(), *old.buffers()] if t.is_floating_point())
        tensor = next(own, self.default)
        new.train(old.training)
        return new if tensor is None else new.to(tensor)

    def _swap(self, name: str, old: nn.Module, new: Norm, tensors: Mapping[str, Tensor]) -> Swap:
        """Takes over what is to be carried, and tells what became of the norm."""
        there = [key for key in CARRIED if tensors.get(key) is not None]
        own = new.state_dict(keep_vars=True)
        carried = tuple(key for key in there if self.carry and key in own)
        with torch.no_grad():
            for key in carried:
                own[key].copy_(tensors[key])
                if isinstance(tensors[key], nn.Parameter):  # a frozen one stays frozen
                    own[key].requires_grad_(tensors[key].requires_grad)
        if "running_var" in carried and self.norm.eps == _default(self.norm, "eps"):
            new.eps = getattr(old, "eps", new.eps)
        return Swap(
            name=name,
            old="empty slot" if isinstance(old, Slot) else _said(old, new.channels),
            new=f"{type(new).__name__}({new.extra_repr()})",
            carried=carried,
            lost=tuple(key for key in there if key not in carried),
            note=self.norm.note(new.channels),
        )


def _default(norm: NormConfig, setting: str) -> object:
    return next(each.default for each in fields(norm) if each.name == setting)


def _said(old: nn.Module, channels: int) -> str:
    eps = getattr(old, "eps", None)
    return f"{type(old).__name__}({channels}" + (")" if eps is None else f", eps={eps:g})")


def _kept(name: str, old: nn.Module) -> Swap:
    kind = type(old).__name__
    return Swap(name, kind, kind, note="not known as a norm over the channels of [N, C, ...]")
