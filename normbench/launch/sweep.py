"""The cells of a sweep: which there are, which are left to train, and what becomes of each.

Everything is read from the cells' own folders, so that it holds whoever trained them, on whatever
machine, and in however many attempts.
"""

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from uuid import uuid4

from normbench.config import Config
from normbench.errors import UsageError
from normbench.launch.course import Course, estimated, followed, said, show_plan
from normbench.run import run as experiment
from normbench.run.cell import Cell, write_summary
from normbench.run.seeds import StoppedError
from normbench.run.signals import asking
from normbench.run.stacks import LOG, companions, note_failure
from normbench.store import plan
from normbench.store.lock import HOLDER, SWEEP, HeldError, Holder, holder
from normbench.store.plan import PlannedCell
from normbench.store.results import FAILED, FINISHED, RESULT, KilledError, Result, read_results
from normbench.terminal.bars import duration
from normbench.terminal.screen import Screen

GRACE = 3.5
"""Seconds that other processes get to save their state when the sweep is interrupted."""

KILLED = "its process was killed"

_THIS = uuid4().hex

_courses: list[Course] = []
"""Where the sweep is that trains its cells in this process, if there is one."""


class InterruptedSweepError(BaseException):
    """The sweep was asked to leave; like KeyboardInterrupt, it passes every handler of errors."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell of a sweep.

    Attributes:
        cell: the cell.
        overrides: what composes its configuration.
    """

    cell: Cell
    overrides: list[str]

    @property
    def directory(self) -> Path:
        """Where its records go."""
        return self.cell.directory

    @property
    def left(self) -> list[int]:
        """The seeds that have no result that can be believed, or a failure."""
        return [
            seed for seed, result in self._results() if result is None or result.status == FAILED
        ]

    @property
    def finished(self) -> bool:
        """Whether all its seeds have come to a good end."""
        return all(result and result.status == FINISHED for _, result in self._results())

    @property
    def problem(self) -> str:
        """What keeps it from being finished, in a few words."""
        said: dict[str, list[int]] = {}
        for seed, result in self._results():
            if result is None:
                said.setdefault("no result", []).append(seed)
            elif result.status != FINISHED:
                at = "" if result.diverged_at is None else f" at step {result.diverged_at:,}"
                said.setdefault(result.error or f"{result.status}{at}", []).append(seed)
        return "; ".join(f"seed {', '.join(map(str, seeds))} {why}" for why, seeds in said.items())

    def _results(self) -> list[tuple[int, Result | None]]:
        """Each seed that is wanted, and its result as it is on disk now."""
        found = {result.seed: result for result in read_results(self.directory)}
        return [(seed, found.get(seed)) for seed in self.cell.config.all_seeds]

    @property
    def log(self) -> Path:
        """All that was said of it."""
        return self.directory / LOG

    def entry(self) -> PlannedCell:
        """What the plan says of it."""
        config = self.cell.config
        return PlannedCell(
            folder=self.directory.name,
            norm=config.norm.name,
            batch=config.batch,
            norm_batch=config.norm_batch or config.batch,
            model=config.model.title,
            data=self.cell.images.name,
            seeds=config.all_seeds,
        )


class Job(list[Planned]):
    """Cells whose replicas may share stacks: they are launched as one."""

    @property
    def overrides(self) -> list[str]:
        """What composes the configuration of the job."""
        first, *rest = self
        if not rest:
            return first.overrides
        optims = [each.cell.config.optim for each in self]
        pairs = ",".join(f"[{optim.lr!r},{optim.weight_decay!r}]" for optim in optims)
        return [*first.overrides, f"together=[{pairs}]"]


class Cells(list[Planned]):
    """The cells of a sweep, all in one folder."""

    @property
    def directory(self) -> Path:
        """The folder of the cells."""
        return self[0].directory.parent

    def bad(self) -> "Cells":
        """Those that are not finished."""
        return Cells(each for each in self if not each.finished)

    def jobs(self, workers: int = 1) -> list[Job]:
        """The cells as jobs, each of those that may share stacks; for ``workers`` at least.

        Cells whose replicas have begun in one stack stay together.
        """
        groups: dict[str, Job] = {}
        for each in self:
            cell = each.cell
            key = json.dumps(cell.config.stack_identity(cell.images), sort_keys=True)
            groups.setdefault(key, Job()).append(each)
        parts = -(-workers // max(1, len(groups)))
        split = []
        for group in groups.values():
            bundles = _begun_together(group)
            split += [Job(chain(*bundles[part::parts])) for part in range(parts)]
        return [job for job in split if job]

    def unfinished(self) -> "Cells":
        """Those with something left to train; what has diverged would diverge again."""
        return Cells(each for each in self if each.left)


def _begun_together(cells: Sequence[Planned]) -> list[list[Planned]]:
    """Those of ``cells`` together whose replicas are in one stack that has begun."""
    bundles: list[tuple[set[str], list[Planned]]] = []
    for each in cells:
        names, together = {each.directory.name, *companions(each.cell)}, [each]
        for bundle in [bundle for bundle in bundles if not names.isdisjoint(bundle[0])]:
            bundles.remove(bundle)
            names, together = names | bundle[0], bundle[1] + together
        bundles.append((names, together))
    return [together for _, together in bundles]


def planned_cells(
    configs: Iterable[tuple[Config, list[str]]],
    screen: Screen,
    *,
    elsewhere: bool = False,
    write: bool = True,
) -> Cells:
    """Finds the cells of ``configs``, each once, and writes down which they are.

    Args:
        configs: configurations and the overrides that compose them.
        screen: where it is said what was found.
        elsewhere: whether they will be trained on other machines, with other devices.
        write: whether to write them down.

    Raises:
        UsageError: one of them cannot be trained, or the folder cannot be written to.
    """
    found: dict[Path, Planned] = {}
    with screen.working("planning") as bar:
        for count, (config, overrides) in enumerate(configs):
            planned = Planned(Cell.of(config), overrides)
            if planned.directory not in found and planned.left:
                if not elsewhere:
                    experiment.choose_device(config.device)
                planned.cell.check_fit()
            found.setdefault(planned.directory, planned)
            bar.update("planning", count + 1, None)
    cells = Cells(found.values())
    if write:
        _write_plan(cells)
    left = len(cells.unfinished())
    done = "" if left == len(cells) else f", {len(cells) - left} of them trained already"
    number = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    screen.line(f"{number}{done}: {cells.directory}")
    return cells


def dry_run(cells: Cells, screen: Screen) -> None:
    """Prints the cells, what of them is done, and how long the rest will take."""
    seconds = _estimated(cells, screen)
    rows = [
        (
            each.directory.name,
            f"{len(each.cell.config.all_seeds) - len(each.left)}/{len(each.cell.config.all_seeds)}",
            duration(seconds[each.directory]) if each.left else "-",
        )
        for each in cells
    ]
    show_plan(screen, rows, sum(seconds.values()))


def _estimated(cells: Cells, screen: Screen) -> dict[Path, float]:
    left = {each.directory: len(each.left) for each in cells}
    return estimated([each.cell for each in cells], left, screen)


def _write_plan(cells: Cells) -> None:
    """Writes down which cells there are."""
    try:
        plan.add(cells.directory, [each.entry() for each in cells])
    except OSError as error:
        raise UsageError(
            f"cannot write to {cells.directory}: {error.strerror}; choose another folder with"
            " runs=FOLDER"
        ) from None


def is_here() -> bool:
    """Whether the sweep trains its cells in this process, and is the only one to do so."""
    return bool(_courses)


def train(config: Config, screen: Screen) -> None:
    """Trains the cells of a launched configuration, together, in this process.

    Whatever goes wrong becomes their result, not an error.
    """
    configs = config.apart
    if is_here() and (overall := _courses[-1].at([Cell.of(each).directory for each in configs])):
        screen.overall = overall
        screen.line(overall.said)
    try:
        experiment.run_together(configs, screen, brief=True)
    except StoppedError:  # a launcher has asked, and takes it from here
        screen.line("  stopped; the same sweep goes on with it")
    except Exception as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        held = isinstance(error, HeldError)
        screen.line(f"  left alone: {error}" if held else f"  failed: {said}")
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
def foreseen(todo: Cells, screen: Screen, *, here: bool) -> Iterator[None]:
    """Says how long ``todo`` will take; within it, every cell says how much is left.

    Where they are not trained ``here``, in this process, it is only said how many are done.
    """
    if not here:
        with followed({each.directory.name: partial(_is_done, each) for each in todo}, screen):
            yield
        return
    seconds = _estimated(todo, screen)
    screen.line(said(sum(seconds.values())))
    _courses.append(Course(seconds))
    try:
        yield
    finally:
        _courses.pop()


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
    """
    suspects = Cells()
    earlier = {each.directory: _failures(each) for each in todo}
    while todo:
        died = _attempt(cells, todo, launch)
        left = [each for each in todo.unfinished() if _failures(each) == earlier[each.directory]]
        if died is None or not left:
            break
        begun = [each for each in left if (each.directory / HOLDER).exists()]
        screen.line(f"a process of the launcher died ({_first_line(died)}); {len(left)} cells left")
        if not begun:
            raise UsageError(f"the launcher failed: {_first_line(died)}") from died
        suspects.extend(begun)
        todo = Cells(each for each in left if each not in begun)
    for each in suspects:
        if _attempt(cells, Cells([each]), launch) is not None and each.left:
            with suppress(OSError, UsageError):
                _note_failure(each.cell, KilledError(KILLED), KILLED)


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


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
