"""Batch normalization: one mean and variance a channel, over N·H·W."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.errors import UsageError
from normbench.norms.base import NORMS, Norm, NormConfig, State, spatial_size
from normbench.norms.parts import finished, mean_over, positions, scale_and_shift, spread
from normbench.norms.published import Published
from normbench.norms.settings import setting


class BatchNorm(Norm):
    """Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167, algorithm 1 and 2).

    In training, each channel is normalized with the mean and the biased variance over N·H·W, and
    ``running ← (1 - momentum)·running + momentum·batch`` follows (the running variance takes the
    unbiased one). In evaluation the running statistics are used.

    With ``norm_batch`` = s the statistics are those of consecutive sub-batches of s examples
    ("ghost" batch norm, Hoffer et al. 2017, arXiv 1705.08741), and the running statistics move by
    the mean over the sub-batches.

    Frozen, it normalizes with the running statistics in training, too, and leaves them as they are.
    γ and β are still learned; the frozen layers of torchvision and Detectron2 keep them as well.

    Args:
        frozen: whether it is frozen from the start.

    Attributes:
        running_mean, running_var: shape [C].
        frozen: whether it is frozen now.
    """

    setting: ClassVar[str] = "batch"
    """Its name in the configuration."""

    correction: ClassVar[int] = 1
    """What is taken from the number of values to divide by in ``running_var``: 1 is unbiased."""

    remedy: ClassVar[str] = "a larger batch or larger images, or norm=group"

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        act: bool = True,
        norm_batch: int | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__(channels, eps=eps, affine=affine, act=act)
        self.momentum = momentum
        self.norm_batch = norm_batch
        self.frozen = frozen
        self.batch_dependent = not frozen
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    @property
    def axes(self) -> str:
        return "N·H·W" if self.norm_batch is None else f"{self.norm_batch} of N·H·W"

    def values_per_statistic(self, shape: torch.Size) -> int | None:
        if self.frozen:
            return None
        return min(self.norm_batch or shape[0], shape[0]) * spatial_size(shape)

    def _cause(self, batch: int) -> str:
        shared = self.norm_batch is not None and self.norm_batch <= batch
        size = f"norm_batch={self.norm_batch}" if shared else f"batch={batch}"
        return f"norm={self.setting} {size}"

    def normalize(self, x: Tensor) -> Tensor:
        by_batch = self.training and not self.frozen
        if by_batch and (parts := self.num_sub_batches(x.shape)) > 1:
            return self._normalize_sub_batches(x, parts)
        # torch.batch_norm is what F.batch_norm calls after a check that the above replaces.
        return torch.batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            by_batch,
            self.momentum,
            self.eps,
            torch.backends.cudnn.enabled,
        )

    def num_sub_batches(self, shape: torch.Size) -> int:
        """Into how many sub-batches with statistics of their own an input of ``shape`` falls.

        Raises:
            UsageError: they do not divide the batch, or a mean would run over a single value.
        """
        if self.values_per_statistic(shape) == 1:
            raise self.single_value(shape)
        return num_sub_batches(shape[0], self.norm_batch)

    def _normalize_sub_batches(self, x: Tensor, parts: int) -> Tensor:
        mean = self.running_mean.repeat(parts)
        var = self.running_var.repeat(parts)
        y = F.batch_norm(folded(x, parts), mean, var, None, None, True, self.momentum, self.eps)
        with torch.no_grad():
            self.running_mean.copy_(mean.view(parts, -1).mean(0))
            self.running_var.copy_(var.view(parts, -1).mean(0))
        return scale_and_shift(unfolded(y, parts), self.weight, self.bias)


class LateFrozenBatchNorm(BatchNorm):
    """Batch normalization that is frozen from a share of the training on.

    Args:
        freeze_at: that share.
    """

    def __init__(self, channels: int, *, freeze_at: float, **settings: Any) -> None:
        super().__init__(channels, **settings)
        self.freeze_at = freeze_at

    def set_share(self, share: float) -> None:
        self.frozen = share >= self.freeze_at

    def normalize(self, x: Tensor) -> Tensor:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("norm.freeze_at makes later steps other than those recorded")
        return super().normalize(x)


def num_sub_batches(n: int, size: int | None) -> int:
    """Into how many sub-batches of ``size`` examples a batch of ``n`` falls.

    Raises:
        UsageError: they do not divide it, or are of no example.
    """
    if size is not None and size < 1:
        raise UsageError(f"norm_batch={size}: must be at least 1")
    if size is None or size >= n:
        return 1
    if n % size:
        raise UsageError(f"norm_batch={size} does not divide a batch of {n}")
    return n // size


def folded(x: Tensor, parts: int) -> Tensor:
    """Consecutive sub-batches as channels of their own, so that one call serves them all.

    [N, C, ...] becomes [N/parts, parts·C, ...].
    """
    y: Tensor = x.unflatten(0, (parts, -1)).transpose(0, 1).flatten(1, 2)
    return y


def unfolded(y: Tensor, parts: int) -> Tensor:
    """The inverse of :func:`folded`."""
    x: Tensor = y.unflatten(1, (parts, -1)).transpose(0, 1).flatten(0, 1)
    return x


@NORMS.register("batch")
@dataclass(kw_only=True, slots=True)
class BatchNormConfig(NormConfig):
    """Batch normalization."""

    name: str = "batch"

    momentum: float = setting(0.1, above=0, most=1)
    """How far the running statistics move toward each batch's; above 0, at most 1."""

    frozen: bool = False
    """Whether to normalize with the running statistics in training, too, and never change them."""

    freeze_at: float | None = setting(None, above=0, below=1)
    """The share of the training after which it is frozen, such as 0.5; null: never."""

    title: ClassVar[str] = "Batch normalization"
    axes: ClassVar[str] = "N·H·W"
    formula: ClassVar[str] = (
        "μ_c = mean of x[n, c, h, w] over n, h, w\n"
        "σ²_c = mean of (x - μ_c)² over n, h, w\n"
        "y = γ_c · (x - μ_c) / √(σ²_c + ε) + β_c\n"
        "evaluation uses running averages of μ and σ²; so does training where it is frozen"
    )
    paper: ClassVar[str] = (
        "Ioffe & Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing"
        " Internal Covariate Shift, 2015, arXiv 1502.03167, algorithm 1"
    )
    starts: ClassVar[dict[str, float]] = {"running_mean": 0.0, "running_var": 1.0}
    cite: ClassVar[str] = "Ioffe & Szegedy 2015, 1502.03167"
    batch_dependent: ClassVar[bool] = True
    evaluation: ClassVar = "running statistics"
    folds: ClassVar[bool] = True
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-50, ImageNet, error in %, by images per GPU",
            results={"32": 23.6, "16": 23.7, "8": 24.8, "4": 27.3, "2": 34.7},
            smallest=2,
            source="arXiv 1803.08494",
            basis="seen",
        ),
        Published(
            measured="ResNet-20, CIFAR-10, accuracy in %, by batch size",
            results={"32": 86.4, "16": 86.4, "8": 86.14, "4": 84.77, "2": 80.3},
            smallest=2,
            source="results.csv of BeFranke/GroupNorm, means of 5 seeds",
            basis="seen",
        ),
    )

    def __post_init__(self) -> None:
        NormConfig.__post_init__(self)
        if self.frozen and self.freeze_at is not None:
            raise UsageError(
                f"norm.frozen=true and norm.freeze_at={self.freeze_at}: give one of the two"
            )

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> BatchNorm:
        settings: dict[str, Any] = {
            **{"eps": self.eps, "momentum": self.momentum, "affine": self.affine},
            **{"act": act, "norm_batch": norm_batch, "frozen": self.frozen},
        }
        if self.freeze_at is None:
            return BatchNorm(channels, **settings)
        return LateFrozenBatchNorm(channels, freeze_at=self.freeze_at, **settings)

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        training = training and not self.frozen
        axes = (0, *positions(x))
        parts = x.split(norm_batch or len(x)) if training else [x]
        if training:
            means = [mean_over(part, axes) for part in parts]
            pairs = list(zip(parts, means, strict=True))
            variances = [mean_over((part - mean) ** 2, axes) for part, mean in pairs]
            count = parts[0].numel() // x.shape[1]
            self._move(state, "running_mean", torch.stack(means).mean(0))
            self._move(state, "running_var", torch.stack(variances).mean(0) * count / (count - 1))
        else:
            means = [spread(state["running_mean"], x)]
            variances = [spread(state["running_var"], x)]
        normalized = [
            (part - mean) / (variance + self.eps).sqrt()
            for part, mean, variance in zip(parts, means, variances, strict=True)
        ]
        return finished(torch.cat(normalized), state, act)

    def _move(self, state: State, name: str, target: Tensor) -> None:
        if name in state:
            old, new = state[name], target.detach().flatten()
            state[name] = (1 - self.momentum) * old + self.momentum * new
