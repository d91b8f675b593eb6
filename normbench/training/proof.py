"""The proof that a stack computes what its networks compute, forward and backward.

Copies of the networks in float64, with all weights moved a little (what starts at 0, or alike in
all networks, would hide what it does), are trained for a few steps next to a stack of them.
Outputs, the gradients of inputs and parameters, and running statistics must agree, in training and
then in evaluation mode, for inputs and gradients of several scales and more than one size.
"""

import copy
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from normbench.training.alike import (
    StackError,
    changed_settings,
    is_dropout,
    place,
    tensors_of,
)
from normbench.training.difference import close, first_difference

Join = Callable[[Sequence[nn.Module]], nn.Module]

_PAIR = 2
"""So many replicas are trained for the proof; all of them only take one pass."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass of the proof: scales of inputs and of the gradients from above, mode, size."""

    inputs: float = 1.0
    gradients: float = 1.0
    training: bool = True
    resized: bool = False


_PASSES = (
    _Pass(),
    _Pass(inputs=100.0, gradients=1e3, resized=True),
    _Pass(inputs=0.01, gradients=1e-3),
    _Pass(training=False),
)


def prove(models: Sequence[nn.Module], example: Tensor | None, join: Join) -> None:
    """Raises StackError unless ``join`` makes of ``models`` what computes the same.

    Two of the networks take all passes, all of them together take the first.

    Args:
        models: the networks; they are left as they are.
        example: a batch [N, C, ...] that the networks take; by default a guess.
        join: makes the stacked network, [N, K·C, ...] to [N, K·classes].
    """
    example = _example(models[0]) if example is None else example
    device = next(models[0].parameters(), example).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        _Trial(models[:_PAIR], example.to(device), join).run(_PASSES)
        if len(models) > _PAIR:
            _Trial(models, example.to(device), join).run(_PASSES[:1])


class _Trial:
    """Some networks and a stack of copies of them, side by side."""

    def __init__(self, models: Sequence[nn.Module], example: Tensor, join: Join) -> None:
        self.models = models
        self.name = type(models[0]).__name__
        self.generator = torch.Generator().manual_seed(0)
        self.example = example.double()
        self.solo = [_moved(model, self.generator) for model in models]
        self.joint = join(self.solo)
        self.dropouts = [
            path
            for path, module in models[0].named_modules()
            if is_dropout(module) and module.p > 0  # copies have none, so as to be compared
        ]

    def run(self, passes: Sequence[_Pass]) -> None:
        for each in passes:
            self._take(each, self._inputs(each))
        if changed := next(iter(changed_settings(self.models[0], self.solo[0])), None):
            raise StackError(
                f"{self.name} cannot be stacked: a forward pass changes {changed}, and what it"
                " computes may depend on that"
            )

    def _inputs(self, each: _Pass) -> list[Tensor]:
        """An input [N, C, ...] a replica, of the example's size where they take no other."""
        resized = self._resized() if each.resized else None
        base = self.example if resized is None else resized
        scales = [each.inputs * (1 + 0.5 * k) for k in range(len(self.solo))]
        return [scale * (base + 0.1 * self._randn(base.shape)) for scale in scales]

    def _resized(self) -> Tensor | None:
        """Inputs of another size, height and width unlike, if the networks take any."""
        shape, space = self.example.shape[:2], self.example.shape[2:]
        for last, others in ((1.0, 0.75), (1.25, 1.0)) if space else ():
            size = [max(1, int(others * s)) for s in space[:-1]] + [int(last * space[-1])]
            if len(space) == 1:
                size = [max(1, int(others * last * space[0]))]
            x = self._randn(torch.Size([*shape, *size]))
            try:
                copy.deepcopy(self.solo[0]).train()(x.clone().requires_grad_() * 1.0)
            except Exception:
                continue
            return x
        return None

    def _randn(self, shape: torch.Size) -> Tensor:
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return noise.to(self.example.device)

    def _take(self, each: _Pass, inputs: list[Tensor]) -> None:
        """One forward and backward pass, and in training a step, of networks and stack."""
        mode = f"in {'training' if each.training else 'evaluation'} mode"
        for module in (*self.solo, self.joint):
            module.train(each.training)
        alone = [x.clone().requires_grad_() for x in inputs]
        together = torch.cat(inputs, 1).requires_grad_()
        with _dropout_inputs([*self.solo, self.joint], self.dropouts) as dropped:
            ys = [self._alone(model, x) for model, x in zip(self.solo, alone, strict=True)]
            y = self._together(together, mode, inputs)
        if not close(torch.cat(ys, 1), y):
            self._fail(f"{mode} its output is another", inputs)
        self._compare_dropouts(dropped)
        above = [each.gradients * self._randn(part.shape) for part in ys]
        if y.requires_grad != ys[0].requires_grad:
            self._fail(f"{mode} its output has another gradient", inputs)
        if y.requires_grad:
            self._backward(y, ys, above, mode, inputs)
            self._compare_gradients(together, alone, mode, inputs)
        self._compare_buffers(mode, inputs)
        if each.training:
            self._step()

    def _alone(self, model: nn.Module, x: Tensor) -> Tensor:
        """One network's output, which must be one finite tensor that nothing random went into."""
        state = drawn()
        try:
            y = model(x * 1.0)  # no leaf, so that it may be changed in place
        except Exception as error:
            why = f"alone it does not take one input of {list(x.shape)} ({_line(error)})"
            if _takes_float32(model, x):
                why += ": it computes in a type of its own, and stacks are proven in float64"
            else:
                why += "; give an example of what it takes"
            raise StackError(f"{self.name} cannot be stacked: {why}") from None
        if not isinstance(y, Tensor):
            raise StackError(
                f"{self.name} cannot be stacked: it returns a {type(y).__name__}, not one tensor"
            )
        if y.dim() < 2 or len(y) != len(x):
            raise StackError(
                f"{self.name} cannot be stacked: its output for {list(x.shape)} is"
                f" {list(y.shape)}, not [N, classes]"
            )
        if drawn() != state:
            raise StackError(
                f"{self.name} cannot be stacked: it draws random numbers outside of dropout layers"
            )
        if not bool(y.isfinite().all()):
            raise StackError(f"{self.name} cannot be stacked: its output is not finite")
        return y

    def _together(self, x: Tensor, mode: str, inputs: list[Tensor]) -> Tensor:
        try:
            y = self.joint(x * 1.0)
        except Exception as error:
            self._fail(f"{mode} it cannot be computed ({_line(error)})", inputs)
        if not isinstance(y, Tensor):
            self._fail(f"{mode} it returns a {type(y).__name__}", inputs)
        return y

    def _backward(
        self, y: Tensor, ys: list[Tensor], above: list[Tensor], mode: str, inputs: list[Tensor]
    ) -> None:
        try:
            for part, gradient in zip(ys, above, strict=True):
                # As a sum: for a gradient of its own PyTorch loads a package for algebra.
                (part * gradient).sum().backward()
        except Exception as error:
            raise StackError(
                f"{self.name} cannot be stacked: it has no gradient ({_line(error)})"
            ) from None
        try:
            (y * torch.cat(above, 1)).sum().backward()
        except Exception as error:
            self._fail(f"{mode} its gradient cannot be computed ({_line(error)})", inputs)

    def _compare_gradients(
        self, together: Tensor, alone: list[Tensor], mode: str, inputs: list[Tensor]
    ) -> None:
        pairs = [("the input", [x.grad for x in alone], _split(together.grad, len(alone), 1))]
        solo = [dict(model.named_parameters()) for model in self.solo]
        for name, parameter in self.joint.named_parameters():
            every = [parameters[name].grad for parameters in solo]
            pairs.append((name, every, _split(parameter.grad, len(alone), 0)))
        for replica in range(len(alone)):
            mine = [(name, a[replica], b[replica]) for name, a, b in pairs]
            largest = max((float(a.abs().max()) for _, a, _ in mine if a is not None), default=0.0)
            for name, a, b in mine:
                if (a is None) != (b is None) or (
                    a is not None and b is not None and not close(a, b, largest)
                ):
                    self._fail(f"{mode} the gradient of {name} is another", inputs)

    def _compare_dropouts(self, found: Sequence[Sequence[tuple[str, Tensor]]]) -> None:
        """Each replica's mask is drawn for its share of the second dimension."""
        *alone, together = found
        for (path, x), *parts in zip(together, *alone, strict=False):
            each = [part for _, part in parts]
            if each[0].dim() < 2 or not close(torch.cat(each, 1), x):
                layer = place(path, self.models[0].get_submodule(path))
                raise StackError(
                    f"{self.name} cannot be stacked: {layer} is not given the replicas side by side"
                    " in the second dimension, so that none could draw what it draws alone"
                )

    def _compare_buffers(self, mode: str, inputs: list[Tensor]) -> None:
        solo = [dict(model.named_buffers()) for model in self.solo]
        for name, buffer in self.joint.named_buffers():
            each = _split(buffer, len(solo), 0)
            for buffers, mine in zip(solo, each, strict=True):
                assert mine is not None
                if not close(buffers[name].double(), mine.double()):
                    self._fail(f"{mode} the buffer {name} becomes another", inputs)

    @torch.no_grad()
    def _step(self) -> None:
        """Moves all weights along their gradients, the largest of them by a hundredth."""
        parameters = [p for model in (*self.solo, self.joint) for p in model.parameters()]
        gradients = [p.grad for p in parameters if p.grad is not None]
        largest = max((float(g.abs().max()) for g in gradients), default=0.0)
        for parameter in parameters:
            if parameter.grad is not None and largest > 0:
                parameter.sub_(parameter.grad, alpha=0.01 / largest)
            parameter.grad = None

    def _fail(self, what: str, inputs: Sequence[Tensor]) -> NoReturn:
        first = first_difference(self.solo, self.joint, inputs)
        found = f"; the first layer that differs is {first}" if first else ""
        raise StackError(
            f"{self.name} cannot be stacked: {what} than of the networks alone{found}"
            " (does a forward or backward pass concatenate, shuffle or count channels outside of"
            " layers?)"
        )


@contextmanager
def _dropout_inputs(
    models: Sequence[nn.Module], paths: Sequence[str]
) -> Iterator[list[list[tuple[str, Tensor]]]]:
    """Within it, what the layers at ``paths`` of each of ``models`` are given is written down."""
    found: list[list[tuple[str, Tensor]]] = [[] for _ in models]
    hooks = []

    def note(own: list[tuple[str, Tensor]], path: str, _: nn.Module, args: Any, named: Any) -> None:
        own.append((path, args[0] if args else named["input"]))

    for model, own in zip(models, found, strict=True):
        for path in paths:
            hook = partial(note, own, path)
            layer = model.get_submodule(path)
            hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield found
    finally:
        for each in hooks:
            each.remove()


def drawn() -> list[object]:
    """Where the generators stand that a network may draw random numbers from."""
    states: list[object] = [torch.get_rng_state().tolist(), random.getstate()]
    numpy = sys.modules.get("numpy")  # who has not imported it has not drawn from it
    if numpy is not None:
        kind, words, *rest = numpy.random.get_state()
        states.append([kind, words.tolist(), *rest])
    return states


def _split(tensor: Tensor | None, replicas: int, dim: int) -> Sequence[Tensor | None]:
    if tensor is None or tensor.dim() == 0:
        return [tensor] * replicas
    return tensor.chunk(replicas, dim)


def _takes_float32(model: nn.Module, x: Tensor) -> bool:
    """Whether a network that fails in float64 would not in float32, as where it casts itself."""
    try:
        copy.deepcopy(model).float()(x.float())
    except Exception:
        return False
    return True


def _line(error: Exception) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 120 else text[:117] + '…'}"


def _example(model: nn.Module) -> Tensor:
    """Four random inputs of a shape that ``model`` should take."""
    shapes: dict[type[nn.Module], tuple[int, ...]] = {
        nn.Linear: (),
        nn.Conv1d: (32,),
        nn.Conv2d: (32, 32),
        nn.Conv3d: (32, 32, 32),
    }
    for module in model.modules():
        kind = next((kind for kind in shapes if isinstance(module, kind)), None)
        if kind is not None:
            channels = int(getattr(module, "in_features", 0)) or int(module.in_channels)  # type: ignore[arg-type]
            generator = torch.Generator().manual_seed(0)
            return torch.randn(4, channels, *shapes[kind], generator=generator)
    raise StackError("the networks have no layer that tells what input they take: give an example")


@torch.no_grad()
def _moved(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in float64 that can be compared: without dropout, and unlike any other copy."""
    try:
        clone = copy.deepcopy(model).double()
    except Exception as error:
        raise StackError(
            f"{type(model).__name__} cannot be stacked: it cannot be copied ({_line(error)})"
        ) from None
    for module in clone.modules():
        if is_dropout(module):
            module.p = 0.0
    moved = {
        id(tensor): tensor for module in clone.modules() for tensor in tensors_of(module).values()
    }
    for tensor in moved.values():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            centre = 0.5 if tensor.dim() > 1 else 0.0  # variances stay above 0
            tensor.add_((noise - centre).to(tensor.device), alpha=0.1)
        # What is frozen is moved as well; gradients of an earlier training are not compared.
        tensor.grad = None
    return clone
