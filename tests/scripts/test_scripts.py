"""The benchmarks run to their end and write what they say, and reproduce.sh goes through its steps.

What the benchmarks measure is not judged here.
"""

import csv
import os
import subprocess
from pathlib import Path

import pytest

from normbench.launch.compose import load_config
from tests.script_helpers import SCRIPTS, run_script

LOOPS = ["usual", "tuned", "solo", "stacked", "auto", "vmap"]


def test_the_stacking_benchmark_writes_table_picture_and_csv_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench_stacking.py", "--out", str(tmp_path / "out")]
    command += ["--depths", "8", "--norms", "group", "--batches", "2"]
    command += ["--seeds", "2", "--rounds", "1"]
    run_script(*command)
    first = capsys.readouterr().out
    with (tmp_path / "out" / "stacking.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loop"] for row in rows] == LOOPS
    assert all(float(row["replica_steps_per_second"]) > 0 for row in rows)
    assert all(float(row["share_of_peak"]) > 0 for row in rows)
    assert "| ResNet-8 | group | 2 |" in (tmp_path / "out" / "stacking.md").read_text()
    assert (tmp_path / "out" / "stacking.png").read_bytes().startswith(b"\x89PNG")

    measured = (tmp_path / "out" / "stacking.csv").read_bytes()
    run_script(*command)
    second = capsys.readouterr().out
    assert (tmp_path / "out" / "stacking.csv").read_bytes() == measured
    assert len(second.splitlines()) == len(first.splitlines()) - 1


STAND_IN = """#!/bin/sh
echo "${0##*/} $*" >> "$CALLS"
case " $* " in *" $FAILING "*) exit "$STATUS" ;; esac
"""


def reproduce(
    folder: Path, failing: str, status: int, *experiments: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs reproduce.sh where ``normbench`` and ``python`` only write down what they are asked.

    Args:
        folder: for the two.
        failing: the one of their arguments at which they end with ``status``.
        status: their exit code there.
        experiments: what is asked for.
    """
    for name in ("normbench", "python"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    given = {"CALLS": str(folder / "calls"), "FAILING": failing, "STATUS": str(status)}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(SCRIPTS / "reproduce.sh"), "images", *experiments],
        check=False,
        env={**os.environ, **given, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, (folder / "calls").read_text().splitlines()


def steps_of(calls: list[str]) -> list[str]:
    """What was asked of whom: the command and its first two arguments."""
    return [" ".join(call.split()[:3]) for call in calls]


def test_reproduce_goes_through_all_steps_of_all_experiments(tmp_path: Path) -> None:
    done, calls = reproduce(tmp_path, "nothing", 1, "naive", "article")
    assert (done.returncode, done.stderr) == (0, "")
    assert steps_of(calls) == [
        "normbench data verify",
        "normbench sweep experiment=naive",
        "python scripts/keep.py runs/naive",
        "normbench report results/naive",
        "python scripts/article.py --data",
        "python scripts/keep.py runs/article",
    ]


def test_without_a_name_the_networks_of_the_article_are_trained_before_it(tmp_path: Path) -> None:
    _, calls = reproduce(tmp_path, "nothing", 1)
    trained = calls.index(next(call for call in calls if "experiment=batch-size" in call))
    assert trained < calls.index("python scripts/article.py --data cifar10-jpeg")


@pytest.mark.parametrize("failing", ["experiment=naive", "runs/naive", "results/naive"])
def test_a_seed_that_diverged_does_not_keep_the_rest_from_being_done(
    tmp_path: Path, failing: str
) -> None:
    done, calls = reproduce(tmp_path, failing, 1, "naive", "long")
    assert done.returncode == 1
    assert len(calls) == 1 + 3 + 3
    assert done.stderr.splitlines()[-1].endswith(": naive")


def test_all_experiments_that_are_not_complete_are_named_at_the_end(tmp_path: Path) -> None:
    done, _ = reproduce(tmp_path, "data=images", 1, "naive", "article", "long")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(": naive long")


@pytest.mark.parametrize("status", [2, 3, 130, 143])
def test_mistakes_and_interruptions_end_reproduce_at_once(tmp_path: Path, status: int) -> None:
    done, calls = reproduce(tmp_path, "experiment=naive", status, "naive", "long")
    assert done.returncode == status
    assert steps_of(calls)[-1] == "normbench sweep experiment=naive"


@pytest.mark.parametrize(("status", "last"), [(2, "long"), (130, "verify"), (143, "verify")])
def test_images_are_imported_where_there_are_none_but_not_on_the_way_out(
    tmp_path: Path, status: int, last: str
) -> None:
    done, calls = reproduce(tmp_path, "verify", status, "long")
    assert done.returncode == (0 if status == 2 else status)
    imported = [call.split()[3] for call in calls if call.startswith("normbench data import")]
    assert imported == ([str(Path.cwd() / "images")] if status == 2 else [])
    assert last in calls[-1]


def test_resnet20_starts_with_blocks_that_are_their_shortcuts_as_its_recipe_says() -> None:
    config = load_config(["experiment=resnet20", "data=synthetic"])
    assert getattr(config.model, "zero_init", None) is True
    assert (config.epochs, config.optim.steps_at) == (100, [0.3, 0.6, 0.9])
    assert (config.optim.weight_decay, config.optim.decay_norm) == (1e-4, True)
    assert config.optim.peak(64) == 0.2
