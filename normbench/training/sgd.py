"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.training.optimizer import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    v ← momentum·v + (g + decay·w); w ← w - lr·v, with Nesterov w ← w - lr·(g + decay·w +
    momentum·v).

    Args:
        parameters, decays, more: see :class:`Optimizer`.
        momentum: from 0 to below 1.
        nesterov: whether the momentum looks ahead.
    """

    buffer_names: ClassVar[tuple[str, ...]] = ("velocity",)

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        decays: Sequence[float | Sequence[float]],
        *,
        momentum: float,
        nesterov: bool = False,
        **more: Any,
    ) -> None:
        self.momentum = momentum
        self.nesterov = nesterov
        super().__init__(parameters, decays, **more)

    def _update(self, span: Any, decay: float, members: list[int], above: list[Tensor]) -> None:
        torch._fused_sgd_(
            [span.weights[i] for i in members],
            above,
            [span.buffers["velocity"][i] for i in members] if self.momentum else [],
            weight_decay=decay,
            momentum=self.momentum,
            lr=span.rate,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
            is_first_step=False,
        )
