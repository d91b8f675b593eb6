"""On what a run runs: versions and machine, and nothing from the environment's variables."""

import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from subprocess import DEVNULL, CalledProcessError, check_output
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PACKAGES = ("normbench", "torch", "hydra-core", "omegaconf", "tensorboard", "numpy")


def environment(device: "torch.device") -> dict[str, Any]:
    """Versions, machine, threads and commit, for ``environment.json``."""
    import torch  # late: reports read what this writes, and need no torch

    return {
        "python": platform.python_version(),
        "packages": _versions(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "commit": _commit(),
    }


def rounding(values: Mapping[str, Any]) -> dict[str, object]:
    """What decides how sums are rounded, by name."""
    packages = values.get("packages")
    release = packages.get("torch") if isinstance(packages, Mapping) else None
    keys = ("processor", "threads", "device", "gpu")
    return {"torch": release, **{key: values.get(key) for key in keys}}


def gone_on(before: Mapping[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """``now``, for a training that was begun ``before``: what it ran on until then is kept.

    Under the key ``before``, one entry for each time that something changed.
    """
    if not before:
        return now
    kept = before.get("before")
    earlier = list(kept) if isinstance(kept, list) else []
    own = {key: value for key, value in before.items() if key != "before"}
    if own != now:
        earlier.append(own)
    return {**now, "before": earlier} if earlier else now


def each_machine(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What an ``environment.json`` says of each machine that a training ran on, the last first."""
    before = values.get("before")
    earlier = (
        [each for each in before if isinstance(each, dict)] if isinstance(before, list) else []
    )
    return [values, *earlier]


def cores() -> int:
    """How many cores this process may use, where the system tells; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _apple() or platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _apple() -> str:
    """The processor's name where ``sysctl`` tells it, as on macOS."""
    try:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return check_output(command, text=True, stderr=DEVNULL).strip()
    except (OSError, CalledProcessError):
        return ""


@cache
def _versions() -> dict[str, str]:
    return {package: version(package) for package in _PACKAGES}


@cache
def _commit() -> str | None:
    """The commit of the source tree this runs from, if it is one."""
    source = Path(__file__).parents[1]
    if not (source.parent / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "rev-parse", "HEAD"]
        return check_output(command, text=True, stderr=DEVNULL).strip()
    except (OSError, CalledProcessError):
        return None
