"""Trains the cells of a sweep: each is launched until it has ended one way or another."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

from normbench.config import Config
from normbench.errors import UsageError, first_line
from normbench.launch.course import Course, estimated, followed, said, show_plan
from normbench.launch.planned import Cells, Planned
from normbench.report.compare.recipes import settings_apart
from normbench.run import run as experiment
from normbench.run.cell import Cell, Replica, write_summary
from normbench.run.seeds import StoppedError
from normbench.run.signals import asking
from normbench.run.stacks import LOG, note_failure
from normbench.store.lock import HOLDER, SWEEP, HeldError, Holder, holder
from normbench.store.results import RESULT, KilledError, read_results
from normbench.terminal.bars import duration
from normbench.terminal.screen import Screen
from normbench.terminal.words import count

GRACE = 3.5
"""Seconds that other processes get to save their state when the sweep is interrupted."""

KILLED = "its process was killed"

RETRIES = 2
"""How often cells are launched again where a process dies before it has begun one of them."""

_THIS = uuid4().hex

_courses: list[tuple[Course, Screen]] = []
"""Where the sweep is that trains its cells in this process, and what shows it; none otherwise."""


class InterruptedSweepError(BaseException):
    """The sweep was asked to leave; like KeyboardInterrupt, it passes every handler of errors."""


def dry_run(cells: Cells, screen: Screen, *, timed: bool) -> None:
    """Prints the cells, what of them is done, and how long the rest will take if it is ``timed``:
    other machines may have another device."""
    seconds = _estimated(cells, screen) if timed else None
    known = seconds or {}
    apart = settings_apart([each.cell.config.plain() for each in cells])
    rows = [
        (
            each.directory.name,
            own or "-",
            f"{len(each.cell.config.all_seeds) - len(each.left)}/{len(each.cell.config.all_seeds)}",
            duration(took) if each.left and (took := known.get(each.directory)) else "-",
        )
        for each, own in zip(cells, apart, strict=True)
    ]
    show_plan(screen, rows, None if seconds is None else sum(seconds.values()))


def _estimated(cells: Cells, screen: Screen) -> dict[Path, float]:
    jobs = [
        [Replica(each.cell, seed) for each in job for seed in each.left] for job in cells.jobs()
    ]
    return estimated([replicas for replicas in jobs if replicas], screen)


def screen() -> Screen:
    """Where a cell is shown: as its sweep, if that trains its cells in this process; else lines."""
    return _courses[-1][1] if _courses else Screen(live=False)


def train(config: Config, screen: Screen) -> None:
    """Trains the cells of a launched configuration, together, in this process.

    Whatever goes wrong becomes their result, not an error.
    """
    configs = config.apart
    folders = [Cell.of(each).directory for each in configs]
    if _courses and (overall := _courses[-1][0].at(folders)):
        screen.overall = overall
        screen.line(overall.said)
    try:
        experiment.run_together(configs, screen, brief=True)
    except StoppedError:  # a launcher has asked, and takes it from here
        screen.line("  stopped; the same sweep goes on with it")
    except Exception as error:
        held = isinstance(error, HeldError)
        screen.line(f"  left alone: {error}" if held else f"  failed: {first_line(error)}")
        if len(configs) > 1:  # what is wrong with one is nothing to the others
            for each in configs:
                train(each, screen)
        elif not held:
            with suppress(Exception):  # for example where the images are gone
                _note_failure(Cell.of(config), error, traceback.format_exc())


def _note_failure(cell: Cell, error: BaseException, details: str) -> None:
    """Makes ``error`` the result of the seeds that have none."""
    with experiment.reserved(cell), Screen.to_file(cell.directory / LOG) as log:
        log.log(details)
        note_failure(cell.replicas(), error)
        write_summary(cell, read_results(cell.directory))


@contextmanager
def foreseen(
    todo: Cells, screen: Screen, known: Mapping[Path, float] | None = None, *, here: bool
) -> Iterator[None]:
    """Says how long ``todo`` will take, unless that is ``known``; within it, every cell says how
    much is left.

    Where they are not trained ``here``, in this process, it is only said how many are done.
    """
    if not here:
        with followed({each.directory.name: partial(_is_done, each) for each in todo}, screen):
            yield
        return
    seconds = known
    if seconds is None:
        seconds = _estimated(todo, screen)
        screen.line(said(sum(seconds.values())))
    _courses.append((Course({each.directory: seconds[each.directory] for each in todo}), screen))
    try:
        yield
    finally:
        _courses.pop()
        screen.overall = None


def _is_done(planned: Planned) -> bool:
    return not planned.left


def finish(
    cells: Cells, todo: Cells, launch: Callable[[Sequence[Planned]], None], screen: Screen
) -> None:
    """Launches ``todo`` until each of them has ended one way or another.

    A launcher whose process is killed may take down its other jobs, or lose those that had not
    begun. Those are launched again. The ones that were being trained when a process died are
    launched at the end, each alone; one that dies again has failed.

    Args:
        cells: all cells of the sweep.
        todo: those to be trained.
        launch: hands cells to a launcher and waits for their end.
        screen: where it is said what went wrong.

    Raises:
        UsageError: the launcher raises without a cell having begun, however often.
    """
    suspects = Cells()
    while todo:
        died, left, begun = _launched(cells, todo, launch, screen)
        if died is None or not left:
            break
        suspects.extend(begun)
        todo = Cells(each for each in left if each not in begun)
    for each in suspects:
        died, _, _ = _launched(cells, Cells([each]), launch, screen)
        if died is not None and each.left:
            with suppress(OSError, UsageError):
                _note_failure(each.cell, KilledError(KILLED), KILLED)


def _launched(
    cells: Cells, todo: Cells, launch: Callable[[Sequence[Planned]], None], screen: Screen
) -> tuple[Exception | None, Cells, Cells]:
    """Launches ``todo``, again where that raises before anything has come of it.

    Returns:
        What the launcher raised; the cells that are left, without those that failed by themselves;
        and those of them that were being trained.

    Raises:
        UsageError: nothing has come of it RETRIES times more.
    """
    for retries in range(RETRIES, -1, -1):
        failures = {each.directory: _failures(each) for each in todo}
        holders = {each.directory: _held(each) for each in todo}
        died = _attempt(cells, todo, launch)
        left = [each for each in todo.unfinished() if _failures(each) == failures[each.directory]]
        begun = [each for each in left if _held(each) not in (None, holders[each.directory])]
        if died is None:
            break
        if left:
            said = f"{count(len(left), 'cell')} left"
            screen.line(f"a process of the launcher died ({first_line(died)}); {said}")
        if begun or len(left) < len(todo):
            break
        if not retries:
            raise UsageError(f"the launcher failed: {first_line(died)}") from died
    return died, Cells(left), Cells(begun)


def _held(planned: Planned) -> tuple[int, int] | None:
    """What tells the last process that has died at a cell from others; None where none has."""
    try:
        status = (planned.directory / HOLDER).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _failures(planned: Planned) -> list[tuple[int, int]]:
    """The seeds that have failed by themselves, and when."""
    found = []
    for seed in planned.left:
        with suppress(OSError):
            status = (planned.cell.seed_folder(seed) / RESULT).stat()
            found.append((seed, status.st_mtime_ns))
    return found


def _attempt(
    cells: Cells, todo: Cells, launch: Callable[[Sequence[Planned]], None]
) -> Exception | None:
    """Launches; returns what the launcher raised, once nobody works on ``todo`` any more."""

    def leave() -> None:
        _end_others(cells)
        raise InterruptedSweepError

    with asking(leave), _marked():
        try:
            launch(todo)
        except (UsageError, InterruptedSweepError):
            raise
        except Exception as error:
            # A launcher that waits for its jobs in turn raises while the others are at work.
            while _others(todo):
                time.sleep(0.2)
            return error
    return None


@contextmanager
def _marked() -> Iterator[None]:
    """Within it, whatever this process starts inherits the mark of its sweep."""
    os.environ[SWEEP] = _THIS
    try:
        yield
    finally:
        del os.environ[SWEEP]


def _end_others(cells: Cells) -> None:
    """Asks the processes on this machine that train ``cells`` to save and leave, and waits."""
    asked = _others(cells)
    for found in asked:
        with suppress(OSError):
            os.kill(found.pid, signal.SIGTERM)
    end = time.monotonic() + GRACE
    while time.monotonic() < end and not asked.isdisjoint(_others(cells)):
        time.sleep(0.05)


def _others(cells: Cells) -> set[Holder]:
    """The other processes on this machine that this sweep has started and that train ``cells``."""
    found = {holder(each.directory) for each in cells}
    own = os.getpid()
    return {who for who in found if who and who.here and who.sweep == _THIS and who.pid != own}
