"""``normbench run``: what it says, and what it writes."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from normbench.store.results import read_result
from tests.cli_helpers import ESCAPE
from tests.conftest import NUM_TEST, NUM_TRAIN, SECRET, Command, Finished, files_below


def words(text: str) -> str:
    """``text`` with every run of white space as one blank: what it says, however it is set."""
    return " ".join(text.split())


def test_a_run_ends_well_and_says_nothing_on_stderr(finished: Finished) -> None:
    assert finished.code == 0, finished.stderr
    assert finished.stderr == ""


def test_a_run_begins_with_what_will_run_and_on_which_data(finished: Finished) -> None:
    header = words(finished.stdout.partition("epoch 1/2")[0])

    assert header.startswith("Group normalization, batch 4, ConvNet-2, width 4")
    assert f"tiny: {NUM_TRAIN} training and {NUM_TEST} test images, 3 classes" in header
    assert "2 epochs of 6" in header
    assert "0.0125" in header, "the peak learning rate, 0.1·4/32"
    assert "float32 on cpu" in header


def test_a_run_prints_a_line_an_epoch(finished: Finished) -> None:
    lines = [line for line in finished.stdout.splitlines() if re.search(r"epoch \d+/2", line)]

    places = [re.search(r"seed (\d) +epoch (\d)/2", line) for line in lines]
    assert [place.groups() for place in places if place is not None] == [
        (seed, epoch) for seed in "01" for epoch in "12"
    ]
    assert all("loss" in line and "eval" in line and "img/s" in line for line in lines)


def test_away_from_a_terminal_nothing_moves_or_is_coloured(finished: Finished) -> None:
    assert ESCAPE not in finished.stdout
    assert "\r" not in finished.stdout
    assert " left" not in finished.stdout


def test_a_run_ends_with_a_table_and_where_to_find_things(finished: Finished) -> None:
    result = json.loads((finished.cell / "seed-0" / "result.json").read_text())
    closing = finished.stdout.rpartition("epoch 2/2")[2]

    first = 100 * (1 - result["test_accuracy"])
    assert re.search(rf"seed 0 +finished +{first:.2f} ", closing)
    assert re.search(r"seed 1 +finished", closing)
    errors = [
        100
        * (
            1
            - json.loads((finished.cell / f"seed-{n}" / "result.json").read_text())["test_accuracy"]
        )
        for n in (0, 1)
    ]
    assert re.search(rf"test error {sum(errors) / 2:.1f}\d? ± ", closing)
    where = finished.cell.relative_to(finished.home).as_posix()
    assert f"files: {where}" in closing
    assert "normbench tensorboard" in closing


def test_a_run_directory_holds_what_the_contract_says(finished: Finished) -> None:
    written = {re.sub(r"tfevents\..*", "tfevents", name) for name in files_below(finished.home)}
    cell = finished.cell.relative_to(finished.home).as_posix()
    of_a_seed = (
        "metrics.jsonl",
        "environment.json",
        "hparams.json",
        "events.out.tfevents",
        "result.json",
        "outcomes.json",
        "model.safetensors",
    )

    assert written == {
        f"{cell}/.lock",  # held while a process trains the cell
        f"{cell}/log.txt",
        f"{cell}/config.yaml",
        f"{cell}/environment.json",
        f"{cell}/summary.json",
        f"{cell}/time.json",
        *(f"{cell}/seed-{seed}/{name}" for seed in (0, 1) for name in of_a_seed),
    }


def test_a_run_directory_is_named_after_norm_batch_and_digest(finished: Finished) -> None:
    summary = json.loads((finished.cell / "summary.json").read_text())

    assert finished.cell.parent == finished.home / "runs" / "default"
    assert finished.cell.name == f"group-b4-{summary['digest'][:8]}"


def test_a_result_says_how_a_seed_ended(finished: Finished) -> None:
    result = json.loads((finished.cell / "seed-1" / "result.json").read_text())

    assert result.keys() == {
        "seed",
        "status",
        "test_accuracy",
        "test_loss",
        "val_accuracy",
        "train_loss",
        "train_accuracy",
        "test_accuracy_reestimated",
        "test_accuracy_batch",
        "memory_bytes",
        "stacked",
        "threads",
        "epochs",
        "steps",
        "seconds",
        "images_per_second",
        "diverged_at",
        "error",
        "test_images",
        "test_accuracy_before",
        "test_accuracy_swapped",
        "cell",
        "sha256",
    }
    assert (result["seed"], result["status"]) == (1, "finished")
    assert (result["epochs"], result["steps"]) == (2, 12)
    assert (result["stacked"], result["threads"]) == (1, 1)
    hits = result["test_accuracy"] * NUM_TEST
    assert hits == pytest.approx(round(hits), abs=1e-5)
    assert result["images_per_second"] == pytest.approx(12 * 4 / result["seconds"])
    assert result["val_accuracy"] is result["diverged_at"] is result["error"] is None


def test_an_accuracy_is_the_nearest_number_to_hits_over_images(finished: Finished) -> None:
    for seed in (0, 1):
        text = (finished.cell / f"seed-{seed}" / "result.json").read_text()
        accuracy = json.loads(text)["test_accuracy"]

        assert accuracy == round(accuracy * NUM_TEST) / NUM_TEST, "not a float32's idea of it"


def test_a_summary_says_how_a_cell_ended(finished: Finished) -> None:
    summary = json.loads((finished.cell / "summary.json").read_text())
    results = [
        json.loads((finished.cell / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 1)
    ]

    assert list(summary) == [
        "norm",
        "batch",
        "norm_batch",
        "model",
        "data",
        "seeds",
        "test_accuracy",
        "test_accuracy_mean",
        "test_accuracy_ci95",
        "status",
        "digest",
    ]
    assert (summary["norm"], summary["batch"], summary["norm_batch"]) == ("group", 4, 4)
    assert summary["model"] == "ConvNet-2, width 4"
    assert summary["data"]["name"] == "tiny"
    assert re.fullmatch("[0-9a-f]{64}", summary["data"]["sha256"])
    assert re.fullmatch("[0-9a-f]{64}", summary["digest"])
    assert summary["seeds"] == [0, 1]
    assert summary["test_accuracy"] == [result["test_accuracy"] for result in results]
    low, high = summary["test_accuracy_ci95"]
    assert low <= summary["test_accuracy_mean"] <= high
    assert summary["status"] == "finished"


def test_a_run_says_with_what_it_ran(finished: Finished) -> None:
    environment = json.loads((finished.cell / "environment.json").read_text())

    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["device"] == "cpu"
    assert environment["threads"] == 1
    assert "commit" in environment


def test_a_run_keeps_its_configuration(finished: Finished) -> None:
    config = yaml.safe_load((finished.cell / "config.yaml").read_text(encoding="utf-8"))

    assert (config["batch"], config["epochs"], config["seeds"]) == (4, 2, 2)
    assert config["norm"]["name"] == "group"
    model = {"name": "convnet", "depth": 2, "width": 4}
    assert config["model"].items() >= model.items()
    assert config["data"]["name"] == "tiny"


def test_a_run_keeps_the_trained_weights(finished: Finished) -> None:
    weights = [load_file(finished.cell / f"seed-{seed}" / "model.safetensors") for seed in (0, 1)]

    assert weights[0]["head.weight"].shape == (3, 8)
    assert all(bool(value.isfinite().all()) for value in weights[0].values())
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])


def test_what_was_printed_and_what_the_time_went_to_are_kept(finished: Finished) -> None:
    log = (finished.cell / "log.txt").read_text(encoding="utf-8")
    logged, printed = (
        [found[0] for line in text.splitlines() if (found := re.search(r"seed \d +epoch .*", line))]
        for text in (log, finished.stdout)
    )
    assert logged == printed != []

    seconds = json.loads((finished.cell / "time.json").read_text(encoding="utf-8"))
    assert sorted(seconds) == sorted(
        ["start", "arranging", "training", "evaluating", "decomposing", "writing"]
    )
    assert all(value >= 0 for value in seconds.values())
    (whole,) = re.findall(r"^time: ([\d.]+) s", finished.stdout, re.MULTILINE)
    assert float(whole) == pytest.approx(sum(seconds.values()), abs=0.5)
    trained = [read_result(finished.cell / f"seed-{seed}") for seed in (0, 1)]
    assert seconds["training"] == pytest.approx(sum(r.seconds for r in trained if r), rel=0.5)


def test_nothing_of_the_environment_is_written_down(finished: Finished) -> None:
    assert os.environ[SECRET[0]] == SECRET[1], "the run had it too"
    for path in finished.home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET[1].encode() not in content, path
            assert SECRET[0].encode() not in content, path


def test_a_share_of_the_quick_experiment_learns(
    nb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMBENCH_DATA", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    share = ("norm=batch", "batch=32", "seeds=1", "epochs=2", "data.limit=2500")
    done = nb("run", "experiment=quick", *share, "data.test_limit=500", "threads=1", "device=cpu")
    assert done.exit_code == 0, done.output
    (result,) = (read_result(seed) for seed in tmp_path.glob("runs/quick/*/seed-0"))

    assert result is not None
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.2  # chance is 0.1, with a standard error of 0.013


def test_the_built_in_images_train_too(
    nb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMBENCH_DATA", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    overrides = ("data.limit=64", "epochs=1", "batch=16", "model=convnet", "model.depth=2")
    done = nb("run", *overrides, "model.width=4", "threads=1")

    assert done.exit_code == 0, done.output
    said = words(done.stdout)
    assert "synthetic: 64 training and 2,000 test images, 10 classes" in said
    assert "normbench data fetch cifar10" in said, "how to get the other"
    assert "normbench data import PATH --name cifar10" in said
    (summary,) = tmp_path.glob("runs/*/*/summary.json")
    assert json.loads(summary.read_text())["data"]["name"] == "synthetic"
