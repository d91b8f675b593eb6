"""Names for the things a configuration can choose between.

A family of choices (norms, models, data sets) is a package with one registry. A class enters it
where it is defined, through a decorator, and the package imports every module it contains, so a new
choice is a new file and nothing else.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """A mapping of names to configuration classes that classes add themselves to.

    Args:
        kind: the configuration group these names belong to, as a person types it (``norm``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Returns a class decorator that enters the class under ``name``."""

        def enter(cls: type[T]) -> type[T]:
            assert name not in self._classes, f"{self.kind}={name} is registered twice"
            self._classes[name] = cls
            return cls

        return enter

    def discover(self, package: str, path: Sequence[str]) -> None:
        """Imports every module of ``package``, so that their classes register themselves."""
        for module in pkgutil.iter_modules(path):
            importlib.import_module(f"{package}.{module.name}")

    def __getitem__(self, name: str) -> type[T]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
