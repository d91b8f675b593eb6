"""The layers that a stack knows, and how K of each become one and are taken apart again."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from normbench.norms.parts import Part
from normbench.training.alike import StackError, children_of, place, tensors_of


class StackedLinear(nn.Linear):
    """K linear layers side by side: [N, K·in] to [N, K·out].

    The weights lie as in K layers one below the other: ``weight`` is [K·out, in], ``bias`` [K·out].
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps [N, K·in] to [N, K·out] by one batched product."""
        *lead, features = input.shape
        replicas = features // self.in_features
        weight = self.weight.view(replicas, -1, self.in_features)
        # No size is left to be found: of an empty batch it could be any.
        x = input.reshape(prod(lead), replicas, self.in_features).transpose(0, 1)
        bias: Tensor | None = self.bias
        y = torch.bmm(x, weight.transpose(1, 2))
        if bias is not None:
            y = y + bias.view(replicas, 1, -1).to(y.dtype)  # under autocast narrower than the bias
        return y.transpose(0, 1).reshape(*lead, len(self.weight))


# The layers a stack knows, beside those that tell it themselves (Part.stacked_counts). Every tensor
# of theirs has its channels first, so that K layers become one by concatenating tensors and
# multiplying these counts.
_COUNTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features",),
    nn.GroupNorm: ("num_groups", "num_channels"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), ("in_channels", "out_channels", "groups")),
    **dict.fromkeys(
        (
            *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
            *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        ),
        ("num_features",),
    ),
}

# Layers that treat each channel, or each value, by itself.
_UNCHANGED = (
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Upsample, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

_SWAPPED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: StackedLinear}
_SWAPPED_BACK = {stacked: solo for solo, stacked in _SWAPPED.items()}


def _counts(kind: type[nn.Module]) -> tuple[str, ...] | None:
    """The integer attributes that a stack of layers of this class multiplies by K."""
    return kind.stacked_counts if issubclass(kind, Part) else _COUNTS.get(kind)


def join(modules: Sequence[nn.Module], path: str = "", seen: Any = None) -> nn.Module:
    """The stack of one layer or, with its children, of one part of networks that are alike.

    Raises:
        StackError: a layer is unknown; it is named.
    """
    seen = {} if seen is None else seen
    first = modules[0]
    if id(first) in seen:  # a layer that is used in several places stays one layer
        joined: nn.Module = seen[id(first)]
        return joined
    kind = type(first)
    joined = seen[id(first)] = _shell(first)
    counts = _counts(kind)
    if counts is not None:
        every = [tensors_of(module) for module in modules]
        for name in every[0]:
            _set_tensor(joined, name, [tensors[name] for tensors in every], seen)
        for count in counts:
            setattr(joined, count, getattr(first, count) * len(modules))
        joined.__class__ = _SWAPPED.get(kind, kind)
    elif kind not in _UNCHANGED:
        children = children_of(first)
        if tensors_of(first) or (not children and kind not in _CONTAINERS):
            raise StackError(f"a stack does not know the layer {place(path, first)}")
        for name in children:
            below = f"{path}.{name}" if path else name
            parts = [children_of(module)[name] for module in modules]
            joined._modules[name] = join(parts, below, seen)
    return joined


def share(module: nn.Module, replica: int, replicas: int, seen: Any = None) -> nn.Module:
    """The share of ``replica`` in one layer, or in one part, of a stack of ``replicas``.

    It is an ordinary layer again, with tensors of its own.
    """
    seen = {} if seen is None else seen
    if id(module) in seen:
        part: nn.Module = seen[id(module)]
        return part
    part = seen[id(module)] = _shell(module)
    solo = _SWAPPED_BACK.get(type(module), type(module))
    counts = _counts(solo)
    if counts is not None:
        for name, tensor in tensors_of(module).items():
            own = tensor.chunk(replicas)[replica] if tensor.dim() else tensor
            _set_tensor(part, name, [own], seen, like=tensor)
        for count in counts:
            setattr(part, count, getattr(module, count) // replicas)
        part.__class__ = solo
    for name, child in children_of(module).items():
        part._modules[name] = share(child, replica, replicas, seen)
    return part


def _shell(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with the same tensors and children in dictionaries of its own.

    Hooks stay with the original.
    """
    shell = object.__new__(type(module))
    shell.__dict__.update(vars(module))
    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers", "_modules"):
            shell.__dict__[name] = value.copy()
        elif "_hooks" in name and isinstance(value, dict):
            shell.__dict__[name] = type(value)()
    return shell


def _set_tensor(
    module: nn.Module, name: str, parts: Sequence[Tensor], seen: Any, like: Tensor | None = None
) -> None:
    """Gives ``module`` the concatenation of ``parts``, the same one wherever they are shared."""
    old = parts[0] if like is None else like
    if id(old) not in seen:
        seen[id(old)] = _concatenation(old, parts)
    table = module._parameters if isinstance(old, nn.Parameter) else module._buffers
    table[name] = seen[id(old)]


def _concatenation(old: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """``parts`` one below the other, in the memory format of ``old``; of single numbers, one."""
    value = torch.cat([part.detach() for part in parts]) if old.dim() else parts[0].clone()
    if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last):
        value = value.contiguous(memory_format=torch.channels_last)
    if isinstance(old, nn.Parameter):
        return nn.Parameter(value, requires_grad=old.requires_grad)
    return value.detach()
