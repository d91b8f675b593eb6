"""The whole configuration of a cell: one norm, one batch size, any number of seeds."""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from enum import Enum
from math import inf
from pathlib import Path
from typing import Any

from normbench.data import DataConfig
from normbench.data.library import Description
from normbench.errors import UsageError
from normbench.models import ModelConfig
from normbench.norms import NormConfig
from normbench.registry import NAMED_BY
from normbench.store.results import MOST_SEEDS
from normbench.training.optim import OPTIMS, OptimConfig

LARGEST_SEED = 2**31 - 1
"""The largest first seed."""

LIMITS = {"batch": 1_000_000, "seeds": MOST_SEEDS, "threads": 1024}
"""The largest values that make sense."""

PER_REPLICA = ("lr", "weight_decay")
"""The keys of ``optim`` that replicas of one stack may differ in."""

RECIPE = 1
"""Raised when the same configuration begins to compute something else, or a default changes, so
that results of the old code are not taken for results of the new."""

CARRYING_RECIPE = 2
"""The same of cells that take over running statistics of a foreign network: their ε goes along."""


PLACES = (
    "name",
    "runs",
    "device",
    "threads",
    "stack",
    "save_every",
    "evaluate_every",
    "seed",
    "seeds",
    "together",
)
"""The keys that cannot change the result of a seed."""


class Precision(Enum):
    """The arithmetic of convolutions and matrix products."""

    float32 = "float32"
    bf16 = "bf16"


@dataclass(kw_only=True, slots=True)
class Config:
    """What to train, on what, how, and where the records go."""

    norm: NormConfig
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig

    batch: int = 32
    """How many images one optimizer step sees."""

    norm_batch: int | None = None
    """How many of them share batch norm's statistics; null: all. Other norms ignore it."""

    epochs: int = 4
    """How many times each training image is seen."""

    evaluate_every: int = 1
    """Epochs between two evaluations; the last epoch always has one."""

    seed: int = 0
    """The first seed."""

    seeds: int = 1
    """How many seeds: ``seed``, ``seed``+1, …; at most 10,000."""

    stack: int | str = "auto"
    """How many seeds are trained together as one network; auto: as many as is fastest here."""

    name: str = "default"
    """The name of the experiment: records go to ``RUNS/NAME``."""

    runs: str = "runs"
    """The folder of all records; a leading ~ is the home folder."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, or auto: CUDA where there is one."""

    threads: int | None = None
    """How many CPU threads compute; null: as many as PyTorch chooses."""

    precision: Precision = Precision.float32
    """float32, or bf16 (autocast) for convolutions and matrix products."""

    together: list[list[float]] = field(default_factory=list)
    """Learning rates and weight decays of the cells that are trained in the same stacks, a pair a
    cell. A sweep sets it for what it launches; it is no setting for people."""

    save_every: float = 60.0
    """Seconds between two checkpoints; 0: after every step."""

    def __post_init__(self) -> None:
        if not 0 <= self.save_every < inf:
            raise UsageError(f"save_every={self.save_every}: must be seconds, at least 0")
        for key in ("batch", "norm_batch", "epochs", "evaluate_every", "seeds", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"{key}={value}: must be at least 1")
        for key, limit in LIMITS.items():
            if (getattr(self, key) or 0) > limit:
                raise UsageError(f"{key}={getattr(self, key)}: must be at most {limit}")
        if self.stack != "auto" and not (isinstance(self.stack, int) and self.stack >= 1):
            raise UsageError(f"stack={self.stack}: must be auto or a whole number from 1")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"seed={self.seed}: must be from 0 to {LARGEST_SEED}")
        if self.norm_batch is not None and self.batch % self.norm_batch:
            raise UsageError(
                f"norm_batch={self.norm_batch} does not divide batch={self.batch}; allowed:"
                f" {', '.join(str(d) for d in range(1, self.batch + 1) if self.batch % d == 0)}"
            )
        if not self.norm.sub_batches:
            self.norm_batch = None  # whatever was typed; else records would tell it
        self._check_places()
        self.model.pin()

    def _check_places(self) -> None:
        for key in ("name", "runs"):
            value = getattr(self, key)
            if not value or "\0" in value:
                raise UsageError(f"{key}={value!r}: must not be empty")
        if self.name in (".", "..") or "/" in self.name or "\\" in self.name:
            raise UsageError(f"name={self.name}: must be one folder's name, without slashes")
        if not self.name.isprintable():  # nor what is no UTF-8
            raise UsageError(f"name={self.name!r}: must have no characters that cannot be shown")
        if self.name.startswith((".", "seed-")):  # reports leave such folders out
            raise UsageError(f"name={self.name}: must not begin with a dot or with seed-")
        try:
            self.runs = str(Path(self.runs).expanduser())
        except RuntimeError:
            raise UsageError(
                f"runs={self.runs}: must not begin with a home folder that is not there"
            ) from None

    @property
    def all_seeds(self) -> list[int]:
        """The seeds wanted, in order."""
        return list(range(self.seed, self.seed + self.seeds))

    @property
    def statistics_batch(self) -> int:
        """How many images share batch norm's statistics: ``norm_batch``, or all of ``batch``."""
        return self.norm_batch or self.batch

    def plain(self) -> dict[str, Any]:
        """All settings as plain values, as records have them.

        Without ``together``: with whom a cell is trained is no part of it.
        """
        found: dict[str, Any] = _plain(asdict(self))
        del found["together"]
        return found

    def identity(self, images: Description) -> dict[str, Any]:
        """Everything that makes a result another one, as plain values.

        Norm, network, batch, epochs and images are always there; of all other settings those that
        differ from their defaults, so that a new setting leaves the identity of every earlier
        result as it was. Left out are where and how it runs (``PLACES``) and which seeds: each seed
        has a folder of its own. The data set enters by name and content, not by how it was asked
        for, so that ``data=auto`` and ``data=cifar10`` share results where they are the same.
        """
        own = changes(self, *PLACES)
        groups = {group: changes(getattr(self, group), key) for group, key in NAMED_BY.items()}
        if self.norm_batch == self.batch or not self.norm.batch_dependent:
            own.pop("norm_batch", None)
        data = {"name": images.name, "sha256": images.sha256}
        averaged = self.norm.evaluation == "running statistics"
        carrying = self.model.foreign and self.model.carry and averaged
        first = self.optim.name == next(iter(OPTIMS))  # there was no other, nor a name, for a while
        return {
            "recipe": CARRYING_RECIPE if carrying else RECIPE,
            "batch": self.batch,
            "epochs": self.epochs,
            **own,
            "norm": {"name": self.norm.name, **groups["norm"]},
            "model": {"name": self.model.name, **groups["model"]},
            "data": {**groups["data"], **data},
            "optim": {**({} if first else {"name": self.optim.name}), **groups["optim"]},
        }

    def stack_identity(self, images: Description) -> dict[str, Any]:
        """What configurations have in common whose replicas can share a stack: all but learning
        rate and weight decay."""
        common = self.identity(images)
        common["optim"] = {k: v for k, v in common["optim"].items() if k not in PER_REPLICA}
        return common

    @property
    def apart(self) -> "list[Config]":
        """The configurations of the cells in ``together``; this one alone where it is empty."""
        alone = replace(self, together=[])
        return [
            replace(alone, optim=replace(self.optim, lr=lr, weight_decay=decay))
            for lr, decay in self.together
        ] or [alone]

    def digest(self, images: Description) -> str:
        """SHA-256 (hex) of :meth:`identity`."""
        canonical = json.dumps(self.identity(images), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Enumerations by value, containers copied."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def changes(settings: Any, *left_out: str) -> dict[str, Any]:
    """The plain settings of a configuration or a group of it that differ from their defaults.

    Of a file that one names only its SHA-256 counts.

    Args:
        left_out: settings that are not asked about.
    """
    changed = {}
    for each in fields(settings):
        if "pinned" in each.metadata or each.name in left_out:
            continue
        value = getattr(settings, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if not is_dataclass(value) and value != default:
            changed[each.name] = value.value if isinstance(value, Enum) else value
    return changed
