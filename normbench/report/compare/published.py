"""Published numbers that a comparison can be compared with, as data with their sources.

All values are errors in %. Nothing here was measured by normbench.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from normbench.report.compare.statistics import Estimate, of_deviations

SEEN = "numbers seen in its public files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Someone's test errors by the number of images that share batch norm's statistics.

    Attributes:
        key: a short name for files.
        cite: who, when, where.
        source: where the numbers were seen, or who claims them.
        data, model, epochs: what was trained; epochs None where it is not said.
        lines: norm -> images that share statistics -> error in %.
        regime: what "batch size" means there, in words.
        ratio: the optimizer's batch over the images that share statistics; None where not said.
        rate: the learning-rate rule, or "".
        decay: the weight decay; None where it is not said.
        names: what the data set is called here, if it is here.
        seeds: how many a value is the mean of; None where it is not said.
        groups: of group norm, in every layer; None where it is not known.
        copied: norms whose values are another publication's: no independent evidence.
        spread: like ``lines``, the standard deviation over seeds, where it is known.
        sweeps: for ``groups`` and ``channels_per_group`` -> value -> error in % of group norm.
        caveats: what to know before believing it.
    """

    key: str
    cite: str
    source: str
    data: str
    model: str
    epochs: int | None
    lines: Mapping[str, Mapping[int, float]]
    regime: str
    ratio: int | None
    rate: str = ""
    decay: float | None = None
    names: tuple[str, ...] = ()
    seeds: int | None = None
    groups: int | None = None
    copied: tuple[str, ...] = ()
    spread: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    sweeps: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def has(self, terms: "Terms") -> bool:
        """Whether all terms of a contrast were published, and one of them first here."""
        known = all(x in self.lines.get(norm, {}) for _, norm, x in terms)
        return known and not all(norm in self.copied for _, norm, _ in terms)

    def sum(self, terms: "Terms") -> Estimate:
        """A sum of errors; with an interval if their spread is known."""
        mean = sum(sign * self.lines[norm][x] for sign, norm, x in terms)
        known = [self.spread.get(norm, {}).get(x) for _, norm, x in terms]
        deviations = [value for value in known if value is not None]
        if self.seeds is None or len(deviations) < len(terms):
            return Estimate(mean, None, None, 1)
        return of_deviations(mean, deviations, self.seeds)


Terms = tuple[tuple[int, str, int], ...]
"""A contrast: a sum of errors, each ``(sign, norm, images that share statistics)``."""


WU_HE = Publication(
    key="wu-he-2018",
    cite="Wu & He 2018, Group Normalization, arXiv 1803.08494, tables 1 to 3",
    source=(
        "batch and group norm's numbers seen in switchable norm's public table, the others as the"
        " paper claims them"
    ),
    data="ImageNet",
    model="ResNet-50",
    epochs=100,
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
        "batch_renorm": {4: 26.3},
    },
    sweeps={
        "groups": {64: 24.6, 32: 24.1, 16: 24.6, 8: 24.4, 4: 24.6, 2: 24.7, 1: 25.3},
        "channels_per_group": {64: 24.4, 32: 24.5, 16: 24.2, 8: 24.3, 4: 24.8, 2: 25.6, 1: 28.4},
    },
    caveats=(
        "errors on the validation images, the median of the last five epochs; no interval is given",
        "each block's last norm starts with γ = 0",
    ),
)

BEFRANKE = Publication(
    key="befranke-groupnorm",
    cite="BeFranke/GroupNorm, a public repository: means over the seeds of its results.csv",
    source=SEEN,
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
        "each block's last norm starts with γ = 0, for group norm only",
        "the training images are never shuffled",
        "it validates on the test images",
    ),
)

_SWITCHABLE = "Luo et al. 2018, Switchable Normalization, arXiv 1806.10779, its repository's table"


def _errors(accuracies: Mapping[int, float]) -> dict[int, float]:
    return {x: round(100 - value, 2) for x, value in accuracies.items()}


SWITCHABLE = Publication(
    key="switchable-2018",
    cite=f"{_SWITCHABLE}, 8 GPUs",
    source=SEEN,
    data="ImageNet",
    model="ResNet-50",
    epochs=100,
    regime="8 GPUs with statistics of their own: the optimizer's batch is 8 times the norm's",
    ratio=8,
    groups=32,
    lines={
        "batch": _errors({32: 76.4, 16: 76.3, 8: 75.2, 4: 72.7, 2: 65.3}),
        "group": _errors({32: 75.9, 16: 75.8, 8: 76.0, 4: 75.8, 2: 75.9, 1: 75.5}),
        "switchable": _errors({32: 76.9, 16: 76.7, 8: 76.7, 4: 75.9, 2: 75.6, 1: 75.0}),
    },
    copied=("batch", "group"),
    caveats=(
        "batch and group norm from 32 to 2 are Wu & He's own numbers, so only switchable norm's"
        " are independent of them",
    ),
)

SWITCHABLE_ONE_GPU = Publication(
    key="switchable-2018-one-gpu",
    cite=f"{_SWITCHABLE}, one GPU",
    source=SEEN,
    data="ImageNet",
    model="ResNet-50",
    epochs=100,
    regime="one GPU: the optimizer's batch is the norm's",
    ratio=1,
    groups=32,
    lines={
        "batch": _errors({8: 75.4, 16: 76.2, 32: 76.5}),
        "group": _errors({8: 75.5, 16: 75.9, 32: 75.8}),
    },
    caveats=("one training each; no interval is given",),
)

MABN = Publication(
    key="mabn-2020",
    cite="Yan et al. 2020, Moving Average Batch Normalization, its repository's README",
    source=SEEN,
    data="ImageNet",
    model="ResNet-50",
    epochs=None,
    regime="the norm's batch is small and the optimizer's is a regular one",
    ratio=None,
    lines={
        "batch": {32: 23.41, 2: 35.22},
        "batch_renorm": {2: 30.29},
        "moving_batch": {2: 23.67},
    },
    caveats=("no number of seeds and no interval is given",),
)

ONLINE_CIFAR10, ONLINE_CIFAR100 = (
    Publication(
        key=f"online-{name}",
        cite="Chiley et al. 2019, Online Normalization, the Cerebras repository's table",
        source=SEEN,
        data=data,
        model="ResNet-20",
        epochs=250,
        names=(name,),
        regime="one device: the optimizer's batch is the norm's",
        ratio=1,
        lines={norm: {128: round(100 - value, 2)} for norm, value in accuracies.items()},
        caveats=("the best epoch on the test images", "no interval is given"),
    )
    for name, data, accuracies in (
        ("cifar10", "CIFAR-10",
         {"online": 92.3, "batch": 92.2, "instance": 90.4, "group": 90.3, "layer": 87.4}),
        ("cifar100", "CIFAR-100",
         {"online": 68.6, "batch": 68.6, "instance": 63.1, "group": 63.3, "layer": 59.2}),
    )
)  # fmt: skip

FRN_REPRODUCTION = Publication(
    key="frn-reproduction",
    cite="Public reproduction of Singh & Krishnan 2020, Filter Response Normalization",
    source=SEEN,
    data="CIFAR-10",
    model="ResNet-20",
    epochs=400,
    names=("cifar10",),
    regime="one device: the optimizer's batch is the norm's",
    ratio=1,
    lines={"batch": _errors({128: 93.01, 32: 91.2}), "frn": _errors({128: 92.3, 32: 92.3})},
    caveats=("no interval is given",),
)

PUBLICATIONS = (
    WU_HE, BEFRANKE, SWITCHABLE_ONE_GPU, SWITCHABLE, MABN, ONLINE_CIFAR10, ONLINE_CIFAR100,
    FRN_REPRODUCTION,
)  # fmt: skip
"""All of them."""
