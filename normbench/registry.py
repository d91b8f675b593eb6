"""Names for the things a configuration can choose between, and how its values are typed.

A family of choices (norms, models, data sets) is a package with one registry. A class enters it
where it is defined, through a decorator, and the package imports every module it contains
(``discover``), so a new choice is a new file and nothing else. Optimizers are
imported by name.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")

NAMED_BY = {"norm": "name", "model": "name", "data": "source", "optim": "name"}
"""The groups of settings, and the setting of each that says which of its choices it is."""

# Text that Hydra takes for text without quotes; and what looks like it and is something else.
_BARE = re.compile(r"\.{0,2}[A-Za-z_/][A-Za-z0-9_/.:+-]*")
_TAKEN_FOR_VALUES = ("null", "true", "false", "nan", "inf")


def as_override(value: object) -> str:
    """A value as it is typed behind ``KEY=``, from which Hydra reads the same value.

    Enums are typed as the names of their members. Text is quoted where it has to be.
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_override, value))}]"
    text = value.name if isinstance(value, Enum) else str(value)
    if _BARE.fullmatch(text) and text.lower() not in _TAKEN_FOR_VALUES:
        return text
    # Backslashes are escaped before a quote, and before the closing one, but nowhere else.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + (found[2] and "\\'"), text)
    return f"'{escaped}'"


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
