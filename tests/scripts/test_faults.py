"""A seeded share of the fault matrix, and proof that its rows can tell when a promise is broken."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not SCRIPTS.exists():
    pytest.skip("runs without its source tree", allow_module_level=True)
sys.path.insert(0, str(SCRIPTS))

import fault_matrix  # noqa: E402
from faults import cells, files, hostile, kills, places  # noqa: E402
from faults.world import World  # noqa: E402

from normbench.errors import UnreadableError  # noqa: E402
from normbench.store import checkpoint  # noqa: E402

SEED = 1
IN_PLACE = "has damaged a checkpoint|no checkpoint loads"
VELOCITIES = "differs"
UNHELD = "not one has trained"
SHARES: dict[str, tuple[Callable[[World, int], Iterator[str | None]], int]] = {
    "kill": (kills.killed, 1),
    "save": (kills.killed_in_save, 8),
    "damage": (files.damaged, 8),
    "signal": (kills.interrupted, 1),
    "full": (files.full, 2),
    "two": (cells.two, 1),
    "events": (files.events, 6),
    "readonly": (places.read_only, 1),
    "paths": (places.paths, 1),
    "clock": (places.clock, 1),
}


PAYLOADS = (
    "command line: a launcher of",
    "command line: a norm of its own",
    "command line: a name that quotes",
    "archive: tar, up",
    "archive: zip, symbolic",
    "archive: CIFAR",
    "data set: a flipped",
    "data set: labels",
    "checkpoint: step as text",
    "checkpoint: step below",
    "checkpoint: a pipe",
    "checkpoint: tensors of",
    "records: sweep.json that leads out",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"), SEED)
    yield made
    made.close()


@pytest.mark.parametrize("row", SHARES)
def test_a_share_of_each_row_holds(world: World, row: str) -> None:
    attempt, tries = SHARES[row]

    results = list(attempt(world, tries))

    assert len(results) == tries
    assert [problem for problem in results if problem is not None] == []
    assert world.leaks == []


@pytest.mark.parametrize("start", PAYLOADS)
def test_a_share_of_the_payloads_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    chosen = {k: v for k, v in hostile.PAYLOADS.items() if k.startswith(start)}
    assert chosen
    monkeypatch.setattr(hostile, "PAYLOADS", chosen)

    results = list(hostile.payloads(world, len(chosen)))

    assert [problem for problem in results if problem is not None] == []


def test_every_row_is_in_the_matrix_and_has_as_many_tries_as_was_promised() -> None:
    tries = {name: row.tries for name, row in fault_matrix.ROWS.items()}

    assert tries.pop("hostile") >= 30
    assert tries == {
        "kill": 100,
        "save": 500,
        "damage": 1000,
        "signal": 50,
        "full": 50,
        "sweep": 20,
        "jobs": 9,
        "two": 100,
        "events": 100,
        "readonly": 10,
        "paths": 10,
        "clock": 10,
    }


# ---- a promise that is broken is seen ----


@pytest.mark.parametrize(
    ("sabotage", "row", "tries", "said"),
    [
        pytest.param("write_in_place", kills.killed_in_save, 6, IN_PLACE, id="writing in place"),
        pytest.param("forget_velocities", kills.killed, 2, VELOCITIES, id="forgotten velocities"),
        pytest.param("train_unheld", cells.two, 1, UNHELD, id="no lock"),
    ],
)
def test_a_broken_product_does_not_hold(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: str,
    row: Callable[[World, int], Iterator[str | None]],
    tries: int,
    said: str,
) -> None:
    monkeypatch.setattr(world, "sabotage", [[sabotage]])

    problems = [problem for problem in row(world, tries) if problem is not None]
    assert [problem for problem in problems if re.search(said, problem)], problems


class _First(Random):
    """Draws the first of all choices, and always the same number.

    So a run is killed once, at step 5, with a checkpoint at every step.
    """

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def randrange(self, *_: Any) -> int:
        return 5


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [("", ""), ("begin_anew", "begins anew"), ("never_save", "nothing was saved")],
)
def test_a_run_that_begins_anew_does_not_hold(
    world: World, monkeypatch: pytest.MonkeyPatch, sabotage: str, said: str
) -> None:
    """It ends as one that goes on does: what it says and leaves tells them apart."""
    monkeypatch.setattr(world, "sabotage", [[sabotage]] if sabotage else [])

    def killed(_: Random, home: Path, number: int) -> None:
        kills._killed(world, _First(), home, number)

    (problem,) = world.attempts("kill", 1, killed)
    assert (problem is not None) == bool(sabotage)
    assert said in str(problem)


def test_a_secret_in_a_file_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "sabotage", [["quote_environment"]])
    monkeypatch.setattr(world, "leaks", [])

    list(places.clock(world, 1))

    assert any("environment.json" in leak for leak in world.leaks)


def test_a_checkpoint_whose_digest_is_not_checked_does_not_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "read", _read_unchecked)

    assert any(problem is not None for problem in files.damaged(world, 7))


def _read_unchecked(path: Path) -> checkpoint.Checkpoint:
    """``checkpoint.read`` as it was before it had a digest."""
    head, _, body = path.read_bytes()[len(checkpoint.MAGIC) + 65 :].partition(b"\n")
    try:
        return checkpoint.Checkpoint(path, tensors_of(body), json.loads(head))
    except (ValueError, SafetensorError) as error:
        raise UnreadableError(str(error)) from None


def test_an_event_file_that_nobody_compares_does_not_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "is_sound", lambda folder: any(folder.glob("events*")))

    assert any(problem is not None for problem in files.events(world, 3))
