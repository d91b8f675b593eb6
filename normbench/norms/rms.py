"""Root-mean-square normalization over groups of channels: group normalization without the mean."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.errors import UsageError
from normbench.norms.base import NORMS, State
from normbench.norms.group import GroupedConfig, GroupNorm
from normbench.norms.moments import MeanSquare, over_groups
from normbench.norms.parts import finished, mean_over, positions, spread


class RMSNorm(GroupNorm):
    """Root-mean-square normalization (Zhang & Sennrich 2019, arXiv 1910.07467, equation 4).

    The C channels of each example form G groups of neighbours; each group is divided by the root of
    the mean square of its (C/G)·H·W values. Training and evaluation are the same.
    """

    constant: ClassVar[str] = "±γ + β"
    remedy: ClassVar[str] = "fewer groups or larger images"

    def normalize(self, x: Tensor) -> Tensor:
        if self.values_per_statistic(x.shape) == 1:
            raise self.single_value(x.shape)
        square = over_groups(MeanSquare.apply(x), self.num_groups)
        # One factor for each example and channel, so that the input is passed over once more only.
        factor = (square + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * spread(self.weight, x)
        return x * factor if self.bias is None else torch.addcmul(spread(self.bias, x), x, factor)


@NORMS.register("rms")
@dataclass(kw_only=True, slots=True)
class RMSNormConfig(GroupedConfig):
    """Root-mean-square normalization over groups of channels."""

    name: str = "rms"

    shift: bool = False
    """Whether to learn a shift β beside γ; the paper has none. Needs ``affine``."""

    title: ClassVar[str] = "Root-mean-square normalization"
    formula: ClassVar[str] = (
        "g = the group of channel c: ⌊c / (C/G)⌋\n"
        "m_ng = mean of x[n, c, h, w]² over the C/G channels of g and over h, w\n"
        "y = γ_c · x / √(m_ng + ε), and + β_c with shift=true"
    )
    paper: ClassVar[str] = (
        "Zhang & Sennrich, Root Mean Square Layer Normalization, 2019, arXiv 1910.07467, equation"
        " 4; over groups as in Wu & He 2018, arXiv 1803.08494"
    )
    cite: ClassVar[str] = "Zhang & Sennrich 2019, 1910.07467"

    def __post_init__(self) -> None:
        GroupedConfig.__post_init__(self)
        if self.shift and not self.affine:
            raise UsageError("norm.shift=true needs norm.affine=true")

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> RMSNorm:
        groups = self.num_groups(channels)
        layer = RMSNorm(channels, groups, eps=self.eps, affine=self.affine, act=act)
        if not self.shift:
            layer.bias = None
        return layer

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        n, c, *space = x.shape
        g = self.num_groups(c)
        groups = x.reshape(n, g, c // g, *space)
        square = mean_over(groups**2, positions(groups))
        normalized = (groups / (square + self.eps).sqrt()).reshape(x.shape)
        return finished(normalized, state, act)
