"""The box that says what was equal says what the records say."""

from pathlib import Path

import pytest

from normbench.report.compare.comparisons import compare
from normbench.report.read.cells import collect
from normbench.report.text.fairness import fairness
from tests.report_helpers import around, edit_result, write_cell, write_sweep


def box(directory: Path) -> dict[str, str]:
    (comparison,) = compare(collect(directory))
    return dict(fairness(comparison))


def test_everything_that_was_equal_is_named(tmp_path: Path) -> None:
    said = box(write_sweep(tmp_path))

    assert "cifar10-jpeg, sha256 f054e0c3dc73…; all training images" in said["images"]
    assert said["epochs"] == "3, seen in full by every finished seed (checked)"
    assert "75,000 at batch 2, 18,750 at batch 8" in said["steps"]
    assert "equal for every norm at a batch (checked)" in said["steps"]
    assert said["learning rate"].startswith("0.1·batch/32, rising over the first 0.1 of the steps")
    assert said["learning rate"].endswith(
        "0.00625 at batch 2, 0.025 at batch 8, 0.1 at batch 32, 0.4 at batch 128"
    )
    assert "normbench's default" in said["who chose it"]
    assert "not tuned for any norm" in said["who chose it"]
    assert "held out" not in said["who chose it"]
    assert said["weight decay"].startswith("0.0005 on all parameters")
    assert "the same for every norm" in said["initialization"]
    assert said["seeds"] == "0, 1, 2 finished in every cell"
    assert "momentum=0.1" in said["norms"]
    assert "G × C/G = 8 × 2, 16 × 2, 32 × 2" in said["norms"]
    assert said["machine"].startswith("processor A Processor, device cpu, threads 1, torch 2.15.0")


def test_held_out_images_are_named(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], changes={"data.val_fraction": 0.1, "data.limit": 100})
    said = box(tmp_path)

    assert (
        "at most 100 training images but a share of 0.1 of all, which is held out" in said["images"]
    )
    assert "images were held out" in said["who chose it"]


def test_a_limit_of_the_test_images_is_named(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], changes={"data.test_limit": 100})

    assert "; at most 100 images to test on; " in box(tmp_path)["images"]


def test_a_rate_that_somebody_chose_is_not_said_to_be_untuned(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], changes={"optim.lr": 0.0371})

    assert "is not recorded" in box(tmp_path)["who chose it"]


def test_what_varies_is_not_said_to_be_equal(tmp_path: Path) -> None:
    for groups in (1, 4):
        write_cell(tmp_path, "group", 8, [0.5], changes={"norm.groups": groups})

    assert "groups=" not in box(tmp_path)["norms"].replace("max_groups=", "")


def test_other_rules_are_named(tmp_path: Path) -> None:
    changes = {
        "optim.scaling": "none",
        "optim.decay_norm": False,
        "optim.nesterov": True,
        "optim.label_smoothing": 0.1,
        "model.zero_init": True,
    }
    write_cell(tmp_path, "group", 2, [0.5], changes=changes)
    said = box(tmp_path)

    assert said["learning rate"].startswith("0.1, rising")
    assert "not on γ and β" in said["weight decay"]
    assert said["optimizer"] == "SGD, momentum 0.9, Nesterov, label smoothing 0.1"
    assert "starts at 0" in said["initialization"]


def test_unequal_steps_and_epochs_are_not_called_equal(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5])
    write_cell(tmp_path, "group", 4, [0.5])
    edit_result(write_cell(tmp_path, "batch", 2, [0.5]), steps=7, epochs=2.5)
    said = box(tmp_path)

    assert "7, 75,000 at batch 2, 37,500 at batch 4: NOT equal at a batch" in said["steps"]
    assert said["epochs"] == "3 asked for, but finished seeds saw 2.5, 3"


def test_unequal_seeds_are_named(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.5, 2))
    write_cell(tmp_path, "batch", 2, around(0.5, 3))
    write_cell(tmp_path, "layer", 2, [None])

    assert box(tmp_path)["seeds"] == (
        "cells differ in the seeds that finished: (0, 1) of group and (0, 1, 2) of batch;"
        " none has finished in 1 of 3 cells"
    )


def test_different_machines_are_named(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5])
    folder = write_cell(tmp_path, "batch", 2, [0.5])
    (folder / "environment.json").write_text('{"processor": "Another", "packages": 3}')

    assert box(tmp_path)["machine"].startswith("differs between seeds, so times are not comparable")


def test_seeds_of_one_cell_from_different_machines_are_named(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.5])
    (cell / "seed-1" / "environment.json").write_text('{"device": "cuda", "gpu": "A GPU"}')

    assert box(tmp_path)["machine"].startswith("differs between seeds, so times are not comparable")


def test_what_was_not_recorded_is_not_claimed(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.5])
    (folder / "config.yaml").unlink()
    (folder / "environment.json").unlink()
    said = box(tmp_path)

    assert said["recipe"].startswith("not recorded")
    assert said["machine"].startswith("not recorded")
    assert "highest in the curves" in said["learning rate"]
    assert "weight decay" not in said


@pytest.mark.parametrize("value", [None, [1, 2], "x" * 999, -1, True])
def test_odd_settings_are_quoted_not_believed(tmp_path: Path, value: object) -> None:
    changes = {f"optim.{key}": value for key in ("lr", "scaling", "warmup", "momentum")}
    changes |= {f"data.{key}": value for key in ("limit", "test_limit", "val_fraction", "pad")}
    write_cell(tmp_path, "group", 2, [0.5], changes=changes | {"precision": value})

    assert all(len(text) < 600 for text in box(tmp_path).values())
