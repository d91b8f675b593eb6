"""The first signal asks, the second leaves, and nobody waits for longer than five seconds."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console

from normbench.launch.compose import load_config
from normbench.run import run as experiment
from normbench.run import seeds
from normbench.run.signals import PATIENCE, SIGNALS, TOGETHER, asking
from normbench.store import checkpoint
from normbench.store.curves import read_metrics
from normbench.terminal.screen import Screen
from tests.conftest import TINY, changed, process_environment

PROGRAM = """
import signal, threading, time
from normbench.run.signals import asking
asked = threading.Event()
with asking(asked.set):
    print("ready", flush=True)
    {body}
print("after", flush=True)
"""

COMES_TO_REST = "asked.wait(); print('at rest', flush=True)"
NEVER_ENDS = "asked.wait(); print('asked', flush=True); threading.Event().wait()"
COMPUTES_FOREVER = "while True: pass"


# So that a test need not wait for as long as a person may.
IMPATIENT = "import normbench.run.signals\nnormbench.run.signals.PATIENCE = 1.0\n"
SOON_TWO = "import normbench.run.signals\nnormbench.run.signals.TOGETHER = 0.2\n"


@contextmanager
def running(body: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that is in the body of ``asking``."""
    with subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


# ---- processes ----


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_lets_the_body_come_to_rest_and_then_takes_effect(number: signal.Signals) -> None:
    with running(COMES_TO_REST) as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)

    assert output == "at rest\n", "and what comes after is not reached"
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_leaves_at_once(number: signal.Signals) -> None:
    with running(NEVER_ENDS, SOON_TWO) as process:
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        time.sleep(0.4)  # a person who presses twice
        start = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 128 + number
    assert time.monotonic() - start < 2
    assert errors == ""


def test_who_does_not_come_to_rest_is_left_within_five_seconds() -> None:
    assert (PATIENCE, TOGETHER) == (4.5, 1.0)
    with running(COMPUTES_FOREVER, IMPATIENT) as process:
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        elapsed = time.monotonic() - start

    assert process.returncode == 143
    assert 0.8 < elapsed < 2, "time to save, and no more"
    assert errors == ""


@pytest.mark.parametrize("second", SIGNALS)
def test_two_at_the_same_moment_are_one(second: signal.Signals) -> None:
    """Under joblib a worker hears Ctrl-C from the terminal and SIGTERM from the sweep, and
    ``timeout`` sends its signal to a process and to its group.
    """
    with running("asked.wait(); time.sleep(1); print('at rest', flush=True)") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(second)
        output, _ = process.communicate(timeout=30)

    assert output == "at rest\n"


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """A shell without job control starts what is in the background so, and nohup does likewise."""
    before = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    with running("print(asked.wait(0.4), flush=True)", before) as process:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)

    assert output == "False\nafter\n"
    assert process.returncode == 0


# ---- within this process ----


@contextmanager
def noting(received: list[object]) -> Iterator[None]:
    """Handlers that note what they receive, for as long as a test takes."""
    before = {each: signal.signal(each, lambda n, _: received.append(n)) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_asks_is_called_once_and_the_handler_from_before_at_the_end(
    number: signal.Signals,
) -> None:
    told: list[object] = []
    with noting(told):
        with asking(lambda: told.append("asked")):
            os.kill(os.getpid(), number)
            told.append("body")
        told.append("after")

    assert told == ["asked", "body", number, "after"]


def test_without_a_signal_nothing_happens_and_the_handlers_are_as_before() -> None:
    told: list[object] = []
    with noting(told):
        before = [signal.getsignal(each) for each in SIGNALS]
        with asking(lambda: told.append("asked")):
            assert [signal.getsignal(each) for each in SIGNALS] != before
        assert [signal.getsignal(each) for each in SIGNALS] == before
        with pytest.raises(ValueError, match="mine"), asking(lambda: told.append("asked")):
            raise ValueError("mine")
        assert [signal.getsignal(each) for each in SIGNALS] == before

    assert told == []


def test_a_body_that_raises_does_not_swallow_the_signal() -> None:
    told: list[object] = []

    def ask() -> None:
        raise RuntimeError("stopped")

    with noting(told):
        with pytest.raises(RuntimeError, match="stopped"), asking(ask):
            signal.raise_signal(signal.SIGTERM)
        before = threading.active_count()

    assert told == [signal.SIGTERM]
    assert threading.active_count() == before


def test_of_two_within_each_other_the_inner_asks_first_and_both_ask() -> None:
    told: list[object] = []
    with noting(told), asking(lambda: told.append("outer")):
        with asking(lambda: told.append("inner")):
            signal.raise_signal(signal.SIGTERM)
            told.append("inner body")
        told.append("outer body")

    assert told == ["inner", "inner body", "outer", "outer body", signal.SIGTERM]


def test_in_another_thread_nothing_changes() -> None:
    told: list[object] = []
    before = [signal.getsignal(each) for each in SIGNALS]

    def work() -> None:
        with asking(lambda: told.append("asked")):
            told.append([signal.getsignal(each) for each in SIGNALS] == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert told == [True]


def test_the_patience_ends_with_the_body() -> None:
    """A timer that went on would end a process that has long been doing something else."""
    told: list[object] = []
    with noting(told), asking(lambda: None):
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.05)

    assert not [each for each in threading.enumerate() if isinstance(each, threading.Timer)]


# ---- the commands ----

ENDLESS = changed(TINY, "epochs=1000000", "save_every=100000")

# Two seeds side by side, each in a lane of its own, without measuring whether that is fastest.
IN_LANES = """
from unittest.mock import patch
from normbench.run.placement import Arrangement, Pace
pace = Pace(Arrangement(lanes=2, size=1), 0.01)
patch("normbench.run.arranging._fastest", lambda *_: pace).start()
"""


def interrupted(
    home: Path,
    library: Path,
    arguments: list[str],
    number: signal.Signals,
    *,
    seeds: int,
    before: str = "",
) -> None:
    """Starts a command, waits until it trains, interrupts it and looks at how it leaves."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{before}\nfrom normbench.cli import main\nmain()",
            *changed(arguments),
        ],
        cwd=home,
        env=process_environment(library),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 100
        while sum(path.stat().st_size > 2000 for path in home.rglob("metrics.jsonl")) < seeds:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        elapsed = time.monotonic() - start
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 128 + number, errors
    assert elapsed < 20, "the fault matrix times it, on a machine that is idle"
    said = "interrupted" if number == signal.SIGINT else "terminated"
    same = "the same command" + (" without --fresh" if "--fresh" in arguments else "")
    assert errors == f"normbench: {said}; {same} trains what is missing\n"


def saved(seed_folder: Path) -> int:
    """The step of the last checkpoint, which is the step that was the last of all.

    Every step has its metrics as soon as the next begins; a checkpoint that was due after an epoch
    would be older than they are.
    """
    progress = checkpoint.read(checkpoint.files(seed_folder)[0]).values["progress"]
    steps = [line["step"] for line in read_metrics(seed_folder)]
    assert steps == list(range(1, progress["recorded"] + 1))
    assert progress["step"] - progress["recorded"] in (0, 1)
    assert not (seed_folder / "result.json").exists()
    assert not (seed_folder.parent / "summary.json").exists()
    return int(progress["step"])


@pytest.fixture
def goes_on(monkeypatch: pytest.MonkeyPatch, tiny: list[str]) -> Callable[[list[str]], list[int]]:
    """After which steps the same command goes on."""

    def look(overrides: list[str]) -> list[int]:
        screen = Screen(Console(file=io.StringIO(), width=120, _environ={}))

        def train(*_: Any, **__: Any) -> NoReturn:
            raise KeyboardInterrupt

        monkeypatch.setattr(seeds, "train", train)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(load_config(overrides), screen)
        assert isinstance(screen.console.file, io.StringIO)
        found = re.findall(r"goes on after step ([\d,]+)", screen.console.file.getvalue())
        return [int(step.replace(",", "")) for step in found]

    return look


@pytest.mark.parametrize(
    ("overrides", "number", "seeds", "before"),
    [
        ([], signal.SIGTERM, [0], ""),
        (["seeds=2", "stack=auto", "threads=2"], signal.SIGINT, [0, 1], IN_LANES),
    ],
    ids=["one seed", "two lanes"],
)
def test_a_run_saves_its_state_leaves_and_goes_on_from_there(
    tmp_path: Path,
    tiny_library: Path,
    goes_on: Callable[[list[str]], list[int]],
    overrides: list[str],
    number: signal.Signals,
    seeds: list[int],
    before: str,
) -> None:
    every = [*ENDLESS, *overrides]
    line = ["run", "--fresh", *every] if len(seeds) == 1 else ["run", *every]
    interrupted(tmp_path, tiny_library, line, number, seeds=len(seeds), before=before)

    (cell,) = tmp_path.glob("runs/*/*/")
    steps = [saved(cell / f"seed-{seed}") for seed in seeds]
    found = goes_on(every)
    assert found != []
    assert set(found) <= set(steps), "lanes are interrupted at steps of their own"


def test_a_sweep_of_stacks_saves_its_state_leaves_and_goes_on_from_there(
    tmp_path: Path, tiny_library: Path, goes_on: Callable[[list[str]], list[int]]
) -> None:
    every = [*ENDLESS, "seeds=3", "stack=3"]
    line = ["sweep", *every, "norm=batch,group"]
    interrupted(tmp_path, tiny_library, line, signal.SIGINT, seeds=3)

    (begun,) = tmp_path.glob("runs/*/*/seed-0")
    assert begun.parent.name.startswith("batch-")
    assert goes_on([*every, "norm=batch"]) == [saved(begun)]


def test_the_workers_of_a_sweep_save_their_state_and_leave_with_it(
    tmp_path: Path, tiny_library: Path, goes_on: Callable[[list[str]], list[int]]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    line = ["sweep", *ENDLESS, "norm=batch,group", *joblib]
    interrupted(tmp_path, tiny_library, line, signal.SIGTERM, seeds=2)

    for norm in ("batch", "group"):
        (folder,) = tmp_path.glob(f"runs/*/{norm}-*/seed-0")
        assert goes_on([*ENDLESS, f"norm={norm}"]) == [saved(folder)]
