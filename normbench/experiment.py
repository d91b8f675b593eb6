"""Runs a cell, from its configuration to its records: the composition root, read top to bottom."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from threading import Event
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from normbench import records
from normbench.cell import Cell
from normbench.config import Config
from normbench.data.plan import Splits, split
from normbench.display import Screen
from normbench.environment import environment
from normbench.errors import UsageError
from normbench.lockstep import Arrangement, Step, fastest, in_lanes
from normbench.records import FINISHED, Result
from normbench.replicas import Replicas
from normbench.stacking import StackError, stack
from normbench.views import show_arrangement, show_header, show_results

LOCK = ".lock"
"""The file in a cell's directory that the process which trains it holds a lock on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        summary: the content of ``summary.json``: all seeds that the cell has.
        results: how each seed that was asked for ended.
    """

    summary: dict[str, Any]
    results: list[Result]

    @property
    def finished(self) -> bool:
        """Whether every seed that was asked for has finished."""
        return all(result.status == FINISHED for result in self.results)


def run(config: Config, screen: Screen, *, fresh: bool = False) -> Outcome:
    """Trains the seeds of a cell that have no result yet.

    Args:
        config: what to train.
        screen: where progress is shown.
        fresh: whether to throw away the cell's earlier records first.

    Raises:
        UsageError: something about the configuration, the data or the directory; nothing has been
            written then. Or another process is training this cell.
    """
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    cell = Cell.of(config)
    splits = split(cell.images, config.data, device)
    cell.check_fit(splits)
    with _holding(cell, fresh=fresh):
        done = {result.seed for result in records.read_results(cell.directory)}
        pending = [seed for seed in config.all_seeds if seed not in done]
        show_header(screen, cell, splits, device, there=len(config.all_seeds) - len(pending))
        if pending:
            _describe(cell, device)
            _train(cell, splits, pending, screen)
        summary = write_summary(cell)
    show_results(screen, cell)
    wanted = set(config.all_seeds)
    results = [r for r in records.read_results(cell.directory) if r.seed in wanted]
    return Outcome(summary, results)


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


@contextmanager
def _holding(cell: Cell, *, fresh: bool) -> Iterator[None]:
    """Makes the cell's directory and keeps other processes from training in it meanwhile."""
    lock = FileLock(cell.directory / LOCK, timeout=0)
    try:
        cell.directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        if fresh:
            _clear(cell.directory)
    except Timeout:
        raise UsageError(
            f"{cell.directory}: another process is training this cell; wait for it, or give this"
            " run a name of its own with name=NAME"
        ) from None
    except OSError as error:
        raise UsageError(
            f"runs={cell.config.runs} name={cell.config.name}: cannot write to {cell.directory}:"
            f" {error.strerror}; choose another folder with runs=FOLDER"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _clear(directory: Path) -> None:
    """Removes everything in ``directory`` but the lock that is held on it."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _describe(cell: Cell, device: torch.device) -> None:
    """Writes what is trained and on what."""
    text = yaml.safe_dump(_plain(asdict(cell.config)), sort_keys=False, allow_unicode=True)
    records.write_text(cell.directory / "config.yaml", text)
    records.write_json(cell.directory / "environment.json", environment(device))


def _plain(value: Any) -> Any:
    """Plain YAML values: enumerations by value, containers copied."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _train(cell: Cell, splits: Splits, seeds: Sequence[int], screen: Screen) -> None:
    """Trains ``seeds``, arranged as ``config.stack`` says."""
    arrangement = _arrange(cell, splits, seeds, screen)
    stacks = arrangement.divide(seeds)
    lanes = min(arrangement.lanes, len(stacks))
    stop = Event()

    def job(members: list[int]) -> Callable[[], None]:
        return lambda: Replicas.of(cell, splits, members).train(screen, stop, lanes)

    in_lanes([job(members) for members in stacks], lanes, stop)


def _arrange(cell: Cell, splits: Splits, seeds: Sequence[int], screen: Screen) -> Arrangement:
    """How ``seeds`` share the machine: as wanted, or as is fastest here."""
    wanted = cell.config.stack
    if len(seeds) == 1 or wanted == 1:
        return Arrangement()
    try:
        stack([cell.build_model(seed) for seed in seeds[:2]], cell.example())
    except StackError as error:
        screen.line(f"  the seeds are not stacked: {error}")
        return Arrangement()
    if isinstance(wanted, int):
        return Arrangement(size=min(wanted, len(seeds)))

    def prepare(size: int) -> Step:
        return Replicas.of(cell, splits, seeds[:size]).stepper()

    on_cpu = splits.train.pixels.device.type == "cpu"
    lanes = sorted({1, min(torch.get_num_threads(), len(seeds))}) if on_cpu else [1]
    with screen.working("measuring how to train the seeds together") as bar:
        best, times = fastest(prepare, len(seeds), bar.update, lanes=lanes)
    show_arrangement(screen, best, times)
    return best


def write_summary(cell: Cell) -> dict[str, Any]:
    """Writes ``summary.json`` from the results of all seeds that are there, and returns it."""
    config = cell.config
    summary: dict[str, Any] = {
        "norm": config.norm.name,
        "batch": config.batch,
        "norm_batch": config.norm_batch or config.batch,
        "model": config.model.title,
        "data": {"name": cell.images.name, "sha256": cell.images.sha256},
        **records.summarize(records.read_results(cell.directory)),
        "digest": cell.digest,
    }
    records.write_json(cell.directory / "summary.json", summary)
    return summary
