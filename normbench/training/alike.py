"""What networks must have in common to become one: everything but the values of their tensors.

A stack has one of each thing that K networks have K of: one ``stride``, one ``training`` flag, one
``num_batches_tracked``, one pattern of shared weights. Where the networks differ in one of them, or
have what a stack cannot carry, the layer is refused by name.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.errors import UsageError
from normbench.models.layout import channel_by_channel

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)

_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class StackError(UsageError):
    """These networks cannot be stacked; they can be trained one after another."""


def is_dropout(module: nn.Module | None) -> TypeGuard[nn.modules.dropout._DropoutNd]:
    """Whether ``module`` is torch's dropout; what derives from it may compute in its own way."""
    return type(module) in _DROPOUTS


def place(path: str, module: nn.Module) -> str:
    """A layer in a message: what it is, and where."""
    return f"{type(module).__name__} at {path}" if path else type(module).__name__


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that belong to the layer itself."""
    parameters = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    return parameters | dict(module.named_buffers(recurse=False, remove_duplicate=False))


def children_of(module: nn.Module) -> dict[str, nn.Module]:
    """The layers registered directly below, those registered twice too."""
    return {name: child for name, child in module._modules.items() if child is not None}


def check_alike(models: Sequence[nn.Module]) -> None:
    """Raises StackError unless the networks differ in nothing but the values of their tensors."""
    _check_layers(models, "", {})
    _check_memory(models)


def _check_layers(modules: Sequence[nn.Module], path: str, met: dict[int, tuple[int, ...]]) -> None:
    first = modules[0]
    name = place(path, first)
    if _shared_alike(modules, name, met):
        return
    _require_same([type(module).__qualname__ for module in modules], name, "class")
    for module in modules:
        _check_plain(module, name)
    _require_same([list(children_of(module)) for module in modules], name, "layers below it")
    for key in sorted(set().union(*(settings_of(module) for module in modules))):
        _require_same([settings_of(module).get(key) for module in modules], name, key)
    _check_tensors(modules, name, met)
    for child in children_of(first):
        below = f"{path}.{child}" if path else child
        _check_layers([children_of(module)[child] for module in modules], below, met)


def _shared_alike(things: Sequence[object], name: str, met: dict[int, tuple[int, ...]]) -> bool:
    """Whether all of ``things`` have been met before; if only some have, that is an error."""
    together = tuple(map(id, things))
    known = [met.get(each) for each in together]
    if all(each is None for each in known):
        met.update(dict.fromkeys(together, together))
        return False
    if any(each != together for each in known):
        raise StackError(f"{name} is used in several places in some of the networks only")
    return True


def _check_plain(module: nn.Module, name: str) -> None:
    """Raises StackError if one layer has what no stack can carry."""
    reason = ""
    if isinstance(module, torch.jit.ScriptModule):
        reason = "it is compiled by TorchScript"
    elif parametrize.is_parametrized(module):
        reason = "its weights are computed from others (torch.nn.utils.parametrize)"
    elif everywhere := _global_hooks():
        reason = f"there are hooks for all layers of the process ({', '.join(everywhere)})"
    elif hooks := _hooks(module):
        reason = f"it has hooks ({', '.join(hooks)}); take them off, and put them on the stack"
    elif outside := [key for key, value in settings_of(module).items() if _reaches_module(value)]:
        reason = f"it keeps layers, or methods of layers, in its attribute {outside[0]}"
    if reason:
        raise StackError(f"{name} cannot be stacked: {reason}")


def _hooks(module: nn.Module) -> list[str]:
    """The hooks that take part in computing: those of the layer and of its tensors.

    Without that which asks for another layout of images, which a stack carries as well.
    """
    found = [
        key.strip("_")
        for key, value in vars(module).items()
        if "_hooks" in key
        and "state_dict" not in key
        and isinstance(value, dict)
        and any(hook is not channel_by_channel for hook in value.values())
    ]
    for name, tensor in tensors_of(module).items():
        kinds = ("_backward_hooks", "_post_accumulate_grad_hooks")
        found += [f"{name}.{kind.strip('_')}" for kind in kinds if getattr(tensor, kind, None)]
    return found


def _global_hooks() -> list[str]:
    """The hooks that every layer of the process has."""
    return [
        key.strip("_")
        for key, value in vars(nn.modules.module).items()
        if key.startswith("_global_") and isinstance(value, dict) and value
    ]


def settings_of(module: nn.Module) -> dict[str, Any]:
    """The layer's attributes that are neither tensors nor layers nor hooks."""
    return {
        key: value
        for key, value in vars(module).items()
        if key not in _TABLES and "_hook" not in key
    }


def _reaches_module(value: object) -> bool:
    if isinstance(value, (list, tuple, set)):
        return any(map(_reaches_module, value))
    if isinstance(value, dict):
        return any(map(_reaches_module, value.values()))
    return isinstance(getattr(value, "__self__", value), nn.Module)


def _check_tensors(
    modules: Sequence[nn.Module], name: str, met: dict[int, tuple[int, ...]]
) -> None:
    every = [tensors_of(module) for module in modules]
    _require_same([list(tensors) for tensors in every], name, "tensors")
    for key in every[0]:
        each = [tensors[key] for tensors in every]
        if _shared_alike(each, f"{key} of {name}", met):
            continue
        for kind in (_kind, *_PROPERTIES):
            label = kind.__name__.strip("_")
            _require_same([kind(tensor) for tensor in each], name, f"{label} of {key}")
        if type(each[0]) not in (Tensor, nn.Parameter) or not each[0].is_leaf:
            raise StackError(f"{name} cannot be stacked: {key} is no ordinary tensor")
        if each[0].dim() == 0:  # a count, of which a stack has one
            _require_same([tensor.item() for tensor in each], name, key)


def _kind(tensor: Tensor) -> str:
    return type(tensor).__name__


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _dtype(tensor: Tensor) -> torch.dtype:
    return tensor.dtype


def _device(tensor: Tensor) -> str:
    return str(tensor.device)


def _requires_grad(tensor: Tensor) -> bool:
    return tensor.requires_grad


_PROPERTIES: tuple[Callable[[Tensor], object], ...] = (_shape, _dtype, _device, _requires_grad)


def _check_memory(models: Sequence[nn.Module]) -> None:
    """Raises StackError if two tensors overlap that are not one and the same in one network."""
    spans = []
    for k, model in enumerate(models):
        named = [*model.named_parameters(), *model.named_buffers()]
        for name, tensor in named:
            if tensor.numel() and tensor.device.type != "meta":
                steps = zip(tensor.shape, tensor.stride(), strict=True)
                extent = 1 + sum((size - 1) * stride for size, stride in steps)
                start = tensor.data_ptr()
                end = start + extent * tensor.element_size()
                spans.append((str(tensor.device), start, end, f"{name} of network {k}"))
    for (device, _, end, one), (other_device, start, _, other) in pairwise(sorted(spans)):
        if device == other_device and start < end:
            raise StackError(
                f"{one} and {other} share memory; a stack would part them (within a network,"
                " register one parameter in both places)"
            )


def _require_same(values: Sequence[object], name: str, what: str) -> None:
    for k, value in enumerate(values):
        if not _same_at_last(values[0], value):
            raise StackError(
                f"the networks differ in more than their weights: {what} of {name} is"
                f" {_short(values[0])} in network 0 and {_short(value)} in network {k}"
            )


def _same_at_last(one: object, other: object) -> bool:
    try:
        return same(one, other)
    except RecursionError:  # an attribute that leads back to itself
        return False


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def changed_settings(before: nn.Module, after: nn.Module) -> Iterable[str]:
    """The attributes of ``after``, by layer, that are not what they are in ``before``."""
    for (path, old), (_, new) in zip(before.named_modules(), after.named_modules(), strict=True):
        for key, value in settings_of(new).items():
            ignored = key == "training" or (key == "p" and is_dropout(new))
            if not ignored and not same(settings_of(old).get(key), value):
                yield f"{key} of {place(path, new)}"


def same(one: Any, other: Any) -> bool:
    """Whether two attributes of networks mean the same, though they may be different objects."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, partial):
        parts = ((each.func, each.args, each.keywords) for each in (one, other))
        return same(*parts)
    if hasattr(one, "__code__"):
        parts = ((f.__code__, f.__defaults__, _closure(f)) for f in (one, other))
        return same(*parts)
    return _equal(one, other)


def _closure(function: Any) -> list[object]:
    return [cell.cell_contents for cell in function.__closure__ or ()]


def _equal(one: Any, other: Any) -> bool:
    try:
        if bool(one == other) or (one != one and other != other):  # NaN is the same as NaN
            return True
    except (ValueError, RuntimeError, TypeError):
        return False
    # Objects that do not say when they are equal are so if they are made of equal things.
    compares: object = type(one).__eq__
    parts = [dict(getattr(each, "__dict__", {})) for each in (one, other)]
    return compares is object.__eq__ and bool(parts[0]) and same(*parts)
