"""A record that is not what training makes is found out, and nothing else of it is doubted."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from normbench.store.results import read_result, write_result
from tests.conftest import Finished

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import train_again


def test_a_record_is_made_again_to_the_bit_but_for_what_was_changed(
    finished: Finished,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / finished.cell.name
    shutil.copytree(finished.cell, other)
    result = read_result(other / "seed-0")
    assert result is not None
    write_result(other / "seed-0", replace(result, train_loss=(result.train_loss or 0) + 1e-9))
    monkeypatch.setattr(sys, "argv", ["train_again.py", str(other)])

    assert train_again.main() == 1
    said = capsys.readouterr().out
    assert "0 of 1 seeds end as their records say" in said
    (row,) = [line for line in said.splitlines() if line.startswith(f"| {other.name}")]
    assert row.endswith("| no | train_loss |")


def test_all_the_same_is_exit_code_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = ["cell", "0", "50.00 %", "50.00 %", "yes", "nowhere"]
    monkeypatch.setattr(train_again, "row", lambda _: row)
    monkeypatch.setattr(sys, "argv", ["train_again.py", str(tmp_path)])

    assert train_again.main() == 0
    assert "1 of 1 seeds end as their records say" in capsys.readouterr().out
