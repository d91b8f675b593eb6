"""K networks of one architecture as one network, for little more than the price of one.

A small network at a small batch spends its time being launched, not computing. Side by side in the
channels of one network, [N, K·C, H, W], K replicas are launched once: a convolution becomes a
convolution in groups, batch norm over K·C channels is K batch norms, group norm with K·G groups is
K group norms, a linear layer becomes a batched product. The loss is the sum of the replicas' mean
losses, so that each gets exactly the gradient it would get alone, and a NaN in one stays there.
(Wang et al. 2021, "HFTA", arXiv 2102.02344, fuse models in the same way.)

This is right for networks whose channels mix in layers only. A forward pass that concatenates or
shuffles channels would be wrong without any error, so every stack proves itself before it is used.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.norms.parts import Part


class StackError(UsageError):
    """These networks cannot be stacked; they can be trained one after another."""


class StackedLinear(nn.Linear):
    """K linear layers side by side: [N, K·in] to [N, K·out].

    The weights lie as in K layers one below the other: ``weight`` is [K·out, in], ``bias`` [K·out].
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps [N, K·in] to [N, K·out] by one batched product."""
        replicas = input.shape[-1] // self.in_features
        weight = self.weight.view(replicas, -1, self.in_features)
        x = input.view(-1, replicas, self.in_features).transpose(0, 1)
        bias: Tensor | None = self.bias
        y = torch.bmm(x, weight.transpose(1, 2))
        if bias is not None:
            y = y + bias.view(replicas, 1, -1)
        return y.transpose(0, 1).reshape(*input.shape[:-1], -1)


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


def _counts(kind: type[nn.Module]) -> tuple[str, ...] | None:
    """The counts of a layer that a stack multiplies; None for a layer without tensors to join."""
    return kind.stacked_counts if issubclass(kind, Part) else _COUNTS.get(kind)


_SWAPPED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: StackedLinear}
_SWAPPED_BACK = {stacked: solo for solo, stacked in _SWAPPED.items()}


class Stack(nn.Module):
    """K networks as one; made by :func:`stack`.

    Attributes:
        replicas: K.
        network: the stacked network.
    """

    def __init__(self, network: nn.Module, replicas: int) -> None:
        super().__init__()
        self.network = network
        self.replicas = replicas

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, K·C, ...] to [N, K·classes], replica by replica."""
        y: Tensor = self.network(x)
        return y


def stack(
    models: Sequence[nn.Module], example: Tensor | None = None, *, proven: bool = False
) -> Stack:
    """Turns K networks of one architecture into one network, and proves that it is right.

    The proof: one random batch through the networks and through a stack of them, in training and
    then in evaluation mode (which also compares the running statistics), in float64, with all
    weights moved a little: what starts at 0, or alike in all networks, would hide what it does.

    Args:
        models: the networks; they are left as they are.
        example: a batch [N, C, ...] of the shape the networks take, for the proof; by default four
            random images of 32×32, or four vectors where the first layer is linear.
        proven: whether such networks have been stacked before, so that no proof is needed.

    Returns:
        A network for inputs [N, K·C, ...], replica k's channels being k·C to (k+1)·C, on the device
        and in the memory format of the networks.

    Raises:
        StackError: a layer is unknown (it is named), the networks differ in more than their
            weights, or the proof failed.
    """
    if not models:
        raise StackError("there is nothing to stack: the list of networks is empty")
    if any(str(model) != str(models[0]) for model in models):
        raise StackError("the networks differ in more than their weights")
    if any(model.training != models[0].training for model in models):
        raise StackError("some networks are in training mode and some in evaluation mode")
    stacked = _stacked(models)
    if not proven:
        _prove(models, _example(models[0]) if example is None else example)
    return stacked


def _stacked(models: Sequence[nn.Module]) -> Stack:
    stacked = Stack(_join(models, "", {}), len(models))
    stacked.training = models[0].training
    return stacked


def unstack(stacked: Stack) -> list[nn.Module]:
    """Turns a stack back into K ordinary networks with tensors of their own."""
    return [
        _part(stacked.network, replica, stacked.replicas, {}) for replica in range(stacked.replicas)
    ]


def _join(modules: Sequence[nn.Module], path: str, seen: dict[int, nn.Module]) -> nn.Module:
    """The stack of one layer or, with its children, of one part of the networks."""
    first = modules[0]
    if id(first) in seen:  # a layer that is used in several places stays one layer
        return seen[id(first)]
    kind = type(first)
    joined = _shell(first)
    seen[id(first)] = joined
    counts = _counts(kind)
    if counts is not None:
        _set_tensors(joined, [dict(_tensors(module)) for module in modules])
        for count in counts:
            setattr(joined, count, getattr(first, count) * len(modules))
        joined.__class__ = _SWAPPED.get(kind, kind)
    elif kind not in _UNCHANGED:
        children = [dict(module.named_children()) for module in modules]
        if _tensors(first) or (not children[0] and kind not in (nn.Sequential, nn.ModuleList)):
            name = f" at {path}" if path else ""
            raise StackError(f"a stack does not know the layer {kind.__name__}{name}")
        for name in children[0]:
            below = f"{path}.{name}" if path else name
            parts = [child[name] for child in children]
            setattr(joined, name, _join(parts, below, seen))
    return joined


def _part(module: nn.Module, replica: int, replicas: int, seen: dict[int, nn.Module]) -> nn.Module:
    """Replica ``replica``'s share of one layer, or of one part of a stacked network."""
    if id(module) in seen:
        return seen[id(module)]
    part = _shell(module)
    seen[id(module)] = part
    kind = _SWAPPED_BACK.get(type(module), type(module))
    counts = _counts(kind)
    if counts is not None:
        tensors = {
            name: t.chunk(replicas)[replica].clone() if t.dim() else t.clone()
            for name, t in _tensors(module)
        }
        _set_tensors(part, [tensors])
        for count in counts:
            setattr(part, count, getattr(module, count) // replicas)
        part.__class__ = kind
    else:
        for name, child in module.named_children():
            setattr(part, name, _part(child, replica, replicas, seen))
    return part


def _shell(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with the same tensors and children in dictionaries of its own.

    Hooks stay with the original. Where they are part of what it computes, the proof fails.
    """
    shell = copy.copy(module)
    for table, value in module.__dict__.items():
        if table in ("_parameters", "_buffers", "_modules"):
            shell.__dict__[table] = value.copy()
        elif "_hooks" in table and isinstance(value, dict):
            shell.__dict__[table] = type(value)()
    return shell


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors that belong to the layer itself."""
    parameters = list(module.named_parameters(recurse=False, remove_duplicate=False))
    return [*parameters, *module.named_buffers(recurse=False, remove_duplicate=False)]


def _set_tensors(module: nn.Module, parts: Sequence[dict[str, Tensor]]) -> None:
    """Gives ``module`` the concatenation of ``parts``; of single numbers, the first."""
    for name, old in _tensors(module):
        tensors = [part[name].detach() for part in parts]
        value = torch.cat(tensors) if old.dim() else tensors[0].clone()
        if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last):
            value = value.contiguous(memory_format=torch.channels_last)
        if isinstance(old, nn.Parameter):
            setattr(module, name, nn.Parameter(value, requires_grad=old.requires_grad))
        else:
            setattr(module, name, value)


def _example(model: nn.Module) -> Tensor:
    """Four random inputs of a shape that ``model`` should take."""
    shapes: dict[type[nn.Module], tuple[int, ...]] = {
        nn.Linear: (),
        nn.Conv1d: (32,),
        nn.Conv2d: (32, 32),
        nn.Conv3d: (32, 32, 32),
    }
    for module in model.modules():
        if type(module) in shapes:
            channels = getattr(module, "in_features", None) or module.in_channels
            generator = torch.Generator().manual_seed(0)
            return torch.randn(4, channels, *shapes[type(module)], generator=generator)  # type: ignore[arg-type]
    raise StackError("the networks have no layer that tells what input they take: give an example")


@torch.no_grad()
def _prove(models: Sequence[nn.Module], example: Tensor) -> None:
    """Raises StackError unless a stack of ``models`` computes what they compute."""
    reference = next(models[0].parameters(), example)
    generator = torch.Generator().manual_seed(0)
    shape = (len(models), *example.shape)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(reference.device)
    inputs = list(example.to(reference.device, torch.float64) + 0.1 * noise)
    solo = [_moved(model, generator) for model in models]
    joint = _stacked(solo)
    for training in (True, False):
        joint.train(training)
        alone = [model.train(training)(x) for model, x in zip(solo, inputs, strict=True)]
        try:
            together = joint(torch.cat(inputs, dim=1))
            agree = bool((together - torch.cat(alone, dim=1)).abs().max() <= 1e-6 * _size(alone))
        except (RuntimeError, TypeError, AttributeError, IndexError):
            # A forward pass that counts on its number of channels, or returns more than one tensor.
            agree = False
        if not agree:
            mode = "training" if training else "evaluation"
            raise StackError(
                f"{type(models[0]).__name__} cannot be stacked: in {mode} mode the stack computes"
                " something else than the networks alone (does the forward pass concatenate,"
                " shuffle or count channels outside of layers?)"
            )


def _size(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.abs().max() for tensor in tensors]).max().clamp_min(1e-30)


def _moved(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in float64 that can be compared: without dropout, and unlike any other copy."""
    clone = copy.deepcopy(model).double()
    for module in clone.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    for tensor in (*clone.parameters(), *clone.buffers()):
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            centre = 0.5 if tensor.dim() > 1 else 0.0  # variances stay above 0
            tensor.add_((noise - centre).to(tensor.device), alpha=0.1)
    return clone
