"""``normbench run`` of the same again, and of nearly the same."""

import json
from pathlib import Path

import pytest

from tests.conftest import Command, Finished, files_below


def test_the_same_command_again_trains_nothing(
    nb: Command, finished: Finished, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(finished.home)
    monkeypatch.chdir(finished.home)
    again = nb(*finished.arguments)
    after = files_below(finished.home)

    assert again.exit_code == 0
    assert "--fresh" in again.stdout
    of_seeds = [name for name in before if "/seed-" in name]
    assert len(of_seeds) == 14
    assert [after[name] for name in of_seeds] == [before[name] for name in of_seeds]
    assert before.keys() == after.keys()


def test_a_run_that_trains_nothing_leaves_word_of_where_it_was_trained(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny, "seeds=2").exit_code == 0
    before = files_below(tmp_path)
    assert nb("run", *tiny, "seeds=1").exit_code == 0

    after = files_below(tmp_path)
    for name in before:
        if name.endswith(("config.yaml", "environment.json")):
            assert after[name] == before[name], name


def test_fresh_trains_again_and_comes_to_the_same_end(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny).exit_code == 0
    (cell,) = tmp_path.glob("runs/*/*")
    first = files_below(cell)
    lines = (cell / "seed-0" / "metrics.jsonl").read_text()
    (cell / "seed-9").mkdir()
    assert nb("run", *tiny, "--fresh").exit_code == 0

    second = files_below(cell)
    assert not (cell / "seed-9").exists()
    assert second["seed-0/result.json"] != first["seed-0/result.json"]
    curves = [
        [(line["step"], line["train/loss"]) for line in map(json.loads, text.splitlines())]
        for text in (lines, (cell / "seed-0" / "metrics.jsonl").read_text())
    ]
    assert curves[0] == curves[1]


def test_a_second_seed_is_trained_beside_the_first(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny, "seeds=1").exit_code == 0
    (cell,) = tmp_path.glob("runs/*/*")
    before = files_below(cell)
    result = nb("run", *tiny, "seeds=2")

    assert result.exit_code == 0
    assert list(tmp_path.glob("runs/*/*")) == [cell]
    after = files_below(cell)
    assert after["seed-0/result.json"] == before["seed-0/result.json"]
    assert after["seed-0/model.safetensors"] == before["seed-0/model.safetensors"]
    assert "seed-1/result.json" in after
    assert json.loads((cell / "summary.json").read_text())["seeds"] == [0, 1]


def test_two_configurations_never_share_a_directory(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    variants = [
        "optim.lr=0.1",
        "optim.lr=0.05",
        "epochs=1",
        "data.limit=16",
        "norm=layer",
        "batch=2",
    ]
    for variant in variants:
        assert nb("run", *tiny, variant).exit_code == 0, variant

    assert len(list(tmp_path.glob("runs/default/*"))) == len(variants)


def test_the_place_and_the_threads_do_not_make_another_cell(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    for variant in ("name=default", "name=other", "threads=2", "runs=elsewhere", "device=cpu"):
        assert nb("run", *tiny, variant).exit_code == 0, variant

    cells = [*tmp_path.glob("runs/*/*"), *tmp_path.glob("elsewhere/*/*")]
    assert len(cells) == 3
    assert len({cell.name for cell in cells}) == 1


def test_tensorboard_is_told_where_the_runs_are(nb: Command, tiny: list[str]) -> None:
    assert "normbench tensorboard elsewhere" in nb("run", *tiny, "runs=elsewhere").stdout
