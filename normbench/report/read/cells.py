"""Run folders -> cells and seeds: what is done, what is running, what went wrong.

Nothing found on disk is believed: a file may be half written, damaged or made to do harm. What
cannot be read becomes a row that says so, and nothing is ever written.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from normbench.errors import UnreadableError, UsageError
from normbench.files import is_locked
from normbench.report.read.defaults import filled
from normbench.report.read.files import (
    Moment,
    check_settings,
    divisor,
    folders,
    printable,
    read_curve,
    read_environment,
    read_mapping,
)
from normbench.report.read.outcomes import read_outcomes
from normbench.store import plan
from normbench.store.plan import CELL, PlannedCell, string
from normbench.store.rate import read_rate
from normbench.store.results import FINISHED, Result, number, read_result, short

RUNNING, INTERRUPTED, WAITING = "running", "interrupted", "waiting"
UNREADABLE = "unreadable"

_SEED = re.compile(r"seed-(\d{1,10})")
_LOCK = ".lock"  # what a run of the cell locks
_DEPTH = 2  # runs/NAME/CELL
_MOST_SEEDS = 10_000


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
        outcomes: for each test image whether it was classified correctly; None where not recorded.
    """

    seed: int
    state: str
    result: Result | None = None
    curve: tuple[Moment, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    outcomes: npt.NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    @property
    def epoch(self) -> float:
        """How far training has come, in epochs."""
        if self.result is not None:
            return self.result.epochs
        return self.curve[-1].epoch if self.curve else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """One norm at one batch size, as found on disk or in a plan.

    Attributes:
        folder: its path below the folder that was asked for, with slashes.
        norm, batch, norm_batch: what it trains; ``norm_batch`` is the images that share statistics.
        model: the network's title, such as ``ResNet-8``.
        data: the name of the data set.
        sha256: its digest, or None where no summary says it yet.
        settings: the whole configuration; empty where it is not recorded.
        environment: versions and machine, of the last that trained here; empty where they are not
            recorded.
        seeds: by number.
        choice: how its learning rate was chosen; empty where it is not recorded.
        problem: why the cell is unreadable, or None.
    """

    folder: str
    norm: str
    batch: int
    norm_batch: int
    model: str = ""
    data: str = ""
    sha256: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[SeedRun, ...] = ()
    choice: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def finished(self) -> list[Result]:
        """The results of the seeds that came to their end."""
        return [s.result for s in self.seeds if s.result is not None and s.state == FINISHED]

    @property
    def epochs(self) -> float | None:
        """How many epochs were asked for; without a configuration, how many were seen."""
        asked = self.settings.get("epochs")
        if isinstance(asked, int):
            return asked
        return max((result.epochs for result in self.finished), default=None)


@dataclass(frozen=True, slots=True)
class Collection:
    """All cells below a folder.

    Attributes:
        name: the folder's own name.
        cells: by experiment, norm and batch.
        problems: what is wrong with files that belong to no cell.
    """

    name: str
    cells: tuple[CellRun, ...]
    problems: tuple[str, ...]


def collect(directory: Path) -> Collection:
    """Reads all cells in ``directory``: a cell, an experiment (``runs/NAME``) or all of ``runs``.

    Raises:
        UsageError: there is no such folder, it cannot be read, or it has no cells.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: there is no such folder; give one like runs/NAME")
    cells: dict[str, CellRun] = {}
    problems: list[str] = []
    try:
        for folder in folders(directory, _DEPTH):
            listed, problem = _plan(folder)
            problems += [] if problem is None else [problem]
            for entry in listed:
                place = _place(folder / entry.folder, directory)
                cells[place] = _cell(folder / entry.folder, place, entry)
            if CELL.fullmatch(folder.name):
                place = _place(folder, directory)
                cells.setdefault(place, _cell(folder, place, None))
    except OSError as error:
        raise UsageError(f"{directory}: cannot be read: {error.strerror}") from None
    if not cells:
        raise UsageError(
            f"{directory}: has no cells (folders like group-b2-1a2b3c4d); give runs/NAME, or train"
            " some with normbench sweep"
        )
    ordered = sorted(cells.values(), key=lambda c: (c.folder.rpartition("/")[0], *_order(c)))
    return Collection(printable(directory.resolve().name), tuple(ordered), tuple(problems))


def _place(folder: Path, directory: Path) -> str:
    return printable(folder.relative_to(directory).as_posix())


def _order(cell: CellRun) -> tuple[str, int, int, str]:
    return cell.norm, cell.batch, cell.norm_batch, cell.folder


# --- Seeds ----------------------------------------------------------------------------------------


def _seed(folder: Path, seed: int, *, locked: bool) -> SeedRun:
    """One seed; ``locked``: a process is training in its cell."""
    curve = read_curve(folder)
    try:
        result = read_result(folder)
    except UnreadableError as error:
        said = str(error).removeprefix("result.json: ")
        problem = f"seed-{seed}/result.json: {said}"
        return SeedRun(seed=seed, state=UNREADABLE, curve=curve, problem=problem)
    if result is not None:
        return SeedRun(
            seed=seed,
            state=result.status,
            result=result,
            curve=curve,
            environment=read_environment(folder),
            problem=result.error,
            outcomes=read_outcomes(folder),
        )
    begun = (folder / "metrics.jsonl").is_file()
    state = RUNNING if locked else INTERRUPTED if begun else WAITING
    return SeedRun(seed=seed, state=state, curve=curve, environment=read_environment(folder))


def _seeds(folder: Path, wanted: Sequence[int]) -> tuple[SeedRun, ...]:
    """The seeds that are wanted and those that are there."""
    found = [_SEED.fullmatch(path.name) for path in folder.glob("seed-*") if path.is_dir()]
    numbers = {int(match[1]) for match in found if match} | set(wanted)
    locked = is_locked(folder / _LOCK)
    runs = [_seed(folder / f"seed-{n}", n, locked=locked) for n in sorted(numbers)]
    if any(run.state == RUNNING and run.curve for run in runs):
        return tuple(
            SeedRun(seed=run.seed, state=WAITING) if run.state == RUNNING and not run.curve else run
            for run in runs
        )
    return tuple(runs)


# --- Cells ----------------------------------------------------------------------------------------


def _plan(folder: Path) -> tuple[list[CellRun], str | None]:
    """The cells that a plan in ``folder`` lists, and what is wrong with it."""
    try:
        return [_planned(entry) for entry in plan.read(folder)], None
    except UnreadableError as error:
        return [], str(error)


def _planned(entry: PlannedCell) -> CellRun:
    """A cell as a plan lists it; its seeds are all waiting."""
    return CellRun(
        folder=entry.folder,
        norm=entry.norm,
        batch=entry.batch,
        norm_batch=entry.norm_batch,
        model=entry.model,
        data=entry.data,
        seeds=tuple(SeedRun(seed=n, state=WAITING) for n in entry.seeds),
    )


def _cell(folder: Path, place: str, planned: CellRun | None) -> CellRun:
    """The cell in ``folder``, which need not exist if it is planned."""
    match = CELL.fullmatch(folder.name)
    assert match is not None
    norm, batch = match["norm"], int(match["batch"])
    try:
        return _read_cell(folder, place, planned, norm, batch)
    except OSError as error:
        why = error.strerror or "it cannot be read"
        return CellRun(folder=place, norm=norm, batch=batch, norm_batch=batch, problem=why)


def _read_cell(folder: Path, place: str, planned: CellRun | None, norm: str, batch: int) -> CellRun:
    wanted = [run.seed for run in planned.seeds] if planned is not None else []
    try:
        settings = read_mapping(folder / "config.yaml") or {}
        summary = read_mapping(folder / "summary.json") or {}
        _check(settings, norm, batch, "config.yaml")
        _check(summary, norm, batch, "summary.json")
        check_settings(settings)
        if not settings and not summary and planned is None:
            raise UnreadableError("there is neither config.yaml nor summary.json")
        shared = _shared(settings, summary, planned, batch)
        wanted += _wanted(settings)
    except UnreadableError as error:
        return CellRun(
            folder=place,
            norm=norm,
            batch=batch,
            norm_batch=batch,
            seeds=_seeds(folder, wanted),
            problem=str(error),
        )
    data = summary.get("data")
    data = data if isinstance(data, dict) else {}
    asked = settings.get("data", {})
    return CellRun(
        folder=place,
        norm=norm,
        batch=batch,
        norm_batch=shared,
        model=string(summary, "model") or (planned.model if planned else "") or _title(settings),
        data=string(data, "name")
        or (planned.data if planned else "")
        or string(asked, "name")
        or string(asked, "source"),
        sha256=string(data, "sha256") or None,
        settings=filled(settings),
        environment=read_environment(folder),
        seeds=_seeds(folder, wanted),
        choice=read_rate(folder) or {},
    )


def _check(values: Mapping[str, Any], norm: str, batch: int, file: str) -> None:
    """Raises UnreadableError where a file describes another cell than its folder's name."""
    if not values:
        return
    named = values.get("norm")
    if file == "config.yaml":
        for group in ("norm", "model", "data", "optim"):
            if not isinstance(values.get(group), dict):
                raise UnreadableError(f"{file}: {group} is {short(values.get(group))}")
        named = values["norm"].get("name")
    if named != norm or values.get("batch") != batch:
        said = f"norm {short(named)} and batch {short(values.get('batch'))}"
        raise UnreadableError(f"{file}: {said} are not the folder's")


def _shared(
    settings: Mapping[str, Any], summary: Mapping[str, Any], planned: CellRun | None, batch: int
) -> int:
    """How many images share statistics."""
    for values in (settings, summary):
        shared = number(values, "norm_batch", 1, batch)
        if shared is not None:
            return divisor(int(shared), batch)
    return planned.norm_batch if planned is not None and not settings else batch


def _wanted(settings: Mapping[str, Any]) -> list[int]:
    """The seeds that a configuration asks for."""
    if not settings:
        return []
    first = int(number(settings, "seed", 0, 1 << 31) or 0)
    count = int(number(settings, "seeds", 1, _MOST_SEEDS) or 1)
    return list(range(first, first + count))


def _title(settings: Mapping[str, Any]) -> str:
    """A network's title where no summary says it yet."""
    model = settings.get("model", {})
    names = {"resnet": "ResNet", "convnet": "ConvNet"}
    name = string(model, "name")
    depth = model.get("depth")
    return f"{names.get(name, name)}-{depth}" if isinstance(depth, int) else name
