"""No normalization: the baseline that shows what normalizing is good for."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from normbench.norms.base import NORMS, Norm, NormConfig, State
from normbench.norms.parts import finished, scale_and_shift


class NoNorm(Norm):
    """Scale and shift without normalizing; the identity at the start.

    It keeps γ and β, so that networks with and without a norm have the same parameters and only
    the normalization differs.
    """

    @property
    def axes(self) -> str:
        return "-"

    def normalize(self, x: Tensor) -> Tensor:
        # A new tensor even without γ and β: the activation that follows works in place.
        return x.clone() if self.weight is None else scale_and_shift(x, self.weight, self.bias)


@NORMS.register("none")
@dataclass(kw_only=True, slots=True)
class NoNormConfig(NormConfig):
    """No normalization."""

    name: str = "none"

    title: ClassVar[str] = "No normalization"
    axes: ClassVar[str] = "-"
    formula: ClassVar[str] = "y = γ_c · x + β_c"
    paper: ClassVar[str] = "-"
    folds: ClassVar[bool] = True

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> NoNorm:
        return NoNorm(channels, eps=self.eps, affine=self.affine, act=act)

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        return finished(x, state, act)
