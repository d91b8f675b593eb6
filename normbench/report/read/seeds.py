"""Folders of seeds -> how far each is, and what it has left."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normbench.errors import UnreadableError
from normbench.files import is_locked
from normbench.report.read.files import Moment, read_curve, read_environment
from normbench.store.lock import LOCK
from normbench.store.outcomes import Outcomes, read_outcomes
from normbench.store.results import METRICS, Result, read_result

RUNNING, INTERRUPTED, WAITING = "running", "interrupted", "waiting"
UNREADABLE = "unreadable"

_SEED = re.compile(r"seed-(\d{1,10})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRun:
    """One seed of a cell.

    Attributes:
        seed: which.
        state: ``finished``, ``diverged``, ``failed``, ``running``, ``interrupted``, ``waiting`` or
            ``unreadable``.
        result: how it ended, or None.
        curve: what ``metrics.jsonl`` says so far.
        environment: versions and machine; empty where they are not recorded for this seed alone.
        problem: why it is unreadable or failed, or None.
        outcomes: for each test image whether it was classified correctly; None where that is not
            recorded, or not to be believed.
    """

    seed: int
    state: str
    result: Result | None = None
    curve: tuple[Moment, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    outcomes: Outcomes | None = field(default=None, compare=False, repr=False)

    @property
    def begun(self) -> bool:
        """Whether there is anything to be said of its training."""
        return self.result is not None or bool(self.curve)

    @property
    def epoch(self) -> float:
        """How far training has come, in epochs."""
        if self.result is not None:
            return self.result.epochs
        return self.curve[-1].epoch if self.curve else 0.0


def seeds_of(folder: Path, wanted: Sequence[int]) -> tuple[SeedRun, ...]:
    """The seeds that are wanted and those that are there."""
    found = [_SEED.fullmatch(path.name) for path in folder.glob("seed-*") if path.is_dir()]
    numbers = {int(match[1]) for match in found if match} | set(wanted)
    locked = is_locked(folder / LOCK)
    runs = [_seed(folder / f"seed-{n}", n, locked=locked) for n in sorted(numbers)]
    begun = any(run.state == RUNNING and run.curve for run in runs)
    return tuple(
        SeedRun(seed=run.seed, state=WAITING)
        if begun and run.state == RUNNING and not run.curve
        else run
        for run in runs
    )


def _seed(folder: Path, seed: int, *, locked: bool) -> SeedRun:
    """One seed; ``locked``: a process is training in its cell."""
    curve = read_curve(folder)
    try:
        result = read_result(folder)
    except UnreadableError as error:
        problem = f"seed-{seed}/result.json: {str(error).removeprefix('result.json: ')}"
        return SeedRun(seed=seed, state=UNREADABLE, curve=curve, problem=problem)
    if result is not None:
        return SeedRun(
            seed=seed,
            state=result.status,
            result=result,
            curve=curve,
            environment=read_environment(folder),
            problem=result.error,
            outcomes=_outcomes(folder, result),
        )
    begun = (folder / METRICS).is_file()
    state = RUNNING if locked else INTERRUPTED if begun else WAITING
    return SeedRun(seed=seed, state=state, curve=curve, environment=read_environment(folder))


def _outcomes(folder: Path, result: Result) -> Outcomes | None:
    try:
        return read_outcomes(folder, result)
    except UnreadableError:
        return None
