"""The benchmarks run to their end and write what they say; what they measure is not judged here."""

import csv
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
LOOPS = ["usual", "tuned", "solo", "stacked", "auto", "vmap"]


def test_the_stacking_benchmark_writes_table_picture_and_csv_and_resumes(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "bench_stacking.py"), "--out", str(tmp_path / "out")]
    command += ["--depths", "8", "--norms", "group", "--batches", "2"]
    command += ["--seeds", "2", "--rounds", "1"]
    first = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    with (tmp_path / "out" / "stacking.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loop"] for row in rows] == LOOPS
    assert all(float(row["replica_steps_per_second"]) > 0 for row in rows)
    assert all(float(row["share_of_peak"]) > 0 for row in rows)
    assert "| ResNet-8 | group | 2 |" in (tmp_path / "out" / "stacking.md").read_text()
    assert (tmp_path / "out" / "stacking.png").read_bytes().startswith(b"\x89PNG")

    measured = (tmp_path / "out" / "stacking.csv").read_bytes()
    second = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    assert (tmp_path / "out" / "stacking.csv").read_bytes() == measured
    assert len(second.stdout.splitlines()) == len(first.stdout.splitlines()) - 1
