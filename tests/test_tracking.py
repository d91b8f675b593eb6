"""Curves: the JSON lines are the truth, TensorBoard says the same, and HParams has one session."""

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata

from normbench.tracking import HPARAM_METRIC, Tracker, read_metrics

Curves = dict[str, dict[int, float]]

HPARAMS: dict[str, str | int | float | bool] = {"norm": "group", "batch": 2, "seed": 7}


def curves_of_lines(folder: Path) -> Curves:
    curves: Curves = {}
    for line in read_metrics(folder):
        for tag in line.keys() - {"step", "epoch", "time"}:
            assert line["step"] not in curves.setdefault(tag, {}), "a step is recorded twice"
            curves[tag][line["step"]] = line[tag]
    return curves


def curves_of_events(folder: Path) -> Curves:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: {event.step: event.value for event in accumulator.Scalars(tag)}
        for tag in accumulator.Tags()["scalars"]
    }


def event_file(folder: Path) -> Path:
    (found,) = folder.glob("events.out.tfevents.*")
    return found


def summaries(folder: Path) -> list[Any]:
    events = EventFileLoader(str(event_file(folder))).Load()
    return [value for event in events for value in event.summary.value]


# ---- a whole run ----


def test_both_records_of_a_run_agree_value_for_value(finished: Finished) -> None:
    for seed in (0, 1):
        folder = finished.cell / f"seed-{seed}"
        lines, events = curves_of_lines(folder), curves_of_events(folder)

        assert lines.keys() == events.keys()
        for tag, curve in lines.items():
            assert curve.keys() == events[tag].keys(), tag
            for step, value in curve.items():
                assert np.float32(value) == np.float32(events[tag][step]), (tag, step)


def test_a_run_records_training_and_evaluation(finished: Finished) -> None:
    curves = curves_of_lines(finished.cell / "seed-0")

    assert curves.keys() == {
        "train/loss",
        "train/accuracy",
        "train/learning_rate",
        "train/images_per_second",
        "eval/loss",
        "eval/accuracy",
    }
    assert list(curves["eval/accuracy"]) == [6, 12], "once at the end of each epoch"
    assert list(curves["train/loss"]) == list(range(1, 13)), "the last steps of an epoch included"
    assert all(0 <= value <= 1 for value in curves["train/accuracy"].values())


def test_lines_go_forward_in_step_epoch_and_time(finished: Finished) -> None:
    lines = read_metrics(finished.cell / "seed-0")

    for key in ("step", "epoch", "time"):
        values = [line[key] for line in lines]
        assert values == sorted(values), key
    assert lines[-1]["step"] == 12
    assert lines[-1]["epoch"] == 2.0


def test_a_seed_is_one_tensorboard_run(finished: Finished) -> None:
    with_events = {path.parent for path in finished.home.rglob("events.out.tfevents.*")}

    assert with_events == {finished.cell / "seed-0", finished.cell / "seed-1"}
    assert all(len(list(folder.glob("events.*"))) == 1 for folder in with_events)
    assert not [p for folder in with_events for p in folder.iterdir() if p.is_dir()]


def test_hparams_has_one_session_a_seed_with_its_settings(finished: Finished) -> None:
    for seed in (0, 1):
        ours = [
            value
            for value in summaries(finished.cell / f"seed-{seed}")
            if value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME
        ]

        tags = [value.tag for value in ours]
        assert sorted(tags) == sorted(
            [
                metadata.EXPERIMENT_TAG,
                metadata.SESSION_START_INFO_TAG,
                metadata.SESSION_END_INFO_TAG,
            ]
        )
        start = ours[tags.index(metadata.SESSION_START_INFO_TAG)]
        session = metadata.parse_session_start_info_plugin_data(start.metadata.plugin_data.content)
        assert session.hparams["norm"].string_value == "group"
        assert session.hparams["batch"].number_value == 4
        assert session.hparams["seed"].number_value == seed
        experiment = metadata.parse_experiment_plugin_data(
            ours[tags.index(metadata.EXPERIMENT_TAG)].metadata.plugin_data.content
        )
        assert [info.name.tag for info in experiment.metric_infos] == [HPARAM_METRIC]


# ---- the tracker by itself ----


def test_what_is_not_finite_is_left_out_of_both(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, HPARAMS)
    tracker.log(1, 0.5, {"train/loss": 2.0, "train/accuracy": 0.25})
    tracker.log(2, 1.0, {"train/loss": nan, "train/accuracy": 0.5})
    tracker.log(3, 1.5, {"train/loss": inf, "train/accuracy": 0.75})
    tracker.close()

    expected = {"train/loss": {1: 2.0}, "train/accuracy": {1: 0.25, 2: 0.5, 3: 0.75}}
    assert curves_of_lines(tmp_path) == expected
    assert curves_of_events(tmp_path) == expected
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_those_who_watch_see_a_record_once_it_is_flushed(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, HPARAMS)
    tracker.log(1, 0.5, {"train/loss": 2.0})
    tracker.flush()

    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    assert curves_of_events(tmp_path) == {"train/loss": {1: 2.0}}
    tracker.close()


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, HPARAMS)
    tracker.log(1, 0.5, {"train/loss": 2.0})

    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    tracker.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize("name", ["metrics.jsonl", "events.out.tfevents"])
def test_a_full_disk_ends_recording_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    open_ = Path.open

    def limited(path: Path, *args: Any, **more: Any) -> Any:
        return open_(Path("/dev/full") if path.name.startswith(name) else path, *args, **more)

    monkeypatch.setattr(Path, "open", limited)
    told: list[str] = []
    tracker = Tracker(tmp_path, HPARAMS, warn=told.append)
    for step in range(3):
        tracker.log(step, step / 2, {"train/loss": 2.0})
        tracker.flush()
    tracker.close()

    reason = "No space left on device"
    assert told == [f"recording stopped, training goes on: {tmp_path}: {reason}"]


def test_starting_over_replaces_the_earlier_records(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        tracker = Tracker(tmp_path, HPARAMS)
        tracker.log(1, 1.0, {"train/loss": value})
        tracker.close()

    assert curves_of_lines(tmp_path) == {"train/loss": {1: 2.0}}
    assert curves_of_events(tmp_path) == {"train/loss": {1: 2.0}}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_last_line_that_was_cut_is_left_out(tmp_path: Path, cut: int) -> None:
    lines = [json.dumps({"step": step, "epoch": step / 4, "train/loss": 2.0}) for step in (1, 2, 3)]
    text = "\n".join(lines) + "\n"
    (tmp_path / "metrics.jsonl").write_text(text[:-cut], encoding="utf-8")

    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
