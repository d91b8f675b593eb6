"""The cells of a sweep: each is trained to its end once, whatever becomes of who trains it."""

import io
import json
import platform
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from normbench.config import Config
from normbench.errors import UsageError
from normbench.files import write_json
from normbench.launch import sweep
from normbench.launch.compose import load_config
from normbench.launch.planned import Cells, Planned, planned_cells
from normbench.launch.sweep import InterruptedSweepError, finish, train
from normbench.run import run as experiment
from normbench.run.seeds import StoppedError
from normbench.run.signals import SIGNALS
from normbench.run.stacks import LOG
from normbench.store import checkpoint, results
from normbench.store.lock import HOLDER, Holder, holding
from normbench.store.plan import PLAN
from normbench.store.results import DIVERGED, FAILED, FINISHED, Result
from normbench.terminal.screen import Screen

Launch = Callable[[Sequence[Planned]], None]
BATCHES = (2, 4, 6, 8)


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=120, _environ={}))


def said(screen: Screen) -> str:
    assert isinstance(screen.console.file, io.StringIO)
    return screen.console.file.getvalue()


@cache
def composed(*overrides: str) -> Config:
    return load_config(overrides)


@pytest.fixture
def cells(tiny: list[str]) -> Cells:
    config = composed(*tiny)  # composing takes a while
    every = [(replace(config, batch=batch), [*tiny, f"batch={batch}"]) for batch in BATCHES]
    return planned_cells(every, quiet())


def batch(planned: Planned) -> int:
    return planned.cell.config.batch


def end(planned: Planned, status: str = FINISHED) -> None:
    """Writes the result of a cell that has been trained."""
    result = results.failure(0, ValueError("its own"))
    values = {name: getattr(result, name) for name in result.__slots__}
    if status != FAILED:
        values |= {"status": status, "error": None, "test_accuracy": 0.5}
    folder = planned.cell.seed_folder(0)
    folder.mkdir(parents=True, exist_ok=True)
    results.write_result(folder, Result(**values))


def begin(planned: Planned) -> None:
    """What a process leaves that is killed while it trains a cell."""
    planned.directory.mkdir(parents=True, exist_ok=True)
    write_json(planned.directory / HOLDER, {"pid": 99999999, "host": "here", "since": "now"})


def error(planned: Planned) -> str | None:
    result = results.read_result(planned.cell.seed_folder(0))
    return None if result is None else result.error


class Launcher:
    """Ends the cells it is given, except that the process dies at those it is told to.

    As with joblib: what was not yet begun is lost with the process.
    """

    def __init__(self, *deadly: int, times: int = 99) -> None:
        self.deadly = deadly
        self.times = times
        self.launched: list[list[int]] = []

    def __call__(self, given: Sequence[Planned]) -> None:
        self.launched.append([batch(each) for each in given])
        for each in given:
            if batch(each) in self.deadly and self.times > 0:
                self.times -= 1
                begin(each)
                raise RuntimeError("a worker was killed\nby somebody")
            end(each)


# ---- launching until the end ----


def test_cells_that_end_are_launched_once_and_together(cells: Cells) -> None:
    launch = Launcher()
    finish(cells, cells, launch, quiet())

    assert launch.launched == [[2, 4, 6, 8]]
    assert all(each.finished for each in cells)


def test_what_a_dead_process_lost_is_launched_again_and_the_suspect_alone_at_the_end(
    cells: Cells,
) -> None:
    launch, screen = Launcher(4, times=1), quiet()
    finish(cells, cells, launch, screen)

    assert launch.launched == [[2, 4, 6, 8], [6, 8], [4]]
    assert all(each.finished for each in cells)
    assert "a process of the launcher died (RuntimeError: a worker was killed); 3 cells left" in (
        said(screen)
    )


def test_a_cell_that_always_kills_its_process_fails_and_the_others_do_not(cells: Cells) -> None:
    launch = Launcher(2, 6)
    finish(cells, cells, launch, quiet())

    assert launch.launched == [[2, 4, 6, 8], [4, 6, 8], [8], [2], [6]]
    assert [each.finished for each in cells] == [False, True, False, True]
    assert error(cells[0]) == error(cells[2]) == "KilledError: its process was killed"
    assert [batch(each) for each in cells.unfinished()] == [2, 6], "and is tried again next time"
    log = (cells[0].directory / LOG).read_text(encoding="utf-8")
    assert "its process was killed" in log
    assert json.loads((cells[0].directory / "summary.json").read_text())["status"] == FAILED


def test_a_launcher_that_is_broken_from_the_start_is_the_persons_to_mend(cells: Cells) -> None:
    launched: list[int] = []

    def broken(given: Sequence[Planned]) -> None:
        launched.append(len(given))
        raise ImportError("no such launcher\nreally")

    with pytest.raises(UsageError, match=r"^the launcher failed: ImportError: no such launcher$"):
        finish(cells, cells, broken, quiet())

    assert launched == [4, 4, 4], "once, and twice again"
    assert not any(each.cell.seed_folder(0).exists() for each in cells)


@pytest.mark.parametrize("deaths", [1, 2])
def test_what_no_process_has_begun_is_launched_again_whole(cells: Cells, deaths: int) -> None:
    begin(cells[1])  # left by an earlier sweep: nothing of this one
    launched: list[list[int]] = []

    def launch(given: Sequence[Planned]) -> None:
        launched.append([batch(each) for each in given])
        if len(launched) <= deaths:
            raise RuntimeError("a worker was killed")
        for each in given:
            end(each)

    finish(cells, cells, launch, quiet())

    assert launched == [[2, 4, 6, 8]] * (deaths + 1)
    assert all(each.finished for each in cells)


def test_a_process_may_die_at_its_start_each_time_that_cells_have_ended(cells: Cells) -> None:
    launched: list[list[int]] = []

    def launch(given: Sequence[Planned]) -> None:
        launched.append([batch(each) for each in given])
        if len(launched) % 3 == 0:
            end(given[0])
        raise RuntimeError("a worker was killed")

    finish(cells, cells, launch, quiet())

    each = [[2, 4, 6, 8], [4, 6, 8], [6, 8], [8]]
    assert launched == [left for left in each for _ in range(3)]
    assert all(each.finished for each in cells)


def test_a_suspect_whose_process_dies_before_it_begins_is_not_to_blame(cells: Cells) -> None:
    launched: list[list[int]] = []

    def launch(given: Sequence[Planned]) -> None:
        launched.append([batch(each) for each in given])
        if len(launched) == 1:
            begin(given[0])
        if len(launched) in (1, 3):
            raise RuntimeError("a worker was killed")
        for each in given:
            end(each)

    finish(cells, cells, launch, quiet())

    assert launched == [[2, 4, 6, 8], [4, 6, 8], [2], [2]]
    assert all(each.finished for each in cells)


def test_a_launcher_that_raises_when_all_is_done_has_done_it(cells: Cells) -> None:
    def late(given: Sequence[Planned]) -> None:
        for each in given:
            end(each)
        raise RuntimeError("while it was put away")

    finish(cells, cells, late, quiet())

    assert all(each.finished for each in cells)


def test_what_failed_by_itself_is_not_launched_again_for_anothers_death(cells: Cells) -> None:
    launched: list[list[int]] = []

    def launch(given: Sequence[Planned]) -> None:
        launched.append([batch(each) for each in given])
        for each in given:
            if batch(each) == 4 and len(launched) == 1:
                begin(each)
                raise RuntimeError("killed")
            end(each, FAILED if batch(each) == 2 else FINISHED)

    finish(cells, cells, launch, quiet())

    assert launched == [[2, 4, 6, 8], [6, 8], [4]]
    assert error(cells[0]) == "ValueError: its own"


def test_what_failed_in_an_earlier_sweep_is_launched_again_when_it_was_lost(cells: Cells) -> None:
    end(cells[3], FAILED)
    launch = Launcher(2, times=1)
    finish(cells, cells.unfinished(), launch, quiet())

    assert launch.launched == [[2, 4, 6, 8], [4, 6, 8], [2]]
    assert all(each.finished for each in cells)


@pytest.mark.parametrize("kind", [InterruptedSweepError, UsageError, KeyboardInterrupt])
def test_who_asks_to_leave_leaves(cells: Cells, kind: type[BaseException]) -> None:
    launched: list[int] = []

    def launch(given: Sequence[Planned]) -> None:
        launched.append(len(given))
        begin(given[0])
        raise kind("enough")

    with pytest.raises(kind):
        finish(cells, cells, launch, quiet())

    assert launched == [4]
    assert not (cells[0].cell.seed_folder(0)).exists()


# ---- which processes are the sweep's ----


@pytest.mark.parametrize(
    ("other", "ours"),
    [
        ({"sweep": sweep._THIS, "pid": 4_000_000}, True),
        ({"sweep": sweep._THIS, "pid": 4_000_000, "host": "elsewhere"}, False),
        ({"sweep": "another", "pid": 4_000_000}, False),
        ({"sweep": "", "pid": 4_000_000}, False),
        ({"sweep": sweep._THIS, "pid": 0}, False),
        ({"sweep": sweep._THIS, "pid": -1}, False),
        ({"sweep": sweep._THIS}, False),
    ],
)
def test_only_processes_that_this_sweep_has_started_are_told_to_leave(
    cells: Cells, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], ours: bool
) -> None:
    """Somebody else may be training a cell of ours, in another terminal or on another machine."""
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, _: killed.append(pid))
    monkeypatch.setattr(sweep, "GRACE", 0.1)
    with holding(cells[1].directory):
        path = cells[1].directory / HOLDER
        path.write_text(json.dumps(json.loads(path.read_text()) | other))
        sweep._end_others(cells)

    assert killed == ([4_000_000] if ours else [])


def test_after_a_death_the_sweeps_other_processes_are_waited_for(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher that waits for its jobs in turn raises while the others are still at work."""
    looks: list[Path] = []
    worker = Holder(4_000_000, platform.node(), "now", sweep._THIS)

    def look(directory: Path) -> Holder | None:
        looks.append(directory)
        if len(looks) == 9:
            end(cells[1])
        return worker if directory == cells[1].directory and len(looks) < 9 else None

    monkeypatch.setattr(sweep, "holder", look)
    launch = Launcher(2, times=1)
    finish(cells, cells, launch, quiet())

    assert len(looks) > 8
    assert launch.launched == [[2, 4, 6, 8], [6, 8], [2]]


# ---- one cell ----


def test_an_error_becomes_the_result_and_is_in_the_log(tiny: list[str]) -> None:
    config = load_config([*tiny, "seeds=2"])
    (cell,) = planned_cells([(config, tiny)], quiet())
    folder = cell.cell.seed_folder(1)
    folder.mkdir(parents=True)
    (folder / "step-000000001.checkpoint").write_text("damaged")
    screen = quiet()

    train(config, screen)

    assert "  failed: UsageError: " in said(screen)
    for seed in (0, 1):
        result = results.read_result(cell.cell.seed_folder(seed))
        assert result is not None
        assert result.status == FAILED
        assert "no checkpoint can be used" in str(result.error)
    log = (cell.directory / LOG).read_text(encoding="utf-8")
    assert "no checkpoint can be used" in log
    assert "Traceback" in log
    assert checkpoint.files(folder) != [], "it is for people to decide"


def test_a_cell_that_a_launcher_has_stopped_has_not_failed(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit's workers catch SIGTERM themselves, so that no signal ends the run."""

    def stopped(*_: Any, **__: Any) -> None:
        raise StoppedError

    monkeypatch.setattr(experiment, "run_together", stopped)
    screen = quiet()
    train(composed(*tiny), screen)

    assert "stopped" in said(screen)
    assert list(Path().rglob("*.json")) == []


def test_a_cell_that_another_trains_is_left_alone(tiny: list[str]) -> None:
    config, screen = load_config(tiny), quiet()
    (cell,) = planned_cells([(config, tiny)], quiet())
    with holding(cell.directory):
        train(config, screen)

    assert "  left alone: " in said(screen)
    assert not cell.cell.seed_folder(0).exists()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_signals_have_their_handlers_back(cells: Cells, number: int) -> None:
    before = signal.getsignal(number)
    finish(cells, cells, Launcher(2), quiet())

    assert signal.getsignal(number) == before


# ---- the plan ----


def entries(cells: Cells) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((cells.directory / PLAN).read_text())["cells"]
    return found


def test_the_plan_lists_the_cells_that_are_not_yet_begun_too(cells: Cells) -> None:
    assert [each["folder"] for each in entries(cells)] == [each.directory.name for each in cells]
    assert [each["batch"] for each in entries(cells)] == list(BATCHES)
    assert not any(each.directory.exists() for each in cells)


def test_a_plan_is_added_to_and_written_only_when_it_changes(cells: Cells, tiny: list[str]) -> None:
    before = (cells.directory / PLAN).stat().st_mtime_ns
    every = [*tiny, "batch=4"]
    planned_cells([(composed(*every), every)], quiet())
    assert (cells.directory / PLAN).stat().st_mtime_ns == before

    every = [*tiny, "batch=12"]
    planned_cells([(composed(*every), every)], quiet())

    assert [each["batch"] for each in entries(cells)] == [*BATCHES, 12]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"cells": 3}', '{"cells": [1, {"folder": 2}, {}]}', "[" * 100_000],
    ids=range(7),
)
def test_a_damaged_plan_is_written_anew(cells: Cells, tiny: list[str], content: str) -> None:
    (cells.directory / PLAN).write_text(content)
    every = [*tiny, "batch=4"]
    planned_cells([(composed(*every), every)], quiet())

    assert [each["batch"] for each in entries(cells)] == [4]


def test_a_folder_that_cannot_be_written_to_is_one_line(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    every = [*tiny, "runs=file"]
    with pytest.raises(UsageError, match=r"cannot write to file/default: .*runs=FOLDER, or"):
        planned_cells([(composed(*every), every)], quiet())


def test_what_has_diverged_is_done_and_not_finished(cells: Cells) -> None:
    end(cells[0], DIVERGED)

    assert cells[0] not in cells.unfinished()
    assert not cells[0].finished
