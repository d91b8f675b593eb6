"""The optimizer and the learning rate's course."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import cos, isfinite, pi, sqrt
from typing import cast

import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.norms.parts import update_hooks


class Scaling(Enum):
    """How the learning rate follows the batch."""

    linear = "linear"
    sqrt = "sqrt"
    none = "none"


class Schedule(Enum):
    """How the learning rate falls after the warm-up."""

    linear = "linear"
    cosine = "cosine"
    step = "step"
    constant = "constant"


class SGD:
    """Stochastic gradient descent with momentum, one fused call for all tensors of one decay.

    It computes what ``torch.optim.SGD(fused=True)`` computes, without that class's bookkeeping,
    which costs a twentieth of a step of a small network. v ← momentum·v + (g + decay·w);
    w ← w - lr·v, with Nesterov w ← w - lr·(g + decay·w + momentum·v).

    Args:
        parameters: the tensors to train.
        decays: the weight decay of each.
        momentum: from 0 to below 1.
        nesterov: whether the momentum looks ahead.
        before_step: what is done to the gradients first, such as clipping.

    Attributes:
        velocities: the momentum buffers v, one a parameter.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        decays: Sequence[float],
        *,
        momentum: float,
        nesterov: bool = False,
        before_step: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._before_step = before_step
        self.parameters = list(parameters)
        # On a GPU the rate is a tensor there, so that a recorded step finds each step's own.
        device = self.parameters[0].device
        self._rate: float | Tensor = (
            torch.zeros((), device=device) if device.type == "cuda" else 0.0
        )
        self.momentum = momentum
        self.nesterov = nesterov
        self.velocities = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self._groups = [
            (decay, [i for i, each in enumerate(decays) if each == decay])
            for decay in sorted(set(decays))
        ]
        self._take_views()

    @property
    def lr(self) -> float | Tensor:
        """The learning rate of the next step."""
        return self._rate

    @lr.setter
    def lr(self, rate: float) -> None:
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    @torch.no_grad()
    def step(self) -> None:
        """Updates the parameters that have a gradient, and forgets the gradients."""
        for change_gradients in self._before_step:
            change_gradients()
        views = zip(self._weights, self.parameters, strict=True)
        if any(view.data_ptr() != parameter.data_ptr() for view, parameter in views):
            self._take_views()  # the network has been moved or converted since
        for decay, members in self._groups:
            moving = [i for i in members if self.parameters[i].grad is not None]
            if not moving:
                continue
            torch._fused_sgd_(
                [self._weights[i] for i in moving],
                [self._in_order(i, cast(Tensor, self.parameters[i].grad)) for i in moving],
                [self._buffers[i] for i in moving] if self.momentum else [],
                weight_decay=decay,
                momentum=self.momentum,
                lr=self._rate,
                dampening=0.0,
                nesterov=self.nesterov,
                maximize=False,
                is_first_step=False,
            )
        self.forget()

    def forget(self) -> None:
        """Drops all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def restore(self, velocities: Sequence[Tensor]) -> None:
        """Takes over the velocities of an optimizer of the same parameters.

        Raises:
            ValueError: they are of other parameters.
        """
        pairs = list(zip(self.velocities, velocities, strict=True))
        if any(own.shape != other.shape for own, other in pairs):
            raise ValueError("the velocities are those of other parameters")
        for own, other in pairs:
            own.copy_(other)

    @torch.no_grad()
    def _take_views(self) -> None:
        """Views of the weights and velocities with their axes in the order of their memory.

        The fused call copies what is not contiguous, and weights in channels_last are not.
        """
        self._channels_last = [_is_channels_last(parameter) for parameter in self.parameters]
        pairs = zip(self.parameters, self.velocities, strict=True)
        self.velocities = [torch.empty_like(p, requires_grad=False).copy_(v) for p, v in pairs]
        self._weights = [self._in_order(i, p) for i, p in enumerate(self.parameters)]
        self._buffers = [self._in_order(i, v) for i, v in enumerate(self.velocities)]

    def _in_order(self, index: int, tensor: Tensor) -> Tensor:
        return tensor.permute(0, 2, 3, 1) if self._channels_last[index] else tensor


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


@dataclass(kw_only=True, slots=True)
class SGDConfig:
    """Stochastic gradient descent with momentum, and its learning rate."""

    lr: float = 0.1
    """The learning rate at a batch of ``scaling_batch``; above 0."""

    scaling: Scaling = Scaling.linear
    """How it follows the batch: linear (lr·batch/scaling_batch, Goyal et al. 2017, arXiv
    1706.02677), sqrt (lr·√(batch/scaling_batch)) or none."""

    scaling_batch: int = 32
    """The batch at which the learning rate is ``lr``; 32 gives Wu & He's 0.1·N/32."""

    momentum: float = 0.9
    """From 0 to below 1."""

    nesterov: bool = False
    """Whether the momentum looks ahead."""

    weight_decay: float = 5e-4
    """The L2 penalty's factor; at least 0."""

    decay_norm: bool = True
    """Whether the norms' γ and β are decayed too, as in Wu & He."""

    label_smoothing: float = 0.0
    """How much of each label is spread over all classes; from 0 to below 1."""

    warmup: float = 0.1
    """The share of all steps over which the learning rate rises linearly from 0."""

    schedule: Schedule = Schedule.linear
    """How the learning rate falls afterwards: linear or cosine to 0, step, or constant."""

    steps_at: list[float] = field(default_factory=lambda: [0.3, 0.6, 0.9])
    """For ``schedule=step``: the shares of all steps at which the rate is multiplied."""

    step_factor: float = 0.1
    """For ``schedule=step``: what the rate is multiplied by."""

    def __post_init__(self) -> None:
        _check("lr", self.lr, self.lr > 0, "must be above 0")
        _check("scaling_batch", self.scaling_batch, self.scaling_batch >= 1, "must be at least 1")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "must be from 0 to below 1")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "must be at least 0")
        smoothing = self.label_smoothing
        _check("label_smoothing", smoothing, 0 <= smoothing < 1, "must be from 0 to below 1")
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "must be from 0 to below 1")
        rising = sorted(self.steps_at) == list(self.steps_at)
        inside = all(0 < share < 1 for share in self.steps_at)
        _check("steps_at", self.steps_at, rising and inside, "must rise between 0 and 1")
        _check("step_factor", self.step_factor, 0 < self.step_factor <= 1, "must be in (0, 1]")
        if self.nesterov and self.momentum == 0:
            raise UsageError("optim.nesterov=true needs optim.momentum above 0; received 0")

    def build(self, model: nn.Module, norm_parameters: Sequence[nn.Parameter]) -> "SGD":
        """Makes the optimizer of ``model``; its rate is set before each step.

        Args:
            model: the network.
            norm_parameters: those of its parameters that are a norm's γ or β.
        """
        scales = {id(parameter) for parameter in norm_parameters}
        decays = [
            self.weight_decay if self.decay_norm or id(parameter) not in scales else 0.0
            for parameter in model.parameters()
        ]
        return SGD(
            list(model.parameters()),
            decays,
            momentum=self.momentum,
            nesterov=self.nesterov,
            before_step=update_hooks(model),
        )

    def peak(self, batch: int) -> float:
        """The learning rate after the warm-up at a batch of ``batch``."""
        ratio = batch / self.scaling_batch
        return self.lr * {"linear": ratio, "sqrt": sqrt(ratio), "none": 1.0}[self.scaling.value]

    def rate(self, step: int, steps: int, batch: int) -> float:
        """The learning rate of step ``step`` (from 0) of ``steps`` at a batch of ``batch``."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return self.peak(batch) * (step + 1) / (warmup + 1)
        return self.peak(batch) * self._fall(step, warmup, steps)

    def _fall(self, step: int, warmup: int, steps: int) -> float:
        done = (step - warmup) / max(1, steps - warmup)
        match self.schedule:
            case Schedule.linear:
                return 1 - done
            case Schedule.cosine:
                return (1 + cos(pi * done)) / 2
            case Schedule.step:
                return self.step_factor ** sum(step >= share * steps for share in self.steps_at)
            case Schedule.constant:
                return 1.0


def _check(key: str, value: object, holds: bool, allowed: str) -> None:
    finite = not isinstance(value, float) or isfinite(value)
    if not finite:
        allowed = allowed.replace("must be", "must be a finite number")
    if not (holds and finite):
        raise UsageError(f"optim.{key}={value}: {allowed}")
