"""Published numbers that a comparison can be held against, as data with their sources.

All values are errors in %. Nothing here was measured by normbench.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from normbench.report.compare.statistics import Estimate, interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Someone's test errors by the number of images that share batch norm's statistics.

    Attributes:
        key: a short name for files.
        cite: who, when, where.
        data, model, epochs: what was trained.
        names: what the data set is called here, if it is here.
        regime: what "batch size" means there, in words.
        ratio: the optimizer's batch over the images that share statistics.
        rate: the learning-rate rule.
        decay: the weight decay.
        seeds: how many a value is the mean of; None where it is not said.
        groups: of group norm, in every layer; None where it is not known.
        lines: norm -> images that share statistics -> error in %.
        spread: the same for the standard deviation over seeds, where it is known.
        sweeps: for ``groups`` and ``channels_per_group`` -> value -> error in % of group norm.
        caveats: what to know before believing it.
    """

    key: str
    cite: str
    data: str
    model: str
    epochs: int
    names: tuple[str, ...]
    regime: str
    ratio: int
    rate: str
    decay: float
    seeds: int | None
    groups: int | None
    lines: Mapping[str, Mapping[int, float]]
    spread: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    sweeps: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def sum(self, *terms: tuple[int, str, int]) -> Estimate:
        """A sum of errors, each ``(sign, norm, x)``; with an interval if their spread is known."""
        mean = sum(sign * self.lines[norm][x] for sign, norm, x in terms)
        known = [self.spread.get(norm, {}).get(x) for _, norm, x in terms]
        deviations = [value for value in known if value is not None]
        if self.seeds is None or len(deviations) < len(terms):
            return Estimate(mean, None, None, 1)
        half = interval(deviations, self.seeds)
        return Estimate(mean, mean - half, mean + half, self.seeds)


def shown(value: Estimate, bound: float = 0.0) -> bool:
    """Whether a published value lies beyond ±``bound``; without a spread it is taken at its
    word."""
    if value.half is None:
        return abs(value.mean) > bound
    return value.above(bound) or value.below(-bound)


WU_HE = Publication(
    key="wu-he-2018",
    cite="Wu & He 2018, Group Normalization, arXiv 1803.08494, tables 1 to 3",
    data="ImageNet",
    model="ResNet-50",
    epochs=100,
    names=(),
    regime="8 GPUs with statistics of their own: the optimizer's batch is 8 times the norm's",
    ratio=8,
    rate=(
        "0.1·N/32 for N images per GPU (so 0.1·batch/256), divided by 10 after 30, 60 and 90 epochs"
    ),
    decay=1e-4,
    seeds=None,
    groups=32,
    lines={
        "batch": {32: 23.6, 16: 23.7, 8: 24.8, 4: 27.3, 2: 34.7},
        "group": {32: 24.1, 16: 24.2, 8: 24.0, 4: 24.2, 2: 24.1},
        "layer": {32: 25.3},
        "instance": {32: 28.4},
    },
    sweeps={
        "groups": {64: 24.6, 32: 24.1, 16: 24.6, 8: 24.4, 4: 24.6, 2: 24.7, 1: 25.3},
        "channels_per_group": {64: 24.4, 32: 24.5, 16: 24.2, 8: 24.3, 4: 24.8, 2: 25.6, 1: 28.4},
    },
    caveats=(
        "errors on the validation images, the median of the last five epochs; no interval is given",
        "γ of each block's last norm starts at 0",
    ),
)

BEFRANKE = Publication(
    key="befranke-groupnorm",
    cite="BeFranke/GroupNorm, a public repository: means over the seeds of its results.csv",
    data="CIFAR-10",
    model="ResNet-20",
    epochs=100,
    names=("cifar10",),
    regime=(
        "the optimizer's batch is the norm's, if it ran on one device; its job asks for four GPUs,"
        " among which its training script would divide the batch, and with it batch norm's"
    ),
    ratio=1,
    rate="0.1·batch/32, divided by 10 after 30, 60 and 90 epochs",
    decay=1e-4,
    seeds=5,
    groups=8,
    lines={
        "batch": {2: 19.70, 4: 15.23, 8: 13.86, 16: 13.60, 32: 13.60},
        "group": {2: 14.21, 4: 14.03, 8: 14.23, 16: 14.29, 32: 14.05},
    },
    spread={
        "batch": {2: 0.59, 4: 0.41, 8: 0.39, 16: 0.26, 32: 0.34},
        "group": {2: 0.49, 4: 0.34, 8: 0.39, 16: 0.41, 32: 0.29},
    },
    caveats=(
        "which version of the code made the results is not known: its training script has"
        " ResNet-20, its text ResNet-32",
        "γ of each block's last norm starts at 0 for group norm only",
        "the training images are never shuffled",
        "it validates on the test images",
    ),
)

PUBLICATIONS = (WU_HE, BEFRANKE)
"""All of them."""
