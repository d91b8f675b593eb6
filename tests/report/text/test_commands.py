"""The commands that make a comparison again."""

import shlex
from pathlib import Path

from normbench.launch.compose import load_config
from normbench.report.compare.comparisons import compare
from normbench.report.read.cells import collect
from normbench.report.text.commands import commands
from tests.report_helpers import around, write_cell, write_sweep


def found(directory: Path) -> list[str]:
    (comparison,) = compare(collect(directory))
    return commands(comparison)


def test_a_full_grid_is_one_sweep(tmp_path: Path) -> None:
    assert found(write_sweep(tmp_path)) == [
        "normbench sweep norm=batch,group batch=2,8,32,128 data=images data.name=cifar10-jpeg"
        " epochs=3 seeds=3"
    ]


def test_a_grid_with_a_gap_is_a_run_a_cell(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.5))
    write_cell(tmp_path, "group", 4, around(0.5))
    write_cell(tmp_path, "batch", 2, around(0.5))

    assert [line.split()[1:4] for line in found(tmp_path)] == [
        ["run", "norm=batch", "batch=2"],
        ["run", "norm=group", "batch=2"],
        ["run", "norm=group", "batch=4"],
    ]


def test_a_command_composes_the_configuration_it_came_from(tmp_path: Path) -> None:
    changes = {
        "norm.groups": 4,
        "optim.lr": 0.05,
        "optim.scaling": "sqrt",
        "optim.steps_at": [0.5, 0.75],
        "optim.decay_norm": False,
        "model.depth": 20,
        "data.limit": 100,
        "data.val_fraction": 0.1,
        "precision": "bf16",
        "norm_batch": 2,
    }
    write_cell(tmp_path, "group", 16, around(0.5, 2), changes=changes, model="ResNet-20")
    (line,) = found(tmp_path)
    config = load_config(shlex.split(line)[2:])

    assert config.norm.name == "group"
    assert config.optim.lr == 0.05
    assert config.optim.scaling.value == "sqrt"
    assert config.optim.steps_at == [0.5, 0.75]
    assert config.optim.decay_norm is False
    assert config.model.title == "ResNet-20"
    assert (config.data.name, config.data.limit) == ("cifar10-jpeg", 100)
    assert config.data.val_fraction == 0.1
    assert config.precision.value == "bf16"
    assert (config.batch, config.norm_batch, config.seeds, config.epochs) == (16, 2, 2, 3)


def test_only_what_is_no_default_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 32, [0.5], data="synthetic", changes={"epochs": 4})

    assert found(tmp_path) == ["normbench run norm=group batch=32 data=synthetic epochs=4"]


def test_threads_are_said_where_all_cells_had_as_many(tmp_path: Path) -> None:
    """They change how sums are rounded, and nothing else: cells that differ are still one sweep."""
    for batch, threads in ((2, 9), (32, 9), (64, 4)):
        write_cell(tmp_path / "all", "group", batch, [0.5], changes={"threads": threads})
        if threads == 9:
            write_cell(tmp_path / "some", "group", batch, [0.5], changes={"threads": threads})

    (line,) = found(tmp_path / "all")
    assert "threads" not in line
    (line,) = found(tmp_path / "some")
    assert line.endswith(" threads=9")


def test_names_cannot_leave_their_word(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], data="x; rm -rf ~")
    (line,) = found(tmp_path)

    assert "data.name='x; rm -rf ~'" in shlex.split(line)


def test_without_a_configuration_there_is_no_command(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5])
    (folder / "config.yaml").unlink()

    assert found(tmp_path) == []
