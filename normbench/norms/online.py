"""Online normalization: one example after another, controlled forward and backward."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.norms.base import NORMS, Norm, NormConfig, State
from normbench.norms.moments import Moments, over_groups, sum_over
from normbench.norms.parts import (
    mean_over,
    per_example,
    positions,
    scale_and_shift,
    spread,
)
from normbench.norms.published import Published
from normbench.norms.settings import setting


class OnlineNorm(Norm):
    """Online normalization (Chiley et al. 2019, arXiv 1905.05894, section 3).

    The examples of a batch are taken one after another, in order. Each is normalized with an
    exponential average of the statistics of the examples before it. The gradient is made orthogonal
    to the output and to a constant only on average over examples, by two accumulated errors. With
    ``layer_scaling`` what has been scaled by γ and shifted by β is divided by its root mean square
    over the layer, which keeps activations from growing. Evaluation uses the averages as they are.

    The official code (Cerebras/online-normalization) computes the same, with the defaults that are
    here: ε 1e-5, decays 0.999 and 0.99. Its experiments use layer scaling; its layer's default is
    to clamp the output to -5 to 5 instead, which is not here. Its experiments on CIFAR-10 have the
    decays 1023/1024 and 127/128, on CIFAR-100 511/512 and 15/16.

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
        if self.training and len(x) > 0:
            trained: Tensor = _Online.apply(x, self.weight, self.bias, self)
            return trained
        factor = (self.running_var + self.eps).rsqrt()
        y = torch.addcmul(spread(-self.running_mean * factor, x), x, spread(factor, x))
        y = scale_and_shift(y, self.weight, self.bias)
        if not self.layer_scaling:
            return y
        return y * per_example(self.scale(mean_over(y.square(), positions(y)).flatten(1)), y)

    def scale(self, square: Tensor) -> Tensor:
        """The factor of layer scaling, [N, C], from the mean squares of each channel, [N, C]."""
        if not self.layer_scaling:
            return torch.ones_like(square)
        return (over_groups(square, self.replicas) + self.eps).rsqrt_()


class _Online(torch.autograd.Function):
    """Training: control process, γ, β and layer scaling as a factor and a term, forward and back.

    With y = (x - μ)/σ, u = γ·y + β and z = f·u, f = 1/√(mean of u² over the layer + ε). All but
    what is said of x, grad and the result are numbers per example and channel, [N, C].
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: OnlineNorm
    ) -> Tensor:
        mean, var = (each.flatten(1) for each in Moments.forward(x))
        gamma = torch.ones_like(layer.running_mean) if weight is None else weight
        beta = torch.zeros_like(gamma) if bias is None else bias
        before, inverse = _controlled(layer, mean, var)
        term, gain = -before * inverse, gamma * inverse
        y_mean = torch.addcmul(term, mean, inverse)
        u_mean = torch.addcmul(beta, gamma, y_mean)
        scale = layer.scale(torch.addcmul(u_mean.square(), gain.square(), var))
        ctx.layer, ctx.affine = layer, weight is not None
        ctx.save_for_backward(x, gamma, beta, var, inverse, term, gain, y_mean, u_mean, scale)
        constant = torch.addcmul(beta, gamma, term).mul_(scale)
        return torch.addcmul(per_example(constant, x), x, per_example(scale * gain, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, gamma, beta, var, inverse, term, gain, y_mean, u_mean, scale = ctx.saved_tensors
        layer, axes = ctx.layer, positions(x)
        count = x.numel() // scale.numel()
        # The mean of the gradient of u, and of it times y.
        level = sum_over(grad, axes).view_as(scale).mul_(scale / count)
        along = sum_over(grad * x, axes).view_as(scale).mul_(scale / count)
        along = torch.addcmul(level * term, along, inverse)
        y_square = torch.addcmul(y_mean.square(), var, inverse.square())
        pull = torch.zeros_like(scale)
        if layer.layer_scaling:  # which takes away what lies along u
            pull = over_groups(torch.addcmul(beta * level, gamma, along), layer.replicas)
            pull = pull * scale.square()
            level = level.addcmul_(pull, u_mean, value=-1)
            of_u = torch.addcmul(beta * y_mean, gamma, y_square)
            along = along.addcmul_(pull, of_u, value=-1)
        to_gamma, to_beta = count * along.sum(0), count * level.sum(0)
        by_y, by_one = _corrections(layer, gamma * level, gamma * along, inverse, y_mean, y_square)
        pull.mul_(gain)
        by_y.addcmul_(gamma, pull)
        by_one.addcmul_(beta, pull).addcmul_(by_y, term)
        dx = torch.addcmul(per_example(-by_one, x), x, per_example(-by_y * inverse, x))
        dx.addcmul_(grad, per_example(scale * gain, x))
        return (dx, to_gamma, to_beta, None) if ctx.affine else (dx, None, None, None)


def _controlled(layer: OnlineNorm, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """μ and 1/σ before each example, [N, C]; moves the averages by all of them.

    ``μ_t = α·μ_{t-1} + (1-α)·m_t``,
    ``σ²_t = α·σ²_{t-1} + (1-α)·s_t + α·(1-α)·(m_t - μ_{t-1})²``.
    """
    keep = layer.forward_decay
    decay = torch.full_like(mean, keep)
    means = _recursion(decay, (1 - keep) * mean, layer.running_mean)
    new = torch.addcmul(var, mean - means[:-1], mean - means[:-1], value=keep).mul_(1 - keep)
    variances = _recursion(decay, new, layer.running_var)
    layer.running_mean.copy_(means[-1])
    layer.running_var.copy_(variances[-1])
    return means[:-1], (variances[:-1] + layer.eps).rsqrt_()


def _corrections(
    layer: OnlineNorm,
    level: Tensor,
    along: Tensor,
    inverse: Tensor,
    y_mean: Tensor,
    y_square: Tensor,
) -> tuple[Tensor, Tensor]:
    """How much of y and of a constant is taken from each example's gradient; moves the errors.

    With g the gradient of y, ``level`` its mean and ``along`` the mean of g·y:
    a_t = g_t - (1-α)·e_{t-1}·y_t, e_t = e_{t-1} + mean of a_t·y_t and
    b_t = a_t/σ - (1-α)·u_{t-1}, u_t = u_{t-1} + mean of b_t.
    """
    rest = 1 - layer.backward_decay
    errors = _recursion(1 - rest * y_square, along, layer.output_error)
    pull = rest * errors[:-1]
    level = torch.addcmul(level, pull, y_mean, value=-1).mul_(inverse)
    constants = _recursion(torch.full_like(level, 1 - rest), level, layer.constant_error)
    layer.output_error.copy_(errors[-1])
    layer.constant_error.copy_(constants[-1])
    return pull.mul_(inverse), rest * constants[:-1]


def _recursion(factor: Tensor, term: Tensor, start: Tensor) -> Tensor:
    """The start and all values of e_t = factor_t·e_{t-1} + term_t, [N + 1, C].

    Pairs of steps become one, then pairs of those, so that it takes log₂ N operations.

    Args:
        factor, term: [N, C].
        start: e_0, [C].
    """
    distance = 1
    while distance < len(term):
        later = factor[distance:]
        joined = torch.addcmul(term[distance:], later, term[:-distance])
        term = torch.cat([term[:distance], joined])
        factor = torch.cat([factor[:distance], later * factor[:-distance]])
        distance *= 2
    return torch.cat([start.unsqueeze(0), torch.addcmul(term, factor, start)])


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
    sub_batches: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    evaluation: ClassVar = "running statistics"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-20, CIFAR-10, accuracy in %, batch 128, best epoch",
            results={"online": 92.3, "batch": 92.2, "instance": 90.4, "group": 90.3, "layer": 87.4},
            smallest=128,
            source="experiments/ExpReproducibility.md of Cerebras/online-normalization",
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
            y: Tensor = _OnlineReference.apply(x, state, self)
        else:
            root = spread((state["running_var"] + self.eps).sqrt(), x)
            y = (x - spread(state["running_mean"], x)) / root
        y = scale_and_shift(y, state.get("weight"), state.get("bias"))
        if self.layer_scaling:
            y = y / ((y**2).mean(tuple(range(1, x.dim())), keepdim=True) + self.eps).sqrt()
        return y.relu() if act else y


class _OnlineReference(torch.autograd.Function):
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
