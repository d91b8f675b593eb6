"""What settings are unless they are given."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from enum import Enum
from typing import Any

from normbench.errors import UsageError
from normbench.registry import NAMED_BY


def defaults(group: str, name: str) -> dict[str, Any]:
    """What the settings of a group are unless they are given; empty where it is not known.

    Args:
        group: ``norm``, ``model``, ``data`` or ``optim``.
        name: which of them, such as ``resnet``.
    """
    from normbench.data import DATA  # these bring torch
    from normbench.models import MODELS
    from normbench.norms import NORMS
    from normbench.training.optim import OPTIMS

    classes: dict[str, Mapping[str, Any]] = {
        registry.kind: registry for registry in (NORMS, MODELS, DATA, OPTIMS)
    }
    cls: Any = classes[group].get(name)
    try:
        found = asdict(cls()) if cls is not None else {}
    except (TypeError, UsageError):
        return {}
    return {k: v.value if isinstance(v, Enum) else v for k, v in found.items()}


def filled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the settings that there were not yet when it was recorded.

    Each is at its default, with which the cell was trained, so that cells of different times are
    the same recipe where they are. Empty where nothing is recorded.
    """
    if not settings:
        return {}
    groups = {
        group: {**_usual(group, settings[group]), **settings[group]}
        for group in NAMED_BY
        if isinstance(settings.get(group), dict)
    }
    return {**_plain_defaults(), **settings, **groups}


def unfilled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A whole configuration without the settings with which :func:`filled` fills it again."""
    own = _without(settings, _plain_defaults())
    groups = {
        group: _without(settings[group], _usual(group, settings[group]), NAMED_BY[group])
        for group in NAMED_BY
    }
    return {**own, **groups}


def _usual(group: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a group of settings, by the name that it gives."""
    return defaults(group, str(own.get(NAMED_BY[group], "sgd")))


def _without(settings: Mapping[str, Any], usual: Mapping[str, Any], *kept: str) -> dict[str, Any]:
    missing = object()
    return {k: v for k, v in settings.items() if k in kept or usual.get(k, missing) != v}


def _plain_defaults() -> dict[str, Any]:
    """What the settings in no group are unless they are given."""
    from normbench.config import Config

    return {
        each.name: each.default.value if isinstance(each.default, Enum) else each.default
        for each in fields(Config)
        if each.default is not MISSING
    }


def made(cls: Any, settings: Mapping[str, Any]) -> Any:
    """A configuration from records, which may be of another version.

    Raises:
        UsageError, TypeError, ValueError: it makes no sense.
    """
    known = {field.name for field in fields(cls)}
    values = {key: value for key, value in settings.items() if key in known}
    if any(isinstance(value, list | dict) for value in values.values()):
        raise TypeError
    return cls(**values)
