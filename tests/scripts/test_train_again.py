"""Records are made again to the bit, and one that says something else is found out."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from normbench.store.results import read_result, write_result
from tests.conftest import Finished

ROOT = Path(__file__).parents[2]


def test_a_record_is_made_again_to_the_bit_and_another_one_is_not(
    finished: Finished, tiny: list[str], tmp_path: Path
) -> None:
    cell, other = finished.cell, tmp_path / finished.cell.name
    shutil.copytree(cell, other)
    result = read_result(other / "seed-0")
    assert result is not None
    write_result(other / "seed-0", replace(result, train_loss=(result.train_loss or 0) + 1e-9))

    command = [sys.executable, str(ROOT / "scripts" / "train_again.py"), str(cell), str(other)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 1, ended.stderr
    assert "1 of 2 seeds end as their records say" in ended.stdout
    first, second = [
        line for line in ended.stdout.splitlines() if line.startswith(f"| {cell.name}")
    ]
    assert first.endswith("| yes | nowhere |")
    assert second.endswith("| no | train_loss |")
