"""Which cells may stand in one picture, on which axis, and what lines are called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from normbench.config import PLACES, Config
from normbench.report.compare.choice import choices
from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.differences import rivals, typical
from normbench.report.compare.recipes import COMPARED, NO_PART
from normbench.report.read.cells import collect
from tests.report_helpers import around, unbegun, write_cell, write_plan, write_sweep


def found(directory: Path) -> list[Comparison]:
    return compare(collect(directory))


def only(directory: Path) -> Comparison:
    (comparison,) = found(directory)
    return comparison


def shape(comparison: Comparison) -> dict[str, list[int]]:
    return {line.label: [point.x for point in line.points] for line in comparison.lines}


def write(folder: Path, norm: str, batch: int, **changes: Any) -> None:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    write_cell(folder, norm, batch, around(0.5), changes=dotted)


def test_a_sweep_is_one_comparison_with_a_line_a_norm(tmp_path: Path) -> None:
    comparison = only(write_sweep(tmp_path))

    assert shape(comparison) == {"batch": [2, 8, 32, 128], "group": [2, 8, 32, 128]}
    assert comparison.axis == "batch"
    assert comparison.title == "ResNet-8 on cifar10-jpeg, 3 epochs"
    assert comparison.lines[1].points[0].errors == {0: 33.7, 1: 33.5, 2: 33.3}
    assert [line.batch_dependent for line in comparison.lines] == [True, False]


def test_settings_that_change_no_result_part_nothing(tmp_path: Path) -> None:
    write(tmp_path, "group", 2)
    write(tmp_path, "group", 4, threads=7, stack=3, device="cuda", seeds=9, save_every=100)

    assert shape(only(tmp_path)) == {"group": [2, 4]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 4),
        ("optim__decay_norm", False),
        ("model__width", 8),
        ("data__limit", 100),
        ("precision", "bf16"),
        ("something_new", 1),
    ],
)
def test_recipes_are_never_mixed(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path, "group", 2)
    write(tmp_path, "group", 4, **{key: value})

    first, second = found(tmp_path)

    assert (len(first.cells), len(second.cells)) == (1, 1)
    assert first.title != second.title
    if key != "epochs":
        assert f"{key.replace('__', '.')}={value}" in first.title + second.title


@pytest.mark.parametrize(
    "other", [{"data": "cifar10"}, {"sha256": "0" * 64}], ids=["name", "content"]
)
def test_data_sets_are_never_mixed(tmp_path: Path, other: Mapping[str, Any]) -> None:
    write_cell(tmp_path, "group", 2, [0.5])
    write_cell(tmp_path, "group", 4, [0.5], **other)

    first, second = found(tmp_path)

    assert first.title != second.title


def test_experiments_are_never_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a", "group", 2)
    write(tmp_path / "b", "group", 4)

    assert [c.title.partition(":")[0] for c in found(tmp_path)] == ["a", "b"]


def test_a_cell_without_a_summary_joins_its_data_set(tmp_path: Path) -> None:
    write(tmp_path, "group", 2)
    write_cell(tmp_path, "group", 4, [0.5], seeds=3, summary=False)

    assert shape(only(tmp_path)) == {"group": [2, 4]}


def test_a_cell_that_has_not_begun_joins_the_only_recipe(tmp_path: Path) -> None:
    write(tmp_path, "group", 2)
    plan = {"norm": "layer", "batch": 2, "model": "ResNet-8", "data": "cifar10-jpeg", "seeds": [0]}
    write_plan(tmp_path, [plan | {"folder": "layer-b2-0123abcd"}])

    comparison = only(tmp_path)

    assert shape(comparison) == {"group": [2], "layer": [2]}
    assert comparison.settings["optim"]["lr"] == 0.1


def test_a_cell_that_has_not_begun_is_not_guessed_into_one_of_two_recipes(tmp_path: Path) -> None:
    write(tmp_path, "group", 2)
    write(tmp_path, "group", 4, epochs=9)
    plan = {"norm": "layer", "batch": 2, "model": "ResNet-8", "data": "cifar10-jpeg", "seeds": [0]}
    write_plan(tmp_path, [plan | {"folder": "layer-b2-0123abcd"}])

    assert len(found(tmp_path)) == 3


@pytest.mark.parametrize("old", [False, True], ids=["plan", "plan without settings"])
def test_a_cell_that_has_not_begun_is_on_the_line_of_its_norm(tmp_path: Path, old: bool) -> None:
    write_sweep(tmp_path)
    unbegun(
        tmp_path, next(tmp_path.glob("batch-b2-*")), next(tmp_path.glob("group-b32-*")), old=old
    )
    comparison = only(tmp_path)

    assert shape(comparison) == {"batch": [2, 8, 32, 128], "group": [2, 8, 32, 128]}
    assert rivals(comparison) == comparison.lines
    assert [len(choices(comparison)), comparison.left_out] == [4, ()]


def test_a_cell_that_has_not_begun_has_its_place_among_groups(tmp_path: Path) -> None:
    cells = [
        write_cell(tmp_path, "group", 8, around(0.5), changes={"norm.groups": groups})
        for groups in (1, 2, 4, 8)
    ]
    unbegun(tmp_path, *cells[2:])
    assert shape(only(tmp_path)) == {"group": [1, 2, 4, 8]}
    more = write_cell(tmp_path, "group", 8, [0.5], changes={"norm.groups": 16})
    unbegun(tmp_path, cells[1], more, old=True)
    assert only(tmp_path).left_out == ()


def test_a_line_of_which_no_settings_are_known_is_not_the_usual_one(tmp_path: Path) -> None:
    for eps in (0.001, 0.01):
        write_cell(tmp_path, "batch", 2, around(0.5), changes={"norm.eps": eps})
    unbegun(tmp_path, write_cell(tmp_path, "batch", 4, [0.5]), old=True)

    assert typical(only(tmp_path), "batch") is None


def test_cells_without_a_configuration_stay_among_themselves(tmp_path: Path) -> None:
    write(tmp_path, "batch", 2)
    for batch in (2, 4):
        folder = write_cell(tmp_path, "group", batch, [0.5])
        (folder / "config.yaml").unlink()

    recorded, unrecorded = found(tmp_path)

    assert shape(recorded) == {"batch": [2]}
    assert shape(unrecorded) == {"group": [2, 4]}
    assert unrecorded.settings == {}
    assert "recipe not recorded" in unrecorded.title


def test_unreadable_cells_are_in_no_comparison(tmp_path: Path) -> None:
    write(tmp_path, "group", 2)
    folder = write_cell(tmp_path, "group", 4, [0.5])
    (folder / "config.yaml").write_text("{")

    assert shape(only(tmp_path)) == {"group": [2]}


def test_variants_of_a_norm_are_lines_named_by_what_differs(tmp_path: Path) -> None:
    for batch in (2, 8):
        write(tmp_path, "group", batch, norm__groups=2)
        write(tmp_path, "group", batch, norm__groups=8)
        write(tmp_path, "group", batch, norm__groups=8, norm__eps=0.1)

    assert list(shape(only(tmp_path))) == [
        "group, eps=1e-05, G = 2",
        "group, eps=1e-05, G = 8",
        "group, eps=0.1, G = 8",
    ]


def test_variants_of_a_norm_stand_by_size(tmp_path: Path) -> None:
    for momentum in (0.1, 0.03, 0.01, 0.003):
        write(tmp_path, "batch", 2, norm__momentum=momentum)

    assert list(shape(only(tmp_path))) == [
        f"batch, momentum={momentum}" for momentum in (0.003, 0.01, 0.03, 0.1)
    ]


# --- Axes -----------------------------------------------------------------------------------------


def test_a_batch_that_stays_puts_the_norm_s_batch_on_the_axis(tmp_path: Path) -> None:
    for size in (2, 8, None):
        write(tmp_path, "batch", 32, norm_batch=size)
    write(tmp_path, "group", 32)

    comparison = only(tmp_path)

    assert comparison.axis == "norm_batch"
    assert shape(comparison) == {"batch": [2, 8, 32], "group": [2, 8, 32]}
    assert [line.level for line in comparison.lines] == [False, True]
    assert len(comparison.cells) == 4
    assert "stays 32" in comparison.regime


def test_devices_put_the_norm_s_batch_on_the_axis(tmp_path: Path) -> None:
    for size in (2, 4):
        write(tmp_path, "batch", 8 * size, norm_batch=size)
        write(tmp_path, "group", 8 * size, norm_batch=size)

    comparison = only(tmp_path)

    assert comparison.axis == "norm_batch"
    assert shape(comparison) == {"batch": [2, 4], "group": [2, 4]}
    assert "8 devices" in comparison.regime


def test_regimes_are_never_mixed(tmp_path: Path) -> None:
    for size in (2, 4):
        write(tmp_path, "batch", size)
        write(tmp_path, "group", size)
        write(tmp_path, "batch", 8 * size, norm_batch=size)
        write(tmp_path, "group", 8 * size)

    naive, devices = found(tmp_path)

    assert shape(naive) == {"batch": [2, 4], "group": [2, 4, 16, 32]}
    assert shape(devices) == {"batch": [2, 4], "group": [2, 4]}
    assert [{p.cell.batch for p in line.points} for line in devices.lines] == [{16, 32}] * 2
    assert devices.left_out == ()
    assert naive.title != devices.title


@pytest.mark.parametrize(
    ("key", "axis"), [("groups", "groups"), ("channels_per_group", "channels_per_group")]
)
def test_groups_at_one_batch_are_an_axis(tmp_path: Path, key: str, axis: str) -> None:
    for value in (1, 2, 8):
        write(tmp_path, "group", 32, **{f"norm__{key}": value})
    write(tmp_path, "batch", 32)

    norms, comparison = found(tmp_path)

    assert comparison.axis == axis
    assert shape(comparison) == {"group": [1, 2, 8], "batch": [1, 2, 8]}
    assert [line.level for line in comparison.lines] == [True, False]
    assert (norms.axis, norms.xs) == ("batch", [32]), "which norm is another question"
    assert len(norms.lines) == 4


def test_norms_with_a_number_of_groups_each_are_compared_as_norms(tmp_path: Path) -> None:
    write(tmp_path, "rms", 2, norm__groups=1)
    write(tmp_path, "group", 2, norm__groups=8)
    write(tmp_path, "batch", 2)

    comparison = only(tmp_path)
    assert (comparison.axis, comparison.xs, len(comparison.lines)) == ("batch", [2], 3)


def test_groups_and_channels_per_group_are_two_pictures(tmp_path: Path) -> None:
    for value in (1, 2):
        write(tmp_path, "group", 32, norm__groups=value)
        write(tmp_path, "group", 32, norm__channels_per_group=value)

    assert [(c.axis, c.xs) for c in found(tmp_path)] == [
        ("groups", [1, 2]),
        ("channels_per_group", [1, 2]),
    ]


def test_what_counts_as_no_part_of_a_result_is_what_a_cell_s_digest_leaves_out() -> None:
    everything = set(Config.__dataclass_fields__)
    identity = everything - set(PLACES)

    assert everything - identity <= NO_PART
    assert not identity & NO_PART
    assert identity >= COMPARED
