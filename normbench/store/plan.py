"""Which cells the sweeps in a folder have: ``sweep.json``, the ones not yet begun too."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from normbench.errors import UnreadableError
from normbench.files import LARGE, locked, read_json, write_json
from normbench.store.results import MOST_SEED, number_in, short

PLAN = "sweep.json"

CELL = re.compile(r"(?P<norm>[A-Za-z0-9_]+)-b(?P<batch>[1-9]\d{0,8})-(?P<digest>[0-9a-f]{8})")
"""The name of a cell's folder."""

_MOST_IMAGES = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A cell as a plan lists it.

    Attributes:
        folder: the name of its folder, beside the plan.
        norm, batch, norm_batch: what it trains; ``norm_batch`` is the images that share statistics.
        model: the network's title.
        data: the name of the data set.
        seeds: those that are wanted.
        settings: its configuration, without what is at its default; empty in older plans.
    """

    folder: str
    norm: str
    batch: int
    norm_batch: int
    model: str
    data: str
    seeds: list[int]
    settings: dict[str, Any] = field(default_factory=dict)


def add(folder: Path, cells: Sequence[PlannedCell]) -> None:
    """Adds ``cells`` to the plan in ``folder``; the cells of earlier sweeps stay.

    A plan that cannot be read is begun anew.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = folder / PLAN
    with locked(path.with_name(f".{PLAN}.lock")):
        try:
            earlier = read(folder)
        except UnreadableError:
            earlier = []
        known = {each.folder: each for each in [*earlier, *cells]}
        if list(known.values()) != earlier:
            write_json(path, {"cells": [asdict(each) for each in known.values()]})


def read(folder: Path) -> list[PlannedCell]:
    """The cells of the plan in ``folder``; none where there is no plan.

    Raises:
        UnreadableError: it makes no sense.
    """
    entries = (read_json(folder / PLAN, LARGE) or {}).get("cells", [])
    try:
        if not isinstance(entries, list):
            raise UnreadableError(f"cells is {short(entries)}")
        return [_parsed(entry) for entry in entries]
    except UnreadableError as error:
        raise UnreadableError(f"{PLAN}: {error}") from None


def _parsed(entry: Any) -> PlannedCell:
    match = CELL.fullmatch(str(entry.get("folder"))) if isinstance(entry, dict) else None
    if match is None:
        raise UnreadableError(f"a cell is {short(entry)}")
    batch = int(number_in(entry, "batch", 1, _MOST_IMAGES) or int(match["batch"]))
    norm_batch = int(number_in(entry, "norm_batch", 1, batch) or batch)
    if batch % norm_batch:
        raise UnreadableError(f"norm_batch {norm_batch} does not divide batch {batch}")
    seeds, settings = entry.get("seeds"), entry.get("settings")
    return PlannedCell(
        folder=match[0],
        norm=match["norm"],
        batch=batch,
        norm_batch=norm_batch,
        model=string(entry, "model"),
        data=string(entry, "data"),
        seeds=[n for n in seeds if type(n) is int and 0 <= n <= MOST_SEED]
        if isinstance(seeds, list)
        else [],
        settings=settings if isinstance(settings, dict) else {},
    )


def string(values: dict[str, Any], key: str) -> str:
    """A printable string of less than 200 characters; "" where there is none."""
    value = values.get(key)
    return value if isinstance(value, str) and value.isprintable() and len(value) < 200 else ""
