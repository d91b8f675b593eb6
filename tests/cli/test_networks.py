"""A network of one's own, from its file to fine-tuning after a swap of its norms."""

from pathlib import Path

import pytest

from normbench.store.results import read_result
from tests.conftest import Command

NET = """
from torch import nn

def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, classes),
    )
"""


@pytest.fixture
def own(tiny: list[str], tmp_path: Path) -> list[str]:
    """Overrides for a small cell with a network of one's own."""
    (tmp_path / "net.py").write_text(NET)
    settings = [each for each in tiny if not each.startswith(("model", "norm"))]
    return [*settings, "model=python", "model.file=net.py"]


def test_show_tells_what_became_of_the_norms(nb: Command, own: list[str]) -> None:
    shown = nb("show", *own, "norm=group", "norm.groups=4")

    assert shown.exit_code == 0, shown.output
    assert "BatchNorm2d" in shown.output
    assert "note: with one channel a group at 4 channels, group norm is instance" in shown.output


def test_fine_tuning_after_a_swap_records_the_accuracies_before_and_at_once_after_it(
    nb: Command, own: list[str], tmp_path: Path
) -> None:
    first = nb("run", *own, "norm=batch")
    assert first.exit_code == 0, first.output
    (weights,) = tmp_path.glob("runs/*/batch-*/seed-0/model.safetensors")
    trained = read_result(weights.parent)
    assert trained is not None
    assert trained.test_accuracy_before is None

    tuned = nb(
        "run", *own, "norm=batch", f"model.weights={weights}", "model.carry=true", "name=tuned"
    )
    assert tuned.exit_code == 0, tuned.output
    (folder,) = tmp_path.glob("runs/tuned/batch-*/seed-0")
    result = read_result(folder)
    assert result is not None
    assert result.test_accuracy_before == trained.test_accuracy
    assert result.test_accuracy_swapped == trained.test_accuracy  # all of it was carried
    said = f"started from: {trained.test_accuracy:.2%} before the norms were swapped,"
    assert said in " ".join(tuned.output.split())


def test_a_build_that_raises_is_shown_with_its_own_place(
    nb: Command, own: list[str], tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text("def build(classes):\n    return [][classes]\n")
    refused = nb("run", *own)

    assert refused.exit_code == 2
    assert refused.stderr == (
        "normbench: model.file=net.py: build(3) raised IndexError: list index out of range;"
        " line 2, in build: return [][classes]\n"
    )
    assert not (tmp_path / "runs").exists()
