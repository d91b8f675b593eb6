"""How far cells are, in words."""

from pathlib import Path

import pytest
from filelock import FileLock

from normbench.report.read.cells import CellRun, collect
from normbench.report.read.states import overview, settled, state
from normbench.store import results
from tests.report_helpers import failed, write_cell, write_curve


def only(directory: Path) -> CellRun:
    (cell,) = collect(directory).cells
    return cell


def test_all_finished(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5, 0.6, 0.7])

    assert state(only(tmp_path)) == "finished 3/3"
    assert settled(only(tmp_path))


def test_running_says_how_far_the_slowest_is(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [], seeds=2, summary=False)
    write_curve(folder / "seed-0", 0.4, 1.44)
    write_curve(folder / "seed-1", 0.4, 2.0)

    with FileLock(folder / ".lock"):
        assert state(only(tmp_path)) == "running epoch 1.4/3"
    assert state(only(tmp_path)) == "interrupted epoch 1.4/3"


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ([None, None], "diverged at step 12"),
        ([0.5, None], "finished 1/2, 1 diverged at step 12"),
        ([0.5], "finished 1/2, 1 waiting"),
        ([], "waiting"),
    ],
)
def test_mixed_ends_are_counted(tmp_path: Path, accuracies: list[float | None], said: str) -> None:
    write_cell(tmp_path, "group", 2, accuracies, seeds=2)

    assert state(only(tmp_path)) == said
    assert settled(only(tmp_path)) == (len(accuracies) == 2)


def test_failed_and_unreadable(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5, 0.5])
    results.write_result(folder / "seed-0", failed(0))
    (folder / "seed-1" / "result.json").write_text("{")

    assert state(only(tmp_path)) == "1 failed, 1 unreadable"
    (folder / "config.yaml").write_text("{")
    assert state(only(tmp_path)) == "unreadable"
    assert overview([only(tmp_path)]).endswith("; 1 cell unreadable")


def test_progress_counts_cells_and_seeds(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5, 0.6])
    write_cell(tmp_path, "group", 4, [0.5, None])
    write_cell(tmp_path, "group", 8, [0.5], seeds=2)

    assert overview(collect(tmp_path).cells) == (
        "1 of 3 cells finished; of 6 seeds 4 finished, 1 waiting, 1 diverged"
    )
