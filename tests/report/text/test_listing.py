"""What ``normbench runs`` prints: a line a cell."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from normbench.errors import UsageError
from normbench.report.text.listing import show_runs
from normbench.store.results import failure, write_result
from normbench.terminal.screen import Screen
from tests.report_helpers import write_cell


def listed(directory: Path, width: int = 160) -> dict[str, list[str]]:
    """The columns of each line of the table, by the first."""
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, _environ={})
    show_runs(Screen(console), directory)
    lines = [re.split(r" {2,}", line.strip()) for line in file.getvalue().splitlines()]
    return {first: rest for first, *rest in lines}


def test_cells_that_look_alike_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    slow, fast, group = (
        write_cell(tmp_path / "x", norm, batch, [0.5, 0.6], changes={"optim": {"lr": rate}})
        for norm, batch, rate in (("batch", 2, 0.1), ("batch", 4, 0.2), ("group", 2, 0.1))
    )
    other = write_cell(tmp_path / "y", "batch", 2, [0.5])
    found = listed(tmp_path)

    assert found["cell"] == ["settings", "state", "error %", "trained"]
    assert found[f"x/{slow.name}"][0] == "optim.lr=0.1"
    assert found[f"x/{fast.name}"][0] == "optim.lr=0.2"
    assert found[f"x/{group.name}"][0] == found[f"y/{other.name}"][0] == "-"
    assert "settings" not in listed(tmp_path / "y")["cell"]


def test_a_line_has_mean_and_interval_of_the_seeds_that_finished(tmp_path: Path) -> None:
    cell = write_cell(tmp_path / "x", "group", 2, [0.5, 0.6, 0.7])
    write_result(cell / "seed-3", failure(3, RuntimeError("no memory")))
    wanted = ["finished 3/4, 1 failed", "40.0 ± 24.8"]

    assert listed(tmp_path)[f"x/{cell.name}"][:2] == wanted
    assert listed(cell)[cell.name][:2] == wanted


def test_a_seed_that_failed_before_its_first_step_is_counted(tmp_path: Path) -> None:
    lost = tmp_path / "x" / "batch-b2-00000000"
    write_result(lost / "seed-0", failure(0, RuntimeError("no memory")))
    cell = write_cell(tmp_path / "x", "layer", 2, [0.5], seeds=3)
    (cell / "seed-1").mkdir()
    (cell / "seed-1" / "metrics.jsonl").touch()
    found = listed(tmp_path)

    assert found[f"x/{lost.name}"][0] == "unreadable"
    assert found[f"x/{cell.name}"][0].startswith("finished 1/3, 1 interrupted")
    assert found[f"x/{cell.name}"][0].endswith("1 waiting")


def test_a_folder_without_cells_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no cells .folders like group-b2-1a2b3c4d.; give runs"):
        show_runs(Screen(Console(file=io.StringIO())), tmp_path)
    with pytest.raises(UsageError, match="no such folder; give one like runs/NAME, or train some"):
        show_runs(Screen(Console(file=io.StringIO())), tmp_path / "none")
