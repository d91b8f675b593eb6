"""Records: whole or not there, JSON that everyone can read, and honest intervals."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
from scipy import stats

from normbench.errors import UnreadableError
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


# ---- results ----


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = result(3, 0.625)
    results.write_result(tmp_path / "seed-3", written)

    assert results.read_result(tmp_path / "seed-3") == written


def test_every_value_of_a_result_is_read_back(tmp_path: Path) -> None:
    full = {
        **asdict(result(0, 0.5)),
        "test_accuracy_reestimated": 0.6, "test_accuracy_batch": 0.4, "val_accuracy": 0.3,
        "train_accuracy": 0.7, "memory_bytes": 9, "stacked": 3, "threads": 2, "diverged_at": 5,
        "error": "why", "test_images": 8, "test_accuracy_before": 0.1, "test_accuracy_swapped": 0.2,
    }  # fmt: skip
    assert None not in full.values(), "a value for every field, or this test is blind"
    results.write_result(tmp_path / "seed-0", Result(**full))

    assert results.read_result(tmp_path / "seed-0") == Result(**full)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '{"seed": 0}',
        "\x00\x00\x00",
        json.dumps(asdict(result()))[:-7],
        json.dumps(asdict(result())),
        "[" * 100_000,
    ],
)
def test_a_damaged_result_is_not_believed(tmp_path: Path, text: str) -> None:
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "result.json").write_text(text)

    with pytest.raises(UnreadableError, match=r"^result.json: "):
        results.read_result(tmp_path / "seed-0")
    assert not results.is_done(tmp_path / "seed-0")
    assert results.read_results(tmp_path) == []


def test_no_result_is_none(tmp_path: Path) -> None:
    assert results.read_result(tmp_path / "nowhere") is None


def test_a_result_is_believed_in_its_own_place_only(tmp_path: Path) -> None:
    own, other, elsewhere = (
        tmp_path / "group-b2-1a2b3c4d" / "seed-0",
        tmp_path / "group-b2-1a2b3c4d" / "seed-1",
        tmp_path / "batch-b2-1a2b3c4d" / "seed-0",
    )
    results.write_result(own, result(0, 0.5))
    for place, why in ((other, "the result of seed 0"), (elsewhere, "a result of 'group-b2-")):
        place.mkdir(parents=True)
        copyfile(own / "result.json", place / "result.json")
        with pytest.raises(UnreadableError, match=why):
            results.read_result(place)
        assert not results.is_done(place)
    assert results.is_done(own)


@pytest.mark.parametrize("key", [field.name for field in fields(Result)] + ["more"])
def test_a_result_that_was_edited_is_not_believed(tmp_path: Path, key: str) -> None:
    folder = tmp_path / "seed-0"
    results.write_result(folder, result(0, 0.5))
    path = folder / "result.json"
    values = json.loads(path.read_text())
    values[key] = {"seed": 1, "status": "diverged", "error": "x"}.get(key, 0.25)
    path.write_text(json.dumps(values))

    with pytest.raises(UnreadableError):
        results.read_result(folder)


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
        results.write_result(tmp_path / "seed-0", result(status=status))

    assert results.is_done(tmp_path / "seed-0") is done


def test_a_damaged_result_is_not_done(tmp_path: Path) -> None:
    results.write_result(tmp_path / "seed-0", result())
    path = tmp_path / "seed-0" / "result.json"
    path.write_text(path.read_text()[:-9])

    assert not results.is_done(tmp_path / "seed-0")


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
    results.write_result(tmp_path / "seed-3", failed)

    assert (failed.seed, failed.status, failed.error) == (3, FAILED, said)
    assert failed.test_accuracy is None
    assert results.read_result(tmp_path / "seed-3") == failed


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
        {"test_accuracy": 7.5},
        {"test_accuracy": None},
        {"val_accuracy": -0.1},
        {"epochs": -1},
        {"memory_bytes": 1.5},
    ],
    ids=str,
)
def test_a_result_of_other_types_is_not_believed(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    """Not even with a digest that fits: the file may be anybody's."""
    folder = tmp_path / "seed-0"
    values = {**asdict(result(0)), "cell": tmp_path.name, **changed}
    folder.mkdir()
    text = json.dumps({**values, "sha256": results.digest_of(values)})
    (folder / "result.json").write_text(text)

    with pytest.raises(UnreadableError, match=next(iter(changed))):
        results.read_result(folder)


def test_why_a_seed_failed_is_one_line(tmp_path: Path) -> None:
    for seed, (error, said) in enumerate(
        [
            ("OSError: no space\nleft", "OSError: no space left"),
            ("x" * 1000, "x" * 299 + "…"),
            ("\x1b[31mred", "?[31mred"),
        ]
    ):
        ended = replace(result(seed, None, FAILED), error=error)
        results.write_result(tmp_path / f"seed-{seed}", ended)
        found = results.read_result(tmp_path / f"seed-{seed}")
        assert found is not None
        assert found.error == said


def test_values_are_quoted_on_one_short_line() -> None:
    assert results.short("a\nb") == r"'a\nb'"
    assert len(results.short("x" * 1000)) == 40
    assert results.short([10**5000]) == "a huge number"
