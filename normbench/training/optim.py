"""The optimizer and the learning rate's course."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import cos, isfinite, pi, sqrt

import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.training.stacking import Stack


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

    The K replicas of a stack may have learning rates and weight decays of their own (HFTA, Wang et
    al. 2021, arXiv 2102.02344, section 3): neighbours with equal ones share a call, on their rows
    of the stacked tensors. To the bit each then takes the step it would take alone.

    Args:
        parameters: the tensors to train; of a stack, with one replica's rows after the other's.
        decays: the weight decay of each, one for all replicas or one a replica.
        momentum: from 0 to below 1.
        nesterov: whether the momentum looks ahead.
        replicas: K; 1 where the parameters are those of one network.

    Attributes:
        velocities: the momentum buffers v, one a parameter.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        decays: Sequence[float | Sequence[float]],
        *,
        momentum: float,
        nesterov: bool = False,
        replicas: int = 1,
    ) -> None:
        self.parameters = list(parameters)
        self.momentum = momentum
        self.nesterov = nesterov
        self.replicas = replicas
        self._decays = [tuple(_each(decay, replicas, "weight decays")) for decay in decays]
        # The replicas that differ from the one before in a decay.
        self._parted = {
            k for k in range(1, replicas) if any(each[k] != each[k - 1] for each in self._decays)
        }
        self.velocities = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self._lr: float | Sequence[float] = 0.0
        self._spans: list[_Span] = []
        self.lr = 0.0

    @property
    def lr(self) -> float | Sequence[float]:
        """The learning rate of the next step: one for all replicas, or one a replica."""
        return self._lr

    @lr.setter
    def lr(self, rate: float | Sequence[float]) -> None:
        self._lr = rate
        rates = _each(rate, self.replicas, "learning rates")
        starts = self._starts(rates)
        if starts != [span.start for span in self._spans]:
            self._take_spans(starts)
        for span in self._spans:
            span.set_rate(rates[span.start])

    @torch.no_grad()
    def step(self) -> None:
        """Updates the parameters that have a gradient, and forgets the gradients."""
        views = zip(self._spans[0].weights, self.parameters, strict=True)
        if any(view.data_ptr() != parameter.data_ptr() for view, parameter in views):
            self._take_views()  # the network has been moved or converted since
        gradients = [self._rows(i, parameter.grad) for i, parameter in enumerate(self.parameters)]
        for s, span in enumerate(self._spans):
            for decay, members in span.groups:
                moving = [i for i in members if gradients[i]]
                if not moving:
                    continue
                torch._fused_sgd_(
                    [span.weights[i] for i in moving],
                    [gradients[i][s] for i in moving],
                    [span.buffers[i] for i in moving] if self.momentum else [],
                    weight_decay=decay,
                    momentum=self.momentum,
                    lr=span.rate,
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

    def without(self, replica: int, parameters: Sequence[nn.Parameter]) -> "SGD":
        """The optimizer of all replicas but one.

        Args:
            replica: which, from 0.
            parameters: those of the stack without it, in the order of this one's.
        """
        kept = [k for k in range(self.replicas) if k != replica]
        decays = [[decay[k] for k in kept] for decay in self._decays]
        rest = SGD(
            parameters,
            decays,
            momentum=self.momentum,
            nesterov=self.nesterov,
            replicas=len(kept),
        )
        each = [velocity.chunk(self.replicas) for velocity in self.velocities]
        rest.restore([torch.cat([rows[k] for k in kept]) for rows in each])
        lr = self._lr
        rest.lr = lr if isinstance(lr, float) else [lr[k] for k in kept]
        return rest

    def _starts(self, rates: Sequence[float]) -> list[int]:
        """Where replicas start that differ from the ones before in rate or decay."""
        if self.parameters[0].device.type == "cuda" and len(set(rates)) > 1:
            return list(range(self.replicas))  # a recorded step must serve any rates
        pairs = enumerate(pairwise(rates), start=1)
        return [0, *(k for k, (one, next_) in pairs if one != next_ or k in self._parted)]

    def _take_spans(self, starts: Sequence[int]) -> None:
        device = self.parameters[0].device
        ends = [*starts[1:], self.replicas]
        self._spans = [
            _Span(start, end - start, [decay[start] for decay in self._decays], device)
            for start, end in zip(starts, ends, strict=True)
        ]
        self._take_views()

    @torch.no_grad()
    def _take_views(self) -> None:
        """Views of the weights and velocities with their axes in the order of their memory.

        The fused call copies what is not contiguous, and weights in channels_last are not.
        """
        self._channels_last = [_is_channels_last(parameter) for parameter in self.parameters]
        pairs = zip(self.parameters, self.velocities, strict=True)
        self.velocities = [torch.empty_like(p, requires_grad=False).copy_(v) for p, v in pairs]
        weights = [self._rows(i, p) for i, p in enumerate(self.parameters)]
        buffers = [self._rows(i, v) for i, v in enumerate(self.velocities)]
        for s, span in enumerate(self._spans):
            span.weights = [rows[s] for rows in weights]
            span.buffers = [rows[s] for rows in buffers]

    def _rows(self, index: int, tensor: Tensor | None) -> Sequence[Tensor]:
        """Each span's rows of a tensor, with the axes in the order of memory."""
        if tensor is None:
            return ()
        if self._channels_last[index]:
            tensor = tensor.permute(0, 2, 3, 1)
        if len(self._spans) == 1:
            return (tensor,)
        rows = len(tensor) // self.replicas
        parts: Sequence[Tensor] = tensor.split([span.replicas * rows for span in self._spans])
        return parts


class _Span:
    """Neighbouring replicas with one learning rate and one weight decay a parameter.

    Attributes:
        start, replicas: the first, and how many.
        groups: the parameters' indices, by decay.
        weights, buffers: views of their rows.
        rate: the learning rate; on a GPU a tensor there, so that a recorded step finds each step's.
    """

    def __init__(
        self, start: int, replicas: int, decays: Sequence[float], device: torch.device
    ) -> None:
        self.start, self.replicas = start, replicas
        self.groups = [
            (decay, [i for i, each in enumerate(decays) if each == decay])
            for decay in sorted(set(decays))
        ]
        self.weights: list[Tensor] = []
        self.buffers: list[Tensor] = []
        on_cuda = device.type == "cuda"
        self.rate: float | Tensor = torch.zeros((), device=device) if on_cuda else 0.0

    def set_rate(self, rate: float) -> None:
        if isinstance(self.rate, Tensor):
            self.rate.fill_(rate)
        else:
            self.rate = rate


def _each(value: float | Sequence[float], replicas: int, what: str) -> Sequence[float]:
    """One value a replica."""
    values = value if isinstance(value, Sequence) else [value] * replicas
    if len(values) != replicas:
        raise ValueError(f"{len(values)} {what} for {replicas} replicas")
    return values


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
        replicas = model.replicas if isinstance(model, Stack) else 1
        return build_stacked([self] * replicas, model, norm_parameters)

    def decay(self, is_norm: bool) -> float:
        """The weight decay of a parameter that is a norm's γ or β, or of another one."""
        return self.weight_decay if self.decay_norm or not is_norm else 0.0

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


_ALIKE = ("momentum", "nesterov", "label_smoothing")


def build_stacked(
    configs: Sequence[SGDConfig], model: nn.Module, norm_parameters: Sequence[nn.Parameter]
) -> SGD:
    """Makes the optimizer of a stack whose replicas may differ in learning rate and weight decay.

    Args:
        configs: one a replica.
        model: the stack.
        norm_parameters: those of its parameters that are a norm's γ or β.

    Raises:
        UsageError: the replicas differ in what a stack has one of.
    """
    first = configs[0]
    for key in _ALIKE:
        values = [getattr(config, key) for config in configs]
        if any(value != values[0] for value in values):
            raise UsageError(f"optim.{key}={values}: must be the same for all replicas of a stack")
    scales = {id(parameter) for parameter in norm_parameters}
    parameters = list(model.parameters())
    decays = [[config.decay(id(p) in scales) for config in configs] for p in parameters]
    return SGD(
        parameters,
        decays,
        momentum=first.momentum,
        nesterov=first.nesterov,
        replicas=len(configs),
    )


def stacked_rates(
    configs: Sequence[SGDConfig], step: int, steps: int, batch: int
) -> float | list[float]:
    """The learning rates of a step, one a replica; a single one if all are equal."""
    rates = [config.rate(step, steps, batch) for config in configs]
    return rates[0] if len(set(rates)) == 1 else rates
