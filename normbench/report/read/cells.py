"""Run folders -> cells and seeds: what is done, what is running, what went wrong.

Nothing found on disk is believed: a file may be half written, damaged or made to do harm. What
cannot be read becomes a row that says so, and nothing is ever written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from normbench.errors import UnreadableError, UsageError
from normbench.report.read.defaults import filled, made
from normbench.report.read.files import (
    check_settings,
    divisor,
    folders,
    printable,
    read_environment,
    read_mapping,
)
from normbench.report.read.seeds import SeedRun, seeds_of
from normbench.store import plan
from normbench.store.plan import CELL, PLAN, PlannedCell, string
from normbench.store.rate import read_rate
from normbench.store.results import (
    BIG,
    CONFIG,
    FINISHED,
    MOST_SEEDS,
    SUMMARY,
    Result,
    number_in,
    short,
)

_DEPTH = 2  # runs/NAME/CELL

_CLASSES = {"cifar100": 100, "cifar10": 10, "synthetic": 10}
"""Of data sets of which older summaries do not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """One norm at one batch size, as found on disk or in a plan.

    Attributes:
        folder: its path below the folder that was asked for, with slashes.
        norm, batch, norm_batch: what it trains; ``norm_batch`` is the images that share statistics.
        model: the network's title, such as ``ResNet-8``.
        data: the name of the data set.
        sha256: its digest, or None where no summary says it yet.
        classes: how many classes its images have; None where it is not recorded.
        settings: the whole configuration, of a cell that has not begun from the plan; empty where
            it is not recorded.
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
    classes: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[SeedRun, ...] = ()
    choice: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def experiment(self) -> str:
        """The folder that it is in, below the one that was asked for; "": that one."""
        return self.folder.rpartition("/")[0]

    @property
    def finished(self) -> list[Result]:
        """The results of the seeds that came to their end."""
        return [s.result for s in self.seeds if s.result is not None and s.state == FINISHED]

    @property
    def errors(self) -> dict[int, float]:
        """Their test errors in %, by seed."""
        return {
            result.seed: round(100 * (1 - result.test_accuracy), 8)
            for result in self.finished
            if result.test_accuracy is not None
        }

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

    @property
    def unreadable(self) -> list[CellRun]:
        """The cells that cannot be read."""
        return [cell for cell in self.cells if cell.problem is not None]


def collect(directory: Path) -> Collection:
    """Reads all cells in ``directory``: a cell, an experiment (``runs/NAME``) or all of ``runs``.

    Raises:
        UsageError: there is no such folder, it cannot be read, or it has no cells.
    """
    if not directory.is_dir():
        raise UsageError(
            f"{directory}: there is no such folder; give one like runs/NAME, or train some with"
            " normbench sweep"
        )
    cells: dict[str, CellRun] = {}
    problems: list[str] = []
    home = directory.resolve()  # "." has no name
    try:
        for folder in folders(home, _DEPTH):
            listed, problem = _plan(folder)
            problems += [] if problem is None else [problem]
            for entry in listed:
                place = _place(folder / entry.folder, home)
                cells[place] = _cell(folder / entry.folder, place, entry)
            if CELL.fullmatch(folder.name):
                place = _place(folder, home)
                cells.setdefault(place, _cell(folder, place, None))
    except OSError as error:
        raise UsageError(f"{directory}: cannot be read: {error.strerror}") from None
    if not cells:
        raise UsageError(
            f"{directory}: has no cells (folders like group-b2-1a2b3c4d); give runs/NAME, or train"
            " some with normbench sweep"
        )
    ordered = sorted(
        cells.values(),
        key=lambda c: (c.experiment, c.norm, c.batch, c.norm_batch, c.folder),
    )
    return Collection(printable(home.name), tuple(ordered), tuple(problems))


def _place(folder: Path, directory: Path) -> str:
    return printable(folder.relative_to(directory).as_posix())


def _plan(folder: Path) -> tuple[Sequence[PlannedCell], str | None]:
    """The cells that a plan in ``folder`` lists, and what is wrong with it."""
    try:
        return plan.read(folder), None
    except UnreadableError as error:
        return [], str(error)


def _cell(folder: Path, place: str, planned: PlannedCell | None) -> CellRun:
    """The cell in ``folder``, which need not exist if it is planned."""
    match = CELL.fullmatch(folder.name)
    assert match is not None
    batch = int(match["batch"])
    named = CellRun(folder=place, norm=match["norm"], batch=batch, norm_batch=batch)
    try:
        return _read_cell(folder, named, planned)
    except OSError as error:
        return replace(named, problem=error.strerror or "it cannot be read")


def _read_cell(folder: Path, named: CellRun, planned: PlannedCell | None) -> CellRun:
    """What its files say of a cell whose folder is ``named``."""
    norm, batch = named.norm, named.batch
    wanted = list(planned.seeds) if planned is not None else []
    try:
        settings = read_mapping(folder / CONFIG) or {}
        summary = read_mapping(folder / SUMMARY) or {}
        _check(settings, norm, batch, CONFIG)
        _check(summary, norm, batch, SUMMARY)
        told = {} if settings or planned is None else filled(planned.settings)
        _check(told, norm, batch, PLAN)
        if not settings and not summary and planned is None:
            raise UnreadableError("there is neither config.yaml nor summary.json")
        shared = _shared(settings, summary, planned, batch)
        wanted += _wanted(settings)
        data = summary.get("data")
        data = data if isinstance(data, dict) else {}
        classes = number_in(data, "classes", 1, BIG)
    except UnreadableError as error:
        return replace(named, seeds=seeds_of(folder, wanted), problem=str(error))
    known = filled(settings) or told
    asked = known.get("data", {})
    name = string(data, "name") or (planned.data if planned else "")
    name = name or string(asked, "name") or string(asked, "source")
    return replace(
        named,
        norm_batch=shared,
        model=string(summary, "model") or (planned.model if planned else "") or _title(known),
        data=name,
        sha256=string(data, "sha256") or None,
        classes=_CLASSES.get(name.partition("-")[0]) if classes is None else int(classes),
        settings=known,
        environment=read_environment(folder),
        seeds=seeds_of(folder, wanted),
        choice=read_rate(folder) or {},
    )


def _check(values: Mapping[str, Any], norm: str, batch: int, file: str) -> None:
    """Raises UnreadableError where a file describes another cell than its folder's name."""
    if not values:
        return
    named = values.get("norm")
    if file in (CONFIG, PLAN):
        for group in ("norm", "model", "data", "optim"):
            if not isinstance(values.get(group), dict):
                raise UnreadableError(f"{file}: {group} is {short(values.get(group))}")
        named = values["norm"].get("name")
        check_settings(values, file)
    if named != norm or values.get("batch") != batch:
        said = f"norm {short(named)} and batch {short(values.get('batch'))}"
        raise UnreadableError(f"{file}: {said} are not the folder's")


def _shared(
    settings: Mapping[str, Any],
    summary: Mapping[str, Any],
    planned: PlannedCell | None,
    batch: int,
) -> int:
    """How many images share statistics."""
    for values in (settings, summary):
        shared = number_in(values, "norm_batch", 1, batch)
        if shared is not None:
            return divisor(int(shared), batch)
    return planned.norm_batch if planned is not None and not settings else batch


def _wanted(settings: Mapping[str, Any]) -> list[int]:
    """The seeds that a configuration asks for."""
    if not settings:
        return []
    first = int(number_in(settings, "seed", 0, 1 << 31) or 0)
    count = int(number_in(settings, "seeds", 1, MOST_SEEDS) or 1)
    return list(range(first, first + count))


def _title(settings: Mapping[str, Any]) -> str:
    """A network's title where no summary says it yet; its name where its settings make no sense."""
    from normbench.models import MODELS  # brings torch

    model = settings.get("model", {})
    name = string(model, "name")
    try:
        return str(made(MODELS[name], model).title)
    except (UsageError, KeyError, TypeError, ValueError):
        return name
