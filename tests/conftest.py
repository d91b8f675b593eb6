"""What tests share: a clean place for each, the command line, and small images to train on."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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


# Found, reported and not mended yet: take a line out when its test passes.
KNOWN = {
    "test_an_accuracy_is_the_nearest_number_to_hits_over_images": "accuracy is a float32's",
    "test_a_run_that_trains_nothing_leaves_word_of_where_it_was_trained": "both are rewritten",
    "test_a_killed_run_has_left_its_curve_and_no_result": "metrics.jsonl is not flushed",
    "test_a_full_disk_is_one_line_and_no_result_that_is_half_there": "OSError is a traceback",
    "test_two_runs_of_one_cell_at_once_do_not_write_over_each_other": "there is no lock",
    "test_a_bad_setting_is_one_line[seeds=1000000000000]": "MemoryError",
    "test_a_bad_setting_is_one_line[optim.lr=inf]": "inf is said to be not above 0",
    "test_a_mean_over_a_single_value_is_refused[batch-1]": "RuntimeError of max-pooling",
    "test_a_batch_of_one_with_batch_norm_names_its_key": "RuntimeError of max-pooling",
    "test_a_network_too_deep_for_the_images_is_refused": "RuntimeError of max-pooling",
    "test_a_folder_that_cannot_be_written_is_refused": "the header comes first",
    "test_an_option_in_place_of_an_override_is_one_line": "Typer's box",
    "test_show_prints_nothing_of_a_configuration_it_refuses": "the YAML comes first",
    "test_other_commands_answer_in_one_line_too[norms group --figure x.pdf-x.pdf .png or .svg]": (
        "the norm comes first"
    ),
    "test_other_commands_answer_in_one_line_too[norms group --figure x-x:  .png or .svg]": (
        "the norm comes first"
    ),
    "test_other_commands_answer_in_one_line_too"
    "[norms group --figure missing/x.png-missing/x.png cannot write]": "the norm comes first",
    "test_other_commands_answer_in_one_line_too"
    "[data verify nope-'nope' normbench data import]": "exit code 1, on stdout",
    "test_other_commands_answer_in_one_line_too[data verify a/b-'a/b' letters, digits]": (
        "exit code 1, on stdout"
    ),
    "test_a_refusal_in_a_process_of_its_own_is_one_line": "OmegaConf's traceback",
    "test_null_is_refused_where_there_has_to_be_a_value": "is not Optional",
    "test_a_text_that_is_none_is_named": "$VALUE_TYPE",
    "test_an_interpolation_that_leads_nowhere_is_refused[batch=${nope}]": "traceback",
    "test_an_interpolation_that_leads_nowhere_is_refused[batch=${oc.env:HOME}]": "traceback",
    "test_an_interpolation_that_leads_nowhere_is_refused[name=${nope}]": "traceback",
    "test_an_interpolation_that_leads_nowhere_is_refused[batch=${x:1}]": "traceback",
    "test_a_value_without_a_key_is_no_key_that_is_unknown": "unknown key, and no key",
    "test_holding_out_all_but_nothing_names_the_key": "blames the batch",
    "test_a_device_that_is_none_is_named[cpu:3]": "accepted",
    "test_a_duration_is_said_as_a_person_does[59.96-1 min 0 s]": "60.0 s",
    "test_the_bar_is_one_line_with_all_that_matters_on_a_narrow_terminal": "two lines",
    "test_the_bar_says_which_seeds_without_pushing_the_rest_away": "pushes the time away",
    "test_the_bar_counts_the_epoch_that_is_running": "one too many at an epoch's end",
    "test_an_epochs_line_fits_a_narrow_terminal": "88 characters",
    "test_a_long_path_is_not_broken_in_a_file": "folded at 120",
    "test_an_encoding_without_greek_does_not_end_a_command": "UnicodeEncodeError",
    "test_notes_come_in_the_order_of_the_layers": "sorted as words",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = KNOWN.get(item.name) or KNOWN.get(item.name.partition("[")[0])
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


class Command(Protocol):
    """Runs ``normbench`` with arguments."""

    def __call__(self, *arguments: str) -> Result: ...


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
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _environment(library: Path) -> dict[str, str]:
    return {"NORMBENCH_DATA": str(library), "COLUMNS": "100", "TERM": "dumb", SECRET[0]: SECRET[1]}


_connect = socket.socket.connect


def _local_only(self: socket.socket, address: Any) -> None:
    """``connect`` for tests: servers of their own on this machine, and nothing else."""
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        pytest.fail(f"a test reached for the network: {address}")
    _connect(self, address)


@pytest.fixture
def nb() -> Command:
    """``normbench`` in this process: quick, for what needs no process of its own."""
    from normbench.cli import app

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), prog_name="normbench")

    return invoke


@pytest.fixture(scope="session")
def script() -> str:
    """The path of the installed ``normbench`` command."""
    found = shutil.which("normbench", path=str(Path(sys.executable).parent))
    assert found is not None, "normbench is not installed beside this Python"
    return found


@pytest.fixture(scope="session")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with ``tiny``: 24 + 12 images of 8×8 pixels in three classes. Not to be changed."""
    from normbench.data.importing import import_images

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
