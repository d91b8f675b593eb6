"""Arrangements measured on this machine and how fast they are, kept in the user's cache folder."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from normbench.config import PER_REPLICA
from normbench.errors import UnreadableError
from normbench.files import read_json, write_json
from normbench.run.cell import Cell
from normbench.run.placement import LARGEST_STACK, Arrangement, Pace
from normbench.store.environment import cores, processor
from normbench.store.results import BIG

_meanwhile: dict[Path, Pace] = {}

Case = Mapping[str, Any]
"""All that which arrangement is the fastest depends on."""


def case_of(cell: Cell, seeds: int, device: torch.device) -> Case:
    """The case of ``seeds`` seeds of ``cell`` on this machine."""
    config = cell.config
    optim = {k: v for k, v in asdict(config.optim).items() if k not in PER_REPLICA}
    return {
        "processor": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "normbench": version("normbench"),
        "images": [*cell.images.image_size, len(cell.images.classes)],
        "model": repr(config.model),
        "norm": repr(config.norm),
        "norm_batch": config.norm_batch,
        "batch": config.batch,
        "optim": repr(optim),
        "precision": config.precision.value,
        "seeds": seeds,
    }


def recall(case: Case) -> Pace | None:
    """What was measured for ``case``; None if nothing that makes sense is known."""
    if _path(case) in _meanwhile:
        return _meanwhile[_path(case)]
    try:
        found = read_json(_path(case)) or {}
        pace = Pace(Arrangement(**found["arrangement"]), found["step"])
    except (OSError, UnreadableError, KeyError, TypeError):
        return None
    if found.get("case") != case:
        return None
    return pace if _makes_sense(pace, case["threads"]) else None


def _makes_sense(pace: Pace, threads: int) -> bool:
    arrangement = pace.arrangement
    values = [getattr(arrangement, each.name) for each in fields(arrangement)]
    return (
        all(type(value) is int for value in values)
        and type(pace.step) is float
        and 0 < pace.step < BIG
        and min(values) >= 1
        and arrangement.size <= LARGEST_STACK
        and arrangement.lanes * arrangement.threads <= threads
    )


def remember(case: Case, pace: Pace, *, lasting: bool = True) -> None:
    """Keeps ``pace`` for ``case``.

    For this process alone where the folder cannot be written to, or with ``lasting`` false, as
    what a busy machine told.
    """
    path = _path(case)
    if lasting:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"case": case, **asdict(pace)})
            return
    _meanwhile[path] = pace


def busy() -> bool:
    """Whether others want this machine too, so that what is measured now holds for now only."""
    try:
        return os.getloadavg()[0] > 1.5 * cores()
    except OSError:  # the system does not tell
        return False


def _path(case: Case) -> Path:
    digest = hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()
    return user_cache_path("normbench") / "arrangements" / f"{digest[:16]}.json"
