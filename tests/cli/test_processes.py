"""Runs that come to a bad end, and runs on a terminal."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from normbench.cli.endings import one_line
from normbench.store.curves import read_metrics
from tests.cli_helpers import on_terminal
from tests.conftest import TINY, Command, changed, process_environment

# ---- beside other commands ----


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_idle_threads_soon_leave_the_cores_to_others_unless_told_otherwise(
    given: dict[str, str], spins: str | None
) -> None:
    code = """
import atexit, os, sys
from normbench.cli import main
atexit.register(lambda: print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules))
main()
"""
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        env=kept | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"{spins} False"


# ---- streams that are closed ----


def test_a_command_whose_output_is_closed_does_its_work(script: str) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" --version >&-', script], stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    refused = subprocess.run(
        ["sh", "-c", 'exec "$0" norms nope 2>&-', script], stdout=subprocess.PIPE, check=False
    )
    assert refused.returncode == 2


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(script: str) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" norms | head -n 1', script], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_name_that_is_no_utf_8_is_one_line(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    line = [script, "sweep", *TINY, "norm=batch,group", os.fsdecode(b"runs=caf\xe9")]
    done = subprocess.run(
        line, capture_output=True, check=False, cwd=tmp_path,
        env=process_environment(tiny_library),
    )  # fmt: skip
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert b"a name here is none: rename it" in said


# ---- its time ----


def test_a_command_began_when_it_was_called_however_old_its_process_is() -> None:
    """A shell may become the last command of its line, with its own process and age."""
    code = """
import time
from normbench import cli
from normbench.cli import app
app.app = lambda obj: print(0 <= obj - called < 0.3)
time.sleep(0.3)
called = time.perf_counter()
cli.main()
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said == "True\n"


# ---- its end ----

AT_THE_END = """
import atexit, sys, threading, time
from normbench import cli

class Torn:
    def __del__(self):
        print("taken apart")

def late():
    time.sleep(0.3)
    print("waited for")

torn = Torn()
atexit.register(lambda: print("called"))
threading.Thread(target=late, daemon={daemon}).start()
cli.command()
"""


@pytest.mark.parametrize(("line", "code"), [("--version", 0), ("--no-such-option", 2)])
def test_a_command_ends_without_being_taken_apart(line: str, code: int) -> None:
    run = [sys.executable, "-c", AT_THE_END.format(daemon=True), line]
    done = subprocess.run(run, capture_output=True, text=True, check=False)

    assert done.returncode == code
    assert done.stdout.endswith("called\n")
    assert "taken apart" not in done.stdout


def test_a_command_waits_for_what_is_still_at_work() -> None:
    run = [sys.executable, "-c", AT_THE_END.format(daemon=False), "--version"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)

    assert "waited for" in done.stdout
    assert "called" in done.stdout


# ---- an interruption ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_of_which_a_library_makes_an_exit_is_a_line_all_the_same(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typer does so while it reads the command line or writes help."""

    def library() -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            sys.exit(130)

    with pytest.raises(SystemExit) as left, one_line():
        library()

    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    assert left.value.code == 128 + number
    assert capsys.readouterr().err == f"normbench: {words[number]}\n"


def test_an_exit_that_nobody_asked_for_passes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, one_line():
        sys.exit(3)

    assert (left.value.code, capsys.readouterr().err) == (3, "")


# ---- a run that comes to a bad end ----


def test_a_run_that_diverges_says_when_and_writes_its_result(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    result = nb("run", *tiny, "optim.lr=1e9", "norm=none")

    assert result.exit_code == 1
    assert result.stderr == ""
    (cell,) = tmp_path.glob("runs/*/*")
    told = json.loads((cell / "seed-0" / "result.json").read_text(), parse_constant=pytest.fail)
    assert told["status"] == "diverged"
    assert 1 <= told["diverged_at"] <= told["steps"] <= 12
    assert told["test_accuracy"] is told["test_loss"] is None
    summary = json.loads((cell / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["status"] == "diverged"
    assert summary["test_accuracy"] == [None]
    for line in (cell / "seed-0" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert f"diverged at step {told['diverged_at']}" in result.stdout


def test_a_run_that_diverged_is_not_tried_again(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    command = ["run", *tiny, "optim.lr=1e9", "norm=none"]
    assert nb(*command).exit_code == 1
    (result,) = tmp_path.glob("runs/*/*/seed-0/result.json")
    before = result.stat().st_mtime_ns

    assert nb(*command).exit_code == 1
    assert result.stat().st_mtime_ns == before


def test_a_result_that_cannot_be_believed_is_trained_again(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny).exit_code == 0
    (path,) = tmp_path.glob("runs/*/*/seed-0/result.json")
    good = json.loads(path.read_text())
    path.write_text(path.read_text()[:40])

    assert nb("run", *tiny).exit_code == 0
    assert json.loads(path.read_text())["test_accuracy"] == good["test_accuracy"]


@contextmanager
def running(script: str, library: Path, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A run without end that has come to its second epoch."""
    process = subprocess.Popen(
        [script, "run", *changed(TINY, "epochs=1000000")],
        cwd=home,
        env=process_environment(library),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2/" in line:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_run_has_left_its_curve_and_no_result(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    with running(script, tiny_library, tmp_path) as process:
        process.kill()
        process.communicate()

    (folder,) = tmp_path.glob("runs/*/*/seed-0")
    assert not (folder / "result.json").exists()
    steps = [line["step"] for line in read_metrics(folder)]
    assert 6 in steps, "the epoch that was shown is on disk"


LIMITED = (  # a file that would grow beyond 4 KiB fails to, as on a full disk
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
    " os.execv(sys.argv[1], sys.argv[1:])"
)


def test_a_full_disk_is_one_line_and_no_result_that_is_half_there(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, script, "run", *changed(TINY, "epochs=40")],
        cwd=tmp_path,
        env=process_environment(tiny_library),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, "a record that fails need not end training"
    assert done.stderr == ""
    assert done.stdout.count("recording stopped, training goes on: ") == 1
    (path,) = tmp_path.rglob("result.json")
    assert json.loads(path.read_text())["status"] == "finished"


def test_two_runs_of_one_cell_at_once_do_not_write_over_each_other(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    both = [
        subprocess.Popen(
            [script, "run", *changed(TINY, "epochs=100")],
            cwd=tmp_path,
            env=process_environment(tiny_library),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert 0 in [process.wait(timeout=100) for process in both]

    (folder,) = tmp_path.glob("runs/*/*/seed-0")
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 601))
    assert len(list(folder.glob("events.*"))) == 1


# ---- on a terminal ----


def test_on_a_terminal_a_bar_shows_how_far_it_is(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    sent = on_terminal(script, tiny_library, tmp_path, 120, "run", *changed(TINY, "epochs=150"))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)

    assert sent != plain, "there is colour"
    bars = [line for line in re.split(r"[\r\n]+", plain) if "step" in line and "left" in line]
    assert bars, plain
    for part in (r"epoch \d+/150", r"step [\d,]+/900", r"loss \d", r"acc [\d.]+%", r"[\d,]+ img/s"):
        assert re.search(part, bars[-1]), part
    assert re.search(r"\d+:\d\d left", bars[-1])
    assert "finished" in plain, "the closing table follows"
