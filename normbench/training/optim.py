"""The optimizer's settings and the learning rate's course."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from math import cos, isfinite, pi, sqrt
from typing import Any, ClassVar

from torch import nn

from normbench.errors import UsageError
from normbench.norms.parts import update_hooks
from normbench.registry import Registry
from normbench.training.optimizer import Optimizer
from normbench.training.sgd import SGD
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


_MOMENTA = ("momentum", "beta1", "beta2")
"""What is said of an optimizer even where it is the default."""

_SIGNS = {"beta1": "β₁", "beta2": "β₂", "eps": "ε", "nesterov": "Nesterov"}
"""What people call settings of single optimizers; else it is the setting's name."""


@dataclass(kw_only=True, slots=True)
class OptimConfig(ABC):
    """An optimizer and the course of its learning rate, as the configuration describes them."""

    name: str
    """The optimizer's name in the registry; chosen with ``optim=NAME``, not set by hand."""

    lr: float = 0.1
    """The learning rate at a batch of ``scaling_batch``; above 0."""

    scaling: Scaling = Scaling.linear
    """How it follows the batch: linear (lr·batch/scaling_batch, Goyal et al. 2017, arXiv
    1706.02677), sqrt (lr·√(batch/scaling_batch)) or none."""

    scaling_batch: int = 32
    """The batch at which the learning rate is ``lr``; 32 gives Wu & He's 0.1·N/32."""

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

    alike: ClassVar[tuple[str, ...]] = ()
    """The settings that all replicas of a stack have to share, besides label smoothing."""

    def __post_init__(self) -> None:
        check("lr", self.lr, self.lr > 0, "must be above 0")
        check("scaling_batch", self.scaling_batch, self.scaling_batch >= 1, "must be at least 1")
        check("weight_decay", self.weight_decay, self.weight_decay >= 0, "must be at least 0")
        smoothing = self.label_smoothing
        check("label_smoothing", smoothing, 0 <= smoothing < 1, "must be from 0 to below 1")
        check("warmup", self.warmup, 0 <= self.warmup < 1, "must be from 0 to below 1")
        rising = sorted(self.steps_at) == list(self.steps_at)
        inside = all(0 < share < 1 for share in self.steps_at)
        check("steps_at", self.steps_at, rising and inside, "must rise between 0 and 1")
        check("step_factor", self.step_factor, 0 < self.step_factor <= 1, "must be in (0, 1]")

    @abstractmethod
    def optimizer(
        self,
        parameters: Sequence[nn.Parameter],
        decays: Sequence[Sequence[float]],
        **more: Any,
    ) -> Optimizer:
        """Makes the optimizer; for the arguments see :class:`Optimizer`."""

    def build(self, model: nn.Module, norm_parameters: Sequence[nn.Parameter]) -> Optimizer:
        """Makes the optimizer of ``model``; its rate is set before each step.

        Args:
            model: the network.
            norm_parameters: those of its parameters that are a norm's γ or β.
        """
        replicas = model.replicas if isinstance(model, Stack) else 1
        return build_stacked([self] * replicas, model, norm_parameters)

    @property
    def title(self) -> str:
        """The optimizer in a line, for people: ``SGD, momentum 0.9, Nesterov``."""
        said = [_torch_name(self)]
        for key, value in self._own().items():
            sign = _SIGNS.get(key, key.replace("_", " "))
            said.append(sign if value is True else f"{sign} {value}")
        return ", ".join(said)

    def in_torch(self, batch: int) -> tuple[str, list[str]]:
        """torch's optimizer that computes the same at the peak of the learning rate, as Python.

        Overridden where torch has none of this name, or calls its settings otherwise.

        Args:
            batch: how many images one step sees.

        Returns:
            What is called, such as ``torch.optim.SGD``, and its arguments, from
            ``model.parameters()`` on. Settings ``beta1``, ``beta2`` are its ``betas``.
        """
        own = self._own()
        betas = [repr(own.pop(key)) for key in list(own) if key.startswith("beta")]
        arguments = ["model.parameters()", f"lr={self.peak(batch):g}"]
        arguments += [f"betas=({', '.join(betas)})"] if betas else []
        arguments += [f"{key}={value!r}" for key, value in own.items()]
        arguments.append(f"weight_decay={self.weight_decay!r}")
        return f"torch.optim.{_torch_name(self)}", arguments

    def _own(self) -> dict[str, Any]:
        """The settings that not every optimizer has: the momenta, and what is not the default."""
        every = {each.name for each in fields(OptimConfig)}
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in every
            and (each.name in _MOMENTA or getattr(self, each.name) != each.default)
        }

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


OPTIMS: Registry[OptimConfig] = Registry("optim")
"""Every optimizer by name."""


@OPTIMS.register("sgd")
@dataclass(kw_only=True, slots=True)
class SGDConfig(OptimConfig):
    """Stochastic gradient descent with momentum."""

    name: str = "sgd"

    momentum: float = 0.9
    """From 0 to below 1."""

    nesterov: bool = False
    """Whether the momentum looks ahead."""

    alike: ClassVar[tuple[str, ...]] = ("momentum", "nesterov")

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        check("momentum", self.momentum, 0 <= self.momentum < 1, "must be from 0 to below 1")
        if self.nesterov and self.momentum == 0:
            raise UsageError("optim.nesterov=true needs optim.momentum above 0; received 0")

    def optimizer(
        self,
        parameters: Sequence[nn.Parameter],
        decays: Sequence[Sequence[float]],
        **more: Any,
    ) -> SGD:
        return SGD(parameters, decays, momentum=self.momentum, nesterov=self.nesterov, **more)


def _torch_name(config: OptimConfig) -> str:
    """``SGD`` of an ``SGDConfig``: optimizers are called as torch's that compute the same."""
    return type(config).__name__.removesuffix("Config")


def check(key: str, value: object, holds: bool, allowed: str) -> None:
    """Raises UsageError with one line unless a setting ``holds`` and is finite."""
    finite = not isinstance(value, float) or isfinite(value)
    if not finite:
        allowed = allowed.replace("must be", "must be a finite number")
    if not (holds and finite):
        raise UsageError(f"optim.{key}={value}: {allowed}")


def build_stacked(
    configs: Sequence[OptimConfig], model: nn.Module, norm_parameters: Sequence[nn.Parameter]
) -> Optimizer:
    """Makes the optimizer of a stack whose replicas may differ in learning rate and weight decay.

    Args:
        configs: one a replica.
        model: the stack.
        norm_parameters: those of its parameters that are a norm's γ or β.

    Raises:
        UsageError: the replicas differ in what a stack has one of.
    """
    first = configs[0]
    for key in ("name", *first.alike, "label_smoothing"):
        values = [getattr(config, key) for config in configs]
        if any(value != values[0] for value in values):
            raise UsageError(f"optim.{key}={values}: must be the same for all replicas of a stack")
    scales = {id(parameter) for parameter in norm_parameters}
    parameters = list(model.parameters())
    decays = [[config.decay(id(p) in scales) for config in configs] for p in parameters]
    return first.optimizer(
        parameters, decays, replicas=len(configs), before_step=update_hooks(model)
    )


def stacked_rates(
    configs: Sequence[OptimConfig], step: int, steps: int, batch: int
) -> float | list[float]:
    """The learning rates of a step, one a replica; a single one if all settings are equal."""
    if all(config.lr == configs[0].lr for config in configs):
        return configs[0].rate(step, steps, batch)
    return [config.rate(step, steps, batch) for config in configs]
