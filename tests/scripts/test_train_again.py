"""Records are made again to the bit, and one that says something else is found out."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from normbench.store.results import read_result, write_result
from tests.conftest import Finished
from tests.script_helpers import run_script


def test_what_a_record_says_otherwise_is_found_and_nothing_else(
    finished: Finished,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Everything else is the same to the bit."""
    cell, other = finished.cell, tmp_path / finished.cell.name
    shutil.copytree(cell, other)
    result = read_result(other / "seed-0")
    assert result is not None
    write_result(other / "seed-0", replace(result, train_loss=(result.train_loss or 0) + 1e-9))

    with pytest.raises(SystemExit, match="1"):
        run_script("train_again.py", str(other))
    said = capsys.readouterr().out
    assert "0 of 1 seeds end as their records say" in said
    (row,) = [line for line in said.splitlines() if line.startswith(f"| {cell.name}")]
    assert row.endswith("| no | train_loss |")
