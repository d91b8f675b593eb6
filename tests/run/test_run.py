"""A cell, run from Python: what is trained, what is kept, and that it comes out the same."""

import io
import json
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from normbench.config import Config
from normbench.errors import UsageError
from normbench.launch.compose import load_config
from normbench.models import ModelConfig
from normbench.models.inspection import memory_of_step
from normbench.run import arranging, ending, seeds
from normbench.run import run as experiment
from normbench.run.cell import Cell
from normbench.run.curves import Trackers
from normbench.run.machine import choose_device
from normbench.run.placement import Arrangement
from normbench.run.spent import Spent
from normbench.store import results
from normbench.store.curves import read_metrics
from normbench.store.outcomes import read_outcomes
from normbench.store.results import RESULT, failure, write_result
from normbench.terminal.screen import Screen
from normbench.training import loop as training
from normbench.training.loop import train
from normbench.training.progress import Metrics

Run = Callable[..., dict[str, Any]]


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=120, _environ={}))


@pytest.fixture
def run(tiny: list[str]) -> Run:
    """Runs the smallest cell with further overrides and returns its summary."""

    def call(*overrides: str, fresh: bool = False) -> dict[str, Any]:
        config = load_config([*tiny, *overrides])
        return experiment.run(config, quiet(), fresh=fresh).summary

    return call


def folder(*overrides: str, seed: int = 0) -> Path:
    (cell,) = Path().glob("runs/*/*") if not overrides else Path(overrides[0]).glob("*/*")
    return cell / f"seed-{seed}"


def losses(place: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(place) if "train/loss" in line]


# ---- what comes out ----


def test_the_summary_returned_is_the_one_written(run: Run) -> None:
    summary = run("seeds=2")

    assert summary == json.loads((folder().parent / "summary.json").read_text())
    assert summary["seeds"] == [0, 1]


def test_the_score_is_of_the_whole_test_set_with_the_weights_that_were_kept(
    run: Run, tiny: list[str]
) -> None:
    for norm in ("batch", "group"):
        summary = run(f"norm={norm}", f"runs={norm}")
        cell = Cell.of(load_config([*tiny, f"norm={norm}"]))
        model = cell.build_model(0)
        model.load_state_dict(load_file(folder(norm) / "model.safetensors"))
        loaded = cell.config.data.load()
        pixels = loaded.train_images.double()
        mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), unbiased=False)
        images = (loaded.test_images - mean[:, None, None]) / std[:, None, None]
        with torch.inference_mode():
            right = model.eval()(images.float()).argmax(1) == loaded.test_labels
        result = results.read_result(folder(norm))
        assert result is not None
        correct = read_outcomes(folder(norm), result)

        assert correct is not None
        assert correct.tolist() == right.tolist()
        assert summary["test_accuracy"] == [pytest.approx(right.double().mean().item())]


def test_the_last_evaluation_is_the_score(run: Run) -> None:
    summary = run()

    assert read_metrics(folder())[-1]["eval/accuracy"] == pytest.approx(summary["test_accuracy"][0])


def test_the_test_set_is_looked_at_every_so_many_epochs_and_after_the_last(run: Run) -> None:
    run("epochs=5", "evaluate_every=2")

    evaluated = [line["epoch"] for line in read_metrics(folder()) if "eval/accuracy" in line]
    assert evaluated == [2, 4, 5]


def test_training_makes_the_loss_fall(run: Run) -> None:
    run("epochs=60", "data.pad=0", "data.flip=false", "model.width=8", "optim.lr=0.4")

    values = losses(folder())
    assert sum(values[-6:]) < 0.7 * sum(values[:6])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_same_cell_comes_out_the_same_to_the_bit(run: Run, norm: str) -> None:
    for place in ("one", "two"):
        run(f"norm={norm}", f"runs={place}")

    one, two = folder("one"), folder("two")
    assert losses(one) == losses(two)
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert one.parent.name == two.parent.name


def test_a_seed_does_not_know_how_many_others_there_are(run: Run) -> None:
    run("seeds=3", "runs=three")
    run("seed=2", "runs=one")

    assert losses(folder("three", seed=2)) == losses(folder("one", seed=2))


def test_seeds_trained_together_come_out_as_they_do_alone(run: Run) -> None:
    run("seeds=3", "stack=1", "runs=alone")
    run("seeds=3", "stack=3", "runs=together")

    for seed in range(3):
        alone, together = folder("alone", seed=seed), folder("together", seed=seed)
        assert losses(together) == pytest.approx(losses(alone), rel=1e-3)
        assert load_file(alone / "model.safetensors").keys() == (
            load_file(together / "model.safetensors").keys()
        )
        kept = [results.read_result(path) for path in (alone, together)]
        assert [result and result.stacked for result in kept] == [1, 3]
    assert folder("alone").parent.name == folder("together").parent.name


def test_seeds_trained_in_lanes_come_out_as_they_do_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("seeds=4", "stack=1", "runs=alone")
    monkeypatch.setattr(arranging, "fastest", lambda *_, **__: two_lanes())
    run("seeds=4", "stack=auto", "runs=lanes")

    for seed in range(4):
        alone, lanes = folder("alone", seed=seed), folder("lanes", seed=seed)
        assert losses(lanes) == pytest.approx(losses(alone), rel=1e-3)
        assert len(list(lanes.glob("events.*"))) == 1


@dataclass(kw_only=True, slots=True)
class ShuffledConfig(ModelConfig):
    """A network with a layer that no stack knows."""

    name: str = "shuffled"

    @property
    def title(self) -> str:
        return "Shuffled"

    def network(self, classes: int) -> nn.Module:
        layers = [nn.Conv2d(3, 8, 3), nn.ChannelShuffle(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(8, classes))


def test_seeds_that_cannot_be_stacked_are_trained_one_after_another_and_it_says_why(
    tiny: list[str],
) -> None:
    config = replace(load_config([*tiny, "seeds=2", "stack=auto"]), model=ShuffledConfig())
    shown = quiet()
    outcome = experiment.run(config, shown)

    assert outcome.finished
    assert [result.seed for result in outcome.results] == [0, 1]
    assert isinstance(shown.console.file, io.StringIO)
    assert "does not know the layer ChannelShuffle at 1" in shown.console.file.getvalue()


def two_lanes(size: int = 2) -> tuple[Arrangement, dict[Arrangement, float]]:
    lanes = Arrangement(lanes=2, size=size)
    return lanes, {lanes: 1.0, Arrangement(): 2.0}


def test_an_interruption_of_lanes_stops_them_all_and_leaves_no_result(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        for metrics in train(*arguments, **keywords):
            if metrics and metrics.step == 3 and 0 in arguments[1].seeds:
                raise KeyboardInterrupt
            yield metrics

    monkeypatch.setattr(arranging, "fastest", lambda *_, **__: two_lanes())
    monkeypatch.setattr(seeds, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("seeds=4", "stack=auto", "epochs=50")

    assert [results.read_result(folder(seed=seed)) for seed in range(4)] == [None] * 4
    assert len(read_metrics(folder(seed=1))) < 300


def test_an_interruption_while_it_is_measured_takes_effect_after_the_step(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measuring(prepare: Callable[[int], Callable[[], None]], *_: Any, **__: Any) -> None:
        step = prepare(2)
        step()
        signal.raise_signal(signal.SIGINT)
        step()
        pytest.fail("took another step")

    monkeypatch.setattr(arranging, "fastest", measuring)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # may have been ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run("seeds=2", "stack=auto")
    finally:
        signal.signal(signal.SIGINT, before)

    assert list(Path().rglob("result.json")) == []


def test_time_is_shared_with_those_that_train_at_the_same_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two, the second goes on when the first is done, and has the machine to itself."""
    both = threading.Barrier(2)
    counted: dict[int, list[int]] = {}

    def trained(
        self: seeds.Replicas,
        _: Screen,
        stop: threading.Event,
        running: Callable[[], int],
        spent: Spent,
    ) -> None:
        seed = self.members[0].seed
        both.wait(20)
        counted[seed] = [running()]
        both.wait(20)
        deadline = monotonic() + 20
        while seed == 1 and running() > 1 and monotonic() < deadline:
            sleep(0.001)
        counted[seed].append(running())

    monkeypatch.setattr(arranging, "fastest", lambda *_, **__: two_lanes(size=1))
    monkeypatch.setattr(seeds.Replicas, "train", trained)
    run("seeds=2", "stack=auto")

    assert counted[0][0] == counted[1][0] == 2
    assert counted[1][1] == 1


@pytest.mark.parametrize("stack", ["1", "2", "auto"])
def test_statistics_of_three_images_can_be_stacked(run: Run, stack: str) -> None:
    """A stack proves itself on images of which three divide the number."""
    settings = ("norm=batch", "batch=6", "norm_batch=3", "seeds=2", f"stack={stack}")
    assert run(*settings)["status"] == "finished"


def test_how_many_to_train_together_is_measured_where_nobody_says(run: Run) -> None:
    summary = run("seeds=3", "stack=auto")

    assert summary["seeds"] == [0, 1, 2]
    assert all(len(read_metrics(folder(seed=seed))) == 12 for seed in range(3))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_both_precisions_train(run: Run, precision: str) -> None:
    assert run(f"precision={precision}")["status"] == "finished"


# ---- what is left alone ----


def test_results_that_are_there_are_not_trained_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("seeds=2")
    monkeypatch.setattr(seeds, "train", lambda *_, **__: pytest.fail("trained"))

    assert run("seeds=2") == first
    assert run("seeds=1")["seeds"] == [0, 1], "what is there is not forgotten"


def test_only_the_seeds_that_are_missing_are_trained(run: Run) -> None:
    run("seeds=2")
    before = (folder(seed=0) / "result.json").stat().st_mtime_ns
    summary = run("seed=1", "seeds=3")

    assert summary["seeds"] == [0, 1, 2, 3]
    assert (folder(seed=0) / "result.json").stat().st_mtime_ns == before


def test_an_interruption_leaves_what_was_trained_and_no_result_of_the_rest(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        for metrics in train(*arguments, **keywords):
            yield metrics
            if folder(seed=1).exists() and metrics and metrics.step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(seeds, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("seeds=2")

    assert results.read_result(folder(seed=0)) is not None
    assert results.read_result(folder(seed=1)) is None
    assert len(read_metrics(folder(seed=1))) == 3
    assert run("seeds=2")["seeds"] == [0, 1]
    assert len(read_metrics(folder(seed=1))) == 12


def test_fresh_throws_away_this_cell_and_no_other(run: Run) -> None:
    run("seeds=2", "norm=group")
    run("norm=layer")
    summary = run("norm=group", fresh=True)

    assert summary["seeds"] == [0]
    assert len(list(Path().glob("runs/*/layer-*/seed-0/result.json"))) == 1


def test_a_refused_fresh_run_throws_nothing_away(run: Run) -> None:
    run()
    before = sorted(Path().rglob("*"))
    with pytest.raises(UsageError, match="batch=25"):
        run("batch=25", fresh=True)
    with pytest.raises(UsageError, match="device=tpu"):
        run("device=tpu", fresh=True)

    assert sorted(Path().rglob("*")) == before


# ---- held-out images ----


def test_with_held_out_images_the_curve_is_theirs_and_the_score_the_test_sets(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: dict[str, list[int]] = {"while training": [], "at the end": []}
    evaluate = training.evaluate

    def noting(when: str) -> Callable[..., Any]:
        def look(networks: list[nn.Module], split: Any, **keywords: Any) -> Any:
            looked_at[when].append(len(split))
            return evaluate(networks, split, **keywords)

        return look

    monkeypatch.setattr(training, "evaluate", noting("while training"))
    monkeypatch.setattr(ending, "evaluate", noting("at the end"))
    run("data.val_fraction=0.25", "batch=2", "norm=group")
    result = results.read_result(folder())

    assert looked_at == {"while training": [6, 6], "at the end": [12]}
    assert result is not None
    assert result.steps == 18, "two epochs of nine steps over three quarters of the images"
    assert result.val_accuracy == pytest.approx(read_metrics(folder())[-1]["eval/accuracy"])


def test_without_held_out_images_the_last_evaluation_is_the_score(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("the same weights are evaluated twice")

    monkeypatch.setattr(ending, "evaluate", again)
    run("norm=group")
    result = results.read_result(folder())

    assert result is not None
    assert result.test_accuracy == pytest.approx(read_metrics(folder())[-1]["eval/accuracy"])


def test_holding_out_all_but_nothing_names_the_key(run: Run) -> None:
    with pytest.raises(UsageError, match=r"data\.val_fraction=0\.99"):
        run("data.val_fraction=0.99")


def test_holding_out_no_image_is_refused_rather_than_tested_on(tiny: list[str]) -> None:
    config = load_config([*tiny, "data.val_fraction=0.001"])
    with pytest.raises(UsageError, match=r"data\.val_fraction=0\.001: holds out none of the"):
        Cell.of(config).check_fit()


# ---- divergence ----


def test_a_seed_that_diverges_ends_with_the_step_and_no_score(run: Run) -> None:
    summary = run("optim.lr=1e9", "norm=none", "seeds=2")

    assert summary["status"] == "diverged"
    assert summary["test_accuracy"] == [None, None]
    assert summary["test_accuracy_mean"] is summary["test_accuracy_ci95"] is None
    for seed in (0, 1):
        result = results.read_result(folder(seed=seed))
        assert result is not None
        assert result.diverged_at is not None
        assert result.diverged_at <= result.steps
        assert result.epochs == pytest.approx(result.steps / 6)


# ---- the device ----


def test_auto_is_cuda_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"

    assert choose_device("auto").type == expected
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["tpu", "", "cuda:", "cuda:x", "cpu:3", "meta", "cuda:99", "gpu", "0"]
)
def test_a_device_that_is_none_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"^device={name}: "):
        choose_device(name)


def test_threads_are_as_many_as_asked_for(run: Run, tiny: list[str]) -> None:
    threads = torch.get_num_threads()
    run("threads=2", "runs=two")
    assert torch.get_num_threads() == threads != 2
    environment = json.loads((folder("two").parent / "environment.json").read_text())
    assert environment["threads"] == 2


# ---- the directory ----


def test_a_configuration_can_be_read_back_from_its_records(run: Run, tiny: list[str]) -> None:
    from omegaconf import OmegaConf

    run("norm=batch", "norm.momentum=0.2", "optim.schedule=cosine")
    written = OmegaConf.load(folder().parent / "config.yaml")
    again = load_config([*tiny, "norm=batch", "norm.momentum=0.2", "optim.schedule=cosine"])

    merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(again), written))
    assert isinstance(merged, Config)
    assert merged == again


def test_the_records_of_two_norms_lie_side_by_side(run: Run) -> None:
    for norm in ("batch", "group"):
        run(f"norm={norm}", "name=trial")

    names = sorted(path.name for path in Path("runs/trial").iterdir())
    assert [name[:-9] for name in names] == ["batch-b4", "group-b4"]


def test_a_run_says_how_long_it_will_take_before_it_trains(tiny: list[str]) -> None:
    out = io.StringIO()
    experiment.run(load_config(tiny), Screen(Console(file=out, width=120, _environ={})))
    lines = out.getvalue().splitlines()
    (said,) = [number for number, line in enumerate(lines) if "of training" in line]

    assert said < next(number for number, line in enumerate(lines) if "epoch 1/" in line)


# ---- what a step holds in memory ----


def test_what_a_step_holds_is_counted_once_a_cell(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def counting(*arguments: Any, **keywords: Any) -> int:
        counted.append(memory_of_step(*arguments, **keywords))
        return counted[-1]

    monkeypatch.setattr(ending, "memory_of_step", counting)
    monkeypatch.setattr(ending, "_MEMORY", {})
    outcome = experiment.run(load_config([*tiny, "seeds=3", "stack=1"]), quiet())

    assert [result.memory_bytes for result in outcome.results] == counted * 3
    assert len(counted) == 1


TOO_LARGE = """
from torch import nn

class Net(nn.Sequential):
    def forward(self, x):
        if len(x) == 6 and not x.any():  # the batch that is only looked at
            raise {error}("cannot allocate memory")
        return super().forward(x)

def build(classes):
    return Net(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, classes),
    )
"""


@pytest.mark.parametrize("error", ["MemoryError", "RuntimeError"])
def test_a_cell_whose_batch_does_not_fit_the_cpu_s_memory_still_has_its_result(
    tiny: list[str], tmp_path: Path, error: str
) -> None:
    (tmp_path / "net.py").write_text(TOO_LARGE.format(error=error), encoding="utf-8")
    every = [text for text in tiny if not text.startswith("model.")]
    every += ["model=python", f"model.file={tmp_path}/net.py", "norm=batch", "batch=6"]
    outcome = experiment.run(load_config(every), quiet())

    assert outcome.finished
    assert [result.memory_bytes for result in outcome.results] == [None]


def test_a_failure_is_forgotten_once_its_seed_is_trained_again(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that is made meanwhile would still call it failed."""
    config = load_config(tiny)
    folder = Cell.of(config).seed_folder(0)
    folder.mkdir(parents=True)
    write_result(folder, failure(0, ValueError("no luck")))
    log, seen = Trackers.log, list[bool]()

    def looking(self: Trackers, metrics: Metrics) -> None:
        seen.append((folder / RESULT).exists())
        log(self, metrics)

    monkeypatch.setattr(Trackers, "log", looking)
    outcome = experiment.run(config, quiet())

    assert outcome.finished
    assert set(seen) == {False}
