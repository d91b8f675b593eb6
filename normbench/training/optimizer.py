"""What optimizers share: a learning rate and a weight decay for each replica of a stack."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn


class Optimizer(ABC):
    """An optimizer that makes one fused call for all tensors of one decay.

    It computes what torch's fused optimizer of its name computes, without that class's bookkeeping,
    which costs a twentieth of a step of a small network.

    The K replicas of a stack may have learning rates and weight decays of their own (HFTA, Wang et
    al. 2021, arXiv 2102.02344, section 3): neighbours with equal ones share a call, on their rows
    of the stacked tensors. To the bit each then takes the step it would take alone.

    Args:
        parameters: the tensors to train; of a stack, with one replica's rows after the other's.
        decays: the weight decay of each, one for all replicas or one a replica.
        replicas: K; 1 where the parameters are those of one network.
        before_step: what is done to the gradients first, such as clipping.

    Attributes:
        buffers: by name, what it keeps of each parameter's past, of the parameter's shape.
    """

    buffer_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        decays: Sequence[float | Sequence[float]],
        *,
        replicas: int = 1,
        before_step: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._before_step = before_step
        self.parameters = list(parameters)
        self.replicas = replicas
        self._decays = [tuple(_each(decay, replicas, "weight decays")) for decay in decays]
        # The replicas that differ from the one before in a decay.
        self._parted = {
            k for k in range(1, replicas) if any(each[k] != each[k - 1] for each in self._decays)
        }
        self.buffers = {
            name: [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
            for name in self.buffer_names
        }
        self._lr: float | Sequence[float] = 0.0
        self._spans: list[_Span] = []
        self.lr = 0.0

    @abstractmethod
    def _update(self, span: "_Span", decay: float, members: list[int], above: list[Tensor]) -> None:
        """Updates those weights of ``span`` that ``members`` says, by their gradients."""

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
        for change_gradients in self._before_step:
            change_gradients()
        views = zip(self._spans[0].weights, self.parameters, strict=True)
        if any(view.data_ptr() != parameter.data_ptr() for view, parameter in views):
            self._take_views()  # the network has been moved or converted since
        gradients = [self._rows(i, parameter.grad) for i, parameter in enumerate(self.parameters)]
        for s, span in enumerate(self._spans):
            for decay, members in span.groups:
                moving = [i for i in members if gradients[i]]
                if not moving:
                    continue
                self._update(span, decay, moving, [gradients[i][s] for i in moving])
        self.forget()

    def forget(self) -> None:
        """Drops all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """What it knows of the past, by name: with the weights, all that a training needs."""
        return {
            f"{name}.{i}": buffer
            for name, buffers in self.buffers.items()
            for i, buffer in enumerate(buffers)
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what :meth:`state` gave for an optimizer of the same parameters.

        Raises:
            KeyError, ValueError: it is of other parameters.
        """
        own = self.state()
        pairs = [(buffer, state[name]) for name, buffer in own.items()]
        if any(mine.shape != other.shape for mine, other in pairs):
            raise ValueError("the optimizer's state is that of other parameters")
        for mine, other in pairs:
            mine.copy_(other)

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
        """Views of the weights and buffers with their axes in the order of their memory.

        The fused call copies what is not contiguous, and weights in channels_last are not.
        """
        self._channels_last = [_is_channels_last(parameter) for parameter in self.parameters]
        weights = [self._rows(i, p) for i, p in enumerate(self.parameters)]
        for s, span in enumerate(self._spans):
            span.weights = [rows[s] for rows in weights]
        for name, old in self.buffers.items():
            pairs = zip(self.parameters, old, strict=True)
            own = [torch.empty_like(p, requires_grad=False).copy_(v) for p, v in pairs]
            self.buffers[name] = own
            buffers = [self._rows(i, v) for i, v in enumerate(own)]
            for s, span in enumerate(self._spans):
                span.buffers[name] = [rows[s] for rows in buffers]

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
        weights: views of their rows.
        buffers: likewise, by name.
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
        self.buffers: dict[str, list[Tensor]] = {}
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
