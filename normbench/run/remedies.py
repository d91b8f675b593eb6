"""What accuracies with several statistics of the same batch norm say, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

ENOUGH = 1_000
"""Images that running averages should run over, at least, where a momentum is advised."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy with some statistics.

    Attributes:
        statistics: ``running``, ``re-estimated`` or ``batch``.
        size: how many images share statistics, of ``batch``; None otherwise.
        accuracy: 0..1.
        images: how many it is of.
    """

    statistics: str
    size: int | None
    accuracy: float
    images: int

    @property
    def variance(self) -> float:
        """The binomial variance of the accuracy."""
        return self.accuracy * (1 - self.accuracy) / self.images

    @property
    def error(self) -> float:
        """Half of its 95 % interval."""
        return 1.96 * sqrt(self.variance)


@dataclass(frozen=True, slots=True)
class Gain:
    """How much more accurate one is than another, 0..1, with half of its 95 % interval.

    The binomial errors of both, as if they were of different images: of the same images chance
    makes less, so that what is clear here is clear.
    """

    more: Accuracy
    less: Accuracy

    @property
    def value(self) -> float:
        """The difference."""
        return self.more.accuracy - self.less.accuracy

    @property
    def error(self) -> float:
        """Half of its 95 % interval."""
        return 1.96 * sqrt(self.more.variance + self.less.variance)

    @property
    def clear(self) -> bool:
        """Whether it is more than the error of the images."""
        return self.value > self.error

    def __str__(self) -> str:
        return (
            f"{100 * self.value:+.1f} ± {100 * self.error:.1f} points,"
            f" {self.less.accuracy:.1%} → {self.more.accuracy:.1%}"
        )


def advice(accuracies: Sequence[Accuracy], batch: int | None, momentum: float) -> list[str]:
    """What to do, most urgent first; nothing for a difference that chance alone would make."""
    running, anew, *batches = accuracies
    said = []
    if (gain := Gain(anew, running)).clear:
        said.append(f"re-estimate the running statistics: {gain}")
        said.append(_about_momentum(batch, momentum))
    trained = next((each for each in batches if each.size == batch), None)
    if trained is not None and (loss := Gain(anew, trained)).clear:
        said.append(
            f"it was trained on the statistics of {batch} images, which are noisy: with them it is"
            f" {100 * loss.value:.1f} ± {100 * loss.error:.1f} points worse than with re-estimated"
            f" ones ({trained.accuracy:.1%} and {anew.accuracy:.1%}); freeze the statistics for the"
            " last epochs, or swap the norm for one that does not look at the batch, such as"
            " norm=group"
        )
    best = max(batches, key=lambda each: each.accuracy, default=None)
    if best is not None and (gain := Gain(best, anew)).clear:
        said.append(
            f"batches of {best.size} test images do better with their own statistics than with"
            f" those of training images: {gain}; check that both are prepared in the same way, then"
            " fine-tune with frozen statistics or swap the norm"
        )
    return said


def _about_momentum(batch: int | None, momentum: float) -> str:
    """What to do about statistics that were worse than they could be."""
    if batch is None:
        return f"next time train with a lower momentum than {momentum:g}"
    over = (2 - momentum) / momentum * batch
    if 2 * over >= ENOUGH:  # near enough that a lower one would change little
        return (
            f"they ran over about {over:,.0f} images (momentum {momentum:g}, {batch} images a"
            " batch), so noise is not what is wrong with them: check that they belong to these"
            " weights and to images that are prepared in this way"
        )
    lower = 2 * batch / (ENOUGH + batch)
    return (
        f"next time train with a lower momentum: at {momentum:g} and {batch} images a batch the"
        f" running averages are over about {over:.0f} images; norm.momentum={lower:.1g} makes it"
        f" about {ENOUGH:,}"
    )
