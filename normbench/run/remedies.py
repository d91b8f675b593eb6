"""What accuracies with several statistics of the same batch norm say, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

ENOUGH = 1_000
"""Images that running averages should run over, at least, where a momentum is advised."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy with some statistics.

    Attributes:
        statistics: ``running``, ``re-estimated``, ``slow`` (running averages with a momentum near
            0) or ``batch``.
        size: how many images share statistics, of ``slow`` and ``batch``; None otherwise.
        correct: for each image whether it was right, bool [images]; of all accuracies of a network
            in the same order.
    """

    statistics: str
    size: int | None
    correct: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """0..1."""
        return float(self.correct.mean())

    @property
    def images(self) -> int:
        """How many it is of."""
        return len(self.correct)

    @property
    def half(self) -> float:
        """Half of its 95 % interval, binomial."""
        return 1.96 * sqrt(self.accuracy * (1 - self.accuracy) / self.images)

    def to_record(self) -> dict[str, Any]:
        """A plain row of a table."""
        own = {"statistics": self.statistics, "size": self.size, "accuracy": self.accuracy}
        return {**own, "images": self.images, "ci95": self.half}


@dataclass(frozen=True, slots=True)
class Gain:
    """How much more accurate one is than another, on the images that both have seen.

    Paired: only images that one of them alone got right tell them apart, by McNemar's exact test.
    The 95 % interval is Agresti and Min's (2005, Statistics in Medicine 24, 729-740): Wald's of the
    paired difference, with half an image more in each of the four cells.
    """

    more: Accuracy
    less: Accuracy

    @property
    def _shared(self) -> int:
        return min(self.more.images, self.less.images)

    @property
    def _won(self) -> tuple[int, int]:
        """How many images each of the two alone got right."""
        more, less = (each.correct[: self._shared] for each in (self.more, self.less))
        return int((more & ~less).sum()), int((less & ~more).sum())

    @property
    def value(self) -> float:
        """The difference, -1..1."""
        won, lost = self._won
        return (won - lost) / self._shared

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of its 95 % interval."""
        won, lost = self._won
        images = self._shared + 2
        middle = (won - lost) / images
        half = 1.96 * sqrt((won + lost + 1) / images - middle**2) / sqrt(images)
        return middle - half, middle + half

    @property
    def clear(self) -> bool:
        """Whether it is more than chance would make of these images, McNemar's p below 5 %."""
        from scipy.special import bdtr  # imported late: it takes a while

        won, lost = self._won
        return won > lost and 2 * float(bdtr(lost, won + lost, 0.5)) < 0.05

    def __str__(self) -> str:
        more, less = (each.correct[: self._shared].mean() for each in (self.more, self.less))
        return f"{self.points}, {less:.1%} → {more:.1%}"

    @property
    def points(self) -> str:
        """``+1.1 points (95 %: +0.6 to +1.5)``."""
        low, high = self.interval
        return f"{100 * self.value:+.1f} points (95 %: {100 * low:+.1f} to {100 * high:+.1f})"


def advice(
    accuracies: Sequence[Accuracy],
    batch: int | None,
    momentum: float,
    *,
    step: int | None = None,
    frozen: bool = False,
) -> list[str]:
    """What to do, most urgent first; nothing for a difference that chance alone would make.

    Args:
        accuracies: with running and with re-estimated statistics, then with others.
        batch: how many images shared statistics in training; None: not known.
        momentum: of the running averages.
        step: the images of a training step, whose statistics move the averages once; None: as many.
        frozen: whether training ended with frozen statistics.
    """
    running, anew, *others = accuracies
    slow = next((each for each in others if each.statistics == "slow"), None)
    batches = [each for each in others if each is not slow]
    said = []
    if (gain := Gain(anew, running)).clear:
        said.append(f"re-estimate the running statistics: {gain}")
        said += _about_averages(running, anew, slow, batch, step or batch, momentum)
    # Against larger batches of the same images: re-estimated statistics are of training images,
    # which are padded and cropped, and that alone may be worth more than noise is.
    trained = next((each for each in batches if each.size == batch), None)
    wide = max(batches, key=lambda each: each.size or 0, default=None)
    if not frozen and trained and wide and (loss := Gain(wide, trained)).clear:
        said.append(
            f"it was trained on the statistics of {batch} images, which are noisy: those of"
            f" {wide.size} gain {loss}; freeze the statistics for the last epochs, or swap the norm"
            " for one that does not look at the batch, such as norm=group"
        )
    best = max(batches, key=lambda each: each.accuracy, default=None)
    if best and Gain(best, running).clear and (gain := Gain(best, anew)).clear:
        said.append(
            f"batches of {best.size} test images do better with their own statistics than with"
            f" those of training images: {gain}; check that both are prepared in the same way, then"
            " fine-tune with frozen statistics or swap the norm"
        )
    return said


def _about_averages(
    running: Accuracy,
    anew: Accuracy,
    slow: Accuracy | None,
    batch: int | None,
    step: int | None,
    momentum: float,
) -> list[str]:
    """What to do about running averages: whether a lower momentum would mend them."""
    if slow is None:
        return [_about_momentum(step, momentum)]
    said = []
    if (gain := Gain(slow, running)).clear:
        said.append(f"{_about_momentum(step, momentum)}; the slowest average gains {gain}")
    if (gain := Gain(anew, slow)).clear:
        said.append(
            f"no momentum recovers {gain}: averages of statistics of {batch} images at a time are"
            " not those of all, however slow; re-estimate after each training"
        )
    return said


def _about_momentum(step: int | None, momentum: float) -> str:
    """What to do about statistics that were worse than they could be."""
    if step is None:
        return f"next time train with a lower momentum than {momentum:g}"
    over = (2 - momentum) / momentum * step
    if 2 * over >= ENOUGH:  # near enough that a lower one would change little
        return (
            f"they ran over about {over:,.0f} images (momentum {momentum:g}, {step} images a"
            " batch), so noise is not the cause: check that they belong to these weights, and that"
            " images are prepared as they were in training"
        )
    lower = 2 * step / (ENOUGH + step)
    return (
        f"next time train with a lower momentum: at {momentum:g} and {step} images a batch the"
        f" running averages are over about {over:.0f} images; norm.momentum={lower:.2g} makes it"
        f" about {ENOUGH:,}"
    )
