"""``normbench diagnose``: a seed's folder or a file of weights, and what cannot be diagnosed."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from normbench.store.weights import write_weights
from tests.cli.test_refusals import refused
from tests.conftest import Command


@pytest.fixture
def seed(nb: Command, tiny: list[str], tmp_path: Path) -> Path:
    """The folder of a trained seed, whose statistics are then spoiled."""
    assert nb("run", *tiny, "norm=batch", "epochs=1").exit_code == 0
    (folder,) = tmp_path.glob("runs/*/*/seed-0")
    weights = load_file(folder / "model.safetensors")
    spoiled = {k: v + 9 if k.endswith("running_mean") else v for k, v in weights.items()}
    write_weights(folder / "model.safetensors", spoiled)
    return folder


def strays(output: str) -> list[float]:
    """The column |μ - μ'| / σ'."""
    return [float(found) for found in re.findall(r"^ *blocks\S+ +\d+ +([\d.]+)", output, re.M)]


def test_a_seed_of_one_s_own_is_diagnosed_and_mended(
    nb: Command, seed: Path, tmp_path: Path
) -> None:
    found = nb("diagnose", str(seed), "--fix", "mended.safetensors")
    assert found.exit_code == 0, found.output
    for name in ("running averages", "re-estimated", "batches of 4", "blocks.1"):
        assert name in found.stdout
    assert len(strays(found.stdout)) == 2
    assert min(strays(found.stdout)) > 1

    again = nb("diagnose", "batch=4", *_settings(), "mended.safetensors")
    assert again.exit_code == 0, again.output
    assert max(strays(again.stdout)) < 0.2


def _settings() -> list[str]:
    """What is recorded beside a seed, and has to be said of a file."""
    return ["data=images", "data.name=tiny", "model=convnet", "model.depth=2", "model.width=4"]


def test_settings_win_over_what_is_recorded(nb: Command, seed: Path) -> None:
    found = nb("diagnose", "batch=6", "threads=1", str(seed / "model.safetensors"))

    assert "batches of 6" in found.stdout


def test_what_cannot_be_diagnosed_is_one_line(nb: Command, tiny: list[str], tmp_path: Path) -> None:
    place = tmp_path.with_name(f"{tmp_path.name}-weights")
    place.mkdir()
    write_weights(place / "group.safetensors", {"norm.weight": torch.ones(4)})
    (place / "text").write_text("weights")
    write_weights(place / "other.safetensors", {"norm.running_mean": torch.ones(4)})
    told = {
        "group.safetensors": "nothing to diagnose",
        "text": "neither a safetensors file",
        "other.safetensors": "has no blocks.0.weight",
        "missing": "no such file",
    }

    for name, part in told.items():
        assert part in refused(nb("diagnose", *_settings(), str(place / name)), tmp_path)
    there = str(place / "text")
    other = str(place / "other.safetensors")
    assert "--replace" in refused(nb("diagnose", "--fix", other, there), tmp_path)
    assert "must end in" in refused(nb("diagnose", "--fix", "new.bin", other), tmp_path)
    cell = place / "cell"
    write_weights(cell / "seed-4" / "model.safetensors", {"norm.running_mean": torch.ones(4)})
    assert f"such as {cell}/seed-4" in refused(nb("diagnose", str(cell)), tmp_path)
    assert "did you mean batch" in refused(nb("diagnose", "btach=2", there), tmp_path)
    assert "WEIGHTS" in refused(nb("diagnose"), tmp_path).upper()
