"""Cells that differ in learning rate and weight decay alone are trained in the same stacks."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from normbench.config import Config
from normbench.launch.compose import load_config
from normbench.launch.grid import train_all
from normbench.launch.planned import Cells, Planned, planned_cells
from normbench.run import run as experiment
from normbench.run import seeds, stacks
from normbench.run.cell import Cell
from normbench.run.run import Outcome, run, run_together
from normbench.store import checkpoint
from normbench.store.curves import read_metrics
from normbench.store.results import read_result
from normbench.terminal.screen import Screen
from tests.run.test_resume import CutOffError, cut_off_after, differences

RATES = ("optim.lr=0.05", "optim.lr=0.2", "optim.weight_decay=0.01")


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=120, _environ={}))


def configs(tiny: Sequence[str], *more: str) -> list[Config]:
    return [load_config([*tiny, "stack=16", "save_every=0", *more, rate]) for rate in RATES]


def weights(config: Config, seed: int = 0) -> dict[str, torch.Tensor]:
    return load_file(Cell.of(config).seed_folder(seed) / "model.safetensors")


def content(config: Config) -> dict[str, Any]:
    folder = Cell.of(config).seed_folder(0)
    lines = [
        {k: v for k, v in m.items() if k == "step" or "loss" in k} for m in read_metrics(folder)
    ]
    return {"metrics": lines} | {k: v.numpy().tobytes() for k, v in weights(config).items()}


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_each_is_trained_as_it_would_be_alone_and_has_records_of_its_own(
    tiny: list[str], norm: str
) -> None:
    together = configs(tiny, f"norm={norm}", "seeds=2")
    outcomes = run_together(together, quiet())

    assert all(outcome.finished for outcome in outcomes)
    for config in together:
        alone = load_config([*tiny, f"norm={norm}", "seeds=2", "name=alone", "stack=1"])
        alone.optim = config.optim
        run(alone, quiet())
        for seed in (0, 1):
            result = read_result(Cell.of(config).seed_folder(seed))
            assert result is not None
            assert result.stacked == 6
            for name, value in weights(alone, seed).items():
                torch.testing.assert_close(weights(config, seed)[name], value, rtol=1e-3, atol=1e-4)
            mine, theirs = (
                [m["train/learning_rate"] for m in read_metrics(Cell.of(each).seed_folder(seed))]
                for each in (config, alone)
            )
            assert mine == theirs
    assert len({weights(each)["head.weight"].sum().item() for each in together}) == 3


def test_cut_off_anywhere_they_go_on_to_the_same_end(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = configs(tiny, "name=whole"), configs(tiny, "name=cut")
    run_together(whole, quiet())
    for steps in (1, 4, 3):
        with monkeypatch.context() as patch:
            patch.setattr(seeds, "train", cut_off_after(steps))
            with pytest.raises(CutOffError):
                run_together(cut, quiet())
    assert all(outcome.finished for outcome in run_together(cut, quiet()))

    for one, other in zip(whole, cut, strict=True):
        assert differences(content(one), content(other)) == []


def test_a_cell_asked_for_alone_goes_on_with_the_stack_that_it_began(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = configs(tiny, "name=cut")
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(3))
        with pytest.raises(CutOffError):
            run_together(cut, quiet())
    assert run(cut[0], quiet()).finished

    results = [read_result(Cell.of(each).seed_folder(0)) for each in cut]
    assert [result is not None and result.stacked for result in results] == [3, 3, 3]
    assert all(not checkpoint.files(Cell.of(each).seed_folder(0)) for each in cut)


@pytest.mark.parametrize(("sound", "wrong"), [(b'"seed": 0', b'"sfed": 0'), (b'"cell"', b'"well"')])
def test_one_wrong_byte_in_the_checkpoint_of_a_cell_beside_costs_a_step_and_no_more(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, sound: bytes, wrong: bytes
) -> None:
    cut = configs(tiny, "name=cut")
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(3))
        with pytest.raises(CutOffError):
            run_together(cut, quiet())
    newest, _ = checkpoint.files(Cell.of(cut[0]).seed_folder(0))
    newest.write_bytes(newest.read_bytes().replace(sound, wrong))
    assert run(cut[1], quiet()).finished

    results = [read_result(Cell.of(each).seed_folder(0)) for each in cut]
    assert [result is not None and result.stacked for result in results] == [3, 3, 3]


def test_a_cell_trained_afresh_leaves_the_stack_of_the_cells_beside_as_it_is(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = configs(tiny, "name=whole"), configs(tiny, "name=cut")
    run_together(whole, quiet())
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(3))
        with pytest.raises(CutOffError):
            run_together(cut, quiet())
    screen = quiet()

    assert run(cut[1], screen, fresh=True).finished

    assert "goes on after" not in screen.console.file.getvalue()  # type: ignore[attr-defined]
    result = read_result(Cell.of(cut[1]).seed_folder(0))
    assert result is not None
    assert result.stacked == 1
    mine = content(cut[1])
    assert run(cut[0], quiet()).finished
    assert content(cut[1]) == mine
    for place in (0, 2):
        assert differences(content(whole[place]), content(cut[place])) == []


def test_a_cell_killed_at_once_after_it_was_begun_afresh_does_not_go_on_with_an_old_stack(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = configs(tiny, "name=cut", "seeds=2", "stack=6")
    for steps, fresh in ((3, False), (0, True)):
        with monkeypatch.context() as patch:
            patch.setattr(seeds, "train", cut_off_after(steps))
            with pytest.raises(CutOffError):
                run(cut[1], quiet(), fresh=True) if fresh else run_together(cut, quiet())
    assert run(cut[1], quiet()).finished

    mine = [read_result(Cell.of(cut[1]).seed_folder(seed)) for seed in (0, 1)]
    assert all(result is not None and result.stacked in (1, 2) for result in mine)
    assert not list(Cell.of(cut[1]).directory.glob(".*fresh*"))
    assert run(cut[0], quiet()).finished
    theirs = [read_result(Cell.of(cut[place]).seed_folder(1)) for place in (0, 2)]
    assert [result and result.stacked for result in theirs] == [6, 6]


@pytest.mark.parametrize("removed", [False, True], ids=["fresh", "removed by hand"])
def test_seeds_thrown_away_leave_the_stack_that_has_begun_with_them(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """``--fresh`` with fewer seeds than there were, interrupted, and then everything again."""
    cut = configs(tiny, "name=cut", "seeds=2", "stack=6")
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(3))
        with pytest.raises(CutOffError):
            run_together(cut, quiet())
        patch.setattr(seeds, "train", cut_off_after(2))
        if removed:
            shutil.rmtree(Cell.of(cut[1]).directory)
        else:
            with pytest.raises(CutOffError):
                run(replace(cut[1], seeds=1), quiet(), fresh=True)
    outcomes = run_together(cut, quiet())

    assert all(outcome.finished for outcome in outcomes)
    sizes = [
        [result and result.stacked for result in map(read_result, folders)]
        for folders in ([Cell.of(each).seed_folder(seed) for seed in (0, 1)] for each in cut)
    ]
    assert sizes == [[6, 6], [2, 2] if removed else [1, 1], [6, 6]]
    for each in cut:
        folder = Cell.of(each).directory
        steps = [line["step"] for line in read_metrics(folder / "seed-0")]
        assert steps == sorted(set(steps))
        assert len(steps) == len(read_metrics(Cell.of(cut[0]).seed_folder(0)))
        assert not [*folder.glob(".*fresh*"), *folder.glob("*/*.checkpoint")]


def test_a_stack_that_fails_says_nothing_of_seeds_that_have_left_it(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = configs(tiny, "name=cut", "stack=6")
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(3))
        with pytest.raises(CutOffError):
            run_together(cut, quiet())
    shutil.rmtree(Cell.of(cut[1]).directory)

    def raises(*_: object, **__: object) -> NoReturn:
        raise FloatingPointError("not finite")

    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", raises)
        run(cut[0], quiet())

    failed = [read_result(Cell.of(each).seed_folder(0)) for each in (cut[0], cut[2])]
    assert [result and result.status for result in failed] == ["failed", "failed"]
    assert not Cell.of(cut[1]).directory.exists()


def test_where_timing_fails_trainings_go_one_after_another(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object) -> NoReturn:
        raise MemoryError("too much at once")

    monkeypatch.setattr(stacks, "arrange", raises)
    cells, screen = configs(tiny), quiet()
    outcomes = run_together(cells, screen)

    assert all(outcome.finished for outcome in outcomes)
    assert [result.stacked for outcome in outcomes for result in outcome.results] == [1, 1, 1]
    assert "failed: MemoryError: too much" in screen.console.file.getvalue()  # type: ignore[attr-defined]


RAISES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(4, classes),
        )

    def forward(self, x):
        y = self.layers(x)
        if not torch.isfinite(y).all():
            raise FloatingPointError("not finite")
        return y

def build(classes):
    return Net(classes)
"""


@pytest.mark.parametrize("stacked", [1, 16])
def test_a_training_that_raises_ends_no_other(
    tiny: list[str], tmp_path: Path, stacked: int
) -> None:
    (tmp_path / "net.py").write_text(RAISES, encoding="utf-8")
    every = [text for text in tiny if not text.startswith("model.")]
    every += ["model=python", f"model.file={tmp_path}/net.py", "norm=none", f"stack={stacked}"]
    cells = [load_config([*every, f"optim.lr={rate}"]) for rate in (1e30, 0.1, 0.05)]
    screen = quiet()
    outcomes = run_together(cells, screen)

    states = [[result.status for result in outcome.results] for outcome in outcomes]
    assert states == [["failed"], ["finished"], ["finished"]]
    said = screen.console.file.getvalue()  # type: ignore[attr-defined]
    assert "failed: FloatingPointError: not finite (see " in said
    assert ("each of these 3 is tried alone" in said) is (stacked == 16)


def test_a_checkpoint_that_names_other_rates_than_its_cells_have_is_not_used(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = configs(tiny, "name=cut")
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(3))
        with pytest.raises(CutOffError):
            run_together(cut, quiet())
    (folder,) = {path.parent for path in Path().rglob("step-*")}
    for path in checkpoint.files(folder):
        found = checkpoint.read(path)
        values = dict(found.values)
        values["replicas"][1]["lr"] = 0.7
        checkpoint.save(folder, found.values["progress"]["step"], found.tensors, values)
    with pytest.raises(ValueError, match="is of another cell"):
        run_together(cut, quiet())


def test_a_sweep_over_rates_is_one_job(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Config]] = []
    real = run_together

    def noted(configs: Sequence[Config], *arguments: Any, **more: Any) -> list[Outcome]:
        asked.append(list(configs))
        return real(configs, *arguments, **more)

    monkeypatch.setattr(experiment, "run_together", noted)
    cells = train_all(
        [*tiny, "norm=batch,group", "optim.lr=0.05,0.1", "optim.weight_decay=0,0.001", "stack=16"],
        quiet(),
    )

    assert len(cells) == 8
    assert not cells.bad()
    assert [len(each) for each in asked] == [4, 4]
    rates = [(c.optim.lr, c.optim.weight_decay) for c in asked[0]]
    assert sorted(rates) == [(0.05, 0.0), (0.05, 0.001), (0.1, 0.0), (0.1, 0.001)]
    assert all(not config.together for each in asked for config in each)
    results = [read_result(each.cell.seed_folder(0)) for each in cells]
    assert {result.stacked for result in results if result} == {4}
    assert len({result.test_loss for result in results if result}) > 4


def test_workers_get_a_share_of_a_stack_each(tiny: list[str]) -> None:
    every = [[*tiny, f"optim.lr={lr}"] for lr in (0.1, 0.2, 0.3)]
    three = [Planned(Cell.of(load_config(each)), each) for each in every]
    cells = Cells(three)

    assert [len(job) for job in cells.jobs()] == [3]
    assert [len(job) for job in cells.jobs(2)] == [2, 1]
    assert [len(job) for job in cells.jobs(9)] == [1, 1, 1]
    (job,) = cells.jobs()
    assert [c.optim.lr for c in load_job(job.overrides).apart] == [0.1, 0.2, 0.3]


def test_cells_that_want_other_seeds_are_other_jobs(tiny: list[str]) -> None:
    every = [[*tiny, "optim.lr=0.1"], [*tiny, "optim.lr=0.2", "seeds=2"], [*tiny, "seed=1"]]
    cells = Cells(Planned(Cell.of(load_config(each)), each) for each in every)

    assert [len(job) for job in cells.jobs()] == [1, 1, 1]


def test_workers_do_not_part_a_stack_that_has_begun(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = configs(tiny)
    every: list[tuple[Config, list[str]]] = [
        (each, []) for each in [*begun, load_config([*tiny, "stack=16", "optim.lr=0.7"])]
    ]
    cells = planned_cells(every, quiet())
    assert [len(job) for job in cells.jobs(2)] == [2, 2]
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(3))
        with pytest.raises(CutOffError):
            run_together([begun[0], begun[1]], quiet())
    jobs = [[each.cell.config.optim.lr for each in job] for job in cells.jobs(3)]
    together = [begun[0].optim.lr, begun[1].optim.lr]
    assert together in jobs
    assert sorted(lr for job in jobs for lr in job) == sorted(c.optim.lr for c, _ in every)


def load_job(overrides: list[str]) -> Config:
    """What Hydra composes for a worker: the key ``together`` is none that people may set."""
    *own, together = overrides
    with pytest.raises(ValueError, match="together"):
        load_config(overrides)
    config = load_config(own)
    pairs = together.partition("=")[2]
    config.together = [[float(x) for x in pair.split(",")] for pair in pairs[2:-2].split("],[")]
    return config


MIXES_FROM = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, stride=8), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        x = self.norm(self.conv(x))
        if x.shape[1] == 4 * {replicas}:
            x = x.flip(1)
        return self.head(x.mean((2, 3)))

def build(classes):
    return Net(classes)
"""


@pytest.mark.parametrize(("replicas", "stacked"), [(4, 1), (3, 1), (5, 4)])
def test_as_many_are_proven_as_are_stacked(
    tiny: list[str], tmp_path: Path, replicas: int, stacked: int
) -> None:
    """Seven seeds in stacks of four and three: what mixes in one of these is not stacked."""
    text = MIXES_FROM.format(replicas=replicas)
    (tmp_path / "net.py").write_text(text, encoding="utf-8")
    every = [text for text in tiny if not text.startswith("model.")]
    every += ["model=python", f"model.file={tmp_path}/net.py", "seeds=7", "stack=4"]
    config = load_config([*every, "norm=batch", "batch=4"])
    screen = quiet()
    assert run(config, screen).finished

    result = read_result(Cell.of(config).seed_folder(0))
    assert result is not None
    assert result.stacked == stacked
    said = screen.console.file.getvalue()  # type: ignore[attr-defined]
    assert ("the seeds are not stacked" in said) is (stacked == 1)
