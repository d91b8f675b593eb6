"""Runs a cell, from its configuration to its records: the composition root, read top to bottom."""

import shutil
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import torch
import yaml

from normbench.config import LIMITS, Config
from normbench.data.batches import Splits
from normbench.errors import UnreadableError, UsageError
from normbench.files import write_json, write_text
from normbench.run.allocator import keep_freed_memory
from normbench.run.cell import Cell
from normbench.run.placement import Arrangement, Step, fastest, in_lanes
from normbench.run.remembered import busy, case_of, recall, remember
from normbench.run.seeds import Replicas, StoppedError
from normbench.run.signals import asking
from normbench.run.spent import Spent
from normbench.run.views import show_arrangement, show_header, show_results
from normbench.store import checkpoint
from normbench.store.checkpoint import Checkpoint
from normbench.store.environment import environment
from normbench.store.lock import HOLDER, LOCK, holding
from normbench.store.results import (
    FAILED,
    FINISHED,
    SUMMARY,
    Result,
    failure,
    is_done,
    read_result,
    read_results,
    summarize,
    write_result,
)
from normbench.terminal.screen import Screen
from normbench.training.stacking import StackError, stack

LOG = "log.txt"
"""The file in a cell's directory that holds all that was said of it."""


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
    spent = Spent(since)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    cell = Cell.of(config)
    device = choose_device(config.device)
    _prepare(device)
    cell.check_fit()
    if fresh or not all(is_done(cell.seed_folder(seed)) for seed in config.all_seeds):
        cell.splits(device)  # before anything is written: the images may be damaged
    with held(cell), screen.logged(cell.directory / LOG):
        if fresh:
            _clear(cell.directory)
        pending = _pending(cell, screen)
        there = len(config.all_seeds) - len(pending)
        show_header(screen, cell, device, there=there, brief=brief)
        if pending:
            splits = cell.splits(device)
            _describe(cell, device)
            spent.started()
            _train(cell, splits, pending, screen, spent)
            write_json(cell.directory / "time.json", spent.seconds())
        ended = read_results(cell.directory)
        summary = write_summary(cell, ended)
        if not brief:
            show_results(screen, cell, ended, spent.seconds() if pending else {})
    wanted = set(config.all_seeds)
    mine = [r for r in ended if r.seed in wanted]
    return Outcome(summary, config.all_seeds, mine, spent.seconds())


def _pending(cell: Cell, screen: Screen) -> list[int]:
    """The seeds to be trained; says which have results that cannot be believed."""
    pending = []
    for seed in cell.config.all_seeds:
        try:
            result = read_result(cell.seed_folder(seed))
        except UnreadableError as error:
            result = None
            screen.line(f"seed {seed} is trained again: {cell.seed_folder(seed)}: {error}")
        if result is None or result.status == FAILED:
            pending.append(seed)
    return pending


def choose_device(name: str) -> torch.device:
    """The device that ``name`` means here: ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: it is no device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cuda" and (not index or index.isdecimal()):
        count = torch.cuda.device_count()
        if int(index or 0) < count:
            return torch.device(name)
        raise UsageError(f"device={name}: this machine has {count} CUDA devices; use device=cpu")
    if name == "cpu":
        return torch.device("cpu")
    raise UsageError(f"device={name}: must be auto, cpu, cuda or cuda:N")


def _prepare(device: torch.device) -> None:
    """Makes ``device`` the one that streams and graphs are made on, and float32 mean float32."""
    keep_freed_memory()
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # else convolutions round to 10 bits


@contextmanager
def held(cell: Cell) -> Iterator[None]:
    """Keeps other processes from training this cell meanwhile.

    Raises:
        HeldError: another process does.
        UsageError: its directory cannot be written to.
    """
    lock = holding(cell.directory)
    try:
        lock.__enter__()
    except OSError as error:
        raise UsageError(
            f"runs={cell.config.runs} name={cell.config.name}: cannot write to {cell.directory}:"
            f" {error.strerror}; choose another folder with runs=FOLDER"
        ) from None
    with ExitStack() as stack:
        stack.push(lock)
        yield


def _clear(directory: Path) -> None:
    """Removes everything in ``directory`` but the lock that is held on it, and the log."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, HOLDER, LOG):
            path.unlink()


def _describe(cell: Cell, device: torch.device) -> None:
    """Writes what is trained and on what."""
    text = yaml.safe_dump(_plain(asdict(cell.config)), sort_keys=False, allow_unicode=True)
    write_text(cell.directory / "config.yaml", text)
    write_json(cell.directory / "environment.json", environment(device))


def _plain(value: Any) -> Any:
    """Plain YAML values: enumerations by value, containers copied."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _train(
    cell: Cell, splits: Splits, pending: Sequence[int], screen: Screen, spent: Spent
) -> None:
    """Trains ``pending``: first the stacks that have begun, as they began, then the others.

    A training that raises ends as ``failed`` seeds with the error in the log; no exception leaves.
    """
    begun = _begun(cell, pending, screen)
    rest = sorted(set(pending) - {seed for stack in begun for seed in stack.seeds})
    try:
        for threads in sorted({stack.threads for stack in begun}):
            stacks = [stack.seeds for stack in begun if stack.threads == threads]
            lanes = min(len(stacks), _most_lanes(splits) // threads) or 1
            with spent.on("arranging"):
                _prove(cell, max(stacks, key=len))
            _train_stacks(cell, splits, stacks, lanes, threads, screen, spent)
        if rest:
            with _noting_failure(cell, rest), spent.on("arranging"):
                arrangement = _arrange(cell, splits, rest, screen)
            stacks = arrangement.divide(rest)
            lanes = min(arrangement.lanes, len(stacks))
            _train_stacks(cell, splits, stacks, lanes, arrangement.threads, screen, spent)
    except (UsageError, StoppedError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        screen.log(traceback.format_exc())
        screen.line(f"  failed: {type(error).__name__}: {reason} (see {cell.directory / LOG})")


def _most_lanes(splits: Splits) -> int:
    """How many stacks may be trained at a time: on a GPU one, for graphs are recorded alone."""
    on_cpu = splits.train.pixels.device.type == "cpu"
    return torch.get_num_threads() if on_cpu else 1


def note_failure(cell: Cell, seeds: Iterable[int], error: BaseException) -> None:
    """Makes ``error`` the result of those ``seeds`` that have none; a later run tries again."""
    for seed in seeds:
        folder = cell.seed_folder(seed)
        if not is_done(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_result(folder, failure(seed, error))


@contextmanager
def _noting_failure(cell: Cell, seeds: Iterable[int]) -> Iterator[None]:
    """Makes what is raised, other than being asked to stop, the result of ``seeds``."""
    try:
        yield
    except (UsageError, StoppedError):
        raise
    except Exception as error:
        with suppress(OSError):  # for example on the full disk that is the error
            note_failure(cell, seeds, error)
        raise


def _train_stacks(
    cell: Cell,
    splits: Splits,
    stacks: Sequence[Sequence[int]],
    lanes: int,
    threads: int,
    screen: Screen,
    spent: Spent,
) -> None:
    """Trains ``stacks`` in ``lanes``; a signal lets each save its state before it takes effect."""
    stop = Event()
    running: set[int] = set()  # by their first seeds

    def job(members: Sequence[int]) -> None:
        running.add(members[0])
        try:
            with _noting_failure(cell, members):
                replicas = Replicas.of(cell, splits, members)
                replicas.train(screen, stop, lambda: len(running), spent)
        finally:
            running.discard(members[0])

    with asking(stop.set):
        in_lanes([partial(job, members) for members in stacks], lanes, threads, stop)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Seeds whose training has begun together, and by how many threads they were computed.

    Both have to stay as they were, or sums are taken in another order.
    """

    seeds: list[int]
    threads: int


def _begun(cell: Cell, pending: Sequence[int], screen: Screen) -> list[_Begun]:
    """The stacks that have checkpoints and seeds without a result."""
    found: list[_Begun] = []
    for seed in cell.config.all_seeds:
        folder = cell.seed_folder(seed)
        if not checkpoint.files(folder):
            continue
        begun = _as_begun(checkpoint.head(folder), seed)
        if begun is None:  # nothing there can be used; loading says why
            checkpoint.load(folder, _refuse, screen.line)
        elif not set(begun.seeds).isdisjoint(pending):
            found.append(begun)
        elif all(is_done(cell.seed_folder(each)) for each in begun.seeds):
            checkpoint.clear(folder)  # it was killed after its results were written
    return found


def _as_begun(head: Mapping[str, Any] | None, seed: int) -> _Begun | None:
    """Whose checkpoint it is that begins with ``head``; None where that makes no sense."""
    seeds, threads = (head or {}).get("seeds"), (head or {}).get("threads")
    if not isinstance(seeds, list) or not 1 <= len(seeds) <= LIMITS["seeds"] or seeds[0] != seed:
        return None
    if any(type(number) is not int for number in seeds) or type(threads) is not int:
        return None
    return _Begun(seeds, threads) if 1 <= threads <= LIMITS["threads"] else None


def _refuse(_: Checkpoint) -> None:
    raise ValueError("its seeds and threads make no sense")


def _prove(cell: Cell, seeds: Sequence[int]) -> None:
    """Raises StackError if ``seeds`` are several that no stack is right for."""
    if len(seeds) > 1:
        stack([cell.build_model(seed) for seed in seeds[:2]], cell.example())


def _arrange(cell: Cell, splits: Splits, seeds: Sequence[int], screen: Screen) -> Arrangement:
    """How ``seeds`` share the machine: as wanted, or as is fastest here."""
    wanted = cell.config.stack
    if wanted == 1 and len(seeds) > 1:
        return Arrangement()
    try:
        _prove(cell, seeds)
    except StackError as error:
        screen.line(f"  the seeds are not stacked: {error}")
        return Arrangement()
    if isinstance(wanted, int) and len(seeds) > 1:
        return Arrangement(size=min(wanted, len(seeds)))
    chosen_threads = cell.config.threads is not None or torch.get_num_threads() == 1
    if len(seeds) == 1 and (chosen_threads or _most_lanes(splits) == 1):
        return Arrangement()
    return _fastest(cell, splits, seeds, screen)


def _fastest(cell: Cell, splits: Splits, seeds: Sequence[int], screen: Screen) -> Arrangement:
    """The fastest arrangement, as measured before on this machine or now."""
    case = case_of(cell, len(seeds), splits.train.pixels.device)
    known = recall(case)
    if known is not None:
        show_arrangement(screen, known)
        return known
    stop = Event()

    def prepare(size: int) -> Step:
        step = Replicas.of(cell, splits, seeds[:size]).stepper()

        def unless_stopped() -> None:
            if stop.is_set():
                raise StoppedError
            step()

        return unless_stopped

    with screen.working("measuring how to train") as bar, asking(stop.set):
        best, times = fastest(prepare, len(seeds), bar.update, lanes=_most_lanes(splits))
    if not busy():
        remember(case, best)
    show_arrangement(screen, best, times)
    return best


def write_summary(cell: Cell, ended: Sequence[Result]) -> dict[str, Any]:
    """Writes ``summary.json`` from the results of all seeds that are there, and returns it."""
    config = cell.config
    summary: dict[str, Any] = {
        "norm": config.norm.name,
        "batch": config.batch,
        "norm_batch": config.norm_batch or config.batch,
        "model": config.model.title,
        "data": {"name": cell.images.name, "sha256": cell.images.sha256},
        **summarize(ended),
        "digest": cell.digest,
    }
    write_json(cell.directory / SUMMARY, summary)
    return summary
