"""Files that are damaged, half written or hostile give values as promised, or UnreadableError."""

import json
from pathlib import Path

import pytest

from normbench.errors import UnreadableError
from normbench.report.read.files import read_curve, read_mapping


@pytest.mark.parametrize(
    ("name", "text"),
    [
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


def test_a_curve_is_read_around_damage(tmp_path: Path) -> None:
    def line(epoch: object, **more: object) -> str:
        values = {key.replace("_", "/", 1): value for key, value in more.items()}
        return json.dumps({"step": 1, "time": 1.0, "epoch": epoch, **values})

    lines = [
        line(0.5, train_loss=2.0, train_learning_rate=0.1),
        "not json",
        "[]",
        line("1", train_loss=1.0),
        line(0.9, train_loss="low"),
        line(1.0, eval_accuracy=0.25),
        line(1.5, train_loss=float("nan")),
        line(2.0)[:-9],
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))

    curve = read_curve(tmp_path)

    assert [m.epoch for m in curve] == [0.5, 1.0]
    assert [m.train_loss for m in curve] == [2.0, None]
    assert [m.eval_accuracy for m in curve] == [None, 0.25]


def test_of_a_long_curve_all_ends_of_epochs_and_its_end_are_read(tmp_path: Path) -> None:
    lines = [
        {"step": i, "time": 1.0, "epoch": i / 100, "train/loss": 1.0} for i in range(1, 10_001)
    ]
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
