"""The sources of images: built in, CIFAR, one's own."""

from dataclasses import dataclass
from typing import ClassVar

from normbench.data import library
from normbench.data.base import DATA, DataConfig
from normbench.data.library import Description, ImageSet
from normbench.data.synthetic import DESCRIPTION, draw
from normbench.errors import UsageError


@DATA.register("synthetic")
@dataclass(kw_only=True, slots=True)
class SyntheticConfig(DataConfig):
    """The built-in images."""

    source: str = "synthetic"
    about: ClassVar[str] = "built in: ten classes of drawn shapes, 6,000 + 2,000 images"

    def describe(self) -> Description:
        return DESCRIPTION

    def load(self) -> ImageSet:
        return draw()


@DATA.register("cifar10")
@dataclass(kw_only=True, slots=True)
class Cifar10Config(DataConfig):
    """CIFAR-10."""

    source: str = "cifar10"
    about: ClassVar[str] = "CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 photographs, ten classes"

    def describe(self) -> Description:
        return library.describe("cifar10")

    def load(self) -> ImageSet:
        return library.load("cifar10")


@DATA.register("cifar100")
@dataclass(kw_only=True, slots=True)
class Cifar100Config(DataConfig):
    """CIFAR-100."""

    source: str = "cifar100"
    about: ClassVar[str] = "CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 photographs, 100 classes"

    def describe(self) -> Description:
        return library.describe("cifar100")

    def load(self) -> ImageSet:
        return library.load("cifar100")


@DATA.register("images")
@dataclass(kw_only=True, slots=True)
class ImagesConfig(DataConfig):
    """One's own images."""

    source: str = "images"
    about: ClassVar[str] = "your own, after `normbench data import PATH --name NAME`"

    def describe(self) -> Description:
        return library.describe(self._name())

    def load(self) -> ImageSet:
        return library.load(self._name())

    def _name(self) -> str:
        if self.name is None:
            known = ", ".join(entry.name for entry in library.available()) or "none so far"
            raise UsageError(f"data=images needs data.name=NAME; imported: {known}")
        return self.name


@DATA.register("auto")
@dataclass(kw_only=True, slots=True)
class AutoConfig(DataConfig):
    """CIFAR-10 where it is at hand, the built-in images elsewhere."""

    source: str = "auto"
    about: ClassVar[str] = "cifar10 where it has been fetched or imported, else synthetic"

    def describe(self) -> Description:
        return library.describe("cifar10") if _has_cifar10() else DESCRIPTION

    def load(self) -> ImageSet:
        return library.load("cifar10") if _has_cifar10() else draw()


def _has_cifar10() -> bool:
    return any(entry.name == "cifar10" for entry in library.available())
