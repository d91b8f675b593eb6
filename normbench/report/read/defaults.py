"""What the settings of a cell would be if nobody had given any."""

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

from normbench.errors import UsageError


def defaults(group: str, name: str) -> dict[str, Any]:
    """What the settings of a group are unless they are given; empty where it is not known.

    Args:
        group: ``norm``, ``model``, ``data`` or ``optim``.
        name: which of them, such as ``resnet``.
    """
    from normbench.data import DATA  # these bring torch
    from normbench.models import MODELS
    from normbench.norms import NORMS
    from normbench.training.optim import SGDConfig

    classes: dict[str, Mapping[str, Any]] = {"norm": NORMS, "model": MODELS, "data": DATA}
    cls: Any = SGDConfig if group == "optim" else classes[group].get(name)
    try:
        found = asdict(cls()) if cls is not None else {}
    except (TypeError, UsageError):
        return {}
    return {k: v.value if isinstance(v, Enum) else v for k, v in found.items()}
