"""Where a stack's numbers differ from its networks'."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from normbench.training.alike import place

_RELATIVE, _ABSOLUTE = 1e-7, 1e-10
"""How far the stack's numbers may be off: of their own size, and of the largest of their kind
(the gradient of a convolution's bias before a norm is 0, but for rounding)."""


@torch.no_grad()
def close(expected: Tensor, actual: Tensor, largest: float = 0.0) -> bool:
    """Whether two tensors agree; ``largest`` is the largest number of their kind."""
    if expected.shape != actual.shape:
        return False
    if not expected.numel():
        return True
    size = float(expected.abs().max())
    error = float((expected - actual).abs().max())
    return error <= _RELATIVE * size + _ABSOLUTE * largest + 1e-300


@torch.no_grad()
def first_difference(
    solo: Sequence[nn.Module], joint: nn.Module, inputs: Sequence[Tensor]
) -> str | None:
    """The first layer, in the order of computing, whose output in the stack is another."""
    alone = [_outputs(model, x) for model, x in zip(solo, inputs, strict=True)]
    together = _outputs(joint, torch.cat(list(inputs), 1))
    for path, output in together.items():
        if any(path not in outputs for outputs in alone):  # the networks alone do not come here
            return place(path, joint.get_submodule(path))
        parts = [outputs[path] for outputs in alone]
        if output is None or any(part is None for part in parts):
            continue
        whole = [part for part in parts if part is not None]
        if whole[0].dim() < 2 or not close(torch.cat(whole, 1), output):
            return place(path, joint.get_submodule(path))
    failed = [path for path, output in together.items() if output is None]
    return place(failed[-1], joint.get_submodule(failed[-1])) if failed else None


def _outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """The first output of each layer that is reached, in order; None of one that fails."""
    found: dict[str, Tensor | None] = {}
    handles = []
    for path, module in model.named_modules():

        def enter(_m: nn.Module, _x: object, path: str = path) -> None:
            found.setdefault(path, None)

        def leave(_m: nn.Module, _x: object, y: object, path: str = path) -> None:
            if isinstance(y, Tensor) and found.get(path) is None:
                found.pop(path)  # in the order in which layers are done
                found[path] = y.clone()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    with suppress(Exception):
        model(x)
    for handle in handles:
        handle.remove()
    return found
