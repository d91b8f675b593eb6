"""Puts a norm into a network: the one way from a norm to a network, new or there already."""

from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.norms.base import Norm, NormConfig
from normbench.norms.parts import CONVOLUTIONS, BranchEnd, NormConv, Slot

_FOREIGN = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def swap_norm(model: nn.Module, norm: NormConfig, *, norm_batch: int | None = None) -> nn.Module:
    """Fills every slot of ``model``, in place, with what ``norm`` builds; old norms go.

    Works on this package's networks, with norms or with empty slots, and on others, such as
    torchvision's: torch's BatchNorm, GroupNorm and InstanceNorm layers of any dimension are
    replaced without an activation (theirs stays where it is), this package's slots keep theirs.
    Convolutions and ends of residual branches become what ``norm`` wants of them, with the weights
    they have. The new norms start with γ = 1 and β = 0 on the device, with the dtype and in the
    mode of the network.

    Args:
        model: the network; if it is itself a norm, the replacement is what is returned.
        norm: the configuration of the new norm.
        norm_batch: see :meth:`NormConfig.build`.

    Returns:
        ``model``.

    Raises:
        UsageError: ``norm`` does not fit the number of channels of a layer, or needs places that
            the network does not give; it is left as it was.
    """
    # Built first, put in afterwards: a norm that does not fit leaves the network as it was.
    default = next((t for t in model.parameters() if t.is_floating_point()), None)
    made: dict[nn.Module, nn.Module] = {}  # a layer used in several places stays one layer
    replacements: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if module not in made:
            made[module] = _replacement(module, norm, norm_batch, default)
        if made[module] is not module:
            replacements[name] = made[module]
    if norm.needs and any(isinstance(m, Norm) and m.keeps_activation for m in made.values()):
        raise UsageError(
            f"norm={norm.name} needs {norm.needs}, which {type(model).__name__} does not tell;"
            " use a network of normbench's own"
        )
    for name, replacement in replacements.items():
        if not name:
            return replacement
        model.set_submodule(name, replacement)
    return model


def _replacement(
    old: nn.Module, norm: NormConfig, norm_batch: int | None, default: Tensor | None
) -> nn.Module:
    """What takes the place of ``old``; ``old`` itself where that is no place of a norm's."""
    if isinstance(old, (Slot, Norm, *_FOREIGN)):
        new: nn.Module = _slot_filled(old, norm, norm_batch)
    elif isinstance(old, BranchEnd):
        new = norm.branch_end()
        if type(new) is type(old) is BranchEnd:
            return old
    elif isinstance(old, NormConv) or type(old) in CONVOLUTIONS:
        new = norm.convolution(old.plain() if isinstance(old, NormConv) else old)  # type: ignore[arg-type]
    else:
        return old
    if new is not old:
        # Like its own tensors or, where it has none, like the network's.
        tensor = next(iter([*old.parameters(), *old.buffers()]), default)
        new = new.train(old.training) if tensor is None else new.train(old.training).to(tensor)
    return new


def _slot_filled(old: nn.Module, norm: NormConfig, norm_batch: int | None) -> Norm:
    if isinstance(old, Slot | Norm):
        new = norm.build(old.channels, act=old.act, norm_batch=norm_batch)
        new.keeps_activation = isinstance(old, Norm) and old.keeps_activation
        return new
    channels = old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features
    assert isinstance(channels, int)
    new = norm.build(channels, act=False, norm_batch=norm_batch)
    new.keeps_activation = True
    return new
