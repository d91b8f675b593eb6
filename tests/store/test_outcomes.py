"""Which test images were right: one bit an image, and nothing that cannot be believed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.errors import UnreadableError
from normbench.store.outcomes import Outcomes, read_outcomes, write_outcomes
from normbench.store.results import digest_of
from tests.store.test_results import result

ELEVEN = np.array([1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1], dtype=bool)


def read(folder: Path, accuracy: float | None = 5 / 11) -> Outcomes | None:
    return read_outcomes(folder, result(3, accuracy))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "batch-b2-0123abcd" / "seed-3"
    write_outcomes(place, 3, ELEVEN)
    return place


def edit(folder: Path, **changes: Any) -> None:
    """Changes values and signs them anew, as somebody would who knows how."""
    values = json.loads((folder / "outcomes.json").read_text()) | changes
    values.pop("sha256")
    text = json.dumps({**values, "sha256": digest_of(values)})
    (folder / "outcomes.json").write_text(text)


def test_outcomes_are_one_bit_an_image_from_the_highest_on(folder: Path) -> None:
    values = json.loads((folder / "outcomes.json").read_text())

    assert (values["images"], values["correct"]) == (11, "a160")
    assert (values["seed"], values["cell"]) == (3, "batch-b2-0123abcd")


@pytest.mark.parametrize("count", [1, 7, 8, 9, 10_000])
def test_outcomes_are_read_back_as_they_were_written(tmp_path: Path, count: int) -> None:
    correct = np.random.default_rng(count).random(count) < 0.7
    write_outcomes(tmp_path / "seed-3", 3, correct)

    found = read(tmp_path / "seed-3", float(correct.mean()))

    assert found is not None
    assert found.tolist() == correct.tolist()


def test_no_outcomes_are_none(tmp_path: Path) -> None:
    assert read(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": 12}, "another accuracy"),
        ({"images": 17}, "one bit for each of 17"),
        ({"images": 0}, "images is 0"),
        ({"images": 1 << 40}, "images is"),
        ({"images": 10.5}, "images is 10.5"),
        ({"images": None}, "images is None"),
        ({"images": True}, "images is True"),
        ({"correct": "a161"}, "one bit for each of 11"),
        ({"correct": "a1"}, "one bit for each of 11"),
        ({"correct": "a160" * 10**4}, "one bit for each of 11"),
        ({"correct": "a16g"}, "correct is 'a16g'"),
        ({"correct": 5}, "correct is 5"),
        ({"correct": "a140"}, "another accuracy"),
        ({"seed": 4}, "of seed 4"),
        ({"seed": None}, "of seed None"),
        ({"cell": "group-b2-0123abcd"}, "of 'group-b2-0123abcd'"),
    ],
)
def test_what_is_of_another_test_is_not_believed(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    edit(folder, **changes)

    with pytest.raises(UnreadableError, match=rf"^outcomes.json: .*{told}"):
        read(folder)


@pytest.mark.parametrize("accuracy", [None, 0.5])
def test_outcomes_that_do_not_fit_the_result_are_not_believed(
    folder: Path, accuracy: float | None
) -> None:
    with pytest.raises(UnreadableError, match="another accuracy than the result"):
        read(folder, accuracy)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: text.replace("a160", "a1c0"),
        lambda text: text.replace("sha256", "sha255"),
        lambda text: "[" * 100_000,
    ],
)
def test_damaged_outcomes_are_not_believed(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "outcomes.json"
    path.write_text(change(path.read_text()))

    with pytest.raises(UnreadableError, match=r"^outcomes.json: "):
        read(folder)
