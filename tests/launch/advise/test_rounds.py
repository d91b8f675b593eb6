"""How rounds are timed: what interrupted ones took, and what was there before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from normbench.errors import UnfinishedError
from normbench.launch.advise import rounds
from normbench.launch.advise.book import Round
from normbench.launch.advise.budget import Candidate, Entrant, Heat, Score
from normbench.launch.advise.question import Question
from normbench.launch.advise.rounds import train, trained_before
from normbench.launch.compose import load_config
from normbench.launch.planned import Cells
from normbench.run.cell import Cell
from normbench.store.advice import NOTHING, TAKEN, Took, read_taken
from normbench.store.results import Result, is_done, write_result
from normbench.terminal.screen import Screen
from tests.launch.advise.worlds import plan

HEATS = [Heat(Candidate(norm, 1.0), 2, 1, 2) for norm in ("batch", "group")]
ENTRIES = [entry for heat in HEATS for entry in heat.entries]


@dataclass
class Planned:
    """A cell of two seeds in a folder."""

    directory: Path

    problem, log = "interrupted", "log.txt"

    @property
    def left(self) -> list[int]:
        return [seed for seed in (1, 2) if not is_done(self.directory / f"seed-{seed}")]


def write(folder: Path) -> None:
    result = Result(
        seed=int(folder.name[-1]),
        status="finished",
        test_accuracy=0.5,
        test_loss=1.0,
        train_loss=1.0,
        epochs=2,
        steps=6,
        seconds=0.5,
        images_per_second=10.0,
        val_accuracy=0.5,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_result(folder, result)


class Killed(BaseException):
    """Stands for the end of the process."""


Call = Callable[..., dict[Entrant, Score]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Trains a round of four trainings, of which so many come to their end and more begin."""
    clock = [0.0]
    monkeypatch.setattr(rounds, "perf_counter", lambda: clock[0])

    def go(seconds: float, ends: int = 4, begins: int = 0, expected: float = 5.0) -> Any:
        def train_each(_: Any, __: Any, ___: Any, planned: Callable[[Cells], object]) -> Cells:
            every: Sequence[Any] = [Planned(tmp_path / norm) for norm in ("batch", "group")]
            cells = Cells(every)
            planned(cells)
            clock[0] += seconds
            folders = [c.directory / f"seed-{seed}" for c in every for seed in c.left]
            for folder in folders[:ends]:
                write(folder)
            for folder in folders[ends : ends + begins]:
                folder.mkdir(parents=True)
            if ends < len(folders):
                raise Killed
            return cells

        monkeypatch.setattr(rounds, "train_each", train_each)
        step = Round("a round", HEATS, [expected] * 2, 100.0, lambda _: [])
        return train(Question.of(["batch=2"], ["batch", "group"]), plan(["a"]), Screen(), step)

    return go


def test_a_round_shares_its_time_among_its_trainings(call: Call) -> None:
    scores = call(8.0)

    assert list(scores) == ENTRIES
    assert [score.seconds for score in scores.values()] == pytest.approx([2.0] * 4)


def test_a_round_that_was_interrupted_says_nothing_of_the_pace(call: Call, tmp_path: Path) -> None:
    """All that it took counts; but how much of that was whose cannot be told."""
    with pytest.raises(Killed):
        call(6.0, ends=2, begins=1)
    scores = call(1.0)

    assert sum(score.seconds for score in scores.values()) == pytest.approx(7.0)
    assert [score.whole for score in scores.values()] == [True, True, False, False]
    assert call(0.0) == scores, "and again, from what was written down"


def test_nor_does_one_whose_process_was_killed_before_it_noted_the_time(
    call: Call, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        call(6.0, ends=2, begins=1)
    (tmp_path / TAKEN).unlink()
    scores = call(1.0)

    assert [score.whole for score in scores.values()] == [False] * 4
    assert [score.seconds for score in scores.values()] == pytest.approx([0.5] * 4)


def test_a_round_that_was_interrupted_between_trainings_is_timed_as_a_whole(call: Call) -> None:
    with pytest.raises(Killed):
        call(6.0, ends=2)
    scores = call(6.0)

    assert sum(score.seconds for score in scores.values()) == pytest.approx(12.0)
    assert all(score.whole for score in scores.values())


def test_no_time_is_lost_where_nothing_was_expected_to_be_trained(
    call: Call, tmp_path: Path
) -> None:
    """As where all was there before the budget was changed, and a result is damaged."""
    scores = call(8.0, expected=0.0)

    assert [score.seconds for score in scores.values()] == pytest.approx([2.0] * 4)


def test_a_training_that_failed_ends_the_round_and_its_time_is_kept(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.launch.advise.test_rounds.write", lambda _: None)
    with pytest.raises(UnfinishedError, match="interrupted"):
        call(8.0)

    assert sum(took.seconds for took in read_taken(tmp_path).values()) == pytest.approx(8.0)


def test_what_was_there_before_the_budget_was_changed_has_a_result_and_no_time(
    tmp_path: Path,
) -> None:
    question = Question.of(["data=synthetic", "data.limit=48", "batch=4"], ["batch", "group"])
    planned, heat = plan(["batch", "group"]), Heat(Candidate("group", 1.0), 2, 1, 4)
    cell = Cell.of(load_config(question.cell(planned, heat)))
    for seed in (1, 2, 3):
        write(cell.directory / f"seed-{seed}")
    (cell.directory / "seed-2" / "result.json").write_text("{")
    keys = [f"{cell.directory.name}/seed-{seed}" for seed in (1, 2, 3, 4)]
    taken = dict(zip(keys, (NOTHING, NOTHING, Took(1.0)), strict=False))
    there = trained_before(question, planned, taken)

    assert [there(entry) for entry in heat.entries] == [True, False, False, False]
    write(cell.directory / "seed-2")
    assert not there(heat.entries[1]), "it was trained anew, and that took time"
    none = trained_before(question, planned, {keys[0]: Took(1.0)})
    assert not any(map(none, heat.entries))
