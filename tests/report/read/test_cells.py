"""What is found in a folder of runs: cells, their seeds, their states, and what cannot be read."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from rich.console import Console

from normbench import report
from normbench.errors import UsageError
from normbench.report.read.cells import CellRun, collect
from normbench.store import results
from normbench.terminal.screen import Screen
from tests.conftest import files_below
from tests.report_helpers import (
    SHA,
    around,
    failed,
    unbegun,
    write_cell,
    write_curve,
    write_plan,
    write_sweep,
    write_text,
)


def only(directory: Path) -> CellRun:
    (cell,) = collect(directory).cells
    return cell


def states(cell: CellRun) -> list[str]:
    return [run.state for run in cell.seeds]


def test_a_cell_is_read_as_a_run_wrote_it(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 8, [0.5, 0.6], changes={"norm_batch": 2}, reestimated=[0.6, 0.7])

    cell = only(tmp_path)

    assert (cell.norm, cell.batch, cell.norm_batch) == ("batch", 8, 2)
    assert (cell.model, cell.data, cell.sha256) == ("ResNet-8", "cifar10-jpeg", SHA)
    assert [r.test_accuracy for r in cell.finished] == [0.5, 0.6]
    assert [r.test_accuracy_reestimated for r in cell.finished] == [0.6, 0.7]
    assert cell.epochs == 3
    assert cell.environment["processor"] == "A Processor"
    assert [len(run.curve) for run in cell.seeds] == [12, 12]
    assert cell.problem is None


def test_cells_are_found_from_each_level(tmp_path: Path) -> None:
    cell = write_cell(tmp_path / "runs" / "a", "group", 2, [0.5])
    write_cell(tmp_path / "runs" / "b", "group", 2, [0.5])
    write_text(tmp_path / "runs" / "a" / "report" / "report.md", "")

    assert [c.folder for c in collect(tmp_path / "runs").cells] == [
        f"a/{cell.name}",
        f"b/{cell.name}",
    ]
    assert only(tmp_path / "runs" / "a").folder == cell.name
    assert len(only(cell).finished) == 1
    assert collect(tmp_path / "runs").name == "runs"


def test_reading_changes_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    (tmp_path / next(tmp_path.iterdir()).name / ".lock").touch()
    before = files_below(tmp_path)
    collect(tmp_path)

    assert files_below(tmp_path) == before


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_cells_is_the_user_s_to_mend(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "runs").mkdir()
    with pytest.raises(UsageError, match="has no cells" if make else "no such folder") as raised:
        collect(tmp_path / "runs")
    assert "\n" not in str(raised.value)


# --- States ---------------------------------------------------------------------------------------


def test_each_way_to_end_is_a_state(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5, None], seeds=4)
    results.write_result(folder / "seed-2", failed(2))

    cell = only(tmp_path)

    assert states(cell) == ["finished", "diverged", "failed", "waiting"]
    assert cell.seeds[2].problem == "the disk is full"


def test_a_cell_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5], seeds=3, summary=False)
    write_curve(folder / "seed-1", 0.4, 1.5)

    assert states(only(tmp_path)) == ["finished", "interrupted", "waiting"]
    with FileLock(folder / ".lock"):
        cell = only(tmp_path)
        assert states(cell) == ["finished", "running", "waiting"]
        assert cell.seeds[1].epoch == 1.5
    assert states(only(tmp_path)) == ["finished", "interrupted", "waiting"]


def test_a_cell_that_has_just_begun_is_running(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [], seeds=2, summary=False)

    with FileLock(folder / ".lock"):
        assert states(only(tmp_path)) == ["running", "running"]


def test_no_lock_is_made(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5], seeds=2)
    collect(tmp_path)

    assert not (folder / ".lock").exists()


def test_a_curve_that_grows_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [], seeds=1, summary=False)
    write_curve(folder / "seed-0", 0.4, 1.5)
    with (folder / "seed-0" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 130, "epoch": 1.6')

    assert only(tmp_path).seeds[0].epoch == 1.5


# --- Plans ----------------------------------------------------------------------------------------


def planned(folder: str, **changes: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "folder": folder,
        "norm": "group",
        "batch": 16,
        "norm_batch": 2,
        "model": "ResNet-8",
        "data": "cifar10-jpeg",
        "seeds": [0, 1],
    }
    return entry | changes


def test_a_plan_lists_cells_that_have_not_begun(tmp_path: Path) -> None:
    write_plan(tmp_path, [planned("group-b16-0123abcd")])

    cell = only(tmp_path)

    assert (cell.norm, cell.batch, cell.norm_batch, cell.data) == ("group", 16, 2, "cifar10-jpeg")
    assert states(cell) == ["waiting", "waiting"]


def test_the_folder_one_is_in_may_be_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5])
    monkeypatch.chdir(cell)
    assert collect(Path()) == collect(cell)
    monkeypatch.chdir(cell / "seed-0")
    assert collect(Path("..")) == collect(cell)


def test_a_plan_and_its_cells_are_one(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 16, [0.5])
    write_plan(tmp_path, [planned(folder.name)])

    assert states(only(tmp_path)) == ["finished", "waiting"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cells": 3}',
        '{"cells": [3]}',
        '{"cells": [{"folder": "../../etc"}]}',
        '{"cells": [{"folder": "group-b2-0123abcd", "batch": "many"}]}',
    ],
)
def test_a_damaged_plan_is_a_remark(tmp_path: Path, text: str) -> None:
    write_cell(tmp_path, "group", 2, [0.5])
    write_text(tmp_path / "sweep.json", text)

    found = collect(tmp_path)

    assert len(found.cells) == 1
    assert len(found.problems) == 1
    assert found.problems[0].startswith("sweep.json: ")


@pytest.mark.parametrize("batch", [16, 32], ids=["changed", "at its default"])
def test_a_plan_says_how_a_cell_will_be_trained(tmp_path: Path, batch: int) -> None:
    changes = {"norm.momentum": 0.02, "precision": "bf16", "optim.lr": 0.3}
    written = write_cell(tmp_path, "batch", batch, [], seeds=2, changes=changes)
    before = only(tmp_path)
    unbegun(tmp_path, written)
    cell = only(tmp_path)

    assert states(cell) == ["waiting", "waiting"]
    assert (cell.settings, cell.folder) == (before.settings, before.folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": {"name": "layer"}},
        {"norm": 3},
        {"norm": {"name": "group"}, "model": {}, "data": {}, "optim": {"lr": [[3]]}, "batch": 16},
    ],
    ids=["another cell", "no group", "odd value"],
)
def test_a_plan_s_odd_settings_make_the_cell_unreadable(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    write_plan(tmp_path, [planned("group-b16-0123abcd", settings=settings)])

    assert (only(tmp_path).problem or "").startswith("sweep.json: ")


def test_a_plan_s_odd_seeds_are_passed_over(tmp_path: Path) -> None:
    write_plan(tmp_path, [planned("group-b2-0123abcd", seeds=[0, "1", True, -1, 2.5])])

    assert [run.seed for run in only(tmp_path).seeds] == [0]


# --- What cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ("[]", "no mapping"),
        ('{"seed": 0, "status": "finished", "test_accuracy": "high"}', "test_accuracy is 'high'"),
        ('{"seed": 0, "status": "finished", "test_accuracy": NaN}', "test_accuracy is nan"),
        ("{}", "status is None"),
    ],
)
def test_a_seed_that_cannot_be_read_says_so(tmp_path: Path, text: str, said: str) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5, 0.6])
    write_text(folder / "seed-0" / "result.json", text)

    cell = only(tmp_path)

    assert states(cell) == ["unreadable", "finished"]
    assert re.search(said, cell.seeds[0].problem or "")
    assert (cell.seeds[0].problem or "").startswith("seed-0/result.json: ")
    assert [r.seed for r in cell.finished] == [1]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.yaml", "norm: {", "config.yaml: it is damaged"),
        ("config.yaml", "norm: group\nbatch: 2", "config.yaml: norm is 'group'"),
        ("summary.json", '{"norm": "batch", "batch": 2}', "norm 'batch' and batch 2 are not"),
        ("summary.json", '{"norm": "group", "batch": 4}', "norm 'group' and batch 4 are not"),
        ("summary.json", '"', "summary.json: it is damaged"),
    ],
)
def test_a_cell_that_cannot_be_read_says_so(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5])
    write_text(folder / file, text)

    cell = only(tmp_path)

    assert (cell.norm, cell.batch) == ("group", 2)
    assert said in (cell.problem or "")


def test_a_norm_batch_larger_than_the_batch_is_refused(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.5], changes={"norm_batch": 4}, summary=False)

    assert only(tmp_path).problem == "norm_batch is 4"


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_batch": 3},
        {"threads": [1]},
        {"threads": 0},
        {"model.inner": {"x": 1}},
        {"model": {1: 2, "name": "resnet"}},
        {"epochs": 10**400},
        {"save_every": "HUGE"},
        {"norm.groups": 0},
        {"norm.channels_per_group": -1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_make_no_sense_are_a_cell_that_cannot_be_read(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_cell(tmp_path, "batch", 2, around(0.5))
    odd = write_cell(tmp_path, "batch", 4, around(0.5))
    settings = yaml.safe_load((odd / "config.yaml").read_text())
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        (settings[group] if group else settings)[name] = value
    text = yaml.safe_dump(settings).replace("HUGE", "0x" + 4000 * "f")
    (odd / "config.yaml").write_text(text)

    made = report.write(tmp_path, Screen(Console(file=io.StringIO(), width=200)))
    assert [cell.problem is None for cell in made.collection.cells] == [True, False]
    assert "What cannot be read" in (made.folder / "report.md").read_text()


def test_a_plan_s_norm_batch_divides_its_batch(tmp_path: Path) -> None:
    entry = {"folder": "batch-b4-0123abcd", "norm": "batch", "batch": 4, "norm_batch": 3}
    write_plan(tmp_path, [entry | {"seeds": [0]}])
    write_cell(tmp_path, "group", 2, [0.5])

    (problem,) = collect(tmp_path).problems
    assert "norm_batch 3 does not divide batch 4" in problem


def test_each_seed_knows_where_it_was_trained(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.5])
    write_text(cell / "seed-1" / "environment.json", json.dumps({"device": "cuda"}))

    first, second = only(tmp_path).seeds
    assert (first.environment, second.environment) == ({}, {"device": "cuda"})


def test_an_empty_cell_says_that_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "group-b2-0123abcd").mkdir()

    assert only(tmp_path).problem == "there is neither config.yaml nor summary.json"


def test_without_a_configuration_the_summary_serves(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5])
    (folder / "config.yaml").unlink()
    (folder / "environment.json").write_text("[")

    cell = only(tmp_path)

    assert cell.problem is None
    assert (cell.model, cell.data, cell.epochs, cell.settings) == (
        "ResNet-8",
        "cifar10-jpeg",
        3,
        {},
    )


def test_before_there_is_a_summary_the_configuration_serves(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.5), summary=False, changes={"model.depth": 20})

    cell = only(tmp_path)

    assert (cell.model, cell.data, cell.sha256) == ("ResNet-20", "cifar10-jpeg", None)


def test_names_that_could_do_harm_are_not_taken(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5], changes={"data.name": None})
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"]["name"] = "\x1b[2Jgone"
    write_text(folder / "summary.json", json.dumps(summary))

    assert only(tmp_path).data == "images"


def test_a_folder_s_name_can_only_be_read(tmp_path: Path) -> None:
    cell = write_cell(tmp_path / "runs" / "a\x1b[31m\n", "group", 2, [0.5])

    assert only(tmp_path / "runs").folder == f"a?[31m?/{cell.name}"
    assert collect(cell.parent).name == "a?[31m?"


def test_a_cell_that_may_not_be_looked_into_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = write_cell(tmp_path, "group", 2, [0.5])
    write_cell(tmp_path, "batch", 2, [0.5])
    look = Path.glob

    def refuse(self: Path, pattern: str) -> Iterator[Path]:
        if self == closed:
            raise PermissionError(13, "Permission denied")
        return look(self, pattern)

    monkeypatch.setattr(Path, "glob", refuse)

    assert [cell.problem for cell in collect(tmp_path).cells] == [None, "Permission denied"]
