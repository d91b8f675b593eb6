"""Which groups a cell's group norm has in each stage, from records that may say anything."""

from pathlib import Path
from typing import Any

import pytest

from normbench.report.read.cells import collect
from normbench.report.read.settings import groups_of
from tests.report_helpers import write_cell


def groups(folder: Path, norm: str = "group", **changes: Any) -> list[str]:
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    write_cell(folder, norm, 2, [0.5], changes=settings)
    (cell,) = collect(folder).cells
    return groups_of(cell)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "8 × 2, 16 × 2, 32 × 2"),
        ({"norm__groups": 4}, "4 × 4, 4 × 8, 4 × 16"),
        ({"norm__channels_per_group": 1}, "16 × 1 (instance norm), 32 × 1 (instance norm), 64 × 1"),
        ({"norm__groups": 1, "model__width": 8}, "1 × 8 (layer norm), 1 × 16 (layer norm)"),
    ],
    ids=str,
)
def test_groups_are_said_stage_by_stage(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (found,) = groups(tmp_path, **changes)

    assert found.startswith(f"G × C/G = {said}")


def test_other_norms_have_none(tmp_path: Path) -> None:
    assert groups(tmp_path, "batch") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"norm__groups": 3},  # divides no stage
        {"norm__groups": [8]},
        {"norm__groups": 0},
        {"norm__max_groups": "many"},
        {"model__width": 10**15},  # would be searched for divisors for hours
        {"model__width": "wide"},
        {"model__name": "unknown"},
        {"model__name": ["resnet"]},
    ],
    ids=str,
)
def test_records_that_make_no_sense_say_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert groups(tmp_path, **changes) == []
