"""Per-image outcomes: one bit an image, and nothing that cannot be believed."""

import json
from pathlib import Path

import numpy as np
import pytest

from normbench.report.read.outcomes import read_outcomes


def write(folder: Path, content: object) -> Path:
    (folder / "outcomes.json").write_text(json.dumps(content))
    return folder


def test_bits_are_counted_from_the_highest(tmp_path: Path) -> None:
    found = read_outcomes(write(tmp_path, {"images": 11, "correct": "a160"}))

    assert found is not None
    assert found.tolist() == [bool(int(bit)) for bit in "10100001011"]


def test_what_numpy_packs_reads_back(tmp_path: Path) -> None:
    correct = np.random.default_rng(0).random(1000) < 0.7
    packed = np.packbits(correct).tobytes().hex()

    found = read_outcomes(write(tmp_path, {"images": 1000, "correct": packed}))

    assert found is not None
    assert np.array_equal(found, correct)


@pytest.mark.parametrize(
    "content",
    [
        {"images": 11, "correct": "a1"},
        {"images": 11, "correct": "a161"},  # a bit beyond the last image
        {"images": 8, "correct": "xy"},
        {"images": 0, "correct": ""},
        {"images": True, "correct": "80"},
        {"images": 1e300, "correct": "80"},
        {"images": 8},
        ["80"],
    ],
)
def test_what_does_not_fit_is_not_believed(tmp_path: Path, content: object) -> None:
    assert read_outcomes(write(tmp_path, content)) is None


def test_there_may_be_none(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path) is None
