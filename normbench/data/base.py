"""Which images a run trains on, as the configuration describes it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from normbench.data.library import Description, ImageSet
from normbench.errors import UsageError
from normbench.registry import Registry


@dataclass(kw_only=True, slots=True)
class DataConfig(ABC):
    """A source of images; loads them. Loading never touches the network."""

    source: str
    """The source's name in the registry; chosen with ``data=NAME``, not set by hand."""

    name: str | None = None
    """The name of the data set where the source has several (``data=images``); null otherwise."""

    limit: int | None = None
    """Only the first so many training images of a fixed shuffle; null: all."""

    test_limit: int | None = None
    """Only the first so many test images of a fixed shuffle, and so many of those held out, to try
    something out; null: all."""

    val_fraction: float = 0.0
    """The share of the training images held out for choices, such as a learning rate; the curve
    of accuracy is then theirs, and the test set is looked at once, at the end."""

    pad: int = 4
    """Crops are taken from the image padded by so many black pixels; 0: no cropping."""

    flip: bool = True
    """Whether half of the training images are mirrored."""

    about: ClassVar[str]
    """What the source is, in a few words."""

    def __post_init__(self) -> None:
        for key in ("limit", "test_limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"data.{key}={value}: must be at least 1, or null for all")
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"data.val_fraction={self.val_fraction}: must be from 0 to below 1")
        if not 0 <= self.pad <= 16:
            raise UsageError(f"data.pad={self.pad}: must be from 0 to 16")
        if self.name is not None and self.source != "images":
            raise UsageError(
                f"data.name={self.name}: data={self.source} has one set only; write data=images"
                f" data.name={self.name}"
            )

    def num_training(self, total: int) -> tuple[int, int]:
        """How many of ``total`` training images are trained on, and how many held-out ones are
        looked at."""
        held_out = self.num_held_out(total)
        return min(total - held_out, self.limit or total), min(held_out, self.test_limit or total)

    def num_held_out(self, total: int) -> int:
        """How many of ``total`` training images are kept from training."""
        return round(self.val_fraction * total)

    @abstractmethod
    def describe(self) -> Description:
        """What is known of the images without reading a pixel.

        Raises:
            UsageError: as :meth:`load` does, but for damaged pixels.
        """

    @abstractmethod
    def load(self) -> ImageSet:
        """Loads the images.

        Raises:
            UsageError: they are missing or damaged; the message names the commands that bring them.
        """


DATA: Registry[DataConfig] = Registry("data")
"""Every source of images by name."""
