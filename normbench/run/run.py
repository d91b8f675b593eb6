"""Runs a cell, from its configuration to its records: the composition root, read top to bottom."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from normbench.config import Config
from normbench.errors import UnreadableError, UsageError
from normbench.files import remove_leftovers, write_json, write_text
from normbench.run.cell import FRESH, Cell, Replica, write_summary
from normbench.run.machine import prepared
from normbench.run.spent import Spent
from normbench.run.stacks import LOG, train_replicas
from normbench.run.views import notes, show_header, show_results
from normbench.store.environment import environment
from normbench.store.lock import HOLDER, LOCK, holding
from normbench.store.rate import RATE
from normbench.store.results import (
    CONFIG,
    ENVIRONMENT,
    FAILED,
    FINISHED,
    TIME,
    Result,
    read_result,
    read_results,
)
from normbench.terminal.screen import Screen


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        summary: the content of ``summary.json``: all seeds that the cell has.
        wanted: the seeds that were asked for.
        results: how each of them ended.
        seconds: what the time went to, see :class:`normbench.run.spent.Spent`.
    """

    summary: dict[str, Any]
    wanted: list[int]
    results: list[Result]
    seconds: Mapping[str, float]

    @property
    def finished(self) -> bool:
        """Whether every seed that was asked for has finished."""
        found = {result.seed for result in self.results if result.status == FINISHED}
        return found == set(self.wanted)


def run(
    config: Config,
    screen: Screen,
    *,
    fresh: bool = False,
    brief: bool = False,
    since: float | None = None,
) -> Outcome:
    """Trains the seeds of a cell that have no result yet, from their last checkpoints.

    Args:
        config: what to train.
        screen: where progress is shown.
        fresh: whether to throw away the cell's earlier records first.
        brief: whether to show one line of the cell instead of all about it.
        since: when the command began, by ``perf_counter``; now by default.

    Raises:
        UsageError: something about the configuration, the data or the directory; nothing has been
            written then. Or another process is training this cell, or all checkpoints are damaged.
        StoppedError: training was interrupted in a thread other than the first.
    """
    (outcome,) = run_together([config], screen, fresh=fresh, brief=brief, since=since)
    return outcome


def run_together(
    configs: Sequence[Config],
    screen: Screen,
    *,
    fresh: bool = False,
    brief: bool = False,
    since: float | None = None,
) -> list[Outcome]:
    """What :func:`run` does, for cells that differ in learning rate and weight decay alone: their
    replicas share stacks.

    Raises:
        UsageError: see :func:`run`.
        StoppedError: see :func:`run`.
    """
    spent = Spent(since)
    cells = [Cell.of(config) for config in configs]
    with ExitStack() as stack:
        device = stack.enter_context(prepared(configs[0]))
        infos = [cell.check_fit() for cell in cells]
        if fresh or not all(replica.done for cell in cells for replica in cell.replicas()):
            cells[0].splits(device)  # before anything is written: the images may be damaged
        for cell in cells:
            stack.enter_context(reserved(cell))
        stack.enter_context(screen.logged(*(cell.directory / LOG for cell in cells)))
        pending: list[Replica] = []
        for cell, layers in zip(cells, infos, strict=True):
            if fresh:
                _clear(cell)
            own = _pending(cell, screen)
            there = len(cell.config.all_seeds) - len(own)
            show_header(screen, cell, device, there=there, brief=brief)
            for note in [] if brief else notes(cell, layers):
                screen.line(f"  note: {note}")
            if own:
                _describe(cell, device)
            for replica in own:
                remove_leftovers(replica.folder)  # of a process that was killed
            pending += own
        if pending:
            spent.started()
            train_replicas(pending, cells[0].splits(device), screen, spent, fresh=fresh)
        shares = [sum(r.cell is cell for r in pending) / max(1, len(pending)) for cell in cells]
        return [
            _outcome(cell, share, screen, spent.seconds(), brief=brief)
            for cell, share in zip(cells, shares, strict=True)
        ]


def _outcome(
    cell: Cell, share: float, screen: Screen, seconds: Mapping[str, float], *, brief: bool
) -> Outcome:
    """Writes what has come of a cell that had ``share`` of a run's replicas, and shows it."""
    if share:
        own = {part: share * value for part, value in seconds.items()}
        write_json(cell.directory / TIME, own)
    ended = read_results(cell.directory)
    summary = write_summary(cell, ended)
    if not brief:
        show_results(screen, cell, ended, seconds if share else {})
    wanted = cell.config.all_seeds
    return Outcome(summary, wanted, [r for r in ended if r.seed in wanted], seconds)


def _pending(cell: Cell, screen: Screen) -> list[Replica]:
    """The replicas to be trained; says which have results that cannot be believed."""
    pending = []
    for replica in cell.replicas():
        try:
            result = read_result(replica.folder)
        except UnreadableError as error:
            result = None
            screen.line(f"seed {replica.seed} is trained again: {replica.folder}: {error}")
        if result is None or result.status == FAILED:
            pending.append(replica)
    return pending


@contextmanager
def reserved(cell: Cell) -> Iterator[None]:
    """Keeps other processes from training this cell meanwhile.

    Raises:
        HeldError: another process does.
        UsageError: its directory cannot be written to.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(holding(cell.directory))
        except OSError as error:
            raise UsageError(
                f"runs={cell.config.runs} name={cell.config.name}: cannot write to"
                f" {cell.directory}: {error.strerror}; choose another folder with runs=FOLDER"
            ) from None
        yield


def _clear(cell: Cell) -> None:
    """Removes all records of a cell but the log, and first marks its seeds as begun afresh."""
    names = [path.name.removeprefix("seed-") for path in cell.directory.glob("seed-*")]
    there = {int(name) for name in names if name.isdecimal()}
    for seed in sorted({*there, *cell.config.all_seeds}):
        write_text(Replica(cell, seed).afresh, "")
    for path in cell.directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, HOLDER, LOG, RATE) and not path.name.startswith(FRESH):
            path.unlink()


def _describe(cell: Cell, device: torch.device) -> None:
    """Writes what is trained and on what."""
    text = yaml.safe_dump(cell.config.plain(), sort_keys=False, allow_unicode=True)
    write_text(cell.directory / CONFIG, text)
    write_json(cell.directory / ENVIRONMENT, environment(device))
