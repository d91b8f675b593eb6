"""One process at a time works on a cell: a lock that dies with its holder, and who holds it."""

import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from normbench.errors import UnreadableError, UsageError
from normbench.files import is_locked, locked, read_json, write_json

LOCK, HOLDER = ".lock", ".holder.json"
"""Files in a cell's directory: what is locked, and who has locked it last."""

SWEEP = "NORMBENCH_SWEEP"
"""The environment variable by which the processes of a sweep are told from all others."""

PATIENCE = 0.5
"""Seconds to wait for a lock: whoever looks who holds it has it for a moment."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that works on a cell.

    Attributes:
        pid: its number.
        host: the machine it runs on.
        since: when it began, in UTC.
        sweep: which sweep has started it; empty if none has.
    """

    pid: int
    host: str
    since: str
    sweep: str = ""

    @property
    def here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == platform.node()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class HeldError(UsageError):
    """Another process works on the cell."""


@contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Makes the cell's directory and keeps other processes from working in it meanwhile.

    The lock belongs to the process: when it dies, however it dies, the lock is free.

    Raises:
        HeldError: another process holds it; the message says which.
        OSError: the directory cannot be written to.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(directory / LOCK, timeout=PATIENCE))
        except TimeoutError:
            who = _last(directory) or "another process"
            raise HeldError(
                f"{directory}: {who} is training this cell; wait for it, or give this run a name of"
                " its own with name=NAME"
            ) from None
        try:
            now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            me = Holder(os.getpid(), platform.node(), now, os.environ.get(SWEEP, ""))
            write_json(directory / HOLDER, asdict(me))
            yield
        finally:
            with suppress(OSError):
                (directory / HOLDER).unlink(missing_ok=True)


def holder(directory: Path) -> Holder | None:
    """Who works on a cell right now; None where nobody does. Nothing is written."""
    if not is_locked(directory / LOCK):
        return None
    return _last(directory) or Holder(0, "another machine", "some time")


def _last(directory: Path) -> Holder | None:
    """The last process that has said that it holds the cell."""
    try:
        values = read_json(directory / HOLDER) or {}
        pid, sweep = int(values["pid"]), str(values.get("sweep", ""))
        found = Holder(pid, str(values["host"]), str(values["since"]), sweep)
    except (UnreadableError, ValueError, TypeError, KeyError, OverflowError):
        return None
    return found if pid > 0 else None  # a signal to process -1 would reach all there are
