"""Adam with decoupled weight decay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.training.optim import OPTIMS, OptimConfig, Scaling, check
from normbench.training.optimizer import Optimizer


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2).

    In step t: m ← β₁·m + (1-β₁)·g; s ← β₂·s + (1-β₂)·g²;
    w ← w - lr·decay·w - lr·(m / (1-β₁ᵗ)) / (√(s / (1-β₂ᵗ)) + ε), as in torch.optim.AdamW; but t
    counts all steps, also those in which a weight has no gradient, which torch counts one by one.

    Args:
        parameters, decays, more: see :class:`Optimizer`.
        beta1, beta2: how slowly the means of gradients and of their squares move.
        eps: ε.

    Attributes:
        steps: how many steps were taken, as a tensor, so that a recorded step finds it.
    """

    buffer_names: ClassVar[tuple[str, ...]] = ("mean", "square")

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        decays: Sequence[float | Sequence[float]],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        **more: Any,
    ) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.steps = torch.zeros((), dtype=torch.float32)
        super().__init__(parameters, decays, **more)

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        super().step()

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "steps": self.steps}

    def _take_views(self) -> None:
        self.steps = self.steps.to(self.parameters[0].device)
        super()._take_views()

    def _update(self, span: Any, decay: float, members: list[int], above: list[Tensor]) -> None:
        torch._fused_adamw_(
            [span.weights[i] for i in members],
            above,
            [span.buffers["mean"][i] for i in members],
            [span.buffers["square"][i] for i in members],
            [],
            [self.steps] * len(members),
            lr=span.rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


@OPTIMS.register("adamw")
@dataclass(kw_only=True, slots=True)
class AdamWConfig(OptimConfig):
    """Adam with decoupled weight decay."""

    name: str = "adamw"

    lr: float = 1e-3
    """The learning rate at a batch of ``scaling_batch``; above 0."""

    scaling: Scaling = Scaling.sqrt
    """How it follows the batch; for Adam the square root is advised (Malladi et al. 2022, arXiv
    2205.10287)."""

    weight_decay: float = 0.01
    """What the learning rate is multiplied by to shrink the weights in each step; at least 0."""

    beta1: float = 0.9
    """How slowly the mean of the gradients moves; from 0 to below 1."""

    beta2: float = 0.999
    """How slowly the mean of their squares moves; from 0 to below 1."""

    eps: float = 1e-8
    """Added to the root of the squares' mean; above 0."""

    alike: ClassVar[tuple[str, ...]] = ("beta1", "beta2", "eps")

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        for key in ("beta1", "beta2"):
            value = getattr(self, key)
            check(key, value, 0 <= value < 1, "must be from 0 to below 1")
        check("eps", self.eps, self.eps > 0, "must be above 0")

    def optimizer(
        self,
        parameters: Sequence[nn.Parameter],
        decays: Sequence[Sequence[float]],
        **more: Any,
    ) -> AdamW:
        return AdamW(parameters, decays, beta1=self.beta1, beta2=self.beta2, eps=self.eps, **more)
