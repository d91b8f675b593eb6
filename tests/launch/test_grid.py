"""From a line to its cells: which there are, that each is trained once, and what is refused."""

import io
import json
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from rich.console import Console

from normbench.config import Config
from normbench.errors import UsageError
from normbench.launch import compose, grid, sweep
from normbench.launch.compose import load_config
from normbench.launch.grid import Workers, train_all, train_each
from normbench.launch.planned import Cells
from normbench.norms.batch import BatchNormConfig
from normbench.report.compare.rates import rate_trials
from normbench.report.read.cells import collect
from normbench.run.cell import Cell
from normbench.store import results
from normbench.terminal.screen import Screen
from tests.conftest import Command, files_below

Sweep = Callable[..., Cells]

RATES = Path(__file__).parents[2] / "results" / "rates"


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=120, _environ={}))


@pytest.fixture
def run(tiny: list[str]) -> Sweep:
    """Sweeps over the smallest cell."""
    return lambda *overrides: train_all([*tiny, *overrides], quiet())


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, run: Sweep) -> Sweep:
    """The same, up to where training would begin."""
    monkeypatch.setattr(sweep, "finish", lambda *_: None)
    return run


def said(cells: Cells) -> list[str]:
    """Norm, batch and norm_batch of each cell."""
    configs = [each.cell.config for each in cells]
    return [f"{each.norm.name} {each.batch} {each.norm_batch}" for each in configs]


def names(cells: Cells) -> set[str]:
    return {each.directory.name for each in cells}


# ---- which cells there are ----


def test_every_combination_is_a_cell_and_is_trained_once(run: Sweep, tmp_path: Path) -> None:
    cells = run("norm=batch,group", "batch=2,4")

    assert sorted(said(cells)) == ["batch 2 None", "batch 4 None", "group 2 None", "group 4 None"]
    assert all(each.finished for each in cells)
    before = files_below(tmp_path)
    assert names(run("norm=batch,group", "batch=2,4")) == names(cells)
    assert names(run("batch=4,2", "norm=group,batch")) == names(cells), "in whatever order"
    assert files_below(tmp_path) == before, "and nothing is trained again"


def test_a_cell_of_a_sweep_is_the_cell_of_a_run(run: Sweep, tiny: list[str]) -> None:
    every = ["norm=group", "norm.groups=2", "optim.lr=0.05", "optim.steps_at=[0.5]"]
    (cell,) = run(*every)
    alone = Cell.of(load_config([*tiny, *every]))

    assert cell.cell.config == alone.config
    assert cell.directory == alone.directory
    assert (alone.directory / "summary.json").is_file()


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_given_cells_are_trained_together_by_any_launcher(
    tiny: list[str], tmp_path: Path, launcher: list[str]
) -> None:
    given = [[*tiny, "norm=batch", "optim.lr=0.05"], [*tiny, "norm=group", "norm.groups=2"]]
    cells = train_each(given, launcher, quiet())

    assert [each.directory for each in cells] == [Cell.of(load_config(g)).directory for g in given]
    assert all(each.finished for each in cells)
    before = files_below(tmp_path)
    assert names(train_each(given, launcher, quiet())) == names(cells)
    assert files_below(tmp_path) == before, "and nothing is trained again"


@pytest.mark.parametrize("wrong", ["bach=2", "batch=2,4", "norm=grop", "norm.groups=2"])
def test_a_given_cell_that_cannot_be_keeps_all_from_being_trained(
    tiny: list[str], tmp_path: Path, wrong: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(wrong)):
        train_each([[*tiny, "norm=group"], [*tiny, "norm=batch", wrong]], [], quiet())
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["norm=group", "norm_batch=2,4", "batch=4"], ["group 4 2"]),
        (["norm=batch", "norm_batch=2,4", "batch=4"], ["batch 4 2", "batch 4 4"]),
        (["norm=batch", "norm_batch=4,null", "batch=4"], ["batch 4 4"]),
        (["norm=layer", "batch=2,2,4"], ["layer 2 None", "layer 4 None"]),
        (["norm=layer", "batch=range(2,5)"], [f"layer {n} None" for n in (2, 3, 4)]),
        (["norm=layer", "batch=choice(2,6)"], ["layer 2 None", "layer 6 None"]),
        (["norm=layer", "batch=2,4", "batch=6"], ["layer 6 None"]),
        (["norm=layer"], ["layer 4 None"]),
    ],
)
def test_each_cell_is_there_once(planned: Sweep, overrides: list[str], expected: list[str]) -> None:
    assert said(planned(*overrides)) == expected


def composed(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[Config]:
    """All configurations of a sweep, without looking whether they fit any images."""
    found: list[Config] = []

    def plan(configs: Any, *_: object, **__: object) -> Cells:
        found.extend(config for config, _ in configs)
        return Cells()

    monkeypatch.setattr(grid, "planned_cells", plan)
    train_all(overrides, quiet())
    return found


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("naive", 20),
        ("isolated", 6),
        ("groups", 10),
        ("paper", 10),
        ("quick", 4),
        ("long", 4),
        ("rates", 40),
        ("batch-size", 12),
        ("momentum", 4),
        ("resnet20", 14),
    ],
)
def test_an_experiment_has_the_cells_it_promises(
    monkeypatch: pytest.MonkeyPatch, tiny: list[str], name: str, count: int
) -> None:
    images = load_config(tiny).data.describe()
    found = composed(monkeypatch, f"experiment={name}")

    assert len({config.digest(images) for config in found}) == count
    assert {config.name for config in found} == {name}


@pytest.mark.parametrize("name", ["batch-size", "momentum"])
def test_what_follows_the_trials_of_rates_uses_the_rates_that_they_chose(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By the rule of results/rates/README.md: that of the nearest batch size."""
    (trial,) = rate_trials(collect(RATES))
    chosen = {(line.norm, line.batch): line.best for line in trial.lines}

    for config in composed(monkeypatch, f"experiment={name}"):
        tried = sorted(batch for norm, batch in chosen if norm == config.norm.name)
        nearest = min(tried, key=lambda batch: abs(log2(batch / config.batch)))
        assert config.optim.lr == chosen[config.norm.name, nearest], config


def test_the_papers_cells_have_an_eighth_of_the_batch_for_the_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = composed(monkeypatch, "experiment=paper")

    assert {(config.batch, config.norm_batch) for config in found} == {
        (8 * n, n) for n in (2, 4, 8, 16, 32)
    }


def test_what_is_typed_replaces_what_an_experiment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    found = composed(monkeypatch, "experiment=naive", "batch=6", "norm=none,batch", "epochs=9")

    assert [(c.norm.name, c.batch, c.epochs) for c in found] == [("none", 6, 9), ("batch", 6, 9)]


def test_a_typed_setting_may_be_one_of_the_norm_that_an_experiment_varies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (found,) = composed(monkeypatch, "experiment=momentum", "norm.momentum=0.03")

    assert found.norm == BatchNormConfig(momentum=0.03)


def test_every_experiment_fits_the_built_in_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "finish", lambda *_: None)
    monkeypatch.setattr(sweep, "foreseen", lambda *_, **__: nullcontext())
    for name, count in (("groups", 10), ("quick", 4)):
        arguments = [f"experiment={name}", "data=synthetic", "data.limit=640"]
        assert len(train_all(arguments, quiet())) == count


# ---- what is refused, before anything is written ----


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("norm=batch,grup", "norm=grup: unknown norm; did you mean group?"),
        ("btach=2,3", "btach=2: unknown key btach; did you mean batch?"),
        ("batch=2,x", "batch=x: must be a whole number"),
        ("batch=2,2.5", "batch=2.5: must be a whole number"),
        ("batch=2,25", "batch=25: larger than the 24 training images"),
        ("batch=2,0", "batch=0: must be at least 1"),
        ("norm_batch=2,3", "norm_batch=3 does not divide batch=4"),
        ("norm.momentum=0.1,0.2", "norm.momentum=0.1: norm=group has no momentum"),
        ("precision=float32,fp16", "precision=fp16: must be one of float32, bf16"),
        ("experiment=quick,long", "experiment=quick,long: a sweep takes one experiment"),
        ("experiment=quikc", "experiment=quikc: unknown experiment; did you mean quick?"),
        ("experiment=groups norm=batch", "norm.groups=1: norm=batch has no groups"),
        ("seeds=1,2", "seeds=1,2: every cell has all its seeds; write seed=1 seeds=2"),
        ("seed=range(1,3)", "seed=range(1,3): every cell has all its seeds"),
        ("name=a,b", "name=a,b: a sweep takes one name"),
        ("stack=1,2", "stack=1,2: a sweep takes one stack"),
        ("device=cpu,cuda", "device=cpu,cuda: a sweep takes one device"),
        ("batch=interval(1,3)", "batch=interval(1,3): give values, batch=A,B"),
        ("norm=glob(*)", "norm=glob(*): give values, norm=A,B"),
        ("batch=range(1,1)", "batch=range(1,1): there is no value in it"),
        ("batch=range(1,4,0)", "batch=range(1,4,0): "),
        ("optim.lr=range(0.1,0.4,0.0)", "optim.lr=range(0.1,0.4,0.0): the step of a range"),
        ("batch=range(1,1000000000)", "this sweep has more than 10,000 cells"),
        ("data.pad=range(0,200) epochs=range(1,200)", "this sweep has more than 10,000 cells"),
        ("batch=${x},2", "batch=${x},2: write the value itself"),
        ("+batch=2,4", "+batch=2,4: keys cannot be added"),
        ("batch", "batch: cannot be read as a setting"),
        ("norm@model=batch,group", "norm@model=batch: write norm=VALUE"),
        ("norm._target_=os.system,os.abort", "norm._target_=os.system: unknown key"),
        ("hydra.run.dir=x", "hydra.run.dir=x: of Hydra's settings, only those of hydra/launcher"),
        ("hydra.sweep.dir=x", "hydra.sweep.dir=x: of Hydra's settings"),
        ("hydra/sweeper=basic", "hydra/sweeper=basic: of Hydra's settings"),
        ("hydra=x", "hydra=x: of Hydra's settings"),
        ("hydra.launcher._target_=os.system", "hydra.launcher._target_=os.system: of Hydra's"),
        ("hydra.launcher.x={_target_:os.abort}", "hydra.launcher.x={_target_:os.abort}: of Hydra"),
        ("hydra/launcher=jobli", "hydra/launcher=jobli: unknown launcher; choose from basic,"),
        ("hydra/launcher=basic,joblib", "hydra/launcher=basic,joblib: unknown launcher"),
        ("hydra.launcher.n_jobs=1,2", "Sweeping over Hydra's configuration is not supported"),
        ("hydra.launcher.wings=2", "hydra.launcher.wings=2: this launcher has no wings; choose"),
        (
            "hydra/launcher=joblib hydra.launcher.wings=2",
            "hydra.launcher.wings=2: this launcher has no wings; its keys: n_jobs, backend",
        ),
        (
            "hydra/launcher=joblib hydra.launcher.n_jobs=two",
            "hydra.launcher.n_jobs=two: Value 'two' of type 'str' could not be converted to Int",
        ),
    ],
)
def test_a_mistake_in_any_cell_is_one_line_and_nothing_is_written(
    run: Sweep, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        run(*override.split())

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert not GlobalHydra.instance().is_initialized()


def test_a_mistake_on_the_command_line_is_exit_code_2(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    done = nb("sweep", *tiny, "norm=batch,grup")

    assert done.exit_code == 2
    assert done.stderr.startswith("normbench: norm=grup: unknown norm")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# ---- how cells are handed out ----


class Recorder:
    """A launcher that keeps what it is given."""

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        self.jobs.extend(map(list, jobs))


def recorded_launches(monkeypatch: pytest.MonkeyPatch, launcher: str) -> Recorder:
    """What is handed to a launcher on a machine of eight cores; nothing is launched."""
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    recorder = Recorder()
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: recorder)
    monkeypatch.setattr(grid, "cores", lambda: 8)
    return recorder


@pytest.mark.parametrize(
    ("launcher", "settings", "threads"),
    [
        ("basic", [], None),
        ("joblib", ["n_jobs=2"], 4),
        ("joblib", ["n_jobs=1"], 8),
        ("joblib", ["n_jobs=3"], 2),
        ("joblib", ["n_jobs=16"], 2),
        ("joblib", [], 2),
        ("joblib", ["n_jobs=-5"], 2),
        ("submitit_local", [], 2),
        ("submitit_slurm", [], None),
    ],
)
def test_processes_on_one_machine_share_its_threads(
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
    settings: list[str],
    threads: int | None,
) -> None:
    """Eight cores and four cells."""
    recorder = recorded_launches(monkeypatch, launcher)
    cell = [each for each in tiny if not each.startswith("threads=")]
    line = [*cell, "batch=2,4,6,8", f"hydra/launcher={launcher}"]

    train_all([*line, *(f"hydra.launcher.{each}" for each in settings)], quiet())

    given = [[text for text in job if text.startswith("threads=")] for job in recorder.jobs]
    assert given == [[] if threads is None else [f"threads={threads}"]] * 4


def test_threads_that_were_typed_come_last_and_win(
    run: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    recorder = Recorder()
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: recorder)
    run("hydra/launcher=joblib", "threads=3")

    assert [text for text in recorder.jobs[0] if text.startswith("threads=")][-1] == "threads=3"


def test_a_launcher_that_is_not_installed_says_what_brings_it(
    run: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "_installed", lambda _: ["basic"])
    for launcher, extra in (("joblib", "joblib"), ("submitit_slurm", "slurm"), ("ray", "ray")):
        with pytest.raises(UsageError, match=rf"pip install 'normbench\[{extra}\]'"):
            run(f"hydra/launcher={launcher}")


# ---- cells that end badly ----


def status(cells: Cells) -> list[str | None]:
    found = [results.read_result(each.cell.seed_folder(0)) for each in cells]
    return [None if result is None else result.status for result in found]


def test_a_cell_that_fails_says_why_and_only_it_is_tried_again(
    run: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "finish", lambda *_: None)
        cells = run("norm=batch,group,layer")
    damaged = cells[1].cell.seed_folder(0) / "step-000000001.checkpoint"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("damaged")

    cells = run("norm=batch,group,layer")
    assert status(cells) == ["finished", "failed", "finished"]
    log = (cells[1].directory / "log.txt").read_text(encoding="utf-8")
    assert re.search(r"^[-\d]+ [:\d]+  .*UsageError: .*no checkpoint can be used", log, re.M)
    summary = json.loads((cells[1].directory / "summary.json").read_text())
    assert summary["status"] == "failed"

    before = files_below(tmp_path)
    damaged.unlink()
    assert status(run("norm=batch,group,layer")) == ["finished"] * 3
    after = files_below(tmp_path)
    changed = {name.split("/")[2] for name in after if before.get(name) != after[name]}
    assert changed - {"sweep.json"} == {cells[1].directory.name}


def test_a_cell_that_diverges_stays_so_and_the_others_finish(run: Sweep, tmp_path: Path) -> None:
    cells = run("norm=none", "optim.lr=0.1,1e30")
    assert status(cells) == ["finished", "diverged"]
    assert [each.finished for each in cells] == [True, False]

    before = files_below(tmp_path)
    assert status(run("norm=none", "optim.lr=0.1,1e30")) == ["finished", "diverged"]
    assert files_below(tmp_path) == before


# ---- on the command line ----


@pytest.mark.usefixtures("undrawn")
def test_all_finished_is_exit_code_0_and_the_table_has_them_all(
    nb: Command, tiny: list[str]
) -> None:
    done = nb("sweep", *tiny, "norm=batch,group")

    assert done.exit_code == 0, done.output
    assert "2 cells: runs/default" in done.stdout
    assert done.stderr == ""


@pytest.mark.usefixtures("undrawn")
def test_a_cell_that_did_not_finish_is_exit_code_1(nb: Command, tiny: list[str]) -> None:
    command = ["sweep", *tiny, "norm=none", "optim.lr=0.1,1e30"]

    assert nb(*command).exit_code == 1
    again = nb(*command)
    assert again.exit_code == 1
    assert "2 cells, 2 of them trained already: runs/default" in again.stdout


# ---- workers that die at their start ----

TWO = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def test_cells_are_launched_again_where_workers_die_at_their_start(
    tiny: list[str], dying_workers: Callable[[int], Path]
) -> None:
    killed = dying_workers(2)
    screen = quiet()
    cells = train_each([[*tiny, f"norm={norm}"] for norm in ("batch", "group")], TWO, screen)

    assert len(list(killed.iterdir())) == 2
    assert all(each.finished for each in cells)
    assert isinstance(screen.console.file, io.StringIO)
    assert "a process of the launcher died (TerminatedWorkerError: " in (
        screen.console.file.getvalue()
    )


def test_workers_that_always_die_at_their_start_are_one_line(
    nb: Command, tiny: list[str], dying_workers: Callable[[int], Path]
) -> None:
    killed = dying_workers(99)
    ended = nb("sweep", *tiny, "norm=batch,group", *TWO)

    assert ended.exit_code == 2
    assert ended.stderr.startswith("normbench: the launcher failed: TerminatedWorkerError: ")
    assert len(ended.stderr.splitlines()) == 1
    assert 3 <= len(list(killed.iterdir())) <= 6, "three launches of two workers"


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ([], Workers(1)),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], Workers(2, 4)),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=1000"], Workers(1000, 1)),
        (
            ["hydra/launcher=submitit_slurm", "hydra.launcher.array_parallelism=7"],
            Workers(7, divided=False),
        ),
    ],
)
def test_how_many_jobs_are_worked_on_at_a_time(
    launcher: list[str], expected: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "cores", lambda: 8)
    assert grid.workers_of(launcher) == expected


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "submitit_slurm"])
def test_cells_are_divided_into_jobs_as_is_foretold(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    """Eight cores, and three cells that may share a stack."""
    recorder = recorded_launches(monkeypatch, launcher)
    train_all([*tiny, "optim.lr=0.1,0.2,0.4", f"hydra/launcher={launcher}"], quiet())

    told = grid.workers_of([f"hydra/launcher={launcher}"])
    assert len(recorder.jobs) == (min(told.jobs, 3) if told.divided else 1)


@pytest.mark.parametrize("devices", [0, 2])
def test_jobs_on_this_machine_have_its_gpus_and_no_end(
    monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    """submitit hides GPUs that are not asked for, and ends a job after an hour."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    gpus = [f"hydra.launcher.gpus_per_node={devices}"] if devices else []

    assert grid._settled(["hydra/launcher=submitit_local"]) == [
        "hydra.launcher.timeout_min=525600", *gpus
    ]  # fmt: skip
    assert grid._settled(["hydra/launcher=joblib"]) == []
