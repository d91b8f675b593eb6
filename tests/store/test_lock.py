"""One process at a time: who comes second is told who is there, and the dead hold nothing."""

import errno
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from normbench.store import lock
from normbench.store.lock import HOLDER, LOCK, SWEEP, HeldError, holder, holding
from tests.conftest import files_below

PROGRAM = (
    "import sys; from pathlib import Path; from normbench.store.lock import holding\n"
    "with holding(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextmanager
def held_by_another(directory: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds ``directory`` until it is told to leave or killed."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_second_is_told_who_holds_it_and_since_when(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        with pytest.raises(HeldError) as caught, holding(tmp_path):
            pytest.fail("both hold it")
        seen = holder(tmp_path)

    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path}: process {other.pid} on {platform.node()}, since ")
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC is training", message)
    assert seen is not None
    assert (seen.pid, seen.host, seen.here, seen.sweep) == (other.pid, platform.node(), True, "")


def test_a_process_of_a_sweep_says_of_which(tmp_path: Path) -> None:
    with held_by_another(tmp_path, **{SWEEP: "a1b2"}):
        seen = holder(tmp_path)

    assert seen is not None
    assert seen.sweep == "a1b2"


def test_it_is_free_once_the_holder_has_left_and_says_nothing_of_it(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        other.communicate("")
        assert other.returncode == 0
        assert holder(tmp_path) is None
        assert not (tmp_path / HOLDER).exists()
        with holding(tmp_path):
            pass


def test_what_a_killed_process_held_is_free_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 30)  # far longer than anything else here takes
    with held_by_another(tmp_path) as other:
        other.kill()
        other.wait()
    assert (tmp_path / HOLDER).exists(), "it could not clean up"

    assert holder(tmp_path) is None
    start = time.monotonic()
    with holding(tmp_path):
        assert time.monotonic() - start < 10
        seen = holder(tmp_path)
        assert seen is not None
        assert seen.pid == os.getpid()
    assert holder(tmp_path) is None


def test_an_error_within_frees_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), holding(tmp_path):
        raise KeyboardInterrupt

    assert holder(tmp_path) is None
    assert not (tmp_path / HOLDER).exists()


def test_who_only_looks_keeps_nobody_from_coming_in(tmp_path: Path) -> None:
    """Whoever looks has the lock for a moment; that must not be taken for another's training."""
    looking = FileLock(tmp_path / LOCK, thread_local=False)
    looking.acquire()
    timer = threading.Timer(0.2, looking.release)
    timer.start()

    with holding(tmp_path):
        assert not looking.is_locked

    timer.join()


def test_looking_writes_nothing(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert holder(tmp_path / "nowhere") is None
    assert list(tmp_path.iterdir()) == []
    with held_by_another(tmp_path) as other:
        before, changed = files_below(tmp_path), tmp_path.stat().st_mtime_ns
        assert holder(tmp_path) is not None
        other.kill()
        other.wait()
        assert holder(tmp_path) is None

    assert (files_below(tmp_path), tmp_path.stat().st_mtime_ns) == (before, changed)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[1]",
        b'"pid"',
        b'{"pid": 1}',
        b'{"pid": "x", "host": "h", "since": "s"}',
        b'{"pid": null, "host": "h", "since": "s"}',
        b'{"pid": Infinity, "host": "h", "since": "s"}',
        b'{"pid": -1, "host": "h", "since": "s"}',
        b'{"pid": 0, "host": "h", "since": "s"}',
        b"[" * 100_000,
    ],
    ids=range(13),
)
def test_a_damaged_note_leaves_the_lock_and_names_nobody(tmp_path: Path, content: bytes) -> None:
    """Least of all process -1: a signal to it would reach every process there is."""
    with holding(tmp_path):
        (tmp_path / HOLDER).write_bytes(content)
        seen = holder(tmp_path)
        with pytest.raises(HeldError, match="another process is training"), holding(tmp_path):
            pass

    assert seen is not None
    assert seen.pid == 0
    assert not seen.here


def read_only(path: Any, flags: int, *mode: int, **_: Any) -> int:
    if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
        raise OSError(errno.EROFS, "Read-only file system", str(path))
    return _open(path, flags, *mode)


_open = os.open


def test_on_a_disk_that_can_only_be_read_nobody_is_at_work_and_nobody_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LOCK).touch()
    monkeypatch.setattr(os, "open", read_only)

    assert holder(tmp_path) is None
    with pytest.raises(OSError, match="Read-only"), holding(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_in_a_folder_that_may_only_be_read_nobody_is_at_work(tmp_path: Path) -> None:
    with holding(tmp_path):
        pass
    (tmp_path / LOCK).chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        assert holder(tmp_path) is None
    finally:
        tmp_path.chmod(0o700)


def test_a_note_of_before_there_were_sweeps_is_read(tmp_path: Path) -> None:
    with holding(tmp_path):
        note = {"pid": 77, "host": "elsewhere", "since": "yesterday"}
        (tmp_path / HOLDER).write_text(json.dumps(note))
        seen = holder(tmp_path)

    assert str(seen) == "process 77 on elsewhere, since yesterday"
    assert seen is not None
    assert not seen.here
