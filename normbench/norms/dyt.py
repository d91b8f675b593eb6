"""Dynamic tanh: a learned squashing in the place of a norm; it averages over nothing."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.norms.base import NORMS, Norm, NormConfig, State
from normbench.norms.parts import finished, spread
from normbench.norms.published import Published


class DynamicTanh(Norm):
    """Dynamic tanh (Zhu et al. 2025, arXiv 2503.10622, section 4): γ·tanh(α·x) + β.

    The official code (jiachenzhu/DyT) has the same, with the same start. It replaces layer norm
    and leaves batch norm where it is.

    Attributes:
        alpha: α, shape [1], one number a layer; 0.5 at the start.
    """

    def __init__(self, channels: int, *, eps: float, affine: bool, act: bool) -> None:
        super().__init__(channels, eps=eps, affine=affine, act=act)
        self.alpha = nn.Parameter(torch.full((1,), 0.5))

    @property
    def axes(self) -> str:
        return "-"

    def normalize(self, x: Tensor) -> Tensor:
        # tanh(a) = 2·sigmoid(2a) - 1; on a CPU torch's sigmoid is ten times as fast as its tanh. In
        # half precision it would lose tanh's digits around 0.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        sigmoid = torch.sigmoid(x * spread(2 * self.alpha, x))
        if self.weight is None:
            return 2 * sigmoid - 1
        assert self.bias is not None
        weight, bias = spread(self.weight, x), spread(self.bias, x)
        return torch.addcmul(bias - weight, sigmoid, 2 * weight)


@NORMS.register("dyt")
@dataclass(kw_only=True, slots=True)
class DynamicTanhConfig(NormConfig):
    """Dynamic tanh; ``eps`` has no use in it."""

    name: str = "dyt"

    title: ClassVar[str] = "Dynamic tanh"
    axes: ClassVar[str] = "-"
    formula: ClassVar[str] = "y = γ_c · tanh(α · x) + β_c, with one learned α a layer"
    paper: ClassVar[str] = (
        "Zhu, Chen, He, LeCun & Liu, Transformers without Normalization, 2025, arXiv 2503.10622,"
        " section 4; made for transformers in the place of layer norm, here a negative control"
    )
    cite: ClassVar[str] = "Zhu et al. 2025, 2503.10622"
    starts: ClassVar[dict[str, float]] = {"alpha": 0.5}
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="in the place of batch norm a network loses accuracy, at an ordinary batch",
            results={},
            source="the first author, in issue 9 of jiachenzhu/DyT",
            basis="claimed",
        ),
    )

    def build(
        self, channels: int, *, act: bool = True, norm_batch: int | None = None
    ) -> DynamicTanh:
        return DynamicTanh(channels, eps=self.eps, affine=self.affine, act=act)

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        squashed = torch.tanh(spread(state["alpha"], x) * x)
        return finished(squashed, state, act)
