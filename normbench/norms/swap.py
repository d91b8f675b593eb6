"""Changes the norm of a network that exists already."""

from torch import Tensor, nn

from normbench.norms.base import Norm, NormConfig

_FOREIGN = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def swap_norm(model: nn.Module, norm: NormConfig, *, norm_batch: int | None = None) -> nn.Module:
    """Replaces every normalization layer of ``model``, in place, by one that ``norm`` builds.

    Works on this package's networks and on others, such as torchvision's: torch's BatchNorm,
    GroupNorm and InstanceNorm layers of any dimension are replaced without an activation (theirs
    stays where it is), this package's slots keep theirs. The new layers start with γ = 1 and β = 0
    on the device, with the dtype and in the mode of the network.

    Args:
        model: the network; if it is itself a norm, the replacement is what is returned.
        norm: the configuration of the new norm.
        norm_batch: see :meth:`NormConfig.build`.

    Returns:
        ``model``.

    Raises:
        UsageError: ``norm`` does not fit the number of channels of a layer.
    """
    # Built first, put in afterwards: a norm that does not fit leaves the network as it was.
    default = next((t for t in model.parameters() if t.is_floating_point()), None)
    made: dict[nn.Module, Norm] = {}  # a layer used in several places stays one layer
    replacements: dict[str, Norm] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, (Norm, *_FOREIGN)):
            if module not in made:
                made[module] = _replacement(module, norm, norm_batch, default)
            replacements[name] = made[module]
    for name, replacement in replacements.items():
        if not name:
            return replacement
        model.set_submodule(name, replacement)
    return model


def _replacement(
    old: nn.Module, norm: NormConfig, norm_batch: int | None, default: Tensor | None
) -> Norm:
    """The layer in place of ``old``, like its tensors or, where it has none, like ``default``."""
    if isinstance(old, Norm):
        new = norm.build(old.channels, act=old.act, norm_batch=norm_batch)
    else:
        channels = old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features
        assert isinstance(channels, int)
        new = norm.build(channels, act=False, norm_batch=norm_batch)
    tensor = next(iter([*old.parameters(), *old.buffers()]), default)
    new.train(old.training)
    return new if tensor is None else new.to(tensor)
