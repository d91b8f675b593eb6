"""Arrangements that have been measured on this machine, kept in the user's cache folder."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from normbench.errors import UnreadableError
from normbench.files import read_json, write_json
from normbench.run.cell import Cell
from normbench.run.placement import LARGEST_STACK, Arrangement
from normbench.store.environment import processor

_meanwhile: dict[Path, Arrangement] = {}

Case = Mapping[str, Any]
"""All that which arrangement is the fastest depends on."""


def case_of(cell: Cell, seeds: int, device: torch.device) -> Case:
    """The case of ``seeds`` seeds of ``cell`` on this machine."""
    config = cell.config
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "normbench": version("normbench"),
        "images": [*cell.images.image_size, len(cell.images.classes)],
        "model": repr(config.model),
        "norm": repr(config.norm),
        "norm_batch": config.norm_batch,
        "batch": config.batch,
        "precision": config.precision.value,
        "seeds": seeds,
    }


def recall(case: Case) -> Arrangement | None:
    """What was measured for ``case``; None if nothing that makes sense is known."""
    if _path(case) in _meanwhile:
        return _meanwhile[_path(case)]
    try:
        found = read_json(_path(case)) or {}
        arrangement = Arrangement(**found["arrangement"])
    except (OSError, UnreadableError, KeyError, TypeError):
        return None
    if found.get("case") != case:
        return None
    return arrangement if _makes_sense(arrangement, case["threads"]) else None


def _makes_sense(arrangement: Arrangement, threads: int) -> bool:
    values = [*asdict(arrangement).values()]
    numbers = all(type(value) is int for value in values)
    return (
        numbers
        and min(values) >= 1
        and arrangement.size <= LARGEST_STACK
        and arrangement.lanes * arrangement.threads <= threads
    )


def remember(case: Case, arrangement: Arrangement, *, lasting: bool = True) -> None:
    """Keeps ``arrangement`` for ``case``, as far as the folder can be written to.

    With ``lasting`` false it is kept for this process alone, as what a busy machine told.
    """
    path = _path(case)
    if not lasting:
        _meanwhile[path] = arrangement
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"case": case, "arrangement": asdict(arrangement)})


def busy() -> bool:
    """Whether others want this machine too, so that what is measured now holds for now only."""
    try:
        return os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)
    except (AttributeError, OSError):  # not on Windows
        return False


def _path(case: Case) -> Path:
    digest = hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()
    return user_cache_path("normbench") / "arrangements" / f"{digest[:16]}.json"
