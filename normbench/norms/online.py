"""Online normalization: one example after another, controlled forward and backward."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.norms.base import NORMS, Norm, NormConfig, Published, State
from normbench.norms.parts import mean_over, positions, scale_and_shift, spread
from normbench.norms.settings import setting


class OnlineNorm(Norm):
    """Online normalization (Chiley et al. 2019, arXiv 1905.05894, section 3).

    The examples of a batch are taken one after another, in order. Each is normalized with an
    exponential average of the statistics of the examples before it. The gradient is made orthogonal
    to the output and to a constant only on average over examples, by two accumulated errors. With
    ``layer_scaling`` what has been scaled by γ and shifted by β is divided by its root mean square
    over the layer, which keeps activations from growing. Evaluation uses the averages as they are.

    Attributes:
        running_mean, running_var: the averages, shape [C].
        output_error, constant_error: the accumulated errors ε^(y) and ε^(1), shape [C].
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels", "replicas")
    batch_dependent = True

    running_mean: Tensor
    running_var: Tensor
    output_error: Tensor
    constant_error: Tensor

    def __init__(self, channels: int, config: "OnlineNormConfig", *, act: bool) -> None:
        super().__init__(channels, eps=config.eps, affine=config.affine, act=act)
        self.replicas = 1
        self.forward_decay, self.backward_decay = config.forward_decay, config.backward_decay
        self.layer_scaling = config.layer_scaling
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("output_error", torch.zeros(channels))
        self.register_buffer("constant_error", torch.zeros(channels))

    @property
    def axes(self) -> str:
        return "earlier N·H·W"

    def normalize(self, x: Tensor) -> Tensor:
        x = x.to(self.running_mean.dtype)
        if self.training:
            y: Tensor = _Control.apply(x, self)
        else:
            factor = (self.running_var + self.eps).rsqrt()
            y = torch.addcmul(spread(-self.running_mean * factor, x), x, spread(factor, x))
        y = scale_and_shift(y, self.weight, self.bias)
        return self._scaled(y) if self.layer_scaling else y

    def _scaled(self, y: Tensor) -> Tensor:
        layers = y.unflatten(1, (self.replicas, -1))
        square = layers.square().mean(tuple(range(2, layers.dim())), keepdim=True)
        scaled: Tensor = (layers * (square + self.eps).rsqrt()).flatten(1, 2)
        return scaled


class _Control(torch.autograd.Function):
    """Training without γ, β and layer scaling: a factor and a term for each example and channel.

    Forward, for example t: y_t = (x_t - μ_{t-1}) / σ_{t-1}, where μ and σ² follow
    ``μ_t = α·μ_{t-1} + (1-α)·m_t`` and
    ``σ²_t = α·σ²_{t-1} + (1-α)·s_t + α(1-α)·(m_t - μ_{t-1})²``; m_t, s_t are its own.
    Backward: x̃'_t = y'_t - (1-α)·ε^y_{t-1}·y_t, ε^y_t = ε^y_{t-1} + mean of x̃'_t·y_t;
    x'_t = x̃'_t / σ_{t-1} - (1-α)·ε^1_{t-1}, ε^1_t = ε^1_{t-1} + mean of x'_t.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: OnlineNorm) -> Tensor:
        axes, keep = positions(x), layer.forward_decay
        var, mean = torch.var_mean(x, axes, correction=0) if axes else (torch.zeros_like(x), x)
        decay = torch.full_like(mean, keep)
        means = _recursion(decay, (1 - keep) * mean, layer.running_mean)
        new = (1 - keep) * (var + keep * (mean - means[:-1]).square())
        variances = _recursion(decay, new, layer.running_var)
        layer.running_mean.copy_(means[-1])
        layer.running_var.copy_(variances[-1])
        inverse = (variances[:-1] + layer.eps).rsqrt()
        term = -means[:-1] * inverse
        y_mean = mean * inverse + term
        y_square = var * inverse.square() + y_mean.square()
        ctx.layer = layer
        ctx.save_for_backward(x, inverse, term, y_mean, y_square)
        return torch.addcmul(_like(term, x), x, _like(inverse, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, inverse, term, y_mean, y_square = ctx.saved_tensors
        layer, axes, rest = ctx.layer, positions(x), 1 - ctx.layer.backward_decay
        along = mean_over(grad * x, axes).view_as(term) * inverse
        level = mean_over(grad, axes).view_as(term)
        along = along + level * term  # the mean of y'·y
        errors = _recursion(1 - rest * y_square, along, layer.output_error)
        pull = rest * errors[:-1]
        level = (level - pull * y_mean) * inverse
        decay = torch.full_like(level, layer.backward_decay)
        constants = _recursion(decay, level, layer.constant_error)
        layer.output_error.copy_(errors[-1])
        layer.constant_error.copy_(constants[-1])
        # x'_t = (y'_t - pull·y_t)/σ - rest·ε^1 with y_t = x_t/σ + term
        constant = -pull * term * inverse - rest * constants[:-1]
        slope = _like(-pull * inverse.square(), x)
        return torch.addcmul(_like(constant, x), x, slope).addcmul_(grad, _like(inverse, x)), None


def _recursion(factor: Tensor, term: Tensor, start: Tensor) -> Tensor:
    """The start and all values of e_t = factor_t·e_{t-1} + term_t, [N + 1, C].

    Pairs of steps become one, then pairs of those, so that it takes log₂ N operations.

    Args:
        factor, term: [N, C].
        start: e_0, [C].
    """
    factor, term = factor.clone(), term.clone()
    distance = 1
    while distance < len(term):
        earlier = factor[distance:] * term[:-distance]
        product = factor[distance:] * factor[:-distance]
        term[distance:] += earlier
        factor[distance:] = product
        distance *= 2
    return torch.cat([start.unsqueeze(0), torch.addcmul(term, factor, start)])


def _like(values: Tensor, x: Tensor) -> Tensor:
    """[N, C] as a factor or term of ``x`` [N, C, ...]."""
    return values.view(*values.shape, *(1,) * (x.dim() - 2))


@NORMS.register("online")
@dataclass(kw_only=True, slots=True)
class OnlineNormConfig(NormConfig):
    """Online normalization."""

    name: str = "online"

    forward_decay: float = setting(0.999, least=0, below=1)
    """How much of the averages each example leaves as it is, α_f; below 1."""

    backward_decay: float = setting(0.99, least=0, below=1)
    """How much of the accumulated errors each example leaves as it is, α_b; below 1."""

    layer_scaling: bool = True
    """Whether to divide by the root mean square over the layer."""

    title: ClassVar[str] = "Online normalization"
    axes: ClassVar[str] = "earlier N·H·W"
    formula: ClassVar[str] = (
        "m_t, s_t = mean and variance of x[t, c, h, w] over h, w, for example t\n"
        "y_t = (x_t - μ_t-1) / √(σ²_t-1 + ε)\n"
        "μ_t = α_f · μ_t-1 + (1 - α_f) · m_t\n"
        "σ²_t = α_f · σ²_t-1 + (1 - α_f) · s_t + α_f · (1 - α_f) · (m_t - μ_t-1)²\n"
        "z = γ_c · y + β_c, divided by √(mean of z² over c, h, w + ε)\n"
        "backward, with g = ∂L/∂y: a_t = g_t - (1 - α_b) · e_t-1 · y_t,"
        " e_t = e_t-1 + mean of a_t · y_t\n"
        "∂L/∂x_t = b_t = a_t / √(σ²_t-1 + ε) - (1 - α_b) · u_t-1, u_t = u_t-1 + mean of b_t"
    )
    paper: ClassVar[str] = (
        "Chiley, Sharapov, Kosson, Koster, Reece, Samaniego de la Fuente, Subbiah & James, Online"
        " Normalization for Training Neural Networks, 2019, arXiv 1905.05894, section 3"
    )
    cite: ClassVar[str] = "Chiley et al. 2019, 1905.05894"
    starts: ClassVar[dict[str, float]] = {
        **{"running_mean": 0.0, "running_var": 1.0, "output_error": 0.0, "constant_error": 0.0}
    }
    batch_dependent: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    evaluation: ClassVar = "running statistics"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-20, CIFAR-10, accuracy in %, batch 128, best epoch",
            results={"online": 92.3, "batch": 92.2, "instance": 90.4, "group": 90.3, "layer": 87.4},
            source="Cerebras/online-normalization",
            basis="seen",
        ),
    )

    def build(
        self, channels: int, *, act: bool = True, norm_batch: int | None = None
    ) -> OnlineNorm:
        return OnlineNorm(channels, self, act=act)

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        if training:
            y: Tensor = _Reference.apply(x, state, self)
        else:
            root = spread((state["running_var"] + self.eps).sqrt(), x)
            y = (x - spread(state["running_mean"], x)) / root
        y = scale_and_shift(y, state.get("weight"), state.get("bias"))
        if self.layer_scaling:
            y = y / ((y**2).mean(tuple(range(1, x.dim())), keepdim=True) + self.eps).sqrt()
        return y.relu() if act else y


class _Reference(torch.autograd.Function):
    """The control processes, example by example."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, state: State, config: OnlineNormConfig) -> Tensor:
        keep, ctx.state, ctx.config, ctx.kept = config.forward_decay, state, config, []
        for example in x.split(1):
            mean, variance = state["running_mean"], state["running_var"]
            m = mean_over(example, positions(x)).flatten()
            s = mean_over((example - spread(m, x)) ** 2, positions(x)).flatten()
            root = (variance + config.eps).sqrt()
            ctx.kept.append(((example - spread(mean, x)) / spread(root, x), root))
            state["running_mean"] = keep * mean + (1 - keep) * m
            state["running_var"] = (
                keep * variance + (1 - keep) * s + keep * (1 - keep) * (m - mean) ** 2
            )
        return torch.cat([y for y, _ in ctx.kept])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        state, rest, axes, found = ctx.state, 1 - ctx.config.backward_decay, positions(grad), []
        for g, (y, root) in zip(grad.split(1), ctx.kept, strict=True):
            e, u = state["output_error"], state["constant_error"]
            a = g - rest * spread(e, y) * y
            state["output_error"] = e + mean_over(a * y, axes).flatten()
            b = a / spread(root, y) - rest * spread(u, y)
            state["constant_error"] = u + mean_over(b, axes).flatten()
            found.append(b)
        return torch.cat(found), None, None
