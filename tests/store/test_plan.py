"""The plan of a sweep says what its cells are, and one of an earlier time is gone on with."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from normbench.launch.compose import load_config
from normbench.launch.planned import Planned
from normbench.report.read.defaults import filled
from normbench.run.cell import Cell
from normbench.store import plan
from normbench.store.plan import PLAN, PlannedCell

CELL = PlannedCell(
    folder="group-b2-0123abcd",
    norm="group",
    batch=2,
    norm_batch=2,
    model="ResNet-8",
    data="cifar10",
    seeds=[0, 1],
    settings={"norm": {"name": "group", "groups": 4}, "epochs": 3},
)


@pytest.mark.parametrize("changes", [[], ["norm=group", "norm.groups=4", "precision=bf16"]])
def test_a_sweep_plans_what_config_yaml_will_say(tiny: list[str], changes: list[str]) -> None:
    config = load_config([*tiny, *changes])
    whole = json.loads(json.dumps(asdict(config), default=lambda choice: choice.value))
    settings = Planned(Cell.of(config), []).entry().settings

    assert filled(settings) | {"together": []} == whole
    assert len(json.dumps(settings)) < len(json.dumps(whole)) / 2


def test_a_plan_reads_back_as_it_was_written(tmp_path: Path) -> None:
    plan.add(tmp_path, [CELL])

    assert plan.read(tmp_path) == [CELL]


def test_a_plan_of_the_largest_sweep_is_read_back_and_added_to(tmp_path: Path) -> None:
    cells = [replace(CELL, folder=f"group-b2-{n:08x}", seeds=[*range(20)]) for n in range(9_999)]
    plan.add(tmp_path, cells)
    plan.add(tmp_path, [CELL])

    assert plan.read(tmp_path) == [*cells, CELL]


def test_an_older_plan_has_no_settings_until_its_sweep_is_started_again(tmp_path: Path) -> None:
    plan.add(tmp_path, [CELL])
    entries = json.loads((tmp_path / PLAN).read_text())
    del entries["cells"][0]["settings"]
    (tmp_path / PLAN).write_text(json.dumps(entries))

    assert plan.read(tmp_path) == [replace(CELL, settings={})]
    plan.add(tmp_path, [CELL])
    assert plan.read(tmp_path) == [CELL]
