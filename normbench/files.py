"""Files that are whole or not there, files that are read without believing them, and locks.

Every file that normbench writes is made beside its place, synced and renamed into it, so that a
file that is there is whole, whatever was killed when.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_data_path

from normbench.errors import UnreadableError, UsageError

SMALL, LARGE = 1 << 20, 1 << 28
"""Bytes that a record has at most, and a curve or what grows with a sweep or an image."""

DATA_SET = ".safetensors"
"""How the file of a data set is called, after its name."""

_STALE_SECONDS = 3600.0


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Lets ``write`` make a temporary file, syncs it and renames it to ``path``.

    Raises:
        OSError: it could not be written; ``path`` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        rights = temporary.stat().st_mode  # of any new file; some writers make their own
        write(temporary)
        temporary.chmod(rights)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        if error.filename is None:  # a full disk does not say what was being written
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with :func:`write_atomically`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with :func:`write_atomically`; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes with :func:`write_atomically`."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers left in ``folder``; a younger file may still be written."""
    for leftover in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):  # another has just renamed or removed it
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()


def _sync(path: Path) -> None:
    """Has the system put a file or folder on the disk before anything relies on it."""
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_text(path: Path, limit: int = SMALL) -> str | None:
    """What a file says; None where there is none.

    Raises:
        UnreadableError: it is no plain file, longer than ``limit`` bytes, or not text.
    """
    try:
        if not path.is_file():  # a pipe would be waited for without end
            if os.path.lexists(path):
                raise UnreadableError("it is no plain file")
            return None
        if path.stat().st_size > limit:
            raise UnreadableError(f"it is longer than {limit >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(error.strerror or "it cannot be read") from None
    except UnicodeDecodeError:
        raise UnreadableError("it is not text") from None


def read_json(path: Path, limit: int = SMALL) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file.

    Raises:
        UnreadableError: it holds something else, or more than ``limit`` bytes; the message begins
            with the file's name.
    """
    try:
        text = read_text(path, limit)
        return None if text is None else as_mapping(json.loads(text))
    except UnreadableError as error:
        raise UnreadableError(f"{path.name}: {error}") from None
    except (ValueError, RecursionError):
        raise UnreadableError(f"{path.name}: it is damaged or half written") from None


def as_mapping(value: object) -> dict[str, Any]:
    """``value`` itself if it is a mapping of names to values.

    Raises:
        UnreadableError: it is not.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UnreadableError("it is no mapping of names to values")
    return value


@contextmanager
def locked(
    path: Path, *, timeout: float = -1, waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Holds the lock file ``path``; it is free when this process ends, however it ends.

    Args:
        path: the lock; it is made, and its folder as well.
        timeout: seconds to wait for whoever holds it; below 0: without end.
        waiting: called once if somebody does.

    Raises:
        TimeoutError: somebody else held it all the while.
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        try:
            lock.acquire(timeout=timeout, poll_interval=0.02)
        except Timeout:
            raise TimeoutError(f"{path} is locked") from None
    try:
        yield
    finally:
        lock.release()


def data_folder() -> Path:
    """The folder of the data sets: $NORMBENCH_DATA, else one in the user's data folder.

    It need not exist yet.
    """
    chosen = os.environ.get("NORMBENCH_DATA")
    try:
        return Path(chosen).expanduser() if chosen else user_data_path("normbench")
    except RuntimeError:
        raise UsageError(
            f"NORMBENCH_DATA={chosen}: there is no such home folder; write a path without ~"
        ) from None


def data_sets() -> list[Path]:
    """The files of the data sets on this machine, ``NAME.safetensors``."""
    return sorted(data_folder().glob(f"[!.]*{DATA_SET}"))


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock; without a trace, and where nothing can be written.

    A shared lock on a descriptor that only reads is refused exactly while another process has the
    exclusive one (flock, as FileLock takes it), and is given back at once.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
