"""A training that was cut off anywhere goes on to the same end, to the bit."""

import io
import itertools
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from normbench.config import Config
from normbench.errors import UsageError
from normbench.launch.compose import load_config
from normbench.norms import NORMS
from normbench.run import autosave, ending, seeds
from normbench.run import run as experiment
from normbench.run.cell import Cell, Replica
from normbench.store import checkpoint, results
from normbench.store.curves import is_sound, read_metrics
from normbench.store.outcomes import read_outcomes
from normbench.terminal.screen import Screen
from normbench.training.loop import train
from normbench.training.progress import Metrics

MEASURED = ("time", "train/images_per_second")
"""What a clock says is not the same twice."""

EPOCHS, STEPS = 3, 12

STATEFUL = [name for name in sorted(NORMS) if [*NORMS[name](name=name).build(8).buffers()]]
"""The norms that remember something from step to step."""


class CutOffError(BaseException):
    """Stands for a process that is gone; like a kill, no handler of errors sees it."""


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=120, _environ={}))


@pytest.fixture
def cell(tiny: list[str]) -> Callable[..., Config]:
    def make(name: str, *overrides: str) -> Config:
        every = [*tiny, f"epochs={EPOCHS}", "save_every=0", f"name={name}", *overrides]
        return load_config(every)

    return make


def cut_off_after(steps: int) -> Callable[..., Iterator[Metrics | None]]:
    """``train``, whose process is gone after so many steps of its own: before the next is saved,
    and before the metrics of this one are recorded."""

    def training(*arguments: Any, **keywords: Any) -> Iterator[Metrics | None]:
        count = 0
        for metrics in train(*arguments, **keywords):
            count += metrics is None
            if count > steps or (count == steps and metrics is not None):
                raise CutOffError
            yield metrics

    return training


def content(config: Config) -> dict[str, Any]:
    """Weights, metrics and results of all seeds, without what a clock says."""
    (folder,) = (Path(config.runs) / config.name).glob("*-*")
    found: dict[str, Any] = {}
    for seed in config.all_seeds:
        place = folder / f"seed-{seed}"
        weights = load_file(place / "model.safetensors")
        found |= {f"{seed}/{name}": value.numpy().tobytes() for name, value in weights.items()}
        lines = read_metrics(place)
        found[f"{seed}/metrics"] = [
            {key: value for key, value in line.items() if key not in MEASURED} for line in lines
        ]
        values = json.loads((place / "result.json").read_text(encoding="utf-8"))
        found[f"{seed}/result"] = {
            key: value
            for key, value in values.items()
            if key not in ("seconds", "images_per_second", "sha256")
        }
        assert is_sound(place)
        result = results.read_result(place)
        assert result is not None
        correct = read_outcomes(place, result)
        assert correct is not None
        found[f"{seed}/correct"] = correct.tolist()
    return found


ENDS: dict[tuple[str, ...], dict[str, Any]] = {}


def end_of(cell: Callable[..., Config], *overrides: str) -> dict[str, Any]:
    """What a run leaves that is never cut off; it is trained once for all who compare with it."""
    if overrides not in ENDS:
        whole = cell("whole", *overrides)
        assert experiment.run(whole, quiet()).finished
        ENDS[overrides] = content(whole)
    return ENDS[overrides]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    assert one.keys() == other.keys()
    return [key for key in one if one[key] != other[key]]


def cut_off_run(config: Config, cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a cell that is cut off after each of ``cuts`` further steps, and then to its end, from
    where it was cut off."""
    for steps in cuts:
        with monkeypatch.context() as patch:
            patch.setattr(seeds, "train", cut_off_after(steps))
            with pytest.raises(CutOffError):
                experiment.run(config, quiet())
    shown = io.StringIO()
    assert experiment.run(config, Screen(Console(file=shown, width=120, _environ={}))).finished
    goes_on = re.findall(r"goes on after step (\d+)", shown.getvalue())
    assert goes_on == [str(sum(cuts))] * any(cuts)


def assert_cut_off_at_random_steps_ends_the_same(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, cuts: int, *overrides: str
) -> None:
    whole, cut = cell("whole", *overrides), cell("cut", *overrides)
    assert experiment.run(whole, quiet()).finished
    draw = random.Random(str(overrides))
    third = EPOCHS * (24 // whole.batch) // 3

    cut_off_run(cut, [draw.randrange(1, max(2, third)) for _ in range(cuts)], monkeypatch)

    assert differences(content(whole), content(cut)) == []


@pytest.mark.parametrize(
    "overrides",
    [
        "norm=batch batch=2 seeds=1",
        "norm=batch batch=2 seeds=3 stack=3",
        "norm=group batch=2 seeds=2 stack=2",
        "norm=layer batch=12 seeds=1",
        "norm=group batch=2 seeds=2 stack=2 optim=adamw",
        "norm=batch batch=8 seeds=2 stack=1 optim.nesterov=true optim.schedule=cosine",
        "norm=group batch=8 seeds=2 stack=2 data.val_fraction=0.25 precision=bf16",
        "norm=batch batch=8 seeds=2 stack=2 norm.freeze_at=0.6",
    ],
)
def test_a_run_cut_off_at_random_steps_ends_the_same(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, overrides: str
) -> None:
    assert_cut_off_at_random_steps_ends_the_same(cell, monkeypatch, 3, *overrides.split())


@pytest.mark.parametrize("norm", STATEFUL)
def test_what_a_norm_remembers_outlives_its_process(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    overrides = [f"norm={norm}", "batch=4", "seeds=2", "stack=2", "norm_batch=2"]
    assert_cut_off_at_random_steps_ends_the_same(cell, monkeypatch, 1, *overrides)


NET = """
from torch import nn

def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Dropout2d(0.2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, num_classes),
    )
"""


Own = Callable[..., None]


@pytest.fixture
def own_ends_the_same(tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Own:
    """Holds a run of a network of one's own, cut off after some steps, to one that was not."""

    def held(text: str, steps: list[int], *overrides: str) -> None:
        (tmp_path / "net.py").write_text(text, encoding="utf-8")
        every = [text for text in tiny if not text.startswith("model.")]
        every += ["model=python", f"model.file={tmp_path}/net.py", "norm=batch", "batch=4"]
        every += [*overrides, f"epochs={EPOCHS}", "save_every=0"]
        whole, cut = load_config([*every, "name=whole"]), load_config([*every, "name=cut"])
        assert experiment.run(whole, quiet()).finished
        torch.rand(5)  # what else the process draws is nothing to it

        cut_off_run(cut, steps, monkeypatch)

        assert differences(content(whole), content(cut)) == []

    return held


def test_dropout_follows_from_the_seed_cut_off_or_not(own_ends_the_same: Own) -> None:
    own_ends_the_same(NET, [1, 5, 3], "seeds=2", "stack=2")


REMEMBERS = """
import torch
from torch import nn

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rms", torch.ones(1), persistent=False)
        self.register_buffer("seen", torch.zeros(0), persistent=False)

    def forward(self, x):
        if self.training:
            self.rms.mul_(0.9).add_(0.1 * x.detach().square().mean())
            self.seen = torch.cat([self.seen, self.rms])[-3:]
        return x / self.rms * (1 + self.seen.sum())

def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), Scale(), nn.Flatten(),
        nn.Linear(16, classes),
    )
"""


def test_a_network_s_buffers_outlive_its_process_though_it_does_not_save_them(
    own_ends_the_same: Own,
) -> None:
    own_ends_the_same(REMEMBERS, [2, 4])


@pytest.mark.parametrize("steps", [0, 1, 2, STEPS // 2, STEPS - 1, STEPS, STEPS + 1])
def test_every_step_of_an_epoch_is_a_place_to_be_cut_off(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    overrides = ["norm=batch", "batch=2"]
    whole, cut = end_of(cell, *overrides), cell("cut", *overrides)

    cut_off_run(cut, [steps], monkeypatch)

    assert differences(whole, content(cut)) == []


def test_records_that_are_due_between_steps_are_neither_lost_nor_doubled(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With metrics every five steps, most places to be cut off are between two of them."""
    monkeypatch.setattr("normbench.training.progress.LOGS_PER_EPOCH", 2.4)
    whole, cut = cell("whole", "norm=batch", "batch=2"), cell("cut", "norm=batch", "batch=2")
    assert experiment.run(whole, quiet()).finished
    steps = [line["step"] for line in content(whole)["0/metrics"]]
    assert steps == [5, 10, 12, 17, 22, 24, 29, 34, 36]

    cut_off_run(cut, [3, 4, 1, 6, 7], monkeypatch)

    assert differences(content(whole), content(cut)) == []


def test_a_training_is_saved_by_the_clock_and_after_an_epoch_where_that_is_cheap(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(autosave, "perf_counter", lambda: now[0])
    monkeypatch.setattr(checkpoint, "save", lambda *_: wait(0.2))
    cell = Cell.of(load_config([*tiny, "save_every=60"]))
    saver = autosave.Saver([Replica(cell, 0)], Nothing(), lambda _: None)

    def wait(seconds: float) -> None:
        now[0] += seconds

    def due(seconds: float, *, at_the_end_of_an_epoch: bool = False) -> bool:
        wait(seconds)
        return saver.due(At(at_the_end_of_an_epoch))  # type: ignore[arg-type]

    assert not due(59.9)
    assert due(0.1)
    saver.save(At(False), [])  # type: ignore[arg-type]
    assert not due(19.9, at_the_end_of_an_epoch=True), "0.2 seconds are more than 1 %"
    assert due(0.1, at_the_end_of_an_epoch=True)
    assert not due(0.0)


@dataclass
class At:
    """A training that stands at a step whose metrics are recorded."""

    at_end_of_epoch: bool
    step: int = 5
    recorded: int = 5

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {}


class Nothing:
    """A network without tensors."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        assert not tensors


# ---- each part of the state is needed: without it the end is another one ----


BETWEEN_METRICS = ["norm=batch", "batch=2", "seeds=2", "stack=2"]
"""A cell of these tests alone, which record metrics every five steps."""


def _without(name: str) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    """Sets what is saved under names that contain ``name`` to what a new training has."""

    def forget(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        matching = [key for key in tensors if name in key]
        assert matching
        for key in matching:
            tensors[key] = torch.ones_like(tensors[key]) * ("var" in key)

    return forget


def _with(**changed: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def forget(_: dict[str, Tensor], values: dict[str, Any]) -> None:
        for key, value in changed.items():
            assert values["progress"][key] != value
            values["progress"][key] = value

    return forget


def _without_window(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    assert tensors.pop("logits").shape[0] == tensors.pop("labels").shape[0] > 0
    values["progress"]["recorded"] = values["progress"]["step"]


def _without_diagnosis(_: dict[str, Tensor], values: dict[str, Any]) -> None:
    assert values["progress"].pop("diagnosis")
    values["progress"]["diagnosis"] = {}


def test_without_what_was_diagnosed_the_end_is_another(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["norm=batch", "batch=2"]
    whole, cut = end_of(cell, *overrides), cell("cut", *overrides)

    forget_at(24, cut, _without_diagnosis, monkeypatch)
    assert experiment.run(cut, quiet()).finished

    assert differences(whole, content(cut)) == ["0/metrics"]


def forget_at(
    step: int,
    cut: Config,
    forget: Callable[[dict[str, Tensor], dict[str, Any]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Mapping[str, Any]:
    """Cuts a run off at ``step`` and changes its checkpoint; returns the values then in it."""
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(step))
        with pytest.raises(CutOffError):
            experiment.run(cut, quiet())
    (place,) = (Path(cut.runs) / "cut").glob("*/seed-0")
    kept = checkpoint.read(checkpoint.files(place)[0])
    assert kept.values["progress"]["step"] == step
    tensors, values = dict(kept.tensors), dict(kept.values)
    forget(tensors, values)
    for path in checkpoint.files(place):
        path.unlink()
    checkpoint.save(place, step, tensors, values)
    return values


@pytest.mark.parametrize(
    "forget",
    [
        pytest.param(_without("model.network.blocks.0.weight"), id="weights"),
        pytest.param(_without("running_mean"), id="running means"),
        pytest.param(_without("running_var"), id="running variances"),
        pytest.param(_without("velocity"), id="velocities"),
        pytest.param(_without("loss"), id="sum of the losses"),
        pytest.param(_without("hits"), id="sum of the hits"),
        pytest.param(_without("logits"), id="logits since the last metrics"),
        pytest.param(_without("labels"), id="labels since the last metrics"),
        pytest.param(_without_window, id="steps since the last metrics"),
        pytest.param(_with(diverged=[1, None]), id="who diverged"),
        pytest.param(
            lambda tensors, values: values["progress"].update(step=32, recorded=28), id="step"
        ),
    ],
)
def test_without_a_part_of_the_state_the_end_is_another(
    cell: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[dict[str, Tensor], dict[str, Any]], None],
) -> None:
    monkeypatch.setattr("normbench.training.progress.LOGS_PER_EPOCH", 2.4)
    whole, cut = end_of(cell, *BETWEEN_METRICS), cell("cut", *BETWEEN_METRICS)

    values = forget_at(33, cut, forget, monkeypatch)
    assert experiment.run(cut, quiet()).results[1].status == "finished"

    if values["progress"]["diverged"] != [None, None]:
        assert experiment.run(cut, quiet()).results[0].status == "diverged"
    else:
        assert differences(whole, content(cut)) != []


def test_the_checkpoint_of_nothing_forgotten_ends_the_same(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the controls above."""
    monkeypatch.setattr("normbench.training.progress.LOGS_PER_EPOCH", 2.4)
    whole, cut = end_of(cell, *BETWEEN_METRICS), cell("cut", *BETWEEN_METRICS)

    cut_off_run(cut, [33], monkeypatch)

    assert differences(whole, content(cut)) == []


# ---- what is resumed, and how ----


def test_time_spent_before_counts(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr("normbench.training.progress.perf_counter", lambda: float(next(clock)))
    whole, cut = cell("whole"), cell("cut")
    experiment.run(whole, quiet())

    cut_off_run(cut, [7, 7], monkeypatch)

    seconds = [
        results.read_results(next((Path(each.runs) / each.name).glob("*-*")))[0].seconds
        for each in (whole, cut)
    ]
    assert seconds[1] == pytest.approx(seconds[0], rel=0.5)


def test_who_goes_on_elsewhere_is_told_and_both_machines_are_kept(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cell("moved")
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(3))
        with pytest.raises(CutOffError):
            experiment.run(config, quiet())
    (path,) = Path(config.runs).glob("moved/*/seed-0/environment.json")
    here = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(here | {"processor": "Another"}), encoding="utf-8")
    screen = quiet()
    assert experiment.run(config, screen).finished

    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == here | {"before": [here | {"processor": "Another"}]}
    said = screen.console.file.getvalue()  # type: ignore[attr-defined]
    assert "goes on with other processor than before: sums are" in said


def test_seeds_go_on_in_the_stacks_they_began_in(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the seeds would be arranged now: another stack sums in another order."""
    whole = cell("whole", "norm=batch", "seeds=4", "stack=2")
    experiment.run(whole, quiet())
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(5))
        with pytest.raises(CutOffError):
            experiment.run(cell("cut", "norm=batch", "seeds=4", "stack=2"), quiet())
    other = cell("cut", "norm=batch", "seeds=4", "stack=1")

    assert experiment.run(other, quiet()).finished

    found = differences(content(whole), content(other))
    assert {key.partition("/")[0] for key in found} == {"1", "3"}  # these had not begun


def test_a_seed_finished_alone_is_left_as_it_is_when_its_stack_goes_on(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked = cell("cut", "norm=batch", "seeds=2", "stack=2")
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(5))
        with pytest.raises(CutOffError):
            experiment.run(stacked, quiet())
    alone = cell("cut", "norm=batch", "seed=1")
    assert experiment.run(alone, quiet()).finished
    before = content(alone)

    assert experiment.run(stacked, quiet()).finished

    assert differences(before, content(alone)) == []


def test_more_seeds_can_be_asked_for_than_had_begun(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(5))
        with pytest.raises(CutOffError):
            experiment.run(cell("cut", "seeds=2", "stack=2"), quiet())

    outcome = experiment.run(cell("cut", "seeds=4", "stack=2"), quiet())

    assert [result.seed for result in outcome.results] == [0, 1, 2, 3]
    assert outcome.finished


def test_checkpoints_are_gone_when_the_results_are_there(cell: Callable[..., Config]) -> None:
    config = cell("whole", "seeds=3", "stack=2")

    experiment.run(config, quiet())

    assert list(Path(config.runs).rglob("step-*")) == []
    assert list(Path(config.runs).rglob(".step-*")) == []


def test_what_a_killed_process_was_writing_is_put_away(cell: Callable[..., Config]) -> None:
    config = cell("leftovers")
    folder = Cell.of(config).seed_folder(0)
    folder.mkdir(parents=True)
    old, young = (folder / f".model.safetensors.{name}.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half written")
    os.utime(old, (0, 0))
    assert experiment.run(config, quiet()).finished

    assert not old.exists()
    assert young.exists(), "who writes it may be alive"


def test_a_run_killed_between_its_results_and_its_end_does_not_train_again(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cell("cut", "seeds=2", "stack=2")
    with monkeypatch.context() as patch:

        def gone(_: autosave.Saver) -> None:
            raise CutOffError

        patch.setattr(autosave.Saver, "clear", gone)
        with pytest.raises(CutOffError):
            experiment.run(config, quiet())
    assert list(Path(config.runs).rglob("step-*")) != []

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(seeds, "train", never)
    assert experiment.run(config, quiet()).finished
    experiment.run(cell("cut", "seeds=2", "stack=2"), quiet())


@pytest.mark.parametrize("overrides", [[], ["seeds=2", "stack=2"]])
def test_a_run_killed_after_its_last_evaluation_still_says_which_images_were_right(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    def gone(*_: Any) -> None:
        raise CutOffError

    whole, cut = cell("whole", *overrides), cell("cut", *overrides)
    assert experiment.run(whole, quiet()).finished
    with monkeypatch.context() as patch:
        patch.setattr(ending, "write_outcomes", gone)
        with pytest.raises(CutOffError):
            experiment.run(cut, quiet())
    (place,) = (Path(cut.runs) / "cut").glob("*/seed-0")
    assert not (place / "outcomes.json").exists()

    assert experiment.run(cut, quiet()).finished

    assert differences(content(whole), content(cut)) == []


def test_a_stack_killed_between_two_results_goes_on_though_others_were_asked_for_meanwhile(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds 0 and 2 are a stack; 1 is trained before it is asked for 2 again."""
    whole = cell("whole", "norm=batch", "seeds=3", "stack=2")
    experiment.run(whole, quiet())
    cut = cell("cut", "norm=batch", "seeds=3", "stack=2")
    with monkeypatch.context() as patch:
        write = results.write_result

        def killed(folder: Path, result: results.Result) -> None:
            if result.seed == 2:
                raise CutOffError
            write(folder, result)

        patch.setattr(ending, "write_result", killed)
        with pytest.raises(CutOffError):
            experiment.run(cut, quiet())

    assert experiment.run(cell("cut", "norm=batch", "seeds=2", "stack=2"), quiet()).finished
    assert experiment.run(cut, quiet()).finished

    assert differences(content(whole), content(cut)) == []
    assert list(Path(cut.runs).rglob("step-*")) == []


@pytest.mark.parametrize(
    ("sound", "wrong"),
    [
        (b'"seed": 0', b'"sfed": 0'),
        (b'"seed": 1', b'"seed": 3'),
        (b'"threads"', b'"Threads"'),
        (b'"replicas"', b'"replicaz"'),
    ],
    ids=["first seed's name", "second seed", "threads' name", "replicas' name"],
)
def test_one_wrong_byte_in_the_newest_checkpoint_s_head_costs_a_step_and_no_more(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, sound: bytes, wrong: bytes
) -> None:
    overrides = ["norm=batch", "batch=4", "seeds=2", "stack=2"]
    whole, cut = end_of(cell, *overrides), cell("cut", *overrides)
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(5))
        with pytest.raises(CutOffError):
            experiment.run(cut, quiet())
    (place,) = (Path(cut.runs) / "cut").glob("*/seed-0")
    newest, before = checkpoint.files(place)
    content_of_newest = newest.read_bytes()
    assert content_of_newest.count(sound) == 1
    newest.write_bytes(content_of_newest.replace(sound, wrong))
    step = checkpoint.read(before).values["progress"]["step"]
    screen = quiet()

    assert experiment.run(cut, screen).finished

    said = screen.console.file.getvalue()  # type: ignore[attr-defined]
    assert f"the one before it is used: {newest}: its SHA-256 does not match" in said
    assert f"goes on after step {step}," in said
    assert differences(whole, content(cut)) == []


def test_damaged_checkpoints_are_named_and_never_a_reason_to_start_over(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cell("cut")
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", cut_off_after(5))
        with pytest.raises(CutOffError):
            experiment.run(config, quiet())
    (place,) = Path(config.runs).rglob("seed-0")
    for path in checkpoint.files(place):
        path.write_bytes(path.read_bytes()[:-1])

    screen = quiet()
    with pytest.raises(UsageError, match=r"can be used \(step-.*SHA-256.*remove them"):
        experiment.run(config, screen)

    said = screen.console.file.getvalue()  # type: ignore[attr-defined]
    assert "is used" not in said, "where none is"
    assert results.read_result(place) is None
    assert experiment.run(config, quiet(), fresh=True).finished


def test_the_checkpoint_of_another_cell_is_not_taken(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    for overrides in (["optim.lr=0.1"], ["optim.lr=0.2"]):
        config = cell("cut", *overrides)
        with monkeypatch.context() as patch:
            patch.setattr(seeds, "train", cut_off_after(5))
            with pytest.raises(CutOffError):
                experiment.run(config, quiet())
        places.append(next(p for p in Path(config.runs).rglob("seed-0") if p not in places))
    for path in checkpoint.files(places[1]):
        path.unlink()
    for path in checkpoint.files(places[0]):
        (places[1] / path.name).write_bytes(path.read_bytes())

    with pytest.raises(UsageError, match=r"is of (another cell|other replicas)"):
        experiment.run(config, quiet())


def test_a_seed_that_failed_is_tried_again_from_its_checkpoint(
    cell: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = cell("whole", "norm=batch"), cell("cut", "norm=batch")
    experiment.run(whole, quiet())

    def failing(*arguments: Any, **keywords: Any) -> Iterator[Metrics | None]:
        for count, metrics in enumerate(train(*arguments, **keywords)):
            if count == 9:
                raise RuntimeError("out of memory\nin some detail")
            yield metrics

    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", failing)
        outcome = experiment.run(cut, quiet())
    assert not outcome.finished
    assert outcome.results[0].error == "RuntimeError: out of memory"
    assert outcome.summary["status"] == "failed"
    (log,) = Path(cut.runs, "cut").rglob("log.txt")
    assert "in some detail" in log.read_text(encoding="utf-8")
    assert "Traceback" in log.read_text(encoding="utf-8")

    assert experiment.run(cut, quiet()).finished

    assert differences(content(whole), content(cut)) == []
