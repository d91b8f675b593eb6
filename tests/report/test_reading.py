"""Files that are damaged, half written or hostile give values as promised, or UnreadableError."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from normbench.report.reading import (
    UnreadableError,
    is_held,
    parse_result,
    read_curve,
    read_mapping,
    short,
    string,
)
from normbench.store.results import Result

GOOD: dict[str, Any] = {
    "seed": 0,
    "status": "finished",
    "test_accuracy": 0.5,
    "test_loss": 1.0,
    "train_loss": 1.1,
    "epochs": 3.0,
    "steps": 30,
    "seconds": 9.0,
    "images_per_second": 100.0,
    "memory_bytes": 1000,
}


def test_a_result_is_read_as_it_was_written() -> None:
    result = parse_result(GOOD | {"a_later_key": [1]}, 0)

    assert (result.test_accuracy, result.steps, result.memory_bytes) == (0.5, 30, 1000)
    assert result.test_accuracy_reestimated is None


def test_every_value_of_a_result_is_read() -> None:
    values = {
        "test_accuracy_reestimated": 0.6, "test_accuracy_batch": 0.4, "val_accuracy": 0.3,
        "train_accuracy": 0.7, "stacked": 3, "threads": 2, "diverged_at": 5, "error": "why",
    }  # fmt: skip
    result = Result(**GOOD, **values)  # type: ignore[arg-type]

    assert None not in asdict(result).values(), "a value for every field, or this test is blind"
    assert parse_result(asdict(result), 0) == result


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("test_accuracy", "0.5", "test_accuracy is '0.5'"),
        ("test_accuracy", None, "test_accuracy is missing"),
        ("test_accuracy", 1.5, "test_accuracy is 1.5"),
        ("test_accuracy", True, "test_accuracy is True"),
        ("test_accuracy", [0.5], r"test_accuracy is \[0.5\]"),
        ("test_accuracy", float("nan"), "test_accuracy is nan"),
        ("test_loss", float("inf"), "test_loss is inf"),
        ("steps", 10**400, "steps is 1000"),
        ("epochs", -1, "epochs is -1"),
        ("seconds", {}, "seconds is {}"),
        ("status", "done", "status is 'done'"),
        ("status", ["finished"], "status is"),
        ("seed", 1, "seed is 1"),
        ("seed", False, "seed is False"),
        ("memory_bytes", "much", "memory_bytes is 'much'"),
    ],
)
def test_a_result_with_a_wrong_value_is_unreadable(key: str, value: object, said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        parse_result(GOOD | {key: value}, 0)


def test_a_seed_that_diverged_needs_no_accuracy() -> None:
    values = GOOD | {"status": "diverged", "test_accuracy": None, "diverged_at": 12}

    assert parse_result(values, 0).diverged_at == 12


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("OSError: no space\nleft", "OSError: no space left"),
        ("x" * 1000, "x" * 299 + "…"),
        ("\x1b[31mred", "?[31mred"),
        ("", None),
        (["a"], None),
    ],
)
def test_why_a_seed_failed_is_one_line(error: object, said: str | None) -> None:
    values = GOOD | {"status": "failed", "test_accuracy": None, "error": error}

    assert parse_result(values, 0).error == said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": 1'),
        ("a.json", ""),
        ("a.json", "[1, 2]"),
        ("a.json", "[" * 100_000),
        ("a.json", '{"a": ' + "9" * 5000 + "}"),
        ("a.yaml", "a: [1"),
        ("a.yaml", "a: &x [1]\nb: *x"),
        ("a.yaml", "- 1"),
        ("a.yaml", "1: 2"),
        ("a.yaml", "a: !!python/object/apply:os.getcwd []"),
        ("a.yaml", "{" * 20_000),
        ("a.yaml", ""),
    ],
)
def test_what_is_no_mapping_is_unreadable(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(UnreadableError, match=f"^{name}: "):
        read_mapping(tmp_path / name)


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_mapping(tmp_path / "a.json") is None


def test_what_is_no_text_or_no_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "long.json").write_text('{"a": "' + "x" * (1 << 20) + '"}')

    for name in ("binary", "folder", "pipe", "long"):
        with pytest.raises(UnreadableError):
            read_mapping(tmp_path / f"{name}.json")


def test_a_curve_is_read_around_damage(tmp_path: Path) -> None:
    lines = [
        json.dumps({"epoch": 0.5, "train/loss": 2.0, "train/learning_rate": 0.1}),
        "not json",
        "[]",
        json.dumps({"epoch": "1", "train/loss": 1.0}),
        json.dumps({"epoch": 1.0, "train/loss": "low", "eval/accuracy": 0.25}),
        '{"epoch": 1.5, "train/loss": NaN}',
        '{"epoch": 2.0, "train/lo',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))

    curve = read_curve(tmp_path)

    assert [m.epoch for m in curve] == [0.5, 1.0, 1.5]
    assert [m.train_loss for m in curve] == [2.0, None, None]
    assert [m.eval_accuracy for m in curve] == [None, 0.25, None]


def test_of_a_long_curve_all_ends_of_epochs_and_its_end_are_read(tmp_path: Path) -> None:
    lines = [{"epoch": i / 100, "train/loss": 1.0} for i in range(1, 10_001)]
    for line in lines[99::100]:
        line["eval/accuracy"] = 0.5
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"epoch": 100.01')

    curve = read_curve(tmp_path)

    assert sum(moment.eval_accuracy is not None for moment in curve) == 100
    assert curve[-1].epoch == 100.0
    assert 600 <= len(curve) <= 1000


def test_there_may_be_no_curve(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == ()
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xff")
    assert read_curve(tmp_path) == ()


def test_a_lock_is_seen_only_while_it_is_held(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / ".lock")

    assert not is_held(tmp_path / ".lock")
    assert not (tmp_path / ".lock").exists()
    with lock:
        assert is_held(tmp_path / ".lock")
    assert not is_held(tmp_path / ".lock")


def test_a_lock_that_may_only_be_read_is_seen(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with FileLock(path):
        path.chmod(0o444)
        assert is_held(path)
        assert path.stat().st_size == 0


def test_values_are_quoted_on_one_short_line() -> None:
    assert short("a\nb") == r"'a\nb'"
    assert len(short("x" * 1000)) == 40
    assert short([10**5000]) == "a huge number"


@pytest.mark.parametrize("value", [1, None, ["a"], "a\x1b[31m", "x" * 200])
def test_what_is_no_plain_string_gives_the_default(value: object) -> None:
    assert string({"a": value}, "a", "default") == "default"
