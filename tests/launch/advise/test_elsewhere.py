"""Where norms cross, by cells that are there: only such as differ from the race's in the batch."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from normbench.launch.advise.book import Finish
from normbench.launch.advise.budget import Candidate, Heat
from normbench.launch.advise.elsewhere import crossing, elsewhere, sweep
from normbench.launch.advise.question import Question
from normbench.launch.compose import load_config
from normbench.run.cell import Cell
from tests.conftest import Command
from tests.launch.advise.worlds import plan
from tests.report_helpers import around, write_cell, write_sweep


def of_race(runs: Path, changes: Mapping[str, Any]) -> Path:
    """A cell of the last trainings of a race at batch size 2: its rate is its own."""
    own = {"data.val_fraction": 0.1, "optim.lr": 0.05, "name": "advise"}
    return write_cell(runs / "advise", "group", 2, around(0.66, 5), changes={**own, **changes})


def test_where_norms_cross_is_told_by_cells_that_are_there(tmp_path: Path) -> None:
    write_sweep(tmp_path / "larger")
    said = crossing(of_race(tmp_path, {}), "batch", "group")

    assert re.fullmatch(
        r"batch norm would win at larger batches, group norm at smaller ones: they cross at"
        r" ([\d.]+) \(95 % interval [\d.]+ to [\d.]+\), by the cells in "
        + str(tmp_path / "larger"),
        said,
    )
    at, low, high = map(float, re.findall(r"[\d.]+(?= \(| to |\))", said))
    assert 2 < low < at < high < 8


def test_norms_may_have_been_measured_at_different_batch_sizes(tmp_path: Path) -> None:
    for batch in (2, 4, 8, 32):
        error = {2: 0.37, 4: 0.31, 8: 0.28, 32: 0.27}[batch]
        write_cell(tmp_path / "larger", "batch", batch, around(1 - error))
        if batch in (2, 32):
            write_cell(tmp_path / "larger", "group", batch, around(0.66))
    said = crossing(of_race(tmp_path, {}), "batch", "group")

    assert said.startswith(
        "batch norm would win at larger batches, group norm at smaller ones: they cross at 2.8"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 5},
        {"model.depth": 20},
        {"data.limit": 1000},
        {"optim.momentum": 0.5},
        {"precision": "bf16"},
        {"norm.groups": 2},
    ],
)
def test_cells_of_another_recipe_tell_nothing(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    write_sweep(tmp_path / "larger")

    assert crossing(of_race(tmp_path, changes), "batch", "group") == ""


def test_cells_of_other_images_tell_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path / "larger")
    cell = write_cell(tmp_path / "advise", "group", 2, around(0.66, 5), sha256="0" * 64)

    assert crossing(cell, "batch", "group") == ""


def test_a_crossing_that_seeds_do_not_locate_is_none(tmp_path: Path) -> None:
    for batch, lead in ((2, -0.001), (8, 0.001)):
        write_cell(tmp_path / "larger", "batch", batch, around(0.66 + lead, spread=0.05))
        write_cell(tmp_path / "larger", "group", batch, around(0.66, spread=0.05))

    assert crossing(of_race(tmp_path, {}), "batch", "group") == ""


def test_without_other_cells_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert crossing(of_race(tmp_path, {}), "batch", "group") == ""


@pytest.mark.parametrize(
    ("batch", "smaller", "most", "sizes"),
    [
        (2, False, 48, "2,8,32"),
        (2, False, 32, "2,8,32"),
        (2, False, 31, "2,8"),
        (2, False, 7, ""),
        (32, True, 48, "2,8,32"),
        (8, True, 48, "2,8"),
        (4, True, 48, "2,4"),
        (2, True, 48, ""),
    ],
)
def test_the_sweep_that_tells_goes_where_the_other_norm_may_win(
    batch: int, smaller: bool, most: int, sizes: str
) -> None:
    question = Question.of([f"batch={batch}", "epochs=3"], ["batch", "group"])
    said = sweep(question, ["batch", "group"], batch, most, smaller=smaller)

    assert (f"batch={sizes} epochs=3 optim.lr=auto" in said) == bool(said) == bool(sizes)
    assert said.startswith("at a smaller batch size" if smaller and sizes else said[:10])


def test_the_sweep_has_the_settings_of_the_race() -> None:
    question = Question.of(["batch=2", "norm.eps=0.01", "model.depth=20"], ["batch", "group"])
    said = sweep(question, ["group", "batch"], 2, 48, smaller=False)

    assert "batch=2,8,32 norm.eps=0.01 model.depth=20 optim.lr=auto" in said


@pytest.mark.parametrize("setting", ["norm.groups=2", "norm_batch=2"])
def test_no_sweep_is_named_that_would_be_about_something_else(setting: str) -> None:
    question = Question.of(["batch=2", setting], ["batch", "group"])

    assert sweep(question, ["group", "batch"], 2, 48, smaller=False) == ""


@pytest.mark.parametrize("finals", [("batch", "group"), ("group", "batch")])
def test_the_sweep_can_be_typed(nb: Command, tiny: list[str], finals: tuple[str, str]) -> None:
    """It is planned as it is said: 24 images, of which the trials of the rates hold out some."""
    question = Question.of([*tiny, "data.val_fraction=0.25"], ["batch", "group"])
    heats = [Heat(Candidate(norm, 1.0), 2, 1, 5) for norm in finals]
    finish = Finish([], heats, looks=3, pace=1.0, remaining=0.0, leads={}, decided=False)
    cell = Cell.of(load_config(question.cell(plan(finals), heats[0])))
    said = elsewhere(question, finish, cell)

    program, *words = shlex.split(said.partition("this sweep tells: ")[2])
    assert program == "normbench"
    planned = nb(*words, "--dry-run")
    assert planned.exit_code == 0, planned.output
