"""The configuration of weights is the one that is written down beside them."""

from pathlib import Path
from shutil import copytree

import pytest
import yaml

from normbench.errors import UsageError
from normbench.launch.compose import load_config, to_yaml
from normbench.launch.recorded import load_recorded
from normbench.run.cell import Cell
from tests.conftest import TINY, Finished


@pytest.fixture
def seed(finished: Finished, tiny: list[str], tmp_path: Path) -> Path:
    """A seed's folder, with images at hand."""
    return copytree(finished.cell, tmp_path / "cell") / "seed-1"


def edit(seed: Path, text: str) -> None:
    (seed.parent / "config.yaml").write_text(text)


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_the_cell_is_the_one_that_was_trained(finished: Finished, seed: Path, name: str) -> None:
    config = load_recorded([], seed / name)

    assert Cell.of(config).directory.name == finished.cell.name
    assert (config.runs, config.threads, config.seeds) == ("runs", None, 1), "places are not taken"


@pytest.mark.parametrize("name", [".", "model.safetensors"])
def test_the_cell_is_found_from_within_the_seed_s_folder(
    finished: Finished, seed: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(seed)

    assert Cell.of(load_recorded([], Path(name))).directory.name == finished.cell.name


def test_the_weights_that_a_training_started_from_need_not_be_there(seed: Path) -> None:
    settings = yaml.safe_load((seed.parent / "config.yaml").read_text())
    settings["model"] |= {"weights": "gone.safetensors", "weights_sha256": "0" * 64}
    edit(seed, yaml.safe_dump(settings))

    assert load_recorded([], seed).model == load_recorded([], seed).model.__class__(
        **{k: v for k, v in settings["model"].items() if not k.startswith("weights")}
    )


def test_what_is_said_wins(seed: Path) -> None:
    config = load_recorded(["batch=8", "data.val_fraction=0.25"], seed)

    assert (config.batch, config.data.val_fraction) == (8, 0.25)
    assert (config.model.name, config.data.name) == ("convnet", "tiny")


def test_a_group_that_is_chosen_forgets_what_is_recorded_of_it(seed: Path) -> None:
    config = load_recorded(["model=resnet", "norm=batch"], seed)

    assert (config.model, config.norm) == (
        load_config(["model=resnet"]).model,
        load_config(["norm=batch"]).norm,
    )
    assert config.data.name == "tiny"


def test_a_python_file_is_run_only_if_a_person_names_it(seed: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((seed.parent / "config.yaml").read_text())
    edit(seed, yaml.safe_dump(settings | {"model": {"name": "python", "file": "gone.py"}}))
    (tmp_path / "net.py").write_text("raise SystemExit\n")

    with pytest.raises(UsageError, match=r"made by a Python file; say so: model\.file=gone\.py"):
        load_recorded([], seed)
    named = load_recorded([f"model.file={tmp_path / 'net.py'}"], seed)
    assert (named.model.name, named.batch) == ("python", settings["batch"])


def test_auto_is_what_it_was(seed: Path) -> None:
    settings = yaml.safe_load((seed.parent / "config.yaml").read_text())
    settings["data"] |= {"source": "auto", "name": None}
    edit(seed, yaml.safe_dump(settings))
    summary = (seed.parent / "summary.json").read_text()
    (seed.parent / "summary.json").write_text(summary.replace('"tiny"', '"synthetic"'))

    assert load_recorded([], seed).data.source == "synthetic"
    (seed.parent / "summary.json").unlink()  # killed before it was written
    for path in seed.parent.glob("seed-*/hparams.json"):
        images = f'"images": "{"x" * (2 << 20)}", "values"'  # large ones, so a large sheet
        text = path.read_text().replace('"tiny"', '"synthetic"')
        path.write_text(text.replace('"values"', images, 1))
    assert load_recorded([], seed).data.source == "synthetic"


@pytest.mark.parametrize(
    "name", ['/data/"a"', "a\\b", "a\\'", "it's, well", "1e3", "null", "[x]", " x ", "x=y", ""]
)
def test_names_are_as_they_were_recorded_whatever_is_in_them(seed: Path, name: str) -> None:
    settings = yaml.safe_load((seed.parent / "config.yaml").read_text())
    settings["data"] |= {"source": "images", "name": name}
    edit(seed, yaml.safe_dump(settings))

    assert load_recorded([], seed).data.name == name


def test_every_setting_of_every_choice_comes_back(seed: Path) -> None:
    overrides = [
        *("norm=switchable", "norm_batch=4", "precision=bf16", "model.stem=cifar"),
        *("model=torchvision", "model.arch=resnet18", "optim=adamw", "optim.eps=1e-12"),
        *("optim.schedule=step", "optim.steps_at=[0.25,0.5]", "optim.decay_norm=false"),
        *("data=images", "data.name=tiny", "data.limit=20", "data.flip=false"),
    ]
    wanted = load_config(overrides)
    edit(seed, to_yaml(wanted))

    assert load_recorded([], seed) == wanted


def test_weights_without_records_have_batch_norm_by_default(tmp_path: Path) -> None:
    assert load_recorded([], tmp_path / "x.pt").norm.name == "batch"
    assert load_recorded(["norm=group", *TINY], tmp_path / "x.pt").norm.name == "group"
    assert load_recorded(["norm.momentum=0.2"], tmp_path / "x.pt") == load_config(
        ["norm=batch", "norm.momentum=0.2"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "a: &a [1]\nb: *a",
        "norm: {name: {x: 1}}",
        "norm: 3",
        "batch: two",
        "norm: {name: '${oc.env:HOME}'}",
        "hydra.run.dir: /tmp",
        "+batch: 2",
        "model: !!python/object/apply:os.mkdir [run]",
        "unknown: 3",
        "optim: {lr: .nan}",
    ],
)
def test_damaged_records_are_one_line_that_names_them(seed: Path, text: str) -> None:
    edit(seed, text)

    with pytest.raises(UsageError) as error:
        load_recorded([], seed)
    assert str(error.value).startswith(f"{seed.parent}/config.yaml: ")
    assert "\n" not in str(error.value)
