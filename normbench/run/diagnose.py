"""A trained network with batch norm that does worse in evaluation than in training: why, and what
to do.

The accuracy of the same weights is measured with their running averages, with statistics estimated
anew from training images (:mod:`normbench.training.precise_bn`), with slow averages over batches of
the training size, and with those of batches of several sizes. Differences are paired, image by
image, and nothing is advised for what chance alone would do.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from torch import Tensor, nn

from normbench.data.batches import Batches, Split, evaluation_batches
from normbench.errors import UsageError
from normbench.models.layout import settle_layout
from normbench.norms.batch import BatchNorm
from normbench.norms.foreign import foreign_norm, refuse_more
from normbench.run.remedies import Accuracy, Gain, advice
from normbench.training.loop import dtype_of, evaluate
from normbench.training.precise_bn import (
    BATCH,
    batch_norms,
    estimation,
    reestimate,
    restoring,
    whole_batches,
    with_batch_statistics,
)
from normbench.training.progress import Evaluation

SIZES = (2, 8, 32, 128)
"""How many images share statistics in the batches that are tried."""

ALL = 0.001
"""The momentum that stands for torch's None, an average over all batches."""

KEPT = ("weight", "bias", "running_mean", "running_var")

Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Stray:
    """How far a layer's running statistics μ, σ² are from those estimated anew, μ', σ'².

    Attributes:
        layer: its path in the network.
        channels: how many it has.
        mean: of |μ - μ'|/√(σ'² + ε) over channels.
        variance: of |log((σ² + ε)/(σ'² + ε))| over channels.
    """

    layer: str
    channels: int
    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found about a network.

    Attributes:
        accuracies: with running averages, re-estimated, with slow averages where it is known how
            many images shared statistics in training, and by batch size.
        layers: how far the running statistics stray, layer by layer.
        advice: what to do, in words; empty where nothing is wrong with the statistics.
        statistics: the re-estimated ones, by their names in the network's ``state_dict``.
    """

    accuracies: list[Accuracy]
    layers: list[Stray]
    advice: list[str]
    statistics: dict[str, Tensor]

    @property
    def change(self) -> Gain:
        """What re-estimating changes."""
        return Gain(self.accuracies[1], self.accuracies[0])

    def to_records(self) -> list[dict[str, Any]]:
        """The accuracies as plain rows: ``pandas.DataFrame(findings.to_records())``."""
        return [each.to_record() for each in self.accuracies]


def diagnose(
    network: nn.Module,
    train: Split,
    test: Split,
    *,
    batch: int | None = None,
    step: int | None = None,
    frozen: bool = False,
    flip: bool = False,
    epoch: int = 0,
    autocast: bool = False,
    told: Told = lambda *_: None,
) -> Findings:
    """Measures what the running statistics of a trained network cost, and says what to do.

    Args:
        network: maps [N, 3, H, W] to [N, classes]; with this package's batch norm or torch's. It is
            left as it is; ``network.load_state_dict(findings.statistics, strict=False)`` gives it
            the re-estimated statistics.
        train: training images, padded as in training; at most 2,500 of them are looked at.
        test: what accuracies are measured on; those with batch statistics on at most 2,000.
        batch: how many images shared statistics in training; None: not known.
        step: the images of a training step; None: as many.
        frozen: whether training ended with frozen statistics.
        flip: whether half of the training images are mirrored.
        epoch: whose order and augmentation of the training images is used.
        autocast: whether to compute in bfloat16 where that is safe.
        told: called with a label, the steps done and the steps there are.

    Raises:
        UsageError: the network has no batch norm with running statistics.
    """
    network = _copied(network)
    if not batch_norms(network):
        raise UsageError(
            "there is nothing to diagnose: the network has no batch norm with running statistics"
        )
    settle_layout(network, next(evaluation_batches(test, 2, dtype_of(network)))[0])
    anew, all_images = deepcopy(network), test.shuffled(len(test))  # in the order of batches
    batches = estimation(train, seed=0, flip=flip)
    sizes = sorted({size for size in (*SIZES, batch) if size and size <= len(test)})
    work: list[tuple[str, Callable[[], Accuracy]]] = [
        ("running averages", partial(_evaluated, "running", network, all_images, autocast)),
        ("re-estimated", partial(_reestimated, anew, batches, epoch, all_images, autocast)),
        *(
            (f"slow averages of {n}", partial(_slow, network, slow, n, epoch, all_images, autocast))
            for n, slow in _slow_averages(train, batch, flip)
        ),
        *((f"batches of {n}", partial(_by_batch, network, test, n, autocast)) for n in sizes),
    ]
    accuracies = []
    for done, (label, measured) in enumerate(work):
        told(label, done, len(work))
        try:
            accuracies.append(measured())
        except UsageError:  # a layer has but one value for a statistic of so few images
            if len(accuracies) < 2:  # running and re-estimated ones have to be there
                raise
    momentum = max(layer.momentum for layer in batch_norms(network))
    return Findings(
        accuracies=accuracies,
        layers=_stray(network, anew),
        advice=advice(accuracies, batch, momentum, step=step, frozen=frozen),
        statistics=_statistics(anew),
    )


def _copied(network: nn.Module) -> nn.Module:
    """A copy of a network in which torch's batch norm, and what derives from it, is this package's.

    Each layer keeps its tensors, ε, momentum and activation, and its name.
    """
    network = deepcopy(network)
    made: dict[nn.Module, BatchNorm] = {}  # a layer used in several places stays one layer
    for name, old in list(network.named_modules(remove_duplicate=False)):
        if isinstance(old, nn.modules.batchnorm._BatchNorm) and old.running_mean is not None:
            known = foreign_norm(old)
            if known is not None:
                refuse_more(name, old, known)
            if old not in made:
                made[old] = _Fused(old).to(old.running_mean)
            if not name:
                return made[old]
            network.set_submodule(name, made[old])
    return network


class _Fused(BatchNorm):
    """This package's batch norm in the place of torch's, with what that applies to its output.

    Attributes:
        after: dropout and activation of timm's BatchNormAct2d; empty for torch's own layers.
    """

    def __init__(self, old: nn.modules.batchnorm._BatchNorm) -> None:
        momentum = old.momentum or ALL
        super().__init__(
            old.num_features, eps=old.eps, momentum=momentum, affine=old.affine, act=False
        )
        self.load_state_dict({k: v for k, v in old.state_dict().items() if k in KEPT})
        foreign = foreign_norm(old)
        self.after = nn.Sequential(*(foreign.after if foreign else ()))

    def normalize(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(super().normalize(x))
        return y

    def train(self, mode: bool = True) -> Self:
        """Takes the statistics of batches, but nothing else of training: no dropout."""
        super().train(mode)
        self.after.eval()
        return self


def _evaluated(statistics: str, network: nn.Module, test: Split, autocast: bool) -> Accuracy:
    return _accuracy(statistics, None, evaluate([network], test, autocast=autocast))


def _reestimated(
    network: nn.Module, batches: Batches, epoch: int, test: Split, autocast: bool
) -> Accuracy:
    reestimate(network, batches, epoch, autocast=autocast)
    return _evaluated("re-estimated", network, test, autocast)


def _slow_averages(train: Split, batch: int | None, flip: bool) -> Iterator[tuple[int, Batches]]:
    """The batches that slow averages are over; none where there would be only one sub-batch."""
    if batch is not None and batch < min(BATCH, len(train)):
        yield batch, estimation(train, seed=0, flip=flip, size=batch)


def _slow(
    network: nn.Module, batches: Batches, size: int, epoch: int, test: Split, autocast: bool
) -> Accuracy:
    with restoring(network):
        reestimate(network, batches, epoch, size=size, autocast=autocast)
        found = evaluate([network], test, autocast=autocast)
    return _accuracy("slow", size, found)


def _by_batch(network: nn.Module, test: Split, size: int, autocast: bool) -> Accuracy:
    part = whole_batches(test, size)
    with restoring(network):
        found = with_batch_statistics(network, part, size, autocast)
    return _accuracy("batch", size, found)


def _accuracy(statistics: str, size: int | None, found: Evaluation) -> Accuracy:
    assert found.correct is not None
    return Accuracy(statistics, size, found.correct[0].numpy())


def _stray(network: nn.Module, anew: nn.Module) -> list[Stray]:
    """How far the statistics of ``network`` are from those of ``anew``."""
    names = [name for name, each in network.named_modules() if isinstance(each, BatchNorm)]
    found = []
    for name, old, new in zip(names, batch_norms(network), batch_norms(anew), strict=True):
        variance = new.running_var.double() + new.eps
        mean = (old.running_mean - new.running_mean).abs() / variance.sqrt()
        ratio = (old.running_var.double() + old.eps) / variance
        found.append(Stray(name, old.channels, float(mean.mean()), float(ratio.log().abs().mean())))
    return found


def _statistics(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.clone()
        for name, value in network.state_dict().items()
        if name.endswith((".running_mean", ".running_var"))
        or name in ("running_mean", "running_var")
    }
