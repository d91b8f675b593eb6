"""Which replicas are trained together, in how many lanes, and what becomes of those that fail."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from normbench.config import LIMITS
from normbench.data.batches import Splits
from normbench.errors import UsageError, first_line
from normbench.run.arranging import arrange, most_lanes, prove_stack
from normbench.run.cell import Cell, Replica, write_summary
from normbench.run.placement import Arrangement, in_lanes
from normbench.run.seeds import Replicas, StoppedError
from normbench.run.signals import asking
from normbench.run.spent import Spent
from normbench.store import checkpoint
from normbench.store.checkpoint import Checkpoint
from normbench.store.lock import holding
from normbench.store.results import failure, read_results, write_result
from normbench.terminal.screen import Screen

LOG = "log.txt"
"""The file in a cell's directory that holds all that was said of it."""

Failed = Callable[[Exception], None]
"""Says what a training has raised."""


def train_replicas(
    pending: Sequence[Replica],
    splits: Splits,
    screen: Screen,
    spent: Spent,
    *,
    fresh: bool = False,
) -> None:
    """Trains ``pending``: first the stacks that have begun, as they began, then the others.

    A training that raises ends as ``failed`` seeds with the error in the log, and the others go on;
    no exception leaves but those of mistakes, such as checkpoints that are all damaged.

    Args:
        pending: what is to be trained; the configurations differ in learning rate and weight decay
            alone, and their cells are held.
        splits: the images.
        screen: where progress is shown.
        spent: told what the time goes to.
        fresh: whether to start over, in stacks of their own: a checkpoint in the folder of another
            cell may name ``pending`` and is left to that cell.
    """
    begun = [] if fresh else _begun(pending, screen)
    taken = {_place(replica) for each in begun for replica in each.own}
    rest = [replica for replica in pending if _place(replica) not in taken]
    failed = partial(_say_failed, screen, pending[0].cell.directory / LOG)
    try:
        with _others_held(pending, begun) as others:
            _go_on(begun, splits, screen, spent, failed)
            for cell in others:
                write_summary(cell, read_results(cell.directory))
        if rest:
            with spent.on("arranging"):
                arrangement = _arranged(rest, splits, screen, failed)
            stacks = arrangement.divide(rest)
            lanes = min(arrangement.lanes, len(stacks))
            _train_stacks(stacks, splits, lanes, arrangement.threads, screen, spent, failed)
    except (UsageError, StoppedError):
        raise
    except Exception as error:
        failed(error)


def _say_failed(screen: Screen, log: Path, error: Exception) -> None:
    screen.log("".join(traceback.format_exception(error)))
    screen.line(f"  failed: {first_line(error)} (see {log})")


def _arranged(
    replicas: Sequence[Replica], splits: Splits, screen: Screen, failed: Failed
) -> Arrangement:
    """How they share the machine; one after another where timing them fails, for want of memory or
    because one of them raises: training says which."""
    try:
        return arrange(replicas, splits, screen).arrangement
    except (UsageError, StoppedError):
        raise
    except Exception as error:
        failed(error)
        screen.line("  timing failed; seeds are trained one after another")
        return Arrangement()


def _go_on(
    begun: Sequence["_Begun"], splits: Splits, screen: Screen, spent: Spent, failed: Failed
) -> None:
    """Trains the stacks that have begun, side by side those that computed with as many threads."""
    for threads in sorted({each.threads for each in begun}):
        alike = [each for each in begun if each.threads == threads]
        together = [each for each in alike if len(each.replicas) > 1]
        try:
            with spent.on("arranging"), _noting_failure(r for each in together for r in each.own):
                prove_stack(max((each.replicas for each in together), key=len, default=[]))
        except (UsageError, StoppedError):
            raise
        except Exception as error:  # nothing to those that are trained alone
            failed(error)
            alike = [each for each in alike if each not in together]
        stacks = [each.replicas for each in alike]
        lanes = min(len(stacks), most_lanes(splits) // threads) or 1
        _train_stacks(stacks, splits, lanes, threads, screen, spent, failed)


@contextmanager
def _others_held(pending: Sequence[Replica], begun: Sequence["_Begun"]) -> Iterator[Sequence[Cell]]:
    """Keeps others from cells that were not asked for but share a stack that has begun: these.

    Raises:
        HeldError: another process trains one of them.
    """
    mine = {replica.cell.digest for replica in pending}
    cells = {r.cell.digest: r.cell for each in begun for r in each.own}
    others = [cell for digest, cell in sorted(cells.items()) if digest not in mine]
    with ExitStack() as locks:
        for cell in others:
            locks.enter_context(holding(cell.directory))
        yield others


def _place(replica: Replica) -> tuple[str, int]:
    return replica.cell.digest, replica.seed


def note_failure(replicas: Iterable[Replica], error: BaseException) -> None:
    """Makes ``error`` the result of those that have none; a later run tries again."""
    for replica in replicas:
        if not replica.done:
            replica.folder.mkdir(parents=True, exist_ok=True)
            write_result(replica.folder, failure(replica.seed, error))


@contextmanager
def _noting_failure(replicas: Iterable[Replica]) -> Iterator[None]:
    """Makes what is raised, other than being asked to stop, the result of ``replicas``."""
    try:
        yield
    except (UsageError, StoppedError):
        raise
    except Exception as error:
        with suppress(OSError):  # for example on the full disk that is the error
            note_failure(replicas, error)
        raise


def _train_stacks(
    stacks: Sequence[Sequence[Replica]],
    splits: Splits,
    lanes: int,
    threads: int,
    screen: Screen,
    spent: Spent,
    failed: Failed,
) -> None:
    """Trains ``stacks`` in ``lanes``; a signal lets each save its state before it takes effect.

    What raises in one is nothing to the others. Replicas of a stack that fails before its first
    checkpoint are tried once more, each alone: what is wrong may be one of them, or their number.
    """
    stop = Event()
    running: set[int] = set()
    again: list[Replica] = []

    def job(number: int) -> None:
        members = stacks[number]
        running.add(number)
        begun = bool(checkpoint.files(members[0].folder))
        own = [each for each in members if not (begun and each.left(members[0]))]
        try:
            with _noting_failure(own):
                Replicas.of(members, splits).train(screen, stop, lambda: len(running), spent)
        except (UsageError, StoppedError):
            raise
        except Exception as error:
            failed(error)
            begun = bool(checkpoint.files(members[0].folder))
            if len(own) > 1 and not begun and not isinstance(error, OSError):
                again.extend(replica for replica in own if not replica.done)
        finally:
            running.discard(number)

    with asking(stop.set):
        in_lanes([partial(job, number) for number in range(len(stacks))], lanes, threads, stop)
    if again:
        screen.line(f"  each of these {len(again)} is tried alone")
        alone = [[replica] for replica in again]
        _train_stacks(alone, splits, lanes, threads, screen, spent, failed)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Replicas whose training has begun together, and by how many threads they were computed.

    Both have to stay as they were, or sums are taken in another order.
    """

    replicas: list[Replica]
    threads: int

    @property
    def own(self) -> list[Replica]:
        """The replicas that have not left it since."""
        return [replica for replica in self.replicas if not replica.left(self.replicas[0])]


def _begun(pending: Sequence[Replica], screen: Screen) -> list[_Begun]:
    """The stacks that have checkpoints and replicas without a result."""
    found: list[_Begun] = []
    wanted = {_place(replica) for replica in pending}
    for first in _firsts(pending):
        try:
            begun = _as_begun(first)
        except ValueError as error:  # none of them can be used; loading says why
            checkpoint.load(first.folder, partial(_refuse, error), screen.line)
            continue
        places = {_place(replica) for replica in begun.own}
        if not wanted.isdisjoint(places):
            found.append(begun)
            wanted -= places  # one that has begun twice goes on with the first
        elif all(replica.done for replica in begun.own):
            checkpoint.clear(first.folder)  # it was killed after its results were written
    return found


def companions(cell: Cell) -> set[str]:
    """The folders of the cells with which replicas of ``cell`` have begun in one stack."""
    stacks = [keys for replica in cell.replicas() for keys in _named(replica.folder)]
    return {str(key.get("cell")) for keys in stacks for key in keys}


def _named(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """The replicas that each checkpoint in ``folder`` says it is of, the newest first."""
    for head in checkpoint.heads(folder):
        keys = head.get("replicas")
        if isinstance(keys, list) and keys and all(isinstance(key, dict) for key in keys):
            yield keys


def _firsts(pending: Sequence[Replica]) -> Iterator[Replica]:
    """The replicas in whose folders the checkpoints lie of stacks that ``pending`` may belong to:
    those of their own cells, and those of cells beside them whose checkpoints name one of them that
    was not thrown away since."""
    cells = {replica.cell.digest: replica.cell for replica in pending}
    own = [replica for cell in cells.values() for replica in cell.replicas()]
    yield from (replica for replica in own if checkpoint.files(replica.folder))
    joined = [replica for replica in pending if not replica.afresh.exists()]
    names = {(replica.cell.directory.name, replica.seed) for replica in joined}
    experiment = pending[0].cell.directory.parent
    beside = {path.parent for path in experiment.glob("*/seed-*/step-*.checkpoint")}
    for folder in sorted(beside - {replica.folder for replica in own}):
        for keys in _named(folder):
            if any((key.get("cell"), key.get("seed")) in names for key in keys):
                with suppress(ValueError, UsageError):
                    yield Replica.of_key(keys[0], pending[0].cell)
                    break  # else the one before it may make more sense


def _as_begun(first: Replica) -> _Begun:
    """Whose checkpoint it is that lies in the folder of ``first``: the newest that is sound.

    Raises:
        ValueError: none is, or what they say makes no sense.
    """
    reason = ValueError("there is no sound checkpoint")
    for head in checkpoint.heads(first.folder, verified=True):
        try:
            return _stack_of(head, first)
        except ValueError as error:
            reason = error
    raise reason


def _stack_of(head: Mapping[str, Any], first: Replica) -> _Begun:
    """Whose the checkpoint with this head is, where it lies in the folder of ``first``.

    Raises:
        ValueError: what it says makes no sense.
    """
    keys, threads = head.get("replicas"), head.get("threads")
    if not isinstance(keys, list) or not 1 <= len(keys) <= LIMITS["seeds"]:
        raise ValueError("it names no replicas")
    replicas = [Replica.of_key(key, first.cell) for key in keys]
    if _place(replicas[0]) != _place(first):
        raise ValueError("is of other replicas")
    if type(threads) is not int or not 1 <= threads <= LIMITS["threads"]:
        raise ValueError("its number of threads makes no sense")
    return _Begun(replicas, threads)


def _refuse(error: ValueError, _: Checkpoint) -> None:
    raise error
