"""What cannot be run is refused in one line: the key, what was received, what is allowed."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from normbench.cli.app import app
from normbench.norms import NORMS
from tests.conftest import Command, run_process


def refused(result: Result, folder: Path) -> str:
    """The one line on stderr of a command that wrote nothing."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("normbench: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.endswith("\n")
    assert "Traceback" not in result.output
    assert list(folder.iterdir()) == [], "nothing is written"
    return result.stderr


BAD_SETTINGS = [
    # what is typed, and what the answer has to contain: the key, what was received, what is allowed
    ("norm=grup", ["norm=grup", "did you mean group?", ", ".join(sorted(NORMS))]),
    ("btach=2", ["btach=2", "did you mean batch?"]),
    ("lr=0.1", ["lr=0.1", "did you mean optim.lr?"]),
    ("norm.group=4", ["norm.group=4", "did you mean norm.groups?"]),
    ("batch=two", ["batch=two", "a whole number"]),
    ("batch=2.5", ["batch=2.5", "a whole number"]),
    ("optim.lr=fast", ["optim.lr=fast", "a number"]),
    ("batch=0", ["batch=0", "at least 1"]),
    ("epochs=-1", ["epochs=-1", "at least 1"]),
    ("seeds=0", ["seeds=0", "at least 1"]),
    ("seeds=1000000000000", ["seeds=1000000000000", "at most 10000"]),
    ("threads=5000", ["threads=5000", "at most 1024"]),
    ("seed=-1", ["seed=-1", "0 to 2147483647"]),
    ("threads=0", ["threads=0", "at least 1"]),
    ("stack=0", ["stack=0", "auto or a whole number from 1"]),
    ("batch=100000000000", ["batch=100000000000", "at most 1000000"]),
    ("norm_batch=3", ["norm_batch=3", "batch=4", "1, 2, 4"]),
    ("optim.lr=nan", ["optim.lr=nan", "above 0"]),
    ("optim.lr=inf", ["optim.lr=inf", "finite"]),
    ("optim.lr=-0.1", ["optim.lr=-0.1", "above 0"]),
    ("optim.momentum=1", ["optim.momentum=1", "from 0 to below 1"]),
    ("optim.weight_decay=-1", ["optim.weight_decay=-1", "at least 0"]),
    ("optim.warmup=1", ["optim.warmup=1", "from 0 to below 1"]),
    ("optim.label_smoothing=1", ["optim.label_smoothing=1", "from 0 to below 1"]),
    ("optim.steps_at=[0.6,0.3]", ["optim.steps_at=[0.6, 0.3]", "rise between 0 and 1"]),
    ("norm.eps=0", ["norm.eps=0", "above 0"]),
    ("norm.groups=3", ["norm.groups=3", "4 channels", "1, 2, 4"]),
    ("norm.groups=0", ["norm.groups=0", "at least 1"]),
    ("norm.channels_per_group=3", ["norm.channels_per_group=3", "4 channels", "1, 2, 4"]),
    ("norm.momentum=0.1", ["norm.momentum", "groups"]),
    ("data.limit=0", ["data.limit=0", "at least 1"]),
    ("data.test_limit=0", ["data.test_limit=0", "at least 1"]),
    ("evaluate_every=0", ["evaluate_every=0", "at least 1"]),
    ("data.limit=3", ["batch=4", "at most 3"]),
    ("data.val_fraction=1", ["data.val_fraction=1", "from 0 to below 1"]),
    ("data.pad=-1", ["data.pad=-1", "from 0 to 16"]),
    ("batch=25", ["batch=25", "24 training images", "at most 24"]),
    ("model.depth=9", ["model.depth=9", "1 to 5"]),
    ("model.width=0", ["model.width=0", "from 1 to 65536"]),
    ("model.cardinality=2", ["model.cardinality", "depth, width"]),
    ("norm.groups=half", ["norm.groups=half", "auto or gcd32 or C//16 or a whole number"]),
    ("+batch=2", ["+batch=2", "KEY=VALUE"]),
    ("~batch", ["~batch", "KEY=VALUE"]),
    ("batch", ["batch", "KEY=VALUE"]),
    ("batch=2,4", ["batch=2,4", "one value"]),
    ("name=a/b", ["name=a/b", "without slashes"]),
    ("device=tpu", ["device=tpu", "cpu, cuda"]),
    ("device=meta", ["device=meta", "cpu, cuda"]),
    ("device=cuda:99", ["device=cuda:99", "choose from cpu"]),
]


BAD_NETWORKS = [
    ("model=resnet model.weights=no.pt", ["model.weights=no.pt", "no such file"]),
    ("model=python", ["model=python", "model.file=FILE.py"]),
    ("model=python model.file=no.py", ["model.file=no.py", "no such file"]),
    ("model=torchvision model.arch=resnet19", ["model.arch=resnet19", "did you mean resnet18"]),
    (
        "model=torchvision model.arch=squeezenet1_1",
        ["model.arch=squeezenet1_1", "no norm", "norm=none"],
    ),
    ("model=torchvision model.arch=convnext_tiny", ["convnext_tiny", "LayerNorm", "not known"]),
    (
        "model=torchvision model.arch=mobilenet_v2 model.stem=cifar",
        ["model.stem=cifar", "mobilenet_v2", "model.stem=original"],
    ),
    ("model=torchvision norm=instance", ["layer layer2.0.bn1", "single value", "larger images"]),
    ("model=wide_resnet model.depth=12", ["model.depth=12", "6n+4"]),
]


@pytest.mark.parametrize(("typed", "told"), BAD_NETWORKS, ids=[typed for typed, _ in BAD_NETWORKS])
def test_a_network_that_cannot_be_used_is_one_line(
    nb: Command, tiny: list[str], tmp_path: Path, typed: str, told: list[str]
) -> None:
    settings = [each for each in tiny if not each.startswith("model")]
    line = refused(nb("run", *settings, *typed.split()), tmp_path)

    for part in told:
        assert part in line


@pytest.mark.parametrize(("typed", "told"), BAD_SETTINGS, ids=[typed for typed, _ in BAD_SETTINGS])
def test_a_bad_setting_is_one_line(
    nb: Command, tiny: list[str], tmp_path: Path, typed: str, told: list[str]
) -> None:
    line = refused(nb("run", *tiny, typed), tmp_path)

    for part in told:
        assert part in line


@pytest.mark.parametrize("command", ["run", "show", "sweep", "advise", "diagnose"])
@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("batch=2 batch=4", "batch is given twice; a sweep takes batch=2,4"),
        ("norm=batch norm=group", "norm is given twice; a sweep takes norm=batch,group"),
        ("batch=2 norm=group batch=4,8", "batch is given twice; a sweep takes batch=2,4,8"),
        ("optim.lr=auto optim.lr=0.1", "optim.lr is given twice; write it once"),
        ("seeds=2 seeds=3", "seeds is given twice; write it once"),
        ("name=a name=b", "name is given twice; write it once"),
        ("hydra/launcher=ray hydra/launcher=basic", "hydra/launcher is given twice; write it once"),
    ],
)
def test_a_key_with_two_values_is_one_line(
    tmp_path: Path, command: str, typed: str, told: str
) -> None:
    """``nb`` would drop the first."""
    weights = ["x.pt"] if command == "diagnose" else []
    first, *_, second = typed.split()
    result = CliRunner().invoke(app, [command, *typed.split(), *weights], prog_name="normbench")

    assert refused(result, tmp_path) == f"normbench: {first} {second}: {told}\n"


def test_a_key_may_repeat_its_value(tiny: list[str]) -> None:
    assert CliRunner().invoke(app, ["show", *tiny, "batch=4"], prog_name="normbench").exit_code == 0


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["model.depth=9"], ["model.depth=9", "6n+2", "8, 14, 20"]),
        (["model.cardinality=3"], ["model.cardinality=3", "1, 2, 4, 8, 16"]),
        (
            ["model.zero_init=true", "norm.affine=false"],
            ["model.zero_init=true", "norm.affine=true"],
        ),
        (["norm=batch", "norm.momentum=0"], ["norm.momentum=0", "above 0"]),
        (["optim.nesterov=true", "optim.momentum=0"], ["optim.nesterov=true", "above 0"]),
        (["norm.groups=4", "norm.channels_per_group=4"], ["norm.groups=4", "one of the two"]),
        (["batch=0", "epochs=-1", "norm=grup"], ["norm=grup", "did you mean group?"]),
    ],
    ids=" ".join,
)
def test_settings_that_do_not_go_together_are_one_line(
    nb: Command, tiny: list[str], tmp_path: Path, typed: list[str], told: list[str]
) -> None:
    kept = [override for override in tiny if not override.startswith("model")]
    line = refused(nb("run", *kept, *typed), tmp_path)

    for part in told:
        assert part in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none_is_refused(nb: Command, tiny: list[str], tmp_path: Path) -> None:
    line = refused(nb("run", *tiny, "device=cuda"), tmp_path)

    assert "device=cuda" in line
    assert "choose from cpu" in line


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["data=cifar10"],
            ["cifar10", "normbench data fetch cifar10", "normbench data import PATH"],
        ),
        (["data=cifar100"], ["cifar100", "normbench data fetch cifar100", "normbench data import"]),
        (["data=images"], ["data=images", "data.name=NAME"]),
        (["data=images", "data.name=cats"], ["'cats'", "normbench data import PATH --name cats"]),
        (["data=images", "data.name=../cats"], ["'../cats'", "letters, digits"]),
        (["data=synthetic", "data.name=cats"], ["data.name=cats", "data=images"]),
    ],
    ids=" ".join,
)
def test_images_that_are_not_there_are_one_line(
    nb: Command, tmp_path: Path, overrides: list[str], told: list[str]
) -> None:
    line = refused(nb("run", *overrides), tmp_path)

    for part in told:
        assert part in line


@pytest.mark.parametrize(
    ("norm", "batch"), [("batch", "1"), ("instance", "1"), ("instance", "4"), ("group", "4")]
)
def test_a_mean_over_a_single_value_is_refused(
    nb: Command, tiny: list[str], tmp_path: Path, norm: str, batch: str
) -> None:
    # 8×8 pixels are down to one position at the fourth convolution.
    overrides = [*tiny, "model.depth=4", f"norm={norm}", f"batch={batch}"]
    if norm == "group":
        overrides.append("norm.channels_per_group=1")
    line = refused(nb("run", *overrides), tmp_path)

    assert "layer blocks.10 takes each mean over a single value" in line
    assert "β" in line


def test_a_batch_of_one_with_batch_norm_names_its_key(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    line = refused(nb("run", *tiny, "model.depth=4", "norm=batch", "batch=1"), tmp_path)

    assert line.startswith("normbench: norm=batch batch=1: layer blocks.10 ")
    assert "[1, 32, 1, 1]" in line
    assert "norm=group" in line


def test_sub_batches_of_one_with_batch_norm_name_their_key(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    line = refused(nb("run", *tiny, "model.depth=4", "norm=batch", "norm_batch=1"), tmp_path)

    assert line.startswith("normbench: norm=batch norm_batch=1: layer blocks.10 takes")


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "none"])
def test_a_batch_of_one_trains_where_there_are_values_enough(
    nb: Command, tiny: list[str], norm: str
) -> None:
    assert nb("run", *tiny, f"norm={norm}", "batch=1", "epochs=1").exit_code == 0


def test_a_network_deeper_than_the_images_goes_on_with_one_position(
    nb: Command, tiny: list[str]
) -> None:
    assert nb("run", *tiny, "model.depth=5", "norm=none", "epochs=1").exit_code == 0


@pytest.mark.parametrize("place", ["file/runs", "file", "/proc/runs"])
def test_a_folder_that_cannot_be_written_is_refused(
    nb: Command, tiny: list[str], tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("a file")
    result = nb("run", *tiny, f"runs={place}")

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"runs={place}" in result.stderr
    assert "runs=FOLDER" in result.stderr
    assert result.stdout == "", "nothing is announced that will not happen"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_option_in_place_of_an_override_is_one_line(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    line = refused(nb("run", *tiny, "--batch=2"), tmp_path)

    assert line == "normbench: --batch=2: settings have no dashes; write batch=2\n"


def test_show_prints_nothing_of_a_configuration_it_refuses(nb: Command, tmp_path: Path) -> None:
    result = nb("show", "batch=0")

    refused(result, tmp_path)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["norms", "nope"], ["nope", ", ".join(sorted(NORMS))]),
        (["norms", "grup"], ["grup", "group"]),
        (["norms", "group", "--figure", "x.pdf"], ["x.pdf", ".png or .svg"]),
        (["norms", "group", "--figure", "x"], ["x: ", ".png or .svg"]),
        (["tensorboard", "missing-dir"], ["missing-dir", "normbench run"]),
        (["tensorboard"], ["runs", "normbench run"]),
        (["data", "import", "missing"], ["missing", "does not exist"]),
        (["data", "import", ".", "--name", "auto"], ["'auto'", "taken"]),
        (["data", "import", ".", "--name", "a/b"], ["'a/b'", "letters, digits"]),
        (["data", "import", ".", "--name", "x", "--size", "0"], ["--size 0", "to 512"]),
        (["data", "fetch", "nope"], ["'nope'", "cifar10, cifar100"]),
        (["data", "verify", "nope"], ["'nope'", "normbench data import"]),
        (["data", "verify", "a/b"], ["'a/b'", "letters, digits"]),
        (["norm"], ["'norm'", "'norms'", "normbench --help"]),
        (["--nope"], ["--nope", "normbench --help"]),
        (["data", "nope"], ["'nope'", "normbench data --help"]),
        (["data", "fetch"], ["Missing", "normbench data fetch --help"]),
        (["data", "fetch", "cifar10", "--timeout"], ["--timeout", "argument"]),
        (["tensorboard", "--port", "x"], ["--port", "integer", "normbench tensorboard --help"]),
        (["run", "--nope"], ["--nope", "KEY=VALUE"]),
        (["run", "--fresh=1"], ["--fresh", "value"]),
    ],
    ids=" ".join,
)
def test_other_commands_answer_in_one_line_too(
    nb: Command, tmp_path: Path, arguments: list[str], told: list[str]
) -> None:
    result = nb(*arguments)

    for part in told:
        assert part in refused(result, tmp_path)
    assert result.stdout == ""


def test_a_refusal_in_a_process_of_its_own_is_one_line(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    done = run_process(script, tiny_library, tmp_path, "run", "batch=${nope}")

    assert done.code == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
