"""Group normalization, and instance norm, which is a group a channel."""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import torch
from torch import Tensor

from normbench.errors import UsageError
from normbench.norms.base import NORMS, Norm, NormConfig, State, spatial_size
from normbench.norms.parts import finished, mean_over, positions
from normbench.norms.published import Published
from normbench.norms.settings import setting


class GroupNorm(Norm):
    """Group normalization (Wu & He 2018, arXiv 1803.08494, equations 1, 2 and 7).

    The C channels of each example form G groups of neighbours; each group is normalized with the
    mean and the biased variance over its (C/G)·H·W values. Training and evaluation are the same.

    In float32 on a CPU, with channels-last inputs, PyTorch's kernel takes the variance as
    E[x²] - E[x]², which loses digits where a group's mean is much larger than its deviation: the
    largest error of the output is 2e-4 at ten times, 2e-2 at a hundred times, and above 1 at a
    thousand times (contiguous inputs: 2e-6, 1e-5 and 1e-4). Instance norm takes the contiguous
    kernel, which costs it nothing. With fewer groups, a shift by each group's first values would
    cost a tenth of a training step and more, and the contiguous kernel as much at large batches.

    Args:
        channels: C.
        num_groups: G, which must divide C.
    """

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels", "_num_groups")
    remedy: ClassVar[str] = "fewer groups (norm=group or norm=layer) or larger images"

    def __init__(
        self,
        channels: int,
        num_groups: int,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__(channels, eps=eps, affine=affine, act=act)
        if channels % num_groups:
            raise UsageError(_indivisible(f"num_groups={num_groups}", channels))
        self._num_groups = num_groups

    @property
    def num_groups(self) -> int:
        return self._num_groups

    @property
    def axes(self) -> str:
        return {1: "C·H·W", self.channels: "H·W"}.get(self.num_groups, "(C/G)·H·W")

    def values_per_statistic(self, shape: torch.Size) -> int | None:
        return self.channels // self.num_groups * spatial_size(shape)

    def normalize(self, x: Tensor) -> Tensor:
        # torch.group_norm is what F.group_norm calls after a check that this one replaces: at a
        # batch of two, a network's time is the sum of such small things.
        if x.numel() == x.shape[0] * self._num_groups > 0:
            raise self.single_value(x.shape)
        if self._num_groups == self.channels and not x.is_contiguous():
            y = torch.group_norm(x.contiguous(), self._num_groups, self.weight, self.bias, self.eps)
            return y.contiguous(memory_format=_channels_last(x))
        return torch.group_norm(x, self._num_groups, self.weight, self.bias, self.eps)


def _channels_last(x: Tensor) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return formats.get(x.dim(), torch.contiguous_format)


_RULES: dict[str, Callable[[int], int]] = {
    "gcd32": lambda channels: gcd(32, channels),
    "C//16": lambda channels: channels // 16,
}
"""Rules for G that are in use elsewhere, by name: from C to G."""


@dataclass(kw_only=True, slots=True)
class GroupedConfig(NormConfig):
    """A norm of groups of channels, which are chosen by hand or automatically."""

    groups: int | str = setting("auto", least=1, words=("auto", *_RULES))
    """The number of groups G, the same in every layer, or a rule: ``auto``, in each layer the
    largest divisor of C up to ``max_groups`` that leaves at least two channels per group, or those
    of other people's code, ``gcd32`` (the greatest common divisor of 32 and C, which is instance
    norm up to 32 channels where C is a power of two) and ``C//16`` (layer norm at 16)."""

    channels_per_group: int | None = setting(None, least=1)
    """The number of channels C/G in each group instead of ``groups``; null: not used."""

    max_groups: int = setting(32, least=1)
    """The largest G that ``groups=auto`` chooses; 32 is the paper's G."""

    axes: ClassVar[str] = "(C/G)·H·W"
    picture: ClassVar[dict[str, int]] = {"groups": 2}

    def __post_init__(self) -> None:
        NormConfig.__post_init__(self)
        if self.channels_per_group is not None and self.groups != "auto":
            raise UsageError(
                f"norm.groups={self.groups} and norm.channels_per_group={self.channels_per_group}:"
                " give one of the two"
            )

    def num_groups(self, channels: int) -> int:
        """The number of groups G for a layer of ``channels`` channels.

        Raises:
            UsageError: the setting does not divide ``channels``, or ``auto`` finds no G that is
                neither layer norm nor instance norm.
        """
        if self.channels_per_group is not None:
            if channels % self.channels_per_group:
                key = f"norm.channels_per_group={self.channels_per_group}"
                raise UsageError(_indivisible(key, channels))
            return channels // self.channels_per_group
        if self.groups == "auto":
            return self._auto(channels)
        groups = self.groups if isinstance(self.groups, int) else _RULES[self.groups](channels)
        if groups == 0 or channels % groups:
            rule = "" if groups == self.groups else f" gives {groups} groups, which"
            raise UsageError(_indivisible(f"norm.groups={self.groups}{rule}", channels))
        return groups

    def _auto(self, channels: int) -> int:
        limit = min(self.max_groups, channels // 2)
        best = max((g for g in _divisors(channels) if g <= limit), default=1)
        if best == 1:
            raise UsageError(
                f"norm.groups=auto (max_groups={self.max_groups}) finds no way to split"
                f" {channels} channels into two or more groups of two or more; for every layer"
                " use norm=layer, norm=instance or another rule, norm.groups=gcd32"
            )
        return best


@NORMS.register("group")
@dataclass(kw_only=True, slots=True)
class GroupNormConfig(GroupedConfig):
    """Group normalization; the groups are chosen by hand or automatically."""

    name: str = "group"

    title: ClassVar[str] = "Group normalization"
    formula: ClassVar[str] = (
        "g = the group of channel c: ⌊c / (C/G)⌋\n"
        "μ_ng = mean of x[n, c, h, w] over the C/G channels of g and over h, w\n"
        "σ²_ng = mean of (x - μ_ng)² over the same\n"
        "y = γ_c · (x - μ_ng) / √(σ²_ng + ε) + β_c"
    )
    paper: ClassVar[str] = "Wu & He, Group Normalization, 2018, arXiv 1803.08494, equations 1 and 7"
    cite: ClassVar[str] = "Wu & He 2018, 1803.08494"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-50, ImageNet, error in %, by images per GPU",
            results={"32": 24.1, "16": 24.2, "8": 24.0, "4": 24.2, "2": 24.1},
            smallest=2,
            source="arXiv 1803.08494",
            basis="seen",
        ),
        Published(
            measured="ResNet-20, CIFAR-10, accuracy in %, by batch size",
            results={"32": 85.95, "16": 85.71, "8": 85.77, "4": 85.97, "2": 85.79},
            smallest=2,
            source="results.csv of BeFranke/GroupNorm, means of 5 seeds",
            basis="seen",
        ),
        Published(
            measured="ResNet-50, ImageNet, accuracy in %, 8 GPUs, 1 image per GPU",
            results={"group": 75.5, "switchable": 75.0},
            smallest=1,
            source="README of switchablenorms/Switchable-Normalization",
            basis="seen",
        ),
    )

    def note(self, channels: int) -> str | None:
        groups = self.num_groups(channels)
        if groups == 1:
            return f"with one group for {channels} channels, group norm is layer norm"
        if groups == channels:
            return f"with one channel a group at {channels} channels, group norm is instance norm"
        return None

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> GroupNorm:
        return GroupNorm(
            channels, self.num_groups(channels), eps=self.eps, affine=self.affine, act=act
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
        n, c, *space = x.shape
        g = self.num_groups(c)
        groups = x.reshape(n, g, c // g, *space)
        axes = tuple(range(2, groups.dim()))
        mean = groups.mean(axes, keepdim=True)
        variance = ((groups - mean) ** 2).mean(axes, keepdim=True)
        normalized = (groups - mean) / (variance + self.eps).sqrt()
        return finished(normalized.reshape(x.shape), state, act)


@NORMS.register("instance")
@dataclass(kw_only=True, slots=True)
class InstanceNormConfig(NormConfig):
    """Instance normalization."""

    name: str = "instance"

    title: ClassVar[str] = "Instance normalization"
    axes: ClassVar[str] = "H·W"
    formula: ClassVar[str] = (
        "μ_nc = mean of x[n, c, h, w] over h, w\n"
        "σ²_nc = mean of (x - μ_nc)² over h, w\n"
        "y = γ_c · (x - μ_nc) / √(σ²_nc + ε) + β_c"
    )
    paper: ClassVar[str] = (
        "Ulyanov, Vedaldi & Lempitsky, Instance Normalization: The Missing Ingredient for Fast"
        " Stylization, 2016, arXiv 1607.08022, equation 4"
    )
    cite: ClassVar[str] = "Ulyanov et al. 2016, 1607.08022"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            measured="ResNet-50, ImageNet, error in %, by images per GPU",
            results={"32": 28.4},
            smallest=32,
            source="arXiv 1803.08494",
            basis="claimed",
        ),
    )

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> GroupNorm:
        return GroupNorm(channels, channels, eps=self.eps, affine=self.affine, act=act)

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        mean = mean_over(x, positions(x))
        variance = mean_over((x - mean) ** 2, positions(x))
        return finished((x - mean) / (variance + self.eps).sqrt(), state, act)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _indivisible(received: str, channels: int) -> str:
    allowed = ", ".join(map(str, _divisors(channels)))
    return f"{received} does not divide {channels} channels; allowed: {allowed}"
