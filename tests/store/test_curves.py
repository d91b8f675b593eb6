"""Curves: the JSON lines are the truth, TensorBoard says the same, and HParams has one session."""

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
    LegacyEventFileLoader,
)
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata

from normbench.store.curves import Tracker, is_sound, read_metrics, rebuild
from normbench.store.events import DESCRIPTIONS, RESULT_TAGS
from normbench.store.results import Result, read_result, write_result
from tests.conftest import Finished

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


def curves_of_result(folder: Path) -> Curves:
    result = read_result(folder)
    assert result is not None
    assert result.test_accuracy is not None
    assert result.memory_bytes is not None
    values = (1 - result.test_accuracy, result.images_per_second, result.memory_bytes / 1e6)
    return {tag: {result.steps: v} for tag, v in zip(RESULT_TAGS, values, strict=True)}


def event_file(folder: Path) -> Path:
    (found,) = folder.glob("events.out.tfevents.*")
    return found


def raw_summaries(folder: Path) -> list[Any]:
    events = LegacyEventFileLoader(str(event_file(folder))).Load()
    return [value for event in events for value in event.summary.value]


def summaries(folder: Path) -> list[Any]:
    events = EventFileLoader(str(event_file(folder))).Load()
    return [value for event in events for value in event.summary.value]


# ---- a whole run ----


def test_both_records_of_a_run_agree_value_for_value(finished: Finished) -> None:
    for seed in (0, 1):
        folder = finished.cell / f"seed-{seed}"
        lines, events = curves_of_lines(folder), curves_of_events(folder)

        assert events.keys() - lines.keys() == {*RESULT_TAGS, "batch 4/eval/accuracy"}
        assert events["batch 4/eval/accuracy"] == events["eval/accuracy"]
        lines |= curves_of_result(folder)
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
        "gradient/norm",
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
        assert [info.name.tag for info in experiment.metric_infos] == list(RESULT_TAGS)


def test_every_tag_says_what_it_is(finished: Finished) -> None:
    first: dict[str, Any] = {}
    for value in summaries(finished.cell / "seed-0"):
        first.setdefault(value.tag, value.metadata)
    scalars = [tag for tag, about in first.items() if about.plugin_data.plugin_name == "scalars"]

    of_batch_norm = {"stray_mean", "stray_variance"}
    assert set(DESCRIPTIONS) - of_batch_norm | {"batch 4/eval/accuracy"} == set(scalars)
    assert all(len(first[tag].summary_description) > 10 for tag in scalars)


def test_a_layer_s_tag_says_what_it_is_too(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, HPARAMS)
    tracker.log(1, 1.0, {"stray_mean/blocks.0": 0.5, "stray_variance/blocks.0": 0.5})
    tracker.close()
    about = {value.tag: value.metadata.summary_description for value in summaries(tmp_path)}

    assert about["stray_mean/blocks.0"] == DESCRIPTIONS["stray_mean"]
    assert about["stray_variance/blocks.0"] == DESCRIPTIONS["stray_variance"]


def test_the_event_file_of_a_whole_run_follows_from_the_json_files(finished: Finished) -> None:
    assert all(is_sound(finished.cell / f"seed-{seed}") for seed in (0, 1))


def test_a_chart_compares_the_norms_of_one_batch_size(finished: Finished) -> None:
    (value,) = [
        value
        for value in summaries(finished.cell / "seed-0")
        if value.metadata.plugin_data.plugin_name == "custom_scalars"
    ]
    layout = Layout.FromString(value.tensor.string_val[0])

    ((category, chart),) = [(each.title, *each.chart) for each in layout.category]
    assert "batch size" in category
    assert (chart.title, list(chart.multiline.tag)) == ("batch 4", ["batch 4/eval/accuracy"])


def test_the_configuration_is_there_as_text_and_the_images_once(finished: Finished) -> None:
    texts, sheets = [], []
    for seed in (0, 1):
        found = {value.tag: value for value in summaries(finished.cell / f"seed-{seed}")}
        texts.append(found["config/text_summary"].tensor.string_val[0].decode())
        sheets.append("images" in found)
    picture = Image.open(
        io.BytesIO(
            next(
                value.image.encoded_image_string
                for value in raw_summaries(finished.cell / "seed-0")
                if value.tag == "images"
            )
        )
    )

    config = (finished.cell / "config.yaml").read_text(encoding="utf-8")
    assert all(
        [line.strip() for line in text.splitlines()]
        == [line.strip() for line in config.splitlines()]
        for text in texts
    )
    assert sheets == [True, False]
    assert picture.size == (8 * 9 - 1, 4 * 9 - 1)


# ---- the tracker by itself ----


def test_sub_batches_have_charts_of_their_own(tmp_path: Path) -> None:
    values = HPARAMS | {"batch": 8, "norm_batch": 2}
    tracker = Tracker(tmp_path, values)
    tracker.log(1, 1.0, {"eval/accuracy": 0.5})
    tracker.close()

    assert curves_of_events(tmp_path)["batch 8, statistics of 2/eval/accuracy"] == {1: 0.5}


@pytest.mark.parametrize("status", ["finished", "diverged", "failed"])
def test_the_result_is_drawn_once_it_is_there(tmp_path: Path, status: str) -> None:
    folder = tmp_path / "seed-0"
    folder.mkdir()
    tracker = recorded(folder)
    accuracy = 0.75 if status == "finished" else None
    result = Result(
        seed=0,
        status=status,
        test_accuracy=accuracy,
        test_loss=None,
        train_loss=None,
        epochs=1.0,
        steps=6,
        seconds=1.0,
        images_per_second=12.0,
    )
    write_result(folder, result)
    tracker.close()

    curves = curves_of_events(folder)
    drawn = {tag: curves[tag] for tag in RESULT_TAGS if tag in curves}
    assert (
        drawn
        == {
            "finished": {"result/test_error": {6: 0.25}, "result/images_per_second": {6: 12.0}},
            "diverged": {"result/images_per_second": {6: 12.0}},
            "failed": {},
        }[status]
    )
    assert is_sound(folder)


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
    line = {"time": 1.0, "train/loss": 2.0}
    lines = [json.dumps({"step": step, "epoch": step / 4, **line}) for step in (1, 2, 3)]
    text = "\n".join(lines) + "\n"
    (tmp_path / "metrics.jsonl").write_text(text[:-cut], encoding="utf-8")

    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


# ---- going on, and the event file that follows from the others ----


def recorded(folder: Path, steps: int = 6) -> Tracker:
    """A tracker that has recorded so many steps and is not closed."""
    tracker = Tracker(folder, HPARAMS)
    for step in range(1, steps + 1):
        tracker.log(step, step / 4, {"train/loss": 1 / step, "train/accuracy": 0.25})
    return tracker


@pytest.mark.parametrize("after", [1, 3, 6, 100])
def test_going_on_keeps_what_was_before_and_drops_what_came_later(
    tmp_path: Path, after: int
) -> None:
    recorded(tmp_path).close()
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    start = json.loads((tmp_path / "hparams.json").read_text())["time"]

    tracker = Tracker(tmp_path, HPARAMS, after=after)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == before[:after]
    tracker.log(after + 1, (after + 1) / 4, {"train/loss": 7.0})
    tracker.close()

    curves = curves_of_lines(tmp_path)
    assert curves["train/loss"] == {n: 1 / n for n in range(1, min(6, after) + 1)} | {after + 1: 7}
    events = curves_of_events(tmp_path)
    assert events.keys() == curves.keys()
    for tag, curve in curves.items():
        assert events[tag] == {n: np.float32(value) for n, value in curve.items()}
    assert json.loads((tmp_path / "hparams.json").read_text())["time"] == pytest.approx(
        start, abs=1
    )
    assert is_sound(tmp_path)


def test_going_on_after_a_kill_drops_the_line_that_was_cut(tmp_path: Path) -> None:
    recorded(tmp_path, 3).close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "epo')

    Tracker(tmp_path, HPARAMS, after=4).close()

    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    assert is_sound(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from normbench.store.curves import Tracker
tracker = Tracker(Path(sys.argv[1]), {"norm": "group", "batch": 2, "seed": 7})
for step in range(1, 101):
    tracker.log(step, step / 4, {"train/loss": 1 / step})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_has_left_all_lines_and_its_events_are_rebuilt(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], timeout=100, check=False)
    assert len(read_metrics(tmp_path)) == 100
    assert not is_sound(tmp_path), "events wait in memory; that is why there are two files"

    rebuild(tmp_path)

    assert is_sound(tmp_path)
    assert curves_of_events(tmp_path)["train/loss"][100] == np.float32(0.01)


def test_what_another_process_wrote_is_rebuilt_to_the_same_bytes(tmp_path: Path) -> None:
    finished = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "tracker.close()")
    subprocess.run([sys.executable, "-c", finished, tmp_path], timeout=100, check=True)

    assert is_sound(tmp_path)


def test_a_large_sheet_of_images_is_rebuilt_as_well(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, {"seed": 0}, images=bytes(2 << 20))
    tracker.log(1, 0.5, {"train/loss": 1.0})
    tracker.close()
    (events,) = tmp_path.glob("events.*")
    before = events.read_bytes()

    assert is_sound(tmp_path)
    assert len(before) > 2 << 20
    events.write_bytes(before[:-7])
    assert not is_sound(tmp_path)
    rebuild(tmp_path)
    (events,) = tmp_path.glob("events.*")
    assert events.read_bytes() == before


def test_syncing_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    tracker = recorded(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    tracker.sync()
    tracker.close()

    assert synced == [(tmp_path / "metrics.jsonl").stat().st_ino]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = random.Random(len(content)).randrange(len(content))
    content[place] ^= 4
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], object]] = [
    flip,
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    lambda path: path.write_bytes(b""),
    lambda path: path.unlink(),
    lambda path: path.with_name(path.name + ".v2").write_bytes(path.read_bytes()),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=["flip", "cut", "more", "empty", "gone", "two"])
def test_a_damaged_event_file_is_found_and_rebuilt(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    recorded(tmp_path).close()
    assert is_sound(tmp_path)
    whole = event_file(tmp_path).read_bytes()

    damage(event_file(tmp_path))
    assert not is_sound(tmp_path)
    rebuild(tmp_path)

    assert is_sound(tmp_path)
    assert event_file(tmp_path).read_bytes() == whole


def test_every_flipped_bit_of_an_event_file_is_found(tmp_path: Path) -> None:
    recorded(tmp_path, 2).close()
    path = event_file(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        wrong = bytearray(whole)
        wrong[place] ^= 1 << place % 8
        path.write_bytes(wrong)
        assert not is_sound(tmp_path), place


@pytest.mark.parametrize("name", ["metrics.jsonl", "hparams.json"])
@pytest.mark.parametrize(
    "text",
    ["{\n", "[]\n", "3\n", "null\n", "{}\n", '{"step": 1, "time": "x", "a/b": 1}\n',
     '{"step": 1, "time": 1.0, "a/b": "x"}\n', '{"time": 1.0, "values": {"a": []}, "a/b": 1}\n',
     '{"time": 1.0, "values": 3, "step": 1e99}\n', "\0\0\0\n", None],
)  # fmt: skip
def test_nothing_is_rebuilt_from_what_makes_no_sense(
    tmp_path: Path, name: str, text: str | None
) -> None:
    recorded(tmp_path).close()
    path, before = event_file(tmp_path), event_file(tmp_path).read_bytes()
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)

    for look in (rebuild, is_sound):
        with pytest.raises((OSError, ValueError)):
            look(tmp_path)

    assert event_file(tmp_path) == path
    assert path.read_bytes() == before
