"""Files are whole or not there, are not believed when read, and locks die with their holder."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from normbench import files
from normbench.errors import UnreadableError
from normbench.files import is_locked, locked

# ---- one file at a time ----


def test_a_written_file_has_the_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    files.write_text(tmp_path / "deep" / "note.txt", "γ = 1\n")

    assert (tmp_path / "deep" / "note.txt").read_text(encoding="utf-8") == "γ = 1\n"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["note.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a.txt", "a")
        assert os.umask(0o027) == 0o027, "the umask is put back"
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("there_before", [True, False])
def test_an_exception_while_writing_leaves_the_old_file_and_no_other(
    tmp_path: Path, there_before: bool
) -> None:
    path = tmp_path / "a.json"
    if there_before:
        path.write_text("old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, half)

    assert [p.name for p in tmp_path.iterdir()] == (["a.json"] if there_before else [])
    if there_before:
        assert path.read_text() == "old"


def test_an_interruption_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupted(temporary: Path) -> None:
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, interrupted)

    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "old"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_sigkill_at_any_moment_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"n": -1, "filler": ""})
    program = (
        "import sys; from pathlib import Path; from normbench import files\n"
        "for n in range(10**9):\n"
        "    files.write_json(Path(sys.argv[1]), {'n': n, 'filler': 'x' * 200_000})\n"
        "    if n == 3: print('going', flush=True)\n"
    )
    for delay in (0.0, 0.003, 0.011, 0.017):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"going\n"
            time.sleep(delay)
            child.kill()

        content = json.loads(path.read_text())
        assert content["n"] >= 3
        assert len(content["filler"]) == 200_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, {"a": -float("inf")}]])
def test_what_is_not_finite_is_refused_and_nothing_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", value)

    assert list(tmp_path.iterdir()) == []


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"γ": [1, None, 0.1]})

    assert files.read_json(tmp_path / "a.json") == {"γ": [1, None, 0.1]}


def test_of_those_who_ask_to_change_a_file_one_at_a_time_does(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "count.json"

    def count() -> None:
        for _ in range(20):
            with locked(path.with_suffix(".lock")):
                before = files.read_json(path) or {"n": 0}
                files.write_json(path, {"n": before["n"] + 1})

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert files.read_json(path) == {"n": 60}


def test_a_process_that_was_killed_keeps_nobody_from_changing_a_file(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from normbench import files\n"
        "with files.locked(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()\n"
    )
    lock = tmp_path / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", program, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        with pytest.raises(TimeoutError, match="is locked"), locked(lock, timeout=0.05):
            pass
        child.kill()
        child.wait()
        with locked(lock, timeout=0.5):
            pass


def test_who_has_to_wait_for_a_lock_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    with (
        locked(tmp_path / ".lock"),
        pytest.raises(TimeoutError),
        locked(tmp_path / ".lock", timeout=0.05, waiting=lambda: told.append("wait")),
    ):
        pass
    with locked(tmp_path / ".lock", waiting=lambda: told.append("no")):
        pass
    assert told == ["wait"]


def test_a_lock_is_seen_only_while_it_is_held(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"

    assert not is_locked(lock)
    assert not lock.exists()
    with locked(lock):
        assert is_locked(lock)
    assert not is_locked(lock)


def test_a_lock_that_may_only_be_read_is_seen(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path):
        path.chmod(0o444)
        assert is_locked(path)
        assert path.stat().st_size == 0


@pytest.mark.parametrize(
    "text", ['{"a": 1', "", "[1, 2]", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_what_is_no_mapping_is_unreadable(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(UnreadableError, match=r"^a.json: "):
        files.read_json(tmp_path / "a.json")


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "a.json") is None


def test_what_is_no_text_or_no_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "long.json").write_text('{"a": "' + "x" * (1 << 20) + '"}')

    for name in ("binary", "folder", "pipe", "long"):
        with pytest.raises(UnreadableError):
            files.read_json(tmp_path / f"{name}.json")
