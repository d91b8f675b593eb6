"""Records: whole or not there, JSON that everyone can read, and honest intervals."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from normbench.store import results
from normbench.store.results import DIVERGED, FAILED, FINISHED, Result


def result(seed: int = 0, accuracy: float | None = 0.5, status: str = FINISHED) -> Result:
    return Result(
        seed=seed,
        status=status,
        test_accuracy=accuracy,
        test_loss=1.0,
        val_accuracy=None,
        train_loss=0.9,
        epochs=4.0,
        steps=100,
        seconds=2.0,
        images_per_second=1600.0,
    )


# ---- one file at a time ----


def test_a_written_file_has_the_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    results.write_text(tmp_path / "deep" / "note.txt", "γ = 1\n")

    assert (tmp_path / "deep" / "note.txt").read_text(encoding="utf-8") == "γ = 1\n"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["note.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        results.write_text(tmp_path / "a.txt", "a")
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
        results.write_atomically(path, half)

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
        results.write_atomically(path, interrupted)

    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "old"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_sigkill_at_any_moment_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    results.write_json(path, {"n": -1, "filler": ""})
    program = (
        "import sys; from pathlib import Path; from normbench.store import results\n"
        "for n in range(10**9):\n"
        "    results.write_json(Path(sys.argv[1]), {'n': n, 'filler': 'x' * 200_000})\n"
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
        results.write_json(tmp_path / "a.json", value)

    assert list(tmp_path.iterdir()) == []


# ---- results ----


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = result(3, 0.625)
    results.write_result(tmp_path / "seed-3", written)

    assert results.read_result(tmp_path / "seed-3") == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '{"seed": 0}',
        '{"seed": 0, "surprise": 1}',
        "\x00\x00\x00",
        json.dumps(asdict(result()))[:-7],
        json.dumps(asdict(result()) | {"unknown": 1}),
    ],
)
def test_a_damaged_result_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)

    assert results.read_result(tmp_path) is None


def test_a_result_in_another_encoding_is_none(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"\xff\xfe{\x00}")

    assert results.read_result(tmp_path) is None


def test_no_result_is_none(tmp_path: Path) -> None:
    assert results.read_result(tmp_path / "nowhere") is None
    (tmp_path / "result.json").mkdir()
    assert results.read_result(tmp_path) is None


def test_results_come_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    for seed in (10, 2, 0):
        results.write_result(tmp_path / f"seed-{seed}", result(seed))
    (tmp_path / "seed-1").mkdir()

    assert [r.seed for r in results.read_results(tmp_path)] == [0, 2, 10]


# ---- summaries ----


def test_a_summary_lists_every_seed_and_averages_those_that_finished() -> None:
    summary = results.summarize(
        [result(0, 0.5), result(1, None, DIVERGED), result(2, 0.7), result(5, 0.6)]
    )

    assert summary["seeds"] == [0, 1, 2, 5]
    assert summary["test_accuracy"] == [0.5, None, 0.7, 0.6]
    assert summary["test_accuracy_mean"] == pytest.approx(0.6)
    low, high = summary["test_accuracy_ci95"]
    assert (low + high) / 2 == pytest.approx(0.6)
    assert summary["status"] == DIVERGED


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([FINISHED], FINISHED),
        ([FINISHED, FINISHED], FINISHED),
        ([FINISHED, DIVERGED], DIVERGED),
        ([FAILED, DIVERGED, FINISHED], FAILED),
    ],
)
def test_the_status_of_a_cell_is_that_of_its_worst_seed(states: list[str], expected: str) -> None:
    ended = [result(seed, 0.5, status) for seed, status in enumerate(states)]

    assert results.summarize(ended)["status"] == expected


def test_a_summary_of_one_seed_has_a_mean_and_no_interval() -> None:
    summary = results.summarize([result(0, 0.25)])

    assert summary["test_accuracy_mean"] == 0.25
    assert summary["test_accuracy_ci95"] is None


def test_a_summary_in_which_nothing_finished_has_neither() -> None:
    summary = results.summarize([result(0, None, DIVERGED), result(1, None, DIVERGED)])

    assert summary["test_accuracy"] == [None, None]
    assert summary["test_accuracy_mean"] is None
    assert summary["test_accuracy_ci95"] is None


# ---- intervals ----


@pytest.mark.parametrize("n", [2, 3, 5, 10, 50])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_the_interval_is_students(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(0.85, 0.004, n)
    expected = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))

    assert results.confidence_interval(values.tolist(), level) == pytest.approx(list(expected))


def test_the_interval_of_a_textbook_example() -> None:
    # n = 5, mean 3, s = √2.5; t(0.975, 4) = 2.776445: 3 ± 2.776445·√0.5 = 3 ± 1.963243
    assert results.confidence_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(
        [1.036757, 4.963243], abs=1e-6
    )


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert results.confidence_interval([0.5, 0.5, 0.5]) == [0.5, 0.5]


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert results.confidence_interval(values) is None


# ---- what is done, and what is tried again ----


@pytest.mark.parametrize(
    ("status", "done"), [(FINISHED, True), (DIVERGED, True), (FAILED, False), (None, False)]
)
def test_a_seed_is_done_unless_it_failed(tmp_path: Path, status: str | None, done: bool) -> None:
    if status is not None:
        results.write_result(tmp_path, result(status=status))

    assert results.is_done(tmp_path) is done


def test_a_damaged_result_is_not_done(tmp_path: Path) -> None:
    results.write_result(tmp_path, result())
    path = tmp_path / "result.json"
    path.write_text(path.read_text()[:-9])

    assert not results.is_done(tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such thing\nin detail"), "ValueError: no such thing"),
        (RuntimeError(), "RuntimeError"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (results.KilledError("its process was killed"), "KilledError: its process was killed"),
    ],
)
def test_a_failure_says_why_in_one_line(tmp_path: Path, error: Exception, said: str) -> None:
    failed = results.failure(3, error)
    results.write_result(tmp_path, failed)

    assert (failed.seed, failed.status, failed.error) == (3, FAILED, said)
    assert failed.test_accuracy is None
    assert results.read_result(tmp_path) == failed


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"{}x", None])
def test_json_that_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    assert results.read_json(path) is None
    assert results.read_json(tmp_path / "nowhere.json") is None


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    results.write_json(tmp_path / "a.json", {"γ": [1, None, 0.1]})

    assert results.read_json(tmp_path / "a.json") == {"γ": [1, None, 0.1]}


def test_of_those_who_ask_to_change_a_file_one_at_a_time_does(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "count.json"

    def count() -> None:
        for _ in range(20):
            with results.exclusive(path):
                results.write_json(path, (results.read_json(path) or 0) + 1)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results.read_json(path) == 60


def test_a_process_that_was_killed_keeps_nobody_from_changing_a_file(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from normbench.store import results\n"
        "with results.exclusive(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()\n"
    )
    path = tmp_path / "a.json"
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        child.kill()
        child.wait()
        with results.exclusive(path):
            results.write_json(path, 1)

    assert results.read_json(path) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": "0"},
        {"seed": True},
        {"steps": 2**70},
        {"test_accuracy": "high"},
        {"test_accuracy": float("nan")},
        {"test_loss": float("inf")},
        {"seconds": None},
        {"status": "excellent"},
        {"error": ["x"]},
        {"memory_bytes": 1.5},
    ],
    ids=str,
)
def test_a_result_of_other_types_is_not_believed(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    results.write_result(tmp_path, result(0))
    path = tmp_path / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed))

    assert results.read_result(tmp_path) is None


def test_a_result_without_end_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[" * 100_000)

    assert results.read_result(tmp_path) is None
