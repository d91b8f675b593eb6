"""What tests share: a clean place for each, the command line, and small images to train on."""

import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

CLASSES = ("cat", "dog", "eel")
NUM_TRAIN, NUM_TEST = 24, 12
SECRET = "NORMBENCH_TEST_TOKEN", "mellon-4f1c2a"  # an environment variable that no file may quote

# The smallest cell: six steps of four 8×8 images an epoch. A thread each, so that tests do not
# wait for one another's threads; the thread count is no part of a cell's identity.
TINY = (
    "data=images",
    "data.name=tiny",
    "batch=4",
    "epochs=2",
    "model=convnet",
    "model.depth=2",
    "model.width=4",
    "threads=1",
    "stack=1",
)


def pytest_configure() -> None:
    """One thread here and in the processes that tests start: it is tests that run in parallel.

    And one place for matplotlib's list of fonts, which takes a second or two to make.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MPLCONFIGDIR", f"{tempfile.gettempdir()}/normbench-tests-matplotlib")
    torch.set_num_threads(1)


def changed(arguments: Sequence[str], *others: str) -> list[str]:
    """The arguments, of whose settings the last of a key counts."""
    every = [*arguments, *others]
    keys = [text.partition("=")[0] if "=" in text else None for text in every]
    return [t for i, t in enumerate(every) if keys[i] is None or keys[i] not in keys[i + 1 :]]


class Command(Protocol):
    """Runs ``normbench`` with arguments."""

    def __call__(self, *arguments: str) -> Result: ...


_numbers = itertools.count()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each test. Pytest's own looks through all the others for a number each time."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    folder = tmp_path_factory.getbasetemp() / f"{name}-{next(_numbers)}"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working folder and library, a plain terminal of known width, and no network."""
    library = tmp_path.with_name(f"{tmp_path.name}-library")  # not there: tests look at tmp_path
    for name, value in _environment(library).items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", _local_only)
    # A loss of power cannot be tested here; processes that tests start wait for the disk.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    # joblib keeps its workers for the next call: they would work in this test's folder.
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    if loky is not None and loky._executor is not None:
        loky._executor.shutdown(kill_workers=True)


def _environment(library: Path) -> dict[str, str]:
    places = {"NORMBENCH_DATA": str(library), "XDG_CACHE_HOME": f"{library}-cache"}
    return {**places, "COLUMNS": "100", "TERM": "dumb", SECRET[0]: SECRET[1]}


_connect = socket.socket.connect


def _local_only(self: socket.socket, address: Any) -> None:
    """``connect`` for tests: servers of their own on this machine, and nothing else."""
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        pytest.fail(f"a test reached for the network: {address}")
    _connect(self, address)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank pictures: drawing them takes the longest in a report, and is tested by itself."""
    from matplotlib.figure import Figure

    def savefig(_: Figure, file: str | Path | IO[Any], **options: Any) -> None:
        if isinstance(file, str | Path):
            Path(file).touch()
        else:
            file.write("<svg></svg>" if options["format"] == "svg" else b"no picture")

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def nb() -> Command:
    """``normbench`` in this process: quick, for what needs no process of its own.

    Of a key that has several values, the last counts, so that tests can change those of ``tiny``.
    """
    from normbench.cli.app import app

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, changed(arguments), prog_name="normbench")

    return invoke


_DYING = """
import os, signal, sys
from pathlib import Path

if any("popen_loky" in word for word in sys.orig_argv):  # what joblib starts its workers with
    for number in range({times}):
        try:
            Path({folder!r}, str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def dying_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Kills so many of joblib's workers at their start; the folder has a file for each."""
    pytest.importorskip("joblib")

    def dying(times: int) -> Path:
        folder = tmp_path.with_name(f"{tmp_path.name}-killed")
        folder.mkdir()
        code = tmp_path.with_name(f"{tmp_path.name}-code")
        code.mkdir()
        text = _DYING.format(times=times, folder=str(folder))
        (code / "sitecustomize.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(code), prepend=os.pathsep)
        return folder

    return dying


@pytest.fixture(scope="session")
def script() -> str:
    """The path of the installed ``normbench`` command."""
    found = shutil.which("normbench", path=str(Path(sys.executable).parent))
    assert found is not None, "normbench is not installed beside this Python"
    return found


@pytest.fixture(scope="session")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with ``tiny``: 24 + 12 images of 8×8 pixels in three classes. Not to be changed."""
    from normbench.data.library.importing import import_images

    pictures = write_pictures(tmp_path_factory.mktemp("pictures"))
    library = tmp_path_factory.mktemp("library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NORMBENCH_DATA", str(library))
        import_images(pictures, "tiny", size=8)
    return library


@pytest.fixture
def tiny(tiny_library: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides for the smallest cell, whose images are at hand."""
    monkeypatch.setenv("NORMBENCH_DATA", str(tiny_library))
    return list(TINY)


def write_pictures(folder: Path, size: int = 8) -> Path:
    """Noise in the ImageFolder layout: train/CLASS/*.png and test/CLASS/*.png."""
    random = np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(count // len(CLASSES)):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@dataclass(frozen=True)
class Finished:
    """A run that has come to its end in a process of its own.

    Attributes:
        arguments: of ``normbench``.
        home: its working folder.
        cell: the run directory.
        stdout, stderr, code: what it printed, and its exit code.
    """

    arguments: Sequence[str]
    home: Path
    cell: Path
    stdout: str
    stderr: str
    code: int


@pytest.fixture(scope="session")
def finished(script: str, tiny_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """``normbench run`` on the smallest cell with two seeds, for tests that only look at it."""
    return run_process(
        script, tiny_library, tmp_path_factory.mktemp("home"), "run", *TINY, "norm=group", "seeds=2"
    )


def run_process(script: str, library: Path, home: Path, *arguments: str) -> Finished:
    """Runs the installed command in ``home`` with nothing of this process's terminal."""
    done = subprocess.run(
        [script, *arguments],
        cwd=home,
        env=process_environment(library),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )
    cells = sorted(home.glob("runs/*/*"))
    cell = cells[0] if cells else home / "nothing"
    return Finished(arguments, home, cell, done.stdout, done.stderr, done.returncode)


def process_environment(library: Path) -> dict[str, str]:
    """The variables of a child: this process's, without those that colour or resize output."""
    kept = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")}
    return kept | _environment(library)


def files_below(folder: Path) -> dict[str, int]:
    """Every file below ``folder`` and when it was last written, in nanoseconds."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
