"""Stochastic gradient descent on one network, or on a stack with a rate for each replica."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from normbench.norms.parts import update_hooks


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
        before_step: what is done to the gradients first, such as clipping.

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
        before_step: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._before_step = before_step
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

    def without(self, replica: int, rest_of_stack: nn.Module) -> "SGD":
        """The optimizer of all replicas but one.

        Args:
            replica: which, from 0.
            rest_of_stack: the stack without it.
        """
        kept = [k for k in range(self.replicas) if k != replica]
        decays = [[decay[k] for k in kept] for decay in self._decays]
        rest = SGD(
            list(rest_of_stack.parameters()),
            decays,
            momentum=self.momentum,
            nesterov=self.nesterov,
            replicas=len(kept),
            before_step=update_hooks(rest_of_stack),
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
