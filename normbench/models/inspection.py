"""What a network consists of: shapes, averaged axes, parameters, FLOPs, layer by layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.models.drawing import drawing
from normbench.norms import Norm
from normbench.norms.parts import Part


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer, as a forward pass of a single image meets it.

    Attributes:
        name: its path inside the network.
        kind: its class.
        shape: of its output, without the batch.
        parameters: how many numbers it learns; 0 where it is reached again, as are its FLOPs.
        flops: of the forward pass of one image, a multiplication and an addition counted as two;
            those of convolutions and matrix products, which are nearly all there are; 0 where
            they were not counted.
        norm: the layer itself where it is a norm, else None.
        suffix: what is to be said behind its name, such as its activation.
        input_shape: of its input, with a batch of one.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    norm: Norm | None
    suffix: str
    input_shape: torch.Size


Reached = tuple[str, nn.Module, torch.Size, torch.Size]
"""A layer by name, and the shapes of its input and output."""


def layers(
    model: nn.Module, size: tuple[int, int], channels: int = 3, *, flops: bool = True
) -> list[LayerInfo]:
    """The layers of ``model`` that hold parameters or normalize, in the order they are reached.

    Args:
        model: a network for images of ``channels`` channels, on the CPU.
        size: height and width of the images.
        channels: of the images.
        flops: whether to count them, for which PyTorch loads its compiler and takes a second.

    Raises:
        UsageError: a norm averages over a single value whatever the batch; the layer is named.
    """
    reached: list[Reached] = []

    def note(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            reached.append((name, module, _shape(inputs), _shape(output)))

        return module.register_forward_hook(hook)

    def refuse(name: str, norm: Norm) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not norm.batch_dependent:
                _check_norm(norm, inputs[0].shape, name)

        return norm.register_forward_pre_hook(hook)

    wanted = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, Norm) or any(True for _ in module.parameters(recurse=False))
    ]
    hooks = [note(name, module) for name, module in wanted]
    hooks += [refuse(name, module) for name, module in wanted if isinstance(module, Norm)]
    counting: AbstractContextManager[dict[str, int]] = _counting() if flops else nullcontext({})
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), counting as counted:
            model(torch.zeros(1, channels, *size))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    root = type(model).__name__
    return _told(reached, {name: counted.get(f"{root}.{name}", 0) for name, *_ in reached})


def _told(reached: Sequence[Reached], flops: Mapping[str, int]) -> list[LayerInfo]:
    """What is told of the layers that were reached; numbers where each is met first."""
    met, infos = set[nn.Module](), list[LayerInfo]()
    for name, module, inputs, output in reached:
        own = () if module in met else module.parameters(recurse=False)
        infos.append(
            LayerInfo(
                name=name,
                kind=type(module).__name__,
                shape=tuple(output[1:]),
                parameters=sum(p.numel() for p in own),
                flops=0 if module in met else flops[name],
                norm=module if isinstance(module, Norm) else None,
                suffix=module.suffix if isinstance(module, Part) else "",
                input_shape=inputs,
            )
        )
        met.add(module)
    return infos


def _shape(values: Any) -> torch.Size:
    """The shape of the first tensor among what a layer takes or gives; empty without any."""
    first = values[0] if isinstance(values, tuple | list) and values else values
    return first.shape if isinstance(first, Tensor) else torch.Size()


@contextmanager
def _counting() -> Iterator[dict[str, int]]:
    """Counts the FLOPs of each module; what it gives is filled at its end."""
    from torch.utils.flop_counter import FlopCounterMode

    counted: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter:
        yield counted
    found = counter.get_flop_counts()
    counted |= {name: sum(operations.values()) for name, operations in found.items()}


def check_statistics(infos: list[LayerInfo], batch: int) -> None:
    """Raises UsageError if a norm would average over a single value in training at ``batch``."""
    for info in infos:
        if info.norm is not None:
            shape = torch.Size((batch, *info.input_shape[1:]))
            _check_norm(info.norm, shape, info.name)


def _check_norm(norm: Norm, shape: torch.Size, name: str) -> None:
    values = norm.values_per_statistic(shape)
    if values is not None and values < 2:
        raise norm.single_value(shape, f"layer {name}")


def memory_of_step(
    model: nn.Module, images: Tensor, labels: Tensor, *, means: int = 1, autocast: bool = False
) -> int:
    """How many bytes one training step of ``model`` holds: what a norm costs in memory.

    Those of the input, of everything that the forward pass keeps for the backward pass, and of
    weights, gradients, the optimizer and buffers. It does not depend on the machine, nor on how
    PyTorch allocates; scratch memory inside of kernels is not in it.

    Args:
        model: in training mode; its buffers may change.
        images: [N, 3, H, W].
        labels: [N].
        means: how many numbers the optimizer keeps of each that is learned, beside its gradient.
        autocast: whether convolutions and products are computed in bfloat16.
    """
    kept = {images.untyped_storage().data_ptr(): images.untyped_storage().nbytes()}
    alive: list[Tensor] = []  # a freed storage's address could be taken for another's
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    lower = torch.autocast(
        images.device.type, torch.bfloat16, enabled=autocast, cache_enabled=False
    )  # as in training
    with drawing(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with lower:
            logits = model(images)
        F.cross_entropy(logits, labels)
    learned = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    return sum(kept.values()) + (2 + means) * learned + buffers
