"""An arrangement is measured once a machine and case, and a foreign file changes nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from platformdirs import user_cache_path

from normbench.launch.compose import load_config
from normbench.run import arranging
from normbench.run.arranging import arrange
from normbench.run.cell import Cell
from normbench.run.placement import BUDGET, Arrangement, Pace
from normbench.run.remembered import Case, busy, case_of, recall, remember
from normbench.store.environment import cores
from normbench.terminal.screen import Screen

FOUND = Pace(Arrangement(lanes=1, size=4, threads=1), 0.002)


def case(tiny: list[str], *overrides: str, seeds: int = 4) -> Case:
    return case_of(Cell.of(load_config([*tiny, *overrides])), seeds, torch.device("cpu"))


def the_file() -> Path:
    (path,) = (user_cache_path("normbench") / "arrangements").iterdir()
    return path


def test_what_was_measured_is_known_for_this_case_and_no_other(tiny: list[str]) -> None:
    remember(case(tiny), FOUND)

    assert recall(case(tiny)) == FOUND
    assert recall(case(tiny, "name=other", "optim.lr=0.3", "epochs=9")) == FOUND
    for other in ("batch=6", "norm=batch", "model.width=8", "precision=bf16", "optim=adamw"):
        assert recall(case(tiny, other)) is None
    assert recall(case(tiny, seeds=5)) is None
    assert recall({**case(tiny), "processor": "another"}) is None
    assert recall({**case(tiny), "torch": "9.9"}) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: "{",
        lambda found: "[" * 100_000,
        lambda found: json.dumps([found]),
        lambda found: json.dumps({"case": found["case"]}),
        lambda found: json.dumps(found | {"case": {}}),
        lambda found: json.dumps(found | {"arrangement": {"lanes": 1, "size": 17, "threads": 1}}),
        lambda found: json.dumps(found | {"arrangement": {"lanes": 99, "size": 1, "threads": 1}}),
        lambda found: json.dumps(found | {"arrangement": {"lanes": "1", "size": 1, "threads": 1}}),
        lambda found: json.dumps(found | {"arrangement": {"lanes": 0, "size": 1, "threads": 1}}),
        lambda found: json.dumps(found | {"arrangement": {"rows": 1}}),
        lambda found: json.dumps(found | {"step": "fast"}),
        lambda found: json.dumps(found | {"step": 0.0}),
    ],
)
def test_a_damaged_or_foreign_file_is_ignored_and_replaced(
    tiny: list[str], damage: Callable[[dict[str, object]], str]
) -> None:
    remember(case(tiny), FOUND)
    path = the_file()
    path.write_text(damage(json.loads(path.read_text())))

    assert recall(case(tiny)) is None
    remember(case(tiny), FOUND)
    assert recall(case(tiny)) == FOUND


def test_a_cache_that_cannot_be_written_to_is_no_error(tiny: list[str]) -> None:
    user_cache_path("normbench").parent.mkdir(parents=True)
    user_cache_path("normbench").write_text("a file where the folder should be")
    assert recall(case(tiny)) is None
    remember(case(tiny), FOUND)
    assert recall(case(tiny)) == FOUND


@pytest.mark.parametrize(
    ("in_full", "is_busy", "measured", "kept"),
    [(True, False, 1, True), (True, True, 1, False), (False, False, 2, False)],
    ids=["in full", "busy", "in haste"],
)
def test_what_was_measured_in_full_is_not_measured_again(
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    in_full: bool,
    is_busy: bool,
    measured: int,
    kept: bool,
) -> None:
    turns: list[int] = []

    def fastest(*_: Any, **__: Any) -> tuple[Arrangement, dict[Arrangement, float]]:
        turns.append(1)
        return Arrangement(size=2), {Arrangement(size=2): 0.001, Arrangement(): 0.002}

    monkeypatch.setattr(arranging, "fastest", fastest)
    monkeypatch.setattr(arranging, "time_to_measure", lambda _: BUDGET if in_full else 0.1)
    monkeypatch.setattr(arranging, "busy", lambda: is_busy)
    cell = Cell.of(load_config([*tiny, "seeds=2", "stack=auto"]))
    splits = cell.splits(torch.device("cpu"))
    first, second = (arrange(cell.replicas(), splits, Screen.unseen()) for _ in range(2))

    assert first == second == Pace(Arrangement(size=2), 0.001 * 2 / 2)
    assert len(turns) == measured
    assert any(user_cache_path("normbench").rglob("*.json")) == kept


def test_what_a_busy_machine_told_is_kept_for_this_process_alone(tiny: list[str]) -> None:
    remember(case(tiny), FOUND, lasting=False)

    assert recall(case(tiny)) == FOUND
    assert recall(case(tiny, seeds=5)) is None
    assert not (user_cache_path("normbench") / "arrangements").exists()


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the system keeps nobody to a core"
)
def test_a_machine_is_as_busy_as_the_cores_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = os.sched_getaffinity(0)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.6, 0.0, 0.0))
    try:
        os.sched_setaffinity(0, {min(own)})
        assert cores() == 1
        assert busy()
    finally:
        os.sched_setaffinity(0, own)
    assert cores() == len(own)
    assert busy() is (len(own) == 1)
