"""``normbench advise`` as a whole: real trainings, resumption, and what is refused."""

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest
from rich.console import Console

from normbench.errors import UsageError
from normbench.files import locked
from normbench.launch import grid
from normbench.launch.advise import command
from normbench.launch.advise import race as race_module
from normbench.launch.advise import rounds as rounds_module
from normbench.launch.advise.question import Question
from normbench.launch.compose import load_config
from normbench.run.cell import Cell
from normbench.run.estimate import measure
from normbench.run.seeds import Replicas
from normbench.store.advice import (
    ADVICE,
    LOCK,
    MOST_WORKERS,
    TAKEN,
    Timing,
    read_plan,
    read_taken,
    write_plan,
)
from normbench.terminal.screen import Screen
from tests.conftest import Command, files_below
from tests.launch.advise.worlds import plan

Settings = list[str]


@pytest.fixture
def race(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The smallest race; what steps cost is given, so that the course is always the same."""

    def timing(cell: Cell, together: Sequence[int], _: int | None) -> Timing:
        name = cell.config.norm.name
        return Timing(
            norm=name,
            start=0.5,
            steps={number: 0.5 * number for number in (1, *together)},
            evaluation=0.01,
            ending=0.1,
            momentum=0.1 if name == "batch" else None,
        )

    monkeypatch.setattr(command, "measure", timing)
    monkeypatch.setattr(race_module, "SEEDS_RACED", 5)  # more would only take longer
    return [*(text for text in tiny if not text.startswith("epochs")), "epochs=1"]


def test_a_race_is_run_to_its_answer_and_run_again_trains_nothing(
    nb: Command, race: Settings, tmp_path: Path
) -> None:
    arguments = ["advise", *race, "--within", "2m", "--norms"]
    began = perf_counter()
    first = nb(*arguments, "batch,group")
    wall = perf_counter() - began

    assert first.exit_code == 0, first.output
    folder = tmp_path / "runs" / "advise"
    assert {path.name.split("-")[0] for path in folder.glob("*-b4-*")} == {"batch", "group"}
    text = (folder / "answer.md").read_text(encoding="utf-8")
    assert text.startswith("# Which norm?\n\n- ")
    assert "normbench run norm=" in text
    sizes = r"(batch,group batch=2,4|group,batch batch=4,16,64) "
    assert re.search(rf"normbench sweep norm={sizes}", text), "where the other one may win"
    tells = re.search(r"this sweep tells: normbench sweep (.*)", text)
    assert tells is not None
    small = re.sub(r"batch=[\d,]+", "batch=4", tells[1])
    assert nb("sweep", *small.split(), "--dry-run").exit_code == 0
    assert "budget 2 min 0 s" in first.output
    assert "would be clear" in first.output
    assert re.search(r"1 epoch, one seed, 7 settings", first.output)

    records = {name for name in files_below(tmp_path) if name.endswith("result.json")}
    seeds = [name for name in records if "/seed-0/" not in name]
    assert len(seeds) >= 10, "two norms, five seeds that no choice was made on"
    text_of_times = (folder / TAKEN).read_text()
    times = json.loads(text_of_times)
    assert {f"runs/advise/{name}/result.json" for name in times} == records
    assert 0.2 * wall < sum(times.values()) < wall, "rounds take most of the time, and no more"
    planned, before = (folder / ADVICE).read_bytes(), files_below(tmp_path)
    again = nb(*arguments, "group,batch")
    after = files_below(tmp_path)
    assert again.exit_code == 0, again.output
    assert (folder / ADVICE).read_bytes() == planned, "the order of the norms is none of its own"
    assert (folder / TAKEN).read_text() == text_of_times
    assert {n: t for n, t in after.items() if n in records} == {n: before[n] for n in records}
    assert (folder / "answer.md").read_text(encoding="utf-8") == text


def test_the_real_measurement_is_of_steps_evaluation_and_ending(tiny: Settings) -> None:
    cell = Cell.of(load_config([*tiny, "norm=batch", "data.val_fraction=0.25"]))
    found = measure(cell, (3, 5))

    assert found.norm == "batch"
    assert found.momentum == 0.1
    assert found.steps.keys() == {1, 3, 5}
    assert all(0 < found.step(number) < 1 for number in (1, 2, 3, 5))
    assert 0 < found.evaluation < found.ending < 5
    assert not cell.directory.exists()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.usefixtures("undrawn")
def test_a_race_that_was_killed_in_a_round_goes_on_as_it_would_have(
    nb: Command, race: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rounds = grid.train_each, []

    def train_each(cells: Any, launcher: Any, screen: Any, planned: Callable[..., Any]) -> Any:
        def killed(cells: Any) -> Any:
            planned(cells)
            sleep(1.0)
            raise Killed

        rounds.append(cells)
        return real(cells, launcher, screen, killed if len(rounds) == 2 else planned)

    monkeypatch.setattr(rounds_module, "train_each", train_each)
    arguments = ["advise", *race, "--norms", "batch,group", "--within", "2m"]
    with pytest.raises(Killed):
        nb(*arguments)
    planned = (tmp_path / "runs" / "advise" / ADVICE).read_bytes()
    trained = {n: t for n, t in files_below(tmp_path).items() if n.endswith("result.json")}
    assert len(trained) == 7
    folder = tmp_path / "runs" / "advise"
    times = {name: took.seconds for name, took in read_taken(folder).items()}
    first = {f"{Path(name).parent.relative_to('runs/advise')}" for name in trained}
    assert first < times.keys()
    assert sum(times[name] for name in times.keys() - first) > 1.0, "a lost second counts"

    assert nb(*arguments).exit_code == 0
    later = {name: took.seconds for name, took in read_taken(folder).items()}
    assert all((later[name] == times[name]) == (name in first) for name in times)
    assert all(later[name] >= times[name] for name in times)
    assert rounds[2] == rounds[0]
    assert rounds[3] == rounds[1]
    assert (tmp_path / "runs" / "advise" / ADVICE).read_bytes() == planned
    after = files_below(tmp_path)
    assert {name: after[name] for name in trained} == trained, "nothing is trained twice"


@pytest.mark.usefixtures("undrawn")
def test_more_time_goes_on_from_what_is_there(nb: Command, race: Settings, tmp_path: Path) -> None:
    arguments = [*race, "epochs=3", "--norms", "batch,group", "--within"]
    short = nb("advise", *arguments, "90s")  # enough for one epoch, however busy the machine is
    assert short.exit_code == 0, short.output
    path = tmp_path / "runs" / "advise" / ADVICE
    before = json.loads(path.read_text())
    longer = nb("advise", *arguments, "5m")

    assert longer.exit_code == 0, longer.output
    after = json.loads(path.read_text())
    assert before["raced"] < after["raced"] == 3
    assert before["timings"] == after["timings"]
    assert "does not pay for epochs=3" in short.output
    assert "3 epochs, 5 seeds" in short.output, "steps took less time than the clock had said"
    assert "cannot tell" not in longer.output

    files = files_below(tmp_path)
    less = nb("advise", *arguments, "1s")
    assert less.exit_code == 2
    assert "--within 1.0 s: this race has taken" in less.stderr
    assert files_below(tmp_path) == files, "its answer stays"


def test_a_plan_with_more_workers_than_one_reckons_with_can_be_read_again(
    nb: Command, race: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(command, "follow", killed)
    many = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2000"]
    with pytest.raises(Killed):
        nb("advise", *race, "--norms", "batch,group", *many)

    found = read_plan(tmp_path / "runs" / "advise")
    assert found is not None
    assert (found.workers, found.divided) == (MOST_WORKERS, True)


@pytest.mark.usefixtures("undrawn")
def test_a_race_goes_on_where_one_of_two_workers_is_killed(
    nb: Command, race: Settings, tmp_path: Path, dying_workers: Callable[[int], Path]
) -> None:
    killed = dying_workers(1)
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    ended = nb("advise", *race, "--norms", "batch,group", "--within", "20m", *launcher)

    assert ended.exit_code == 0, ended.output
    assert len(list(killed.iterdir())) == 1
    assert "a process of the launcher died" in ended.stdout
    assert (tmp_path / "runs" / "advise" / "answer.md").is_file()


def test_a_training_that_fails_ends_the_race_with_one_line(
    nb: Command, race: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(Replicas, "train", fail)
    ended = nb("advise", *race, "--norms", "batch,group")

    assert ended.exit_code == 1
    (line,) = [line for line in ended.stderr.splitlines() if line]
    assert line.startswith("normbench: not finished: ")
    assert "MemoryError: no memory left" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--within", "5x"], "--within 5x: must be a time such as 90s, 30m or 3h"),
        (["--within", "0m"], "--within 0m: must be"),
        (["--within", "-5m"], "--within -5m: must be"),
        (["--norms", "batch,grop"], "--norms grop: unknown norm; choose from"),
        (["--norms", "batch"], "--norms batch: a race takes two norms or more"),
        (["--norms", "batch,batch"], "--norms batch,batch: a race takes two norms or more"),
        (["norm=group"], "norm=group: advise chooses; use --norms"),
        (["optim.lr=auto"], "optim.lr=auto: advise chooses the rate; leave it out"),
        (["seeds=3"], "seeds=3: advise chooses; use --within"),
        (["norm.groups=2", "--norms", "batch,layer"], "norm.groups=2: none of batch, layer has"),
        (["data.val_fraction=0"], "data.val_fraction=0.0: advise chooses on held-out images"),
        (["bach=2"], "bach"),
        (["batch=2,4"], "batch=2,4: one run takes one value"),
        (
            ["experiment=paper", "batch=16"],
            "experiment=paper: a race is about one batch size; say which: norm_batch=",
        ),
        (["hydra/launcher=nope"], "hydra/launcher=nope: unknown launcher"),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_job=2"],
            "hydra.launcher.n_job=2: this launcher has no n_job; its keys: n_jobs, ",
        ),
        (["hydra.launcher.n_jobs=2"], "this launcher has no n_jobs; choose another with"),
        (["batch=1000"], "batch=1000: larger than"),
        (["seed=2147483640"], "seed=2147483640: a race also takes the seeds after it; at most"),
        (["epochs=2", "--within", "1s"], "too little for any race"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_measured_or_written(
    nb: Command,
    race: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Settings,
    said: str,
) -> None:
    def measured(*_: object) -> None:
        pytest.fail("measured first, refused afterwards")

    if arguments != ["epochs=2", "--within", "1s"]:  # which takes a measurement to know
        monkeypatch.setattr(command, "measure", measured)
    norms = [] if "--norms" in arguments else ["--norms", "batch,group"]
    refused = nb("advise", *race, *norms, *arguments)

    assert refused.exit_code == 2, refused.output
    (line,) = [line for line in refused.stderr.splitlines() if line]
    assert said in line
    assert files_below(tmp_path) == {}


def test_two_races_at_once_in_one_folder_are_refused(
    nb: Command, race: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused while the first races, and where both measured at the same time."""
    typed = ["advise", *race, "--norms", "batch,group", "--within", "1h"]
    folder = tmp_path / "runs" / "advise"
    with locked(folder / LOCK):
        held = nb(*typed)
    assert (held.exit_code, held.stderr) == (
        2,
        "normbench: runs/advise: another process races here; wait for it, or choose another"
        " name=NAME\n",
    )

    def meanwhile(cell: Cell, together: Sequence[int], threads: int | None) -> Timing:
        write_plan(folder, plan(["batch", "group"]))
        return plan([cell.config.norm.name, "layer"]).timings[0]

    monkeypatch.setattr(command, "measure", meanwhile)
    late = nb(*typed)
    assert late.exit_code == 2
    assert late.stderr == (
        "normbench: runs/advise: another process has begun a race here: run this again\n"
    )


def test_a_step_that_fails_while_it_is_measured_is_a_line_that_names_the_norm(
    nb: Command, race: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no memory for this\nand more")

    monkeypatch.setattr(command, "measure", fails)
    refused = nb("advise", *race, "--norms", "batch,group")

    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1] == (
        "normbench: not finished: a training step of batch norm fails: RuntimeError: no memory for"
        " this; normbench run says where, --norms leaves it out"
    )


def test_what_a_plan_says_of_odd_settings_can_be_read_again(tmp_path: Path) -> None:
    typed = ["model.file=my\u00a0net.py", f"model.file={'x' * 5000}.py"]
    written = replace(plan(["batch", "group"]), settings=list(map(command._printable, typed)))
    write_plan(tmp_path, written)

    assert read_plan(tmp_path) == written
    assert written.settings[0] == "model.file=my?net.py"


def test_another_race_in_the_same_folder_is_refused(
    nb: Command, race: Settings, tmp_path: Path
) -> None:
    write_plan(tmp_path / "runs" / "advise", plan(["batch", "group"]))
    refused = nb("advise", *race, "--norms", "batch,group")

    assert refused.exit_code == 2
    assert refused.stderr == (
        "normbench: runs/advise holds another race: batch=2 --norms batch,group; choose another"
        " name=NAME\n"
    )


def test_the_order_of_the_norms_does_not_make_another_race() -> None:
    cells = {
        norm: Cell.of(load_config([f"norm={norm}", "data=synthetic", "data.limit=48"]))
        for norm in ("batch", "group", "layer")
    }
    typed = Question.of(["batch=2"], ["layer", "group", "batch"])
    before = [cells[norm] for norm in ("group", "batch", "layer")]
    raced = plan(["group", "batch", "layer"])
    written = replace(raced, question=typed.digest(before))

    for order in permutations(cells.values()):
        assert typed.is_of(written, order)
    assert not typed.is_of(written, before[:2])
    assert not typed.is_of(raced, before), "of other settings"


def test_a_damaged_plan_is_named(nb: Command, race: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "advise"
    folder.mkdir(parents=True)
    (folder / ADVICE).write_text("{")
    refused = nb("advise", *race, "--norms", "batch,group")

    assert refused.exit_code == 2
    assert "advise.json: it is damaged or half written; remove advise.json" in refused.stderr


def test_settings_of_a_norm_go_to_the_norms_that_have_them() -> None:
    question = Question.of(["norm.groups=2", "batch=4"], ["batch", "group"])

    assert "norm.groups=2" in question.overrides("group")
    assert "norm.groups=2" not in question.overrides("batch")


def test_norms_that_the_network_cannot_have_are_left_out_with_the_reason(tiny: Settings) -> None:
    shown = io.StringIO()
    network = ["model=torchvision", "model.arch=resnet18"]  # one position is left of an image
    own = [text for text in tiny if not text.startswith("model")]
    question = Question.of([*own, *network], ["batch", "instance", "group", "norm_free"])
    fitting, cells = question.fitting(Screen(Console(file=shown, width=200)))

    assert fitting.norms == [cell.config.norm.name for cell in cells] == ["batch", "group"]
    said = shown.getvalue()
    assert re.search(r"^instance norm is left out: .*single value", said, re.MULTILINE)
    assert "norm_free norm is left out: " in said
    assert "note: " in said
    with pytest.raises(UsageError, match="single value"):
        Question.of([*own, *network], ["instance", "group"]).fitting(Screen(Console(file=shown)))
