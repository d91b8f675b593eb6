"""Weight standardization: norms that standardize the weights of the convolutions as well."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.norms.base import NORMS, State
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.norms.parts import Convolution, NormConv
from normbench.norms.published import Published


class Standardization(StrEnum):
    """Which deviation σ the weights are divided by, and how ε enters."""

    official = "official"
    timm = "timm"


class StandardizedConv(NormConv):
    """A convolution with standardized weights (Qiao et al. 2019, arXiv 1903.10520, equation 5).

    Each output channel's weights w, over inputs per group and positions, become (w - μ)/σ, with
    ``official`` (w - μ)/(σ + 1e-5) and the unbiased σ, as in the authors' code, with ``timm``
    (w - μ)/√(σ² + 1e-6) and the biased σ², as in timm's ``StdConv2d``. The gradient goes through μ
    and σ.
    """

    standardization: Standardization

    def prepare(self, *, standardization: Standardization) -> None:
        """Takes the choice of σ and ε."""
        self.standardization = standardization
        self.fan_in = fan_in(self)

    @property
    def suffix(self) -> str:
        return " of standardized weights"

    def transform(self, weight: Tensor) -> Tensor:
        if self.standardization == Standardization.timm:
            return standardized(weight, 1e-6)
        channels_last = weight.movedim(1, -1)
        rows = channels_last.flatten(1)  # a view of weights that are stored so
        centred = rows - rows.mean(1, keepdim=True)
        variance = centred.square().sum(1, keepdim=True) / (self.fan_in - 1)
        # Where all weights are the same, the root's slope would be infinite.
        y = centred / (variance.clamp_min(1e-30).sqrt() + 1e-5)
        return y.view(channels_last.shape).movedim(-1, 1)


def standardized(weight: Tensor, eps: float) -> Tensor:
    """(w - μ)/√(σ² + ε) for each output's weights, biased variance: [outputs, inputs, ...]."""
    channels_last = weight.movedim(1, -1)
    return F.layer_norm(channels_last, channels_last.shape[1:], eps=eps).movedim(-1, 1)


def fan_in(conv: nn.Module) -> int:
    """How many weights each output of a convolution has.

    Raises:
        UsageError: one, which is its own mean.
    """
    assert isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    count = conv.weight[0].numel()
    if count == 1:
        raise UsageError(
            f"a convolution of {conv.out_channels} outputs has one weight each: less its mean, each"
            " would be 0 whatever it is; use more channels or a norm that leaves weights alone"
        )
    return count


class Standardizing:
    """A norm's configuration before whose layers the convolutions have standardized weights."""

    __slots__ = ()
    standardization: Standardization

    def convolution(self, conv: Convolution) -> nn.Module:
        """A convolution with the very weights of ``conv``, standardized before each use."""
        return StandardizedConv.of(conv, standardization=self.standardization)

    def reference_convolution(self, state: State) -> tuple[Tensor, Tensor | None]:
        """The definition."""
        rows = state["weight"].flatten(1)
        centred = rows - rows.mean(1, keepdim=True)
        square = centred.square().sum(1, keepdim=True)
        if self.standardization == Standardization.timm:
            rows = centred / (square / rows.shape[1] + 1e-6).sqrt()
        else:
            rows = centred / ((square / (rows.shape[1] - 1)).sqrt() + 1e-5)
        return rows.view(state["weight"].shape), state.get("bias")


_FORMULA = (
    "each convolution's weights w, over the inputs of output o:\n"
    "ŵ = (w - μ_o) / (σ_o + 1e-5), σ_o unbiased; with standardization=timm\n"
    "ŵ = (w - μ_o) / √(σ²_o + 1e-6), σ²_o biased\n"
    "then, on the convolution's output:\n"
)
_PAPER = (
    "Qiao, Wang, Liu, Shen & Yuille, Micro-Batch Training with Batch-Channel Normalization and"
    " Weight Standardization, 2019, arXiv 1903.10520; the norm: "
)
_CITE = "Qiao et al. 2019, 1903.10520"


@NORMS.register("ws_group")
@dataclass(kw_only=True, slots=True)
class StandardizedGroupNormConfig(Standardizing, GroupNormConfig):
    """Group normalization after convolutions with standardized weights."""

    name: str = "ws_group"

    standardization: Standardization = Standardization.official
    """How weights are divided by their deviation: official, as in the authors' code, by σ + 1e-5
    with the unbiased σ; timm, by √(σ² + 1e-6) with the biased σ²."""

    title: ClassVar[str] = "Weight standardization with group normalization"
    formula: ClassVar[str] = _FORMULA + GroupNormConfig.formula
    paper: ClassVar[str] = _PAPER + GroupNormConfig.paper
    cite: ClassVar[str] = _CITE
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="with 1 image per GPU as good as batch norm at a large batch, or better",
            results={},
            source="arXiv 1903.10520, abstract",
            basis="claimed",
        ),
    )


@NORMS.register("ws_batch")
@dataclass(kw_only=True, slots=True)
class StandardizedBatchNormConfig(Standardizing, BatchNormConfig):
    """Batch normalization after convolutions with standardized weights."""

    name: str = "ws_batch"

    standardization: Standardization = Standardization.official
    """How weights are divided by their deviation: official, as in the authors' code, by σ + 1e-5
    with the unbiased σ; timm, by √(σ² + 1e-6) with the biased σ²."""

    title: ClassVar[str] = "Weight standardization with batch normalization"
    formula: ClassVar[str] = _FORMULA + BatchNormConfig.formula
    paper: ClassVar[str] = _PAPER + BatchNormConfig.paper
    cite: ClassVar[str] = _CITE
    published: ClassVar[tuple[Published, ...]] = ()  # batch norm's results are not its own
