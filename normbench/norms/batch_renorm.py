"""Batch renormalization: batch norm, corrected toward the running statistics within limits."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normbench.errors import UsageError
from normbench.norms.base import NORMS, NormConfig, State
from normbench.norms.batch import BatchNorm, folded, unfolded
from normbench.norms.parts import finished, mean_over, positions, spread
from normbench.norms.published import MABN_COCO, MABN_IMAGENET, Published
from normbench.norms.settings import setting


class BatchRenorm(BatchNorm):
    """Batch renormalization (Ioffe 2017, arXiv 1702.03275, algorithm 1).

    What batch norm gives is scaled by r and shifted by d, which make it what the running statistics
    would give, as far as the limits allow; no gradient flows through r and d. The limits start at
    r = 1, d = 0 (batch norm) and rise linearly with the share of the training that is done.

    The paper averages σ = √(σ² + ε) and not σ²; ``running_var`` keeps the square of its average,
    less ε, so that evaluation is batch norm's. It takes the biased variance. The paper has no code;
    its momentum and final limits are the defaults here. Its limits rise between fixed steps, of
    some 130,000; here they do between the same shares of the training. TensorFlow's ``renorm=True``
    has the same momentum, no limits unless they are given, and for evaluation a second average, of
    σ². ContinualAI/avalanche raises both limits by 0.0001 for each image and starts the averages at
    mean 1, σ 0.

    With ``norm_batch`` each sub-batch has its own r and d, and the running statistics move by the
    mean over the sub-batches.

    Attributes:
        running_mean, running_var: shape [C].
        r_limit, d_limit: how far r and 1/r, and d and -d, may go now, shape [1].
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels", "replicas")
    setting: ClassVar[str] = "batch_renorm"
    correction: ClassVar[int] = 0

    r_limit: Tensor
    d_limit: Tensor

    def __init__(
        self, channels: int, config: "BatchRenormConfig", *, act: bool, norm_batch: int | None
    ) -> None:
        super().__init__(
            channels,
            eps=config.eps,
            momentum=config.momentum,
            affine=config.affine,
            act=act,
            norm_batch=norm_batch,
        )
        self.replicas = 1
        self.config = config
        self.register_buffer("r_limit", torch.ones(1))
        self.register_buffer("d_limit", torch.zeros(1))

    def set_share(self, share: float) -> None:
        r_limit, d_limit = self.config.limits(share)
        self.r_limit.fill_(r_limit)
        self.d_limit.fill_(d_limit)

    def normalize(self, x: Tensor) -> Tensor:
        if not self.training or len(x) == 0:
            return super().normalize(x)
        parts = self.num_sub_batches(x.shape)
        x = folded(x, parts) if parts > 1 else x
        scale, shift = self._correction(x, parts)
        # r and d go into batch norm's γ and β, so that its kernel does all the rest.
        if self.weight is not None:
            scale, shift = scale * self.weight, shift * self.weight
        if self.bias is not None:
            shift = shift + self.bias
        cudnn = torch.backends.cudnn.enabled
        y = torch.batch_norm(
            x, scale.flatten(), shift.flatten(), None, None, True, self.momentum, self.eps, cudnn
        )
        return unfolded(y, parts) if parts > 1 else y

    @torch.no_grad()
    def _correction(self, x: Tensor, parts: int) -> tuple[Tensor, Tensor]:
        """r and d, each [parts, C]; moves the running statistics."""
        x = x.to(self.running_mean.dtype)
        # The first half of batch norm's kernel; torch.var_mean takes thirty times as long.
        found = torch.ops.aten.batch_norm_update_stats(x, None, None, self.momentum)
        mean, var = (each.to(x.dtype) for each in found)  # CUDA's are wider than half precision
        mean, std = mean.view(parts, -1), (var + self.eps).sqrt_().view(parts, -1)
        running = (self.running_var + self.eps).sqrt_()
        r = self._limited(std / running, 1 / self.r_limit, self.r_limit)
        d = self._limited((mean - self.running_mean) / running, -self.d_limit, self.d_limit)
        self.running_mean.lerp_(mean.mean(0), self.momentum)
        running.lerp_(std.mean(0), self.momentum)
        torch.sub(running.square_(), self.eps, out=self.running_var)
        return r, d

    def _limited(self, values: Tensor, least: Tensor, most: Tensor) -> Tensor:
        """[parts, C] within the limits of each replica."""
        split = values.unflatten(1, (self.replicas, -1))
        limited: Tensor = split.clamp_(least.unsqueeze(1), most.unsqueeze(1)).flatten(1)
        return limited


@NORMS.register("batch_renorm")
@dataclass(kw_only=True, slots=True)
class BatchRenormConfig(NormConfig):
    """Batch renormalization."""

    name: str = "batch_renorm"

    momentum: float = setting(0.01, above=0, most=1)
    """How far the running statistics move toward each batch's; above 0, at most 1. The paper's
    0.01 takes some 500 steps to leave their start behind: raise it for a shorter training."""

    r_max: float = setting(3.0, least=1)
    """The final limit of r, which is kept from 1/r_max to r_max; at least 1."""

    d_max: float = setting(5.0, least=0)
    """The final limit of d, which is kept from -d_max to d_max; at least 0."""

    starts_at: float = setting(0.04, least=0, below=1)
    """The share of the training after which the limits begin to rise from r = 1, d = 0."""

    r_at: float = setting(0.3, above=0, most=1)
    """The share of the training at which r's limit is reached; above ``starts_at``."""

    d_at: float = setting(0.2, above=0, most=1)
    """The share of the training at which d's limit is reached; above ``starts_at``."""

    title: ClassVar[str] = "Batch renormalization"
    axes: ClassVar[str] = "N·H·W"
    formula: ClassVar[str] = (
        "μ_c, σ²_c = mean and variance of x[n, c, h, w] over n, h, w\n"
        "μ'_c, σ'_c = running averages of μ_c and √(σ²_c + ε), moved afterwards\n"
        "r_c = √(σ²_c + ε) / σ'_c, kept from 1/r_max to r_max\n"
        "d_c = (μ_c - μ'_c) / σ'_c, kept from -d_max to d_max\n"
        "y = γ_c · ((x - μ_c) / √(σ²_c + ε) · r_c + d_c) + β_c; r, d are constants backward\n"
        "r_max and d_max rise from 1 and 0 in the course of the training\n"
        "evaluation: y = γ_c · (x - μ'_c) / σ'_c + β_c"
    )
    paper: ClassVar[str] = (
        "Ioffe, Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized"
        " Models, 2017, arXiv 1702.03275, algorithm 1; its limits rise between steps 5,000 and"
        " 40,000 (r) or 25,000 (d)"
    )
    cite: ClassVar[str] = "Ioffe 2017, 1702.03275"
    starts: ClassVar[dict[str, float]] = {
        **{"running_mean": 0.0, "running_var": 1.0, "r_limit": 1.0, "d_limit": 0.0}
    }
    batch_dependent: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    evaluation: ClassVar = "running statistics"
    folds: ClassVar[bool] = True
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-50, ImageNet, error in %, 4 images per GPU",
            results={"batch": 27.3, "batch_renorm": 26.3},
            smallest=4,
            source="arXiv 1803.08494",
            basis="claimed",
        ),
        MABN_IMAGENET,
        MABN_COCO,
    )

    def __post_init__(self) -> None:
        NormConfig.__post_init__(self)
        for key in ("r_at", "d_at"):
            if getattr(self, key) <= self.starts_at:
                raise UsageError(
                    f"norm.{key}={getattr(self, key)}: must be above norm.starts_at"
                    f" ({self.starts_at})"
                )

    def limits(self, share: float) -> tuple[float, float]:
        """The limits of r and d when a share of the training is done."""
        r, d = (
            min(1.0, max(0.0, (share - self.starts_at) / (at - self.starts_at)))
            for at in (self.r_at, self.d_at)
        )
        return 1 + r * (self.r_max - 1), d * self.d_max

    def build(
        self, channels: int, *, act: bool = True, norm_batch: int | None = None
    ) -> BatchRenorm:
        return BatchRenorm(channels, self, act=act, norm_batch=norm_batch)

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        axes = (0, *positions(x))
        running_mean = spread(state["running_mean"], x)
        running_std = (spread(state["running_var"], x) + self.eps).sqrt()
        if training:
            r_max, d_max = float(state["r_limit"]), float(state["d_limit"])
            normalized, means, stds = [], [], []
            for part in x.split(norm_batch or len(x)):
                mean = mean_over(part, axes)
                std = (mean_over((part - mean) ** 2, axes) + self.eps).sqrt()
                r = (std / running_std).clip(1 / r_max, r_max).detach()
                d = ((mean - running_mean) / running_std).clip(-d_max, d_max).detach()
                normalized.append((part - mean) / std * r + d)
                means.append(mean.detach())
                stds.append(std.detach())
            mean, std = torch.stack(means).mean(0), torch.stack(stds).mean(0)
            moved_mean = running_mean + self.momentum * (mean - running_mean)
            moved_std = running_std + self.momentum * (std - running_std)
            state["running_mean"] = moved_mean.flatten()
            state["running_var"] = moved_std.flatten() ** 2 - self.eps
        else:
            normalized = [(x - running_mean) / running_std]
        return finished(torch.cat(normalized), state, act)
