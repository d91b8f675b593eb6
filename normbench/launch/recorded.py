"""The configuration that weights were trained with, from the records beside them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from normbench.config import PLACES, Config
from normbench.errors import UnreadableError, UsageError
from normbench.files import LARGE, as_mapping, read_json
from normbench.launch.compose import load_config
from normbench.registry import NAMED_BY, as_override
from normbench.report.read.files import read_mapping
from normbench.store.curves import HPARAMS
from normbench.store.results import CONFIG, SUMMARY

_PYTHON = "model.file"
"""The setting of a network's Python file, and what that of its SHA-256 begins with."""

_STARTED_FROM = "model.weights"
"""Likewise of the file that a training started from: its own weights make that needless."""


def load_recorded(overrides: Sequence[str], weights: Path) -> Config:
    """Composes the configuration of weights in a seed's folder; of others, from ``overrides``.

    Args:
        overrides: settings that are not as recorded. A group that is chosen, such as ``norm=…``,
            forgets all that is recorded of it. Of weights without records the norm is batch norm,
            and the rest as by default, where nothing else is said.
        weights: the file, or the seed's folder.

    Raises:
        UsageError: an override is refused, the records are damaged, or they name a Python file:
            that is run only if it is named here.
    """
    seed = (weights if weights.is_dir() else weights.parent).absolute()
    recorded = _checked(seed.parent) if seed.name.startswith("seed-") else []
    chosen = {text.partition("=")[0] for text in overrides}
    first = [text for text in recorded or ["norm=batch"] if _group(text) not in chosen]
    for text in first:
        if text.startswith("model.file=") and "model.file" not in chosen:
            raise UsageError(f"{weights}: its network is made by a Python file; say so: {text}")
    return load_config([*first, *overrides], "diagnose")


def _checked(cell: Path) -> list[str]:
    """The settings of a cell, which can be composed; the files they name need not be there."""
    try:
        recorded = [text for text in _recorded(cell) if not text.startswith(_STARTED_FROM)]
        load_config([text for text in recorded if not text.startswith(_PYTHON)])
    except (UnreadableError, UsageError) as error:
        said = str(error).removeprefix(f"{CONFIG}: ")
        raise UsageError(f"{cell / CONFIG}: {said}") from None
    return recorded


def _group(text: str) -> str:
    """The group that an override is about: ``norm`` of ``norm=batch`` and ``norm.eps=0.1``."""
    return text.partition("=")[0].partition(".")[0]


def _recorded(cell: Path) -> Iterator[str]:
    """The settings of a cell as a person would type them; none where there are no records."""
    settings = read_mapping(cell / CONFIG) or {}
    images = _images(cell)
    for key, value in settings.items():
        if key in NAMED_BY:
            yield from _of_group(key, as_mapping(value), images)
        elif key not in PLACES:
            yield f"{key}={as_override(value)}"


def _of_group(key: str, own: Mapping[str, Any], images: str | None) -> Iterator[str]:
    choice = own.get(NAMED_BY[key])
    if choice == "auto" and images is not None:  # what it meant then, it need not mean today
        choice = images
    if choice is not None:
        yield f"{key}={as_override(choice)}"
    for name, value in own.items():
        if name != NAMED_BY[key] and value is not None:
            yield f"{key}.{name}={as_override(value)}"


def _images(cell: Path) -> str | None:
    """The name of the images that a cell was trained on, where its summary or a seed says it."""
    data = None
    with suppress(UnreadableError):  # a seed says it as well
        data = (read_json(cell / SUMMARY) or {}).get("data")
    name = data.get("name") if isinstance(data, dict) else None
    for path in sorted(cell.glob(f"seed-*/{HPARAMS}")):
        if isinstance(name, str):
            break
        with suppress(UnreadableError):  # the cell was killed before its summary was written
            values = (read_json(path, LARGE) or {}).get("values")
            name = values.get("data") if isinstance(values, dict) else None
    return name if isinstance(name, str) else None
