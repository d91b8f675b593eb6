"""The sources of images: built in, CIFAR, one's own."""

from dataclasses import dataclass
from typing import ClassVar

from normbench.data import library
from normbench.data.base import DATA, DataConfig
from normbench.data.library import ImageSet
from normbench.data.synthetic import draw
from normbench.errors import UsageError


@DATA.register("synthetic")
@dataclass(kw_only=True, slots=True)
class SyntheticConfig(DataConfig):
    """The built-in images."""

    source: str = "synthetic"
    about: ClassVar[str] = "built in: ten classes of drawn shapes, 10,000 + 2,000 images"

    def load(self) -> ImageSet:
        return draw()


@DATA.register("cifar10")
@dataclass(kw_only=True, slots=True)
class Cifar10Config(DataConfig):
    """CIFAR-10."""

    source: str = "cifar10"
    about: ClassVar[str] = "CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 photographs, ten classes"

    def load(self) -> ImageSet:
        return library.load("cifar10")


@DATA.register("cifar100")
@dataclass(kw_only=True, slots=True)
class Cifar100Config(DataConfig):
    """CIFAR-100."""

    source: str = "cifar100"
    about: ClassVar[str] = "CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 photographs, 100 classes"

    def load(self) -> ImageSet:
        return library.load("cifar100")


@DATA.register("images")
@dataclass(kw_only=True, slots=True)
class ImagesConfig(DataConfig):
    """One's own images."""

    source: str = "images"
    about: ClassVar[str] = "your own, after `normbench data import PATH --name NAME`"

    def load(self) -> ImageSet:
        if self.name is None:
            known = ", ".join(entry.name for entry in library.available()) or "none so far"
            raise UsageError(f"data=images needs data.name=NAME; imported: {known}")
        return library.load(self.name)


@DATA.register("auto")
@dataclass(kw_only=True, slots=True)
class AutoConfig(DataConfig):
    """CIFAR-10 where it is at hand, the built-in images elsewhere."""

    source: str = "auto"
    about: ClassVar[str] = "cifar10 where it has been fetched or imported, else synthetic"

    def load(self) -> ImageSet:
        if any(entry.name == "cifar10" for entry in library.available()):
            return library.load("cifar10")
        return draw()
