"""``optim.lr=auto``: which rates are tried, which is taken, and what is recorded of it."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from normbench.errors import UnfinishedError, UsageError
from normbench.launch import rates, sweep
from normbench.launch.compose import load_config
from normbench.launch.grid import train_all
from normbench.launch.planned import Planned
from normbench.report.read.cells import collect
from normbench.run import seeds
from normbench.run.cell import Cell
from normbench.store.rate import RATE, read_rate
from normbench.terminal.screen import Screen
from tests.conftest import Command, files_below

Curve = Callable[[float], float | None]


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=120, _environ={}))


def said(screen: Screen) -> str:
    assert isinstance(screen.console.file, io.StringIO)
    return screen.console.file.getvalue()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[Curve], None]:
    """Nothing is trained; the accuracy of a short training is a function of its rate."""
    monkeypatch.setattr(sweep, "finish", lambda *_: None)
    monkeypatch.setattr(sweep, "_estimated", lambda cells, _: {c.directory: 0.0 for c in cells})

    def use(curve: Curve) -> None:
        def score(trained: Planned) -> float | None:
            return curve(trained.cell.config.optim.lr)

        monkeypatch.setattr(rates, "_score", score)

    return use


@pytest.mark.parametrize(
    ("curve", "chosen", "tried"),
    [
        (lambda lr: -abs(lr - 0.1) + 1, 0.1, [0.05, 0.1, 0.2]),
        (lambda lr: -abs(lr - 0.4) + 1, 0.4, [0.05, 0.1, 0.2, 0.4, 0.8]),
        (lambda lr: lr / 10, 0.8, [0.05, 0.1, 0.2, 0.4, 0.8]),
        (lambda lr: None if lr > 0.06 else lr, 0.05, [0.025, 0.05, 0.1, 0.2]),
        (lambda _: None, 0.0125, [0.0125, 0.025, 0.05, 0.1, 0.2]),
        (lambda _: 0.5, 0.0125, [0.0125, 0.025, 0.05, 0.1, 0.2]),
    ],
)
def test_the_best_rate_is_taken_and_those_beside_it_are_tried(
    tiny: list[str],
    scored: Callable[[Curve], None],
    curve: Curve,
    chosen: float,
    tried: list[float],
) -> None:
    scored(curve)
    screen = quiet()

    (cell,) = train_all([*tiny, "optim.lr=auto"], screen)

    assert cell.cell.config.optim.lr == chosen
    record = read_rate(cell.directory)
    assert record is not None
    assert [each["lr"] for each in record["tried"]] == tried
    assert [each["accuracy"] for each in record["tried"]] == [curve(lr) for lr in tried]
    at_edge = chosen in (tried[0], tried[-1])
    assert ("a better one may lie beyond" in said(screen)) == at_edge


def test_the_cell_is_the_one_with_that_rate_and_keeps_its_images(
    tiny: list[str], scored: Callable[[Curve], None], tmp_path: Path
) -> None:
    scored(lambda lr: 1 - abs(lr - 0.2))

    found = train_all([*tiny, "norm=batch,group", "optim.lr=auto", "seeds=2"], quiet())

    for cell in found:
        plain = load_config([*tiny, f"norm={cell.cell.config.norm.name}", "optim.lr=0.2"])
        assert cell.directory.name == Cell.of(plain).directory.name
    trials = json.loads((tmp_path / "runs" / "default-rates" / "sweep.json").read_text())["cells"]
    seeds = {tuple(trial["seeds"]) for trial in trials}
    assert seeds == {(10_000,)}, "no seed of the cells themselves, however many they will have"


def test_a_dry_run_says_what_comes_first_and_writes_nothing(
    tiny: list[str], scored: Callable[[Curve], None], tmp_path: Path
) -> None:
    scored(lambda lr: lr)
    screen = quiet()

    train_all([*tiny, "norm=batch,group", "optim.lr=auto"], screen, dry_run=True)

    assert "6 cells: runs/default-rates" in said(screen)
    assert "none has been chosen yet" in said(screen)
    assert "2 cells: runs/default" in said(screen)
    assert files_below(tmp_path) == {}


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_trains_tells_and_goes_on(nb: Command, tiny: list[str], tmp_path: Path) -> None:
    arguments = ["sweep", *tiny, "norm=batch,group", "optim.lr=auto", "data.val_fraction=0.25"]
    first = nb(*arguments)

    assert first.exit_code == 0, first.output
    folder = tmp_path / "runs" / "default"
    cells = collect(folder).cells
    assert len(cells) == 2
    assert all(cell.choice["lr"] == cell.settings["optim"]["lr"] for cell in cells)
    assert "optim.lr=auto, for each cell on 6 held-out" in (folder / "report/report.md").read_text()

    before = {n: t for n, t in files_below(tmp_path).items() if n.endswith("result.json")}
    again = nb(*arguments)
    assert again.exit_code == 0, again.output
    after = {n: t for n, t in files_below(tmp_path).items() if n.endswith("result.json")}
    assert after == before, "nothing is trained twice"


def test_a_run_takes_it_too(nb: Command, tiny: list[str], tmp_path: Path) -> None:
    done = nb("run", *tiny, "norm=group", "optim.lr=auto", "data.val_fraction=0.25")

    assert done.exit_code == 0, done.output
    (record,) = tmp_path.glob(f"runs/default/group-*/{RATE}")
    assert (record.parent / "seed-0" / "result.json").is_file()


@pytest.mark.parametrize("experiment", [["paper", "norm_batch=2"], ["rates"]])
def test_a_run_of_an_experiment_is_one_cell_at_a_rate_of_its_own(
    nb: Command, tiny: list[str], tmp_path: Path, experiment: list[str]
) -> None:
    """All that the experiment varies is typed, its rate by auto."""
    name, *more = experiment
    settings = [f"experiment={name}", *tiny, "norm=group", *more, "name=own"]
    done = nb("run", *settings, "optim.lr=auto", "data.val_fraction=0.25")

    assert done.exit_code == 0, done.output
    (record,) = tmp_path.glob(f"runs/own/group-*/{RATE}")
    assert (record.parent / "seed-0" / "result.json").is_file()


def test_a_run_of_an_experiment_of_several_cells_names_the_sweep(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    refused = nb("run", "experiment=rates", *tiny, "optim.lr=auto")

    assert refused.exit_code == 2
    assert "use sweep: normbench sweep experiment=rates" in refused.stderr
    assert refused.stderr.endswith("optim.lr=auto\n"), "all that was typed"
    assert files_below(tmp_path) == {}


def test_auto_replaces_the_rates_of_an_experiment(
    tiny: list[str], scored: Callable[[Curve], None]
) -> None:
    scored(lambda lr: 1 - abs(lr - 0.2))
    screen = quiet()
    cells = train_all(["experiment=rates", *tiny, "norm=group", "optim.lr=auto"], screen)

    assert [cell.cell.config.optim.lr for cell in cells] == [0.2]
    (tried,) = re.findall(r"held-out error (.*)", said(screen))
    assert len(tried.split(", ")) == 4, "around one rate, and the one beside the best"


def test_the_rate_of_a_cell_that_is_there_several_times_is_chosen_once(
    tiny: list[str], scored: Callable[[Curve], None]
) -> None:
    scored(lambda lr: 1 - abs(lr - 0.1))
    screen = quiet()
    typed = ["norm=group", "batch=4", "norm_batch=2"]
    train_all(["experiment=paper", *tiny, *typed, "optim.lr=auto"], screen)

    assert len(re.findall(r"held-out error", said(screen))) == 1


def test_without_a_result_there_is_no_choice(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "finish", lambda *_: None)

    with pytest.raises(UnfinishedError, match=r"default-rates/\S+: seed 10000 no result"):
        train_all([*tiny, "optim.lr=auto"], quiet())


def test_a_trial_that_fails_keeps_its_own_cell_from_being_trained_and_no_other(
    nb: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainings of layer norm raise; the others are trained, and the report is written."""
    trains = seeds.Replicas.train

    def fails(self: seeds.Replicas, *arguments: Any) -> None:
        if self.config.norm.name == "layer":
            raise FloatingPointError("not finite")
        trains(self, *arguments)

    monkeypatch.setattr(seeds.Replicas, "train", fails)
    done = nb("sweep", *tiny, "norm=layer,group", "stack=1", "optim.lr=auto")

    assert done.exit_code == 1
    finished = [c.norm for c in collect(Path("runs/default")).cells if c.finished]
    assert finished == ["group"]
    bad = [line for line in done.output.splitlines() if line.startswith("not finished: ")]
    assert len(bad) == 1
    assert "runs/default-rates/layer-" in bad[0]
    assert Path("runs/default/report/report.html").exists()


def test_images_that_cannot_be_held_out_are_one_line(tiny: list[str]) -> None:
    with pytest.raises(UsageError, match=r"a share of 0\.0001 of the training images is none"):
        train_all([*tiny, "optim.lr=auto", "data.val_fraction=0.0001"], quiet())


@pytest.mark.parametrize("text", ["optim.lr=auto,0.1", "optim.lr=0.05,auto"])
def test_auto_goes_alone(nb: Command, tiny: list[str], text: str) -> None:
    done = nb("sweep", *tiny, text)
    told = f"normbench: {text}: auto goes alone, it tries several; write optim.lr=auto\n"
    assert (done.exit_code, done.stderr) == (2, told)
