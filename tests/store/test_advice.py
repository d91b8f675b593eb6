"""The plan of a race on disk: what is written is read, and nothing else is believed."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from normbench.errors import UnreadableError
from normbench.store.advice import (
    ADVICE,
    MOST_WORKERS,
    TAKEN,
    Plan,
    Timing,
    Took,
    read_plan,
    read_taken,
    write_plan,
    write_taken,
)

TIMING = Timing(
    norm="batch",
    start=0.5,
    steps={1: 0.01, 5: 0.02},
    evaluation=1.0,
    ending=2.0,
    momentum=0.1,
)
PLAN = Plan(
    question="ab" * 32,
    settings=["batch=2", "data=synthetic"],
    within=1800.0,
    epochs=20,
    raced=10,
    lengths=[1, 5],
    steps=100,
    seed=3,
    held_out=500,
    lr=0.1,
    used=12.5,
    timings=[TIMING],
)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = replace(PLAN, workers=MOST_WORKERS, divided=False)
    for plan in (PLAN, whole):
        write_plan(tmp_path, plan)

        assert read_plan(tmp_path) == plan


def test_a_step_of_replicas_together_is_on_a_line_between_what_was_measured() -> None:
    timing = replace(TIMING, steps={1: 0.010, 3: 0.014, 5: 0.020})

    found = [timing.step(number) for number in (1, 2, 3, 4, 5, 10)]
    assert found == pytest.approx([0.010, 0.012, 0.014, 0.017, 0.020, 0.040])


def test_the_time_of_trainings_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_taken(tmp_path) == {}
    taken = {"a/seed-0": Took(1.5), "a/seed-1": Took(0.5, whole=False)}
    write_taken(tmp_path, taken)

    assert read_taken(tmp_path) == taken
    (tmp_path / TAKEN).write_text('{"a/seed-0": 1.5}')
    assert read_taken(tmp_path) == {"a/seed-0": Took(1.5)}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        *(f'{{"a/seed-0": {value}}}' for value in (-1, '"long"', "{}", '{"rest": -1}', "[1.5]")),
    ],
)
def test_times_that_make_no_sense_are_not_known(tmp_path: Path, text: str) -> None:
    (tmp_path / TAKEN).write_text(text)

    assert read_taken(tmp_path) == {}


def test_where_there_is_no_plan_there_is_none(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("within", -1, "within is -1"),
        ("within", "long", "within is 'long'"),
        ("within", None, "within is missing"),
        ("epochs", 2.5, "epochs is 2.5"),
        ("raced", 21, "raced is 21"),
        ("lengths", [], "make no sense"),
        ("lengths", [5, 1], "make no sense"),
        ("lengths", [0], "lengths is 0"),
        ("lengths", "1", "lengths is '1'"),
        ("lengths", [True], "lengths is True"),
        ("steps", 0, "steps is 0"),
        ("seed", 2**40, "seed is 1099511627776"),
        ("held_out", 0, "held_out is 0"),
        ("settings", ["a\nb"], "a text is"),
        ("workers", 0, "workers is 0"),
        ("divided", 1, "divided is 1"),
        ("question", 7, "a text is 7"),
        ("timings", [], "make no sense"),
        ("timings", [{"norm": "nope"}], "a timing is"),
        ("timings", [{"norm": "batch"}], "start is missing"),
        *(
            ("timings", [asdict(TIMING) | {"steps": steps}], said)
            for steps, said in (
                (None, "steps is None"),
                ({}, "steps is {}"),
                ({"5": 0.1}, "steps is {'5': 0.1}"),
                ({"1": 0.1, "0": 0.1}, "steps is "),
                ({"1": 0.1, "²": 0.1}, "steps is "),
                ({"1": -0.1}, "1 is -0.1"),
            )
        ),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, key: str, value: Any, said: str) -> None:
    write_plan(tmp_path, PLAN)
    path = tmp_path / ADVICE
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    with pytest.raises(UnreadableError, match=r"advise\.json: ") as caught:
        read_plan(tmp_path)
    assert said in str(caught.value)


def test_a_norm_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN)
    path = tmp_path / ADVICE
    values = json.loads(path.read_text())
    values["timings"] *= 2
    path.write_text(json.dumps(values))

    with pytest.raises(UnreadableError, match="twice"):
        read_plan(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"within": 1'])
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / ADVICE).write_text(text)

    with pytest.raises(UnreadableError):
        read_plan(tmp_path)
