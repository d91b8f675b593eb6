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
    from normbench.config import Config

    if not settings:
        return {}
    known = {
        each.name: each.default.value if isinstance(each.default, Enum) else each.default
        for each in fields(Config)
        if each.default is not MISSING
    }
    groups = {
        group: {**defaults(group, str(settings[group].get(key, "sgd"))), **settings[group]}
        for group, key in NAMED_BY.items()
        if isinstance(settings.get(group), dict)
    }
    return {**known, **settings, **groups}


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
