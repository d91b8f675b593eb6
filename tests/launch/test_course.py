"""How long a sweep takes is said before it starts, and at each cell."""

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from normbench.launch import course
from normbench.launch.compose import load_config
from normbench.launch.course import Course, estimated, followed
from normbench.run import estimate
from normbench.run import run as experiment
from normbench.run.cell import Cell, Replica
from normbench.run.estimate import Estimates
from normbench.run.placement import Arrangement, Pace
from normbench.store import checkpoint
from normbench.store.results import write_result
from normbench.terminal.bars import Overall
from normbench.terminal.screen import Screen
from tests.conftest import Command, files_below


def screen(file: io.StringIO) -> Screen:
    return Screen(Console(file=file))


CELLS = {Path("a"): 10.0, Path("b"): 30.0, Path("c"): 60.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(course, "monotonic", lambda: now[0])
    return now


def test_a_cell_knows_its_number_and_what_is_left(clock: list[float]) -> None:
    sweep = Course(CELLS)

    assert sweep.at([Path("a")]) == Overall("cell 1 of 3", 0.0, 10.0, 90.0)
    clock[0] = 10.0
    assert sweep.at([Path("b")]) == Overall("cell 2 of 3", 10.0, 30.0, 60.0)
    assert sweep.at([Path("elsewhere")]) is None


def test_what_the_cells_so_far_have_taken_corrects_the_rest(clock: list[float]) -> None:
    sweep = Course(CELLS)
    sweep.at([Path("a")])
    clock[0] = 20.0  # twice as long

    assert sweep.at([Path("b")]) == Overall("cell 2 of 3", 20.0, 60.0, 120.0)


def test_cells_that_are_trained_together_are_counted_together(clock: list[float]) -> None:
    sweep = Course(CELLS)

    assert sweep.at([Path("a"), Path("b")]) == Overall("cells 1 to 2 of 3", 0.0, 40.0, 60.0)
    clock[0] = 40.0
    assert sweep.at([Path("c")]) == Overall("cell 3 of 3", 40.0, 60.0, 0.0)


def test_cells_that_others_train_are_counted_as_they_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(course, "TURN", 0.01)
    file, done = io.StringIO(), {"a": False, "b": False, "c": False}
    with followed({name: partial(done.__getitem__, name) for name in done}, screen(file)):
        done["b"] = True
        while "b" not in file.getvalue():
            time.sleep(0.01)
        done["a"] = True

    assert file.getvalue() == "cell 1 of 3 is done: b\ncell 2 of 3 is done: a\n"


def test_only_what_is_left_is_estimated_and_more_of_it_takes_longer(tiny: list[str]) -> None:
    cells = [Cell.of(load_config([*tiny, f"epochs={n}"])) for n in (1, 100, 10_000)]
    jobs = [[Replica(cells[0], 0)], [Replica(cells[2], seed) for seed in (0, 1)]]
    found = estimated(jobs, screen(io.StringIO()))

    assert list(found) == [cells[0].directory, cells[2].directory]
    assert 0 < 10 * found[cells[0].directory] < found[cells[2].directory]


def test_what_finished_seeds_took_is_what_the_others_will_take(tiny: list[str]) -> None:
    """Twelve steps of a seed that has been trained, as its record says: 1,200 seconds."""
    config = load_config([*tiny, "epochs=2"])
    cell = Cell.of(config)
    outcome = experiment.run(config, screen(io.StringIO()))
    (result,) = (replace(each, seconds=1200.0) for each in outcome.results)
    write_result(cell.seed_folder(0), result)
    device = torch.device("cpu")
    jobs = [[Replica(cell, seed) for seed in range(seeds)] for seeds in (1, 2)]
    per_seed = [Estimates([cell], device).seconds(job) for job in jobs]

    assert per_seed[1] - per_seed[0] == pytest.approx(1200.0, rel=0.05)


def test_what_a_checkpoint_holds_is_not_trained_again(tiny: list[str]) -> None:
    cell = Cell.of(load_config([*tiny, "epochs=100"]))
    both = [Replica(cell, seed) for seed in (0, 1)]
    steps = 100 * 6  # 24 images in batches of four
    head = {"replicas": [each.key() for each in both], "progress": {"step": steps // 2}}
    estimates = Estimates([cell], torch.device("cpu"))
    whole = estimates.seconds(both)
    checkpoint.save(both[0].folder, steps // 2, {"x": torch.zeros(1)}, head)

    assert cell.config.batch == 4
    assert estimates.seconds(both) - estimate.START == pytest.approx((whole - estimate.START) / 2)


def test_seeds_that_are_trained_together_are_timed_together(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is timed is the arrangement in which they will be trained, once for each kind."""
    timed: list[int] = []

    def arrange(replicas: Sequence[Replica], *_: object) -> Pace:
        timed.append(len(replicas))
        return Pace(Arrangement(1, len(replicas), 1), 1.0 / len(replicas))

    monkeypatch.setattr(estimate, "arrange", arrange)
    slow, fast = (Cell.of(load_config([*tiny, f"optim.lr={lr}"])) for lr in (0.1, 0.2))
    together = [Replica(cell, seed) for cell in (slow, fast) for seed in (0, 1)]
    found = estimated([together], screen(io.StringIO()))
    alone = estimated([[each] for each in together[:2]], screen(io.StringIO()))

    assert timed == [4, 1]
    assert found[slow.directory] == found[fast.directory]
    assert found[slow.directory] < 0.5 * alone[slow.directory]


def test_a_dry_run_prints_cells_and_time_and_writes_nothing(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    line = ["sweep", *tiny, "norm=batch,group", "seeds=2"]
    assert "settings" not in nb(*line, "--dry-run").stdout
    rates = nb(*line, "optim.lr=0.1,0.2", "--dry-run").stdout
    assert rates.count(" optim.lr=0.1 ") == rates.count(" optim.lr=0.2 ") == 2
    result = nb(*line, "--dry-run")

    assert result.exit_code == 0, result.output
    assert "2 cells: " in result.stdout
    assert result.stdout.count(" 0/2 ") == 2
    assert "about " in result.stdout
    assert "nothing has been trained" in result.stdout
    assert list(tmp_path.iterdir()) == []

    assert nb("run", *tiny, "norm=group", "seeds=2").exit_code == 0
    before = files_below(tmp_path)
    again = nb(*line, "--dry-run").stdout
    assert "2/2" in again
    assert "0/2" in again
    assert "1 of them trained already" in again
    assert files_below(tmp_path) == before


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_says_before_it_starts_how_long_it_takes_and_at_each_cell_what_is_left(
    nb: Command, tiny: list[str]
) -> None:
    said = nb("sweep", *tiny, "norm=batch,group").stdout.splitlines()
    first = next(i for i, line in enumerate(said) if line.startswith("cell 1 of 2, about "))
    second = next(i for i, line in enumerate(said) if line.startswith("cell 2 of 2, about "))

    assert any("on this machine" in line for line in said[:first])
    assert "Batch normalization" in said[first + 1]
    assert "Group normalization" in said[second + 1]


@pytest.mark.usefixtures("undrawn")
def test_nothing_is_estimated_where_all_is_trained(nb: Command, tiny: list[str]) -> None:
    line = ["sweep", *tiny, "norm=batch,group"]
    assert nb(*line).exit_code == 0

    again = nb(*line).stdout
    assert "about" not in again.partition("runs/")[0]
    assert "cell 1 of" not in again
