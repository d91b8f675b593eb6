"""What a cell's settings mean: the groups of channels they make."""

from normbench.errors import UsageError
from normbench.report.read.cells import CellRun
from normbench.report.read.defaults import made

_MOST = 1 << 16  # channels; more are no network's, and finding their divisors takes a while


def has_groups(cell: CellRun, number: int) -> bool:
    """Whether a cell's norm is known to have ``number`` groups in every stage."""
    return {groups for groups, _ in _groups(cell)} == {number}


def groups_of(cell: CellRun) -> list[str]:
    """``G × C/G = 8 × 2, 16 × 2, 32 × 2``, from the first stage to the last.

    With what group norm has become where it is layer norm (G = 1) or instance norm (C/G = 1).
    Empty for other norms, and where the records do not say.
    """
    found = _groups(cell)
    return [f"G × C/G = {', '.join(_named(g, size) for g, size in found)}"] if found else []


def _named(groups: int, size: int) -> str:
    became = " (layer norm)" if groups == 1 else " (instance norm)" if size == 1 else ""
    return f"{groups} × {size}{became}"


def _groups(cell: CellRun) -> list[tuple[int, int]]:
    from normbench.models import MODELS  # these bring torch
    from normbench.norms import NORMS
    from normbench.norms.group import GroupedConfig

    model = cell.settings.get("model")
    kind = NORMS.get(cell.norm)
    if kind is None or not issubclass(kind, GroupedConfig) or not isinstance(model, dict):
        return []
    try:
        channels = made(MODELS[model["name"]], model).norm_channels
        config = made(kind, cell.settings.get("norm", {}))
        if max(channels, default=0) > _MOST:
            return []
        return [(g := config.num_groups(c), c // g) for c in channels]
    except (UsageError, KeyError, TypeError, ValueError, ArithmeticError):
        return []
