"""Norms that are broken on purpose are noticed by the checks that every norm has to pass."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutate_norms.py"


def test_a_sample_of_mutants_is_noticed() -> None:
    # Of two unlike files: each file's checks run once more without any mutant.
    command = [sys.executable, str(SCRIPT), "--sample", "8", "--seed", "1", "batch", "evonorm_b0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 mutants, " in done.stdout
    assert "NOT NOTICED" not in done.stdout


def test_a_mutant_that_nothing_notices_is_named(tmp_path: Path) -> None:
    blind = (
        SCRIPT.read_text()
        .replace("in CHECKS:", "in CHECKS[:0]:")
        .replace("ROOT = Path(__file__).parents[1]", f"ROOT = Path({str(SCRIPT.parents[1])!r})")
    )
    (tmp_path / "blind.py").write_text(blind)
    command = [sys.executable, str(tmp_path / "blind.py"), "--sample", "2", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert done.stdout.count("NOT NOTICED") == 2
    assert "NoNorm." in done.stdout
