"""Advice and comparisons from Python: plain arguments, answers for pandas and notebooks."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from normbench.errors import UsageError
from normbench.launch.advise import command
from normbench.launch.advise.answer import Answer
from normbench.launch.advise.page import compared
from normbench.launch.advise.pictures import Error
from normbench.launch.choices import USUAL
from normbench.launch.compose import by_key, split_launcher
from normbench.launch.grid import train_each
from normbench.launch.planned import Planned
from normbench.registry import as_override
from normbench.report.compare.statistics import estimate
from normbench.store.results import FINISHED, read_results
from normbench.terminal.screen import Screen
from normbench.terminal.words import plus_minus

_ARGUMENTS = {
    "norm": 'norms="{}"',
    "batch": "batches=[{}]",
    "seeds": "seeds={}",
    "name": 'name="{}"',
}
"""The settings that :func:`compare` takes as arguments of its own."""


def advise(
    *overrides: str,
    norms: Sequence[str] | str = USUAL,
    within: str | float = "30m",
    screen: Screen | None = None,
) -> Answer:
    """Finds the best norm and learning rate, as ``normbench advise`` does.

    Args:
        overrides: settings as on the command line, ``"batch=2"``, ``"model.depth=20"``.
        norms: the names of the norms that race; as a list, or ``"batch,group"``.
        within: how long it may take, ``"30m"``, or in seconds.
        screen: where the race is shown; standard output by default.

    Raises:
        UsageError: as on the command line; nothing has been trained then.
        UnfinishedError: a training failed.
    """
    _check_settings(overrides)
    if isinstance(within, str):
        budget = command.seconds(within)
    elif isinstance(within, int | float) and isfinite(within) and within > 0:
        budget = float(within)
    else:
        raise UsageError(f'within={within!r}: give a time such as "30m", or seconds')
    names = [str(norm) for norm in _listed(norms)]
    return command.advise(overrides, screen or Screen(), within=budget, norms=names)


def _check_settings(overrides: Sequence[object]) -> None:
    """Refuses settings that are no text, such as a list of them."""
    for given in overrides:
        if not isinstance(given, str):
            raise UsageError(f'{given!r}: give each setting as text, for example "epochs=3"')


def _listed(given: object) -> list[Any]:
    """What was given for several: a list, one alone, or text with commas, as on a command line."""
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return list(given) if isinstance(given, Iterable) else [given]


@dataclass(frozen=True, slots=True)
class Compared:
    """One cell of a comparison.

    Attributes:
        norm, batch: what was trained.
        seeds: those that finished.
        errors: on the test images, 0..1, one a seed.
        error: their mean; None if none finished.
        half: half its 95 % interval; None with fewer than two seeds.
        seconds: of training, a seed, on average.
        memory: bytes of a training step; None where not known.
        folder: of the records.
    """

    norm: str
    batch: int
    seeds: list[int]
    errors: list[float]
    error: float | None
    half: float | None
    seconds: float | None
    memory: int | None
    folder: str


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Norms and batch sizes side by side; ``rows`` has one entry a cell."""

    rows: list[Compared]

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries, as pandas takes them."""
        return [asdict(row) for row in self.rows]

    def _repr_html_(self) -> str:
        errors = [
            Error(row.norm, row.norm, row.error, row.half, row.errors, row.batch)
            for row in self.rows
            if row.error is not None
        ]
        rows = [[row.norm, str(row.batch), _said(row), str(len(row.seeds))] for row in self.rows]
        return compared(errors, rows)


def compare(
    *overrides: str,
    norms: Sequence[str] | str = ("batch", "group"),
    batches: Sequence[int] | int = (2,),
    seeds: int = 3,
    name: str = "compare",
    screen: Screen | None = None,
) -> SideBySide:
    """Trains norms at batch sizes, as ``normbench sweep`` does; what is there is not trained again.

    Args:
        overrides: further settings as on the command line, ``"epochs=3"``, ``"optim.lr=0.05"``.
        norms: names of norms; as a list, or ``"batch,group"``.
        batches: batch sizes; as a list, or one.
        seeds: how many each is trained with.
        name: records go to ``runs/NAME``.
        screen: where progress is shown; standard output by default.

    Raises:
        UsageError: a setting or a cell cannot be; nothing has been trained then.
    """
    _check_settings(overrides)
    names, sizes = _listed(norms), _listed(batches)
    if not names:
        raise UsageError(f'norms={norms!r}: give one or more, for example norms=["batch", "group"]')
    if not sizes:
        raise UsageError(f"batches={batches!r}: give one or more, for example batches=[2]")
    launcher, own = split_launcher(overrides)
    typed = by_key(own)
    for key, argument in _ARGUMENTS.items():
        if key in typed:
            value = typed[key].partition("=")[2].strip()
            raise UsageError(
                f"{typed[key]}: compare has an argument for it: {argument.format(value)}"
            )
    each = [
        [f"name={as_override(name)}", *own, f"norm={norm}", f"batch={batch}", f"seeds={seeds}"]
        for batch in sizes
        for norm in names
    ]
    cells = train_each(each, launcher, screen or Screen())
    return SideBySide([_compared(cell) for cell in cells])


def _compared(planned: Planned) -> Compared:
    config = planned.cell.config
    wanted = set(config.all_seeds)
    ended = [r for r in read_results(planned.directory) if r.seed in wanted]
    finished = [r for r in ended if r.status == FINISHED]
    errors = {r.seed: 1 - r.test_accuracy for r in finished if r.test_accuracy is not None}
    mean = estimate(errors.values())
    return Compared(
        norm=config.norm.name,
        batch=config.batch,
        seeds=list(errors),
        errors=list(errors.values()),
        error=None if mean is None else mean.mean,
        half=None if mean is None else mean.half,
        seconds=fmean(r.seconds for r in finished) if finished else None,
        memory=max((r.memory_bytes for r in finished if r.memory_bytes is not None), default=None),
        folder=str(planned.directory),
    )


def _said(row: Compared) -> str:
    half = None if row.half is None else 100 * row.half
    return "-" if row.error is None else plus_minus(100 * row.error, half)
