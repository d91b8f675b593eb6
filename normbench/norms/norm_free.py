"""No normalization, with what takes its place: scaled weights, SkipInit and clipped gradients."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import pi, sqrt
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.norms.base import NORMS, Norm, NormConfig, State
from normbench.norms.parts import BranchEnd, Convolution, NormConv, scale_and_shift, spread
from normbench.norms.published import Published
from normbench.norms.settings import setting
from normbench.norms.weight_standardization import fan_in, standardized

GAIN = sqrt(2 / (1 - 1 / pi))
"""What makes the variance of ReLU's output 1 for standard normal inputs: 1.71286. The authors' code
has 1.71396, an estimate from random numbers."""


class ScaledActivation(Norm):
    """γ_ReLU·max(x, 0), γ_ReLU = √(2/(1 - 1/π)) (Brock et al. 2021, arXiv 2101.08692, section 4.1).

    Without an activation it is the identity. ``affine`` puts a scale and a shift per channel
    before it, which the paper has in its convolutions only.
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels", "replicas")
    activation: ClassVar[str] = "1.71·ReLU"

    def __init__(
        self, channels: int, *, eps: float, affine: bool, act: bool, clipping: float | None
    ) -> None:
        super().__init__(channels, eps=eps, affine=affine, act=act)
        self.clipping = clipping
        self.replicas = 1

    @property
    def axes(self) -> str:
        return "-"

    def normalize(self, x: Tensor) -> Tensor:
        # The gain comes first: ReLU lets it through, and works in place on what it has made.
        scaled = x * GAIN if self.act else x.clone()
        if self.weight is None:
            return scaled
        assert self.bias is not None
        bias = self.bias * GAIN if self.act else self.bias
        return scale_and_shift(scaled, self.weight, bias)

    def before_update(self) -> None:
        clip(self.parameters(), self.clipping, self.replicas)


class ScaledConv(NormConv):
    """A convolution with scaled weight standardization (Brock et al. 2021, arXiv 2101.08692,
    equation 2): its weights w become g·(w - μ)/√(K·(σ² + 1e-6)), and a bias is added.

    μ and σ² are those of an output channel's K weights, g its learned gain. ε enters as in timm's
    ``ScaledStdConv2d``; the authors' code takes max(K·σ², 1e-4) for the radicand.

    Attributes:
        gain: shape [outputs], ones at the start.
        shift: shape [outputs], zeros at the start: a bias, beside one that is there already.
        replicas: how many convolutions a stack has joined in this one.
    """

    stacked_counts: ClassVar[tuple[str, ...]] = (*NormConv.stacked_counts, "replicas")

    def prepare(self, *, clipping: float | None) -> None:
        """Takes the bound of the clipping; adds gain and shift."""
        self.fan_in = fan_in(self)
        self.clipping = clipping
        self.replicas = 1
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels))
        self.shift = nn.Parameter(self.weight.new_zeros(self.out_channels))

    @property
    def suffix(self) -> str:
        return " of scaled standardized weights"

    def transform(self, weight: Tensor) -> Tensor:
        scale = self.gain * self.fan_in**-0.5
        made: Tensor = standardized(weight, 1e-6) * scale.view(-1, *(1,) * (weight.dim() - 1))
        return made

    def used(self) -> tuple[Tensor, Tensor | None]:
        shift = self.shift if self.bias is None else self.shift + self.bias
        return self.transform(self.weight), shift

    def before_update(self) -> None:
        clip(self.parameters(), self.clipping, self.replicas)


class SkipInit(BranchEnd):
    """α·s times the residual branch, s learned and 0 at the start (De & Smith 2020, arXiv
    2002.10444, section 4; with the constant α in Brock et al. 2021, arXiv 2102.06171).

    Attributes:
        scale: s, shape [1].
        replicas: how many branches a stack has joined in this one.
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("replicas",)

    def __init__(self, *, alpha: float, clipping: float | None) -> None:
        super().__init__()
        self.alpha = alpha
        self.clipping = clipping
        self.replicas = 1
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * spread(self.alpha * self.scale, x)

    def before_update(self) -> None:
        clip(self.parameters(), self.clipping, self.replicas)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


def clip(parameters: Iterable[nn.Parameter], clipping: float | None, replicas: int) -> None:
    """Adaptive gradient clipping (Brock et al. 2021, arXiv 2102.06171, equation 3), in place.

    A unit's gradient G is scaled down to ``clipping``·max(‖W‖, 1e-3) where it is longer, W being
    the unit's weights: a row of a convolution's weight, a whole gain, bias or scale.

    Args:
        parameters: those with a gradient are clipped.
        clipping: λ; None: nothing is done.
        replicas: how many layers a stack has joined: so many units a gain or bias has.
    """
    if clipping is None:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            units = parameter.shape[0] if parameter.dim() > 1 else replicas
            longest = clipping * _lengths(parameter, units).clamp_min(1e-3)
            factor = (longest / _lengths(parameter.grad, units).clamp_min(1e-6)).clamp_max(1.0)
            each = factor.repeat_interleave(parameter.shape[0] // units)
            parameter.grad.mul_(each.view(-1, *(1,) * (parameter.dim() - 1)))


def _lengths(tensor: Tensor, units: int) -> Tensor:
    """The Euclidean length of each unit, [units]."""
    lengths: Tensor = torch.linalg.vector_norm(tensor.detach().reshape(units, -1), dim=1)
    return lengths


@NORMS.register("norm_free")
@dataclass(kw_only=True, slots=True)
class NormFreeConfig(NormConfig):
    """A network without normalization, after NFNets; meant for ``model=preact_resnet``.

    It has their scaled weight standardization, scaled activations, SkipInit with α, and adaptive
    gradient clipping of everything but the last linear layer. It does not have the division of each
    branch's input by the deviation β_i that is predicted for it (h_{i+1} = h_i + α·f_i(h_i/β_i),
    arXiv 2101.08692, equation 1): here β_i = 1, which is exact as long as SkipInit holds the
    branches at 0. So it is "SkipInit with scaled weight standardization", not the papers' NF-ResNet
    to the letter. In ``model=resnet`` the ReLU after the addition is not scaled.

    The official code (google-deepmind/deepmind-research, ``nfnets``) has the α, λ, smallest length
    1e-3 and starts that are here; it clips the last layer's bias, too. From its start at 0,
    SkipInit's scale moves by at most 1e-5 of the learning rate in each step while it is clipped: it
    takes some thousand steps to open the branches.

    The papers train with ``optim.decay_norm=false`` (no decay of gains, biases and SkipInit's
    scale), Nesterov momentum (``optim.nesterov=true``) and a warm-up.
    """

    name: str = "norm_free"

    affine: bool = False
    """Whether to learn a scale γ and a shift β per channel before each activation, beside the gain
    and bias of each convolution; the papers do not."""

    alpha: float = setting(0.2, above=0, most=1)
    """The constant α that multiplies each residual branch, beside SkipInit's learned scale."""

    clipping: float | None = setting(0.01, above=0)
    """How long a unit's gradient may be in terms of its weights (λ); smaller batches stand larger
    values; null: no clipping."""

    title: ClassVar[str] = "Normalizer-free: scaled weights, SkipInit, clipped gradients"
    axes: ClassVar[str] = "-"
    formula: ClassVar[str] = (
        "each convolution's weights w, over the K inputs of output o:\n"
        "ŵ = g_o · (w - μ_o) / √(K · (σ²_o + 1e-6)), and a bias\n"
        "activation: √(2 / (1 - 1/π)) · ReLU\n"
        "end of a residual branch: x + α · s · f(x), s learned, from 0\n"
        "before each update, a unit's gradient G ← G · min(1, λ · max(‖W‖, 0.001) / ‖G‖)"
    )
    paper: ClassVar[str] = (
        "Brock, De, Smith & Simonyan, High-Performance Large-Scale Image Recognition Without"
        " Normalization, 2021, arXiv 2102.06171; Brock, De & Smith, Characterizing signal"
        " propagation to close the performance gap in unnormalized ResNets, 2021, arXiv 2101.08692"
    )
    cite: ClassVar[str] = "Brock et al. 2021, 2102.06171"
    folds: ClassVar[bool] = True
    needs: ClassVar[str] = "the ends of residual branches"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNets with SkipInit: what batch norm gains is little at a small batch",
            results={},
            source="De & Smith 2020, arXiv 2002.10444, abstract",
            basis="claimed",
        ),
    )
    starts: ClassVar[dict[str, float]] = {"gain": 1.0, "shift": 0.0, "scale": 0.0}

    def build(
        self, channels: int, *, act: bool = True, norm_batch: int | None = None
    ) -> ScaledActivation:
        return ScaledActivation(
            channels, eps=self.eps, affine=self.affine, act=act, clipping=self.clipping
        )

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        y = scale_and_shift(x, state.get("weight"), state.get("bias"))
        return F.relu(y) * GAIN if act else y

    def convolution(self, conv: Convolution) -> nn.Module:
        return ScaledConv.of(conv, clipping=self.clipping)

    def reference_convolution(self, state: State) -> tuple[Tensor, Tensor | None]:
        rows = state["weight"].flatten(1)
        centred = rows - rows.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        rows = state["gain"][:, None] * centred / (rows.shape[1] * (variance + 1e-6)).sqrt()
        shift = state["shift"] + state["bias"] if "bias" in state else state["shift"]
        return rows.view(state["weight"].shape), shift

    def branch_end(self) -> BranchEnd:
        return SkipInit(alpha=self.alpha, clipping=self.clipping)

    def reference_branch(self, x: Tensor, state: State) -> Tensor:
        return x * self.alpha * state["scale"]

    def reference_gradient(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        if self.clipping is None:
            return gradient
        axes = tuple(range(1, parameter.dim())) or (0,)
        weight, length = ((t**2).sum(axes, keepdim=True).sqrt() for t in (parameter, gradient))
        longest = self.clipping * weight.clamp_min(1e-3)
        return torch.where(length > longest, gradient * longest / length, gradient)
