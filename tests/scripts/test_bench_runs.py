"""The benchmark of whole commands knows its rows, and says what is extrapolated."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the benchmark on commands that take no time; returns what was run."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_runs

    asked: list[str] = []

    def run(loop: str, case: object, name: str, *, ahead: bool) -> dict[str, float]:
        asked.append(loop + " after arranging" * ahead * (loop == "normbench"))
        turn = len(asked)
        arranging = {"arranging": 0.5} if loop == "normbench" else {}
        parts = {"start": 2.0, "training": 10.0 + turn, "evaluating": 3.0, "decomposing": 1.0}
        return parts | arranging

    def main(*options: str) -> list[str]:
        asked.clear()
        line = ["bench_runs.py", "--out", str(tmp_path), "--batches", "32", "--norms", "group"]
        monkeypatch.setattr(sys, "argv", [*line, "--rows", "table", *options])
        monkeypatch.setattr(bench_runs, "run", run)
        bench_runs.main()
        return list(asked)

    return main


def test_a_row_is_measured_once_and_again_where_anything_about_it_is_another(
    bench: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert (
        bench("--rounds", "2", "--seeds", "1", "8")
        == [
            *("usual", "tuned", "normbench", "tuned", "normbench"),
            *("normbench", "normbench after arranging"),
        ]
        * 2
    )
    assert bench("--rounds", "2", "--seeds", "8", "1") == []
    assert bench("--rounds", "1", "--seeds", "4", "--lengths", "3 x 50,000") != []
    assert bench("--rounds", "1", "--seeds", "4", "--lengths", "3 x 50,000") == []
    assert bench("--rounds", "1", "--seeds", "4") != [], "another length"
    assert bench("--rounds", "1", "--seeds", "4", "--name", "other") != []
    with (tmp_path / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 + 2 + 2
    first = rows[0]
    assert (first["length"], first["measured"]) == ("1 x 10,000", "tuned normbench")
    assert float(first["tuned"]) == 2 + 12 + 3 + 1, "the shorter of two turns, as it was"
    assert first["spread"].count("%") == 3
    assert [row["measured"] for row in rows[1:4]] == ["tuned normbench", "normbench", ""]
    text = (tmp_path / "runs.md").read_text(encoding="utf-8")
    assert f"| ~{first['usual']} | {first['tuned']} | {first['normbench']} |" in text


def test_what_is_extrapolated_grows_with_what_it_is_made_of(
    bench: Callable[..., list[str]], tmp_path: Path
) -> None:
    bench("--rounds", "1", "--seeds", "8")
    with (tmp_path / "runs.csv").open(encoding="utf-8", newline="") as file:
        short, long = csv.DictReader(file)
    # Eight seeds over 10,000 images are run: the third turn.
    assert float(short["normbench"]) == 2 + 13 + 3 + 1 + 0.5
    # 6,400 images in 15 s, 2,000 evaluated in 3 s; 2.5 s at most to arrange.
    steps = 3 * 1562 / 200
    assert float(long["normbench"]) == pytest.approx(2 + 2.5 + steps * 15 + 45 + (1 + 12), abs=0.1)
    # tuned: one seed over all in 14 s, the fourth turn, eight times.
    assert float(long["tuned"]) == pytest.approx(2 + 8 * (14 + 3 + 1), abs=0.1)
    # One seed over 10,000 images in 12 s and 10,000 evaluated in 3 s, eight times.
    assert float(short["tuned"]) == pytest.approx(2 + 8 * (12 + 3 + 1), abs=0.1)
    ratio = (2 + 8 * (12 + 3)) / float(short["normbench"])
    assert float(short["plain/normbench"]) == pytest.approx(ratio, abs=0.01), "not evaluated again"
