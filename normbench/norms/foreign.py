"""The norms of other libraries: which layer of a network is one, and what it holds.

A layer is known by torch's class or by its tensors, so that no library needs to be imported.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normbench.errors import UsageError
from normbench.norms.parts import CONVOLUTIONS

_TORCH = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)

_STATISTICS = ("running_mean", "running_var")

_NO_NORMS = ("Normalize", "L2Norm", "LocalResponseNorm")
"""How classes begin that call themselves norms and take no statistics of an activation's channels:
of the images' colours, of a vector's length, of neighbouring channels."""

CARRIED = ("weight", "bias", *_STATISTICS)
"""The tensors of a norm that another one can take over: γ, β and running statistics."""


@dataclass(frozen=True, slots=True)
class ForeignNorm:
    """What a layer of another library is as a norm.

    Attributes:
        channels: C.
        tensors: its γ ``weight``, β ``bias`` and running statistics, as far as it has them; [C].
        after: what it applies to its output: dropout, an activation.
    """

    channels: int
    tensors: Mapping[str, Tensor]
    after: tuple[nn.Module, ...]


def foreign_norm(layer: nn.Module) -> ForeignNorm | None:
    """What ``layer`` is as a norm over channels in the second dimension; None if it is none.

    Known are torch's BatchNorm, GroupNorm and InstanceNorm with all that derives from them
    (SyncBatchNorm, timm's BatchNormAct2d), frozen batch norms (torchvision's and Detectron2's
    FrozenBatchNorm2d), and two-dimensional layer norms (torchvision's and timm's LayerNorm2d).
    """
    held = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers("", False))}
    tensors = {name: held[name] for name in CARRIED if name in held}
    channels = _channels(layer, tensors)
    if not channels:
        return None
    after = tuple(
        child
        for name in ("drop", "act")
        if isinstance(child := getattr(layer, name, None), nn.Module)
        and not isinstance(child, nn.Identity)
    )
    return ForeignNorm(channels, tensors, after)


def _channels(layer: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    found: object = None
    if isinstance(layer, _TORCH):
        found = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features
    elif all(name in tensors and tensors[name].dim() == 1 for name in _STATISTICS):
        found = len(tensors["running_mean"])
    elif re.search(r"(Layer|Rms)Norm\w*2d", type(layer).__name__):
        shape: Any = getattr(layer, "normalized_shape", ())
        found = shape[0] if len(shape) == 1 else None
    return found if isinstance(found, int) else None


def computes_more(layer: nn.Module, known: ForeignNorm) -> bool:
    """Whether a layer that is a norm by class or tensors gives something else than a norm does.

    ``class BNReLU(nn.BatchNorm2d)`` may apply an activation in its own ``forward``, of which
    nothing else tells. It is tried, in evaluation; one that cannot be tried here is believed.
    """
    if type(layer) in _TORCH_S_OWN or not (
        isinstance(layer, _TORCH) or "running_var" in known.tensors
    ):
        return False
    try:
        trial = _with_other_values(deepcopy(layer).to("cpu", torch.float32).eval())
        after = [deepcopy(each).to("cpu").eval() for each in known.after]
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            agreed = [_agrees(trial, after, known.channels, space) for space in _SPACES]
    except Exception:  # whatever a layer raises that somebody wrote
        return False
    return True not in agreed and False in agreed


def refuse_more(name: str, layer: nn.Module, known: ForeignNorm) -> None:
    """Raises UsageError where a layer :func:`computes_more`: its replacement would lose that."""
    if computes_more(layer, known):
        raise UsageError(
            f"{name or 'the network'} is a {type(layer).__name__}, which computes more than a norm:"
            " put what follows the norm, such as an activation, into a layer of its own"
        )


def _with_other_values(layer: nn.Module) -> nn.Module:
    """A layer with other tensors: γ and β of 0 would hide what follows."""
    numbers = torch.Generator().manual_seed(1)
    held = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers("", False))}
    for tensor in (held[name] for name in CARRIED if name in held):
        tensor.data.uniform_(0.5, 1.5, generator=numbers)
    return layer


_SPACES = ((4, 4), (4,), (), (4, 4, 4))
"""Heights and widths of the images that a layer is tried on: it may be for one number of them."""

_TORCH_S_OWN = {
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
}


def _agrees(
    layer: nn.Module, after: Sequence[nn.Module], channels: int, space: tuple[int, ...]
) -> bool | None:
    """Whether a layer gives what a norm and the layers ``after`` it give; None if it refuses."""
    x = torch.randn((3, channels, *space), generator=torch.Generator().manual_seed(0))
    try:
        found = layer(x.clone())
    except (ValueError, RuntimeError, IndexError, AssertionError):
        return None
    wanted = _plainly(layer, x)
    for each in after:
        wanted = each(wanted)
    same = isinstance(found, Tensor) and found.shape == wanted.shape
    return same and torch.allclose(found, wanted, rtol=1e-3, atol=1e-4)


def _plainly(layer: nn.Module, x: Tensor) -> Tensor:
    """The norm alone, with the layer's tensors and settings, in evaluation."""
    held = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers("", False))}
    weight, bias, mean, var = (held.get(name) for name in CARRIED)
    eps: float = getattr(layer, "eps", 1e-5)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, bias, eps)
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        return F.instance_norm(x, mean, var, weight, bias, mean is None, 0.0, eps)
    return F.batch_norm(x, mean, var, weight, bias, mean is None, 0.0, eps)


def is_unknown_norm(layer: nn.Module) -> bool:
    """Whether ``layer`` calls itself a norm, but is not known to be one over channels.

    For example ``nn.LayerNorm``, which looks at the last dimension, and timm's GlobalResponseNorm.
    """
    name = type(layer).__name__
    if name.startswith(_NO_NORMS) or isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        return False
    parts = {key for key, _ in layer.named_children()} - {"drop", "act"}
    return "Norm" in name and not name.startswith("_") and not parts and foreign_norm(layer) is None
