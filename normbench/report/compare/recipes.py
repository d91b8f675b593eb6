"""Which cells differ in nothing but what a comparison is about: norm, batch size, learning rate."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from normbench.config import PLACES
from normbench.report.read.cells import CellRun, Collection
from normbench.store.results import short

NO_PART = frozenset(PLACES)
"""Settings that cannot change a result. Any other setting, known here or not, keeps cells apart
where it differs."""

COMPARED = frozenset(("norm", "batch", "norm_batch"))
"""Settings that a comparison is about."""


def norm_settings(cell: CellRun) -> dict[str, Any]:
    """The norm's own settings, without its name."""
    norm = cell.settings.get("norm", {})
    return {k: v for k, v in norm.items() if k != "name"}


def told_apart(
    variants: Sequence[Mapping[str, Any]], signs: Mapping[str, str] | None = None
) -> list[list[str]]:
    """For each of several mappings of settings, those in which they differ, as ``key=value``.

    Args:
        signs: what stands for some of the keys: ``G = 4`` instead of ``groups=4``.
    """
    signs = signs or {}
    return [
        [
            f"{signs[key]} = {short(value)}" if key in signs else f"{key}={short(value)}"
            for key, value in variant.items()
            if value is not None and any(other.get(key) != value for other in variants)
        ]
        for variant in variants
    ]


def settings_apart(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of several cells the settings in which it differs from others of its norm.

    As a person would type them; "" where there are none. Batch size is left out, which the name of
    a cell's folder says like its norm.

    Args:
        cells: their settings.
    """
    left_out = NO_PART | {"batch"}
    flat = [_flat({k: v for k, v in each.items() if k not in left_out}) for each in cells]
    by_norm: dict[str, list[dict[str, str]]] = defaultdict(list)
    for own in flat:
        by_norm[own.get("norm.name", "")].append(own)
    varied = {
        norm: {key for key in {*chain(*same)} if len({each.get(key) for each in same}) > 1}
        for norm, same in by_norm.items()
    }
    return [
        ", ".join(
            f"{key.removesuffix('.name')}={value}"
            for key, value in own.items()
            if value != "None" and key in varied[own.get("norm.name", "")]
        )
        for own in flat
    ]


def telling(recipes: Sequence[tuple[str, Mapping[str, Any], str | None]]) -> list[str]:
    """What tells each of several recipes from the others of its title, as titles end.

    Args:
        recipes: of each its title, its settings (empty: not recorded) and its data set's digest.
    """
    flat = [_flat(own) | {"data": (sha256 or "unknown")[:8]} for _, own, sha256 in recipes]
    said = []
    for (title, settings, _), values in zip(recipes, flat, strict=True):
        peers = [
            other
            for (name, own, _), other in zip(recipes, flat, strict=True)
            if name == title and own
        ]
        differing = "".join(
            f", {key}={values.get(key)}"
            for key in sorted({key for other in peers for key in other} - {"epochs"})
            if any(other.get(key) != values.get(key) for other in peers)
        )
        said.append(differing if settings else ", recipe not recorded")
    return said


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as ``group.key`` -> text."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in ("data.source", "data.name"):
            found[f"{prefix}{key}"] = short(value).strip("'")
    return found


def same_rates(cells: Sequence[CellRun]) -> list[list[CellRun]]:
    """Cells that differ in no other setting, split by learning rate unless each has its own.

    Where no norm has two rates at one batch size, the rates were chosen, and all are compared.
    Trials of rates on held-out images are in no comparison (:mod:`.rates`).
    """
    tried: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        tried[place_of(cell)].add(rate_of(cell))
    if all(len(rates) == 1 for rates in tried.values()):
        return [list(cells)]
    if any(held_out(cell.settings) for cell in cells):
        return []
    rates = list(dict.fromkeys(rate_of(cell) for cell in cells))
    return [[cell for cell in cells if rate_of(cell) == rate] for rate in rates]


def place_of(cell: CellRun) -> str:
    """A cell's norm with its settings, batch size and norm batch size, as text."""
    what = [cell.norm, norm_settings(cell), cell.batch, cell.norm_batch]
    return json.dumps(what, sort_keys=True, default=str)


def rate_of(cell: CellRun) -> str:
    """The learning rate that a cell was given, as text; "" where it is not recorded."""
    optim = cell.settings.get("optim")
    return short(optim.get("lr")) if isinstance(optim, Mapping) else ""


def held_out(settings: Mapping[str, Any]) -> bool:
    """Whether training images were held out, so that the curves are of them."""
    data = settings.get("data")
    return isinstance(data, Mapping) and bool(data.get("val_fraction"))


def length(epochs: float | None) -> str:
    """``, 3 epochs``, as titles end; nothing where it is not known."""
    return "" if epochs is None else f", {epochs:g} epoch{'' if epochs == 1 else 's'}"


def recipes(collection: Collection) -> list[list[CellRun]]:
    """The readable cells, those together that differ only in norm, batch and learning rate."""
    buckets: dict[str, list[CellRun]] = defaultdict(list)
    readable = _with_digests([cell for cell in collection.cells if cell.problem is None])
    for cell in sorted(readable, key=unknown):
        buckets[_home(cell, buckets) or _recipe(cell)].append(cell)
    return list(buckets.values())


def _with_digests(cells: Sequence[CellRun]) -> list[CellRun]:
    """Lends cells that have no summary yet the digest of their data set, if it can only be one."""
    known = defaultdict(set)
    for cell in cells:
        if cell.sha256 is not None:
            known[cell.data].add(cell.sha256)
    return [
        replace(cell, sha256=next(iter(known[cell.data])))
        if cell.sha256 is None and len(known[cell.data]) == 1
        else cell
        for cell in cells
    ]


def unknown(cell: CellRun) -> bool:
    """Whether a cell has not begun, so that nothing but its plan is known."""
    return not cell.settings and not any(run.begun for run in cell.seeds)


def _home(cell: CellRun, buckets: Mapping[str, Sequence[CellRun]]) -> str | None:
    """The recipe of a cell that has not begun, where its experiment has only one for its network
    and data set."""
    if not unknown(cell):
        return None
    what = _experiment(cell)
    homes = [key for key, cells in buckets.items() if what in map(_experiment, cells)]
    return homes[0] if len(homes) == 1 else None


def _experiment(cell: CellRun) -> tuple[str, str, str]:
    return cell.experiment, cell.model, cell.data


def without_rate(cell: CellRun) -> dict[str, Any]:
    """A cell's settings without those that a comparison is about, and without its learning rate."""
    settings = {k: v for k, v in cell.settings.items() if k not in NO_PART | COMPARED}
    if isinstance(settings.get("optim"), dict):
        settings["optim"] = {k: v for k, v in settings["optim"].items() if k != "lr"}
    return settings


def _recipe(cell: CellRun) -> str:
    """What has to be equal for two cells to stand in one picture, as text."""
    settings = without_rate(cell)
    if isinstance(settings.get("data"), dict):
        asked = settings["data"]
        settings["data"] = {k: v for k, v in asked.items() if k not in ("source", "name")}
    elif cell.data:  # without a configuration, what little is known keeps cells apart
        settings = {"model": cell.model, "epochs": cell.epochs}
    what = [cell.experiment, cell.data, cell.sha256, settings]
    return json.dumps(what, sort_keys=True, default=str)
