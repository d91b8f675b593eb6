"""The command line, from what is typed to what is seen, written and returned."""

import errno
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from conftest import (
    NUM_TEST,
    NUM_TRAIN,
    SECRET,
    TINY,
    Command,
    Finished,
    files_below,
    process_environment,
    run_process,
    write_pictures,
)
from safetensors.torch import load_file
from typer.testing import Result

from normbench.errors import UsageError
from normbench.norms import NORMS
from normbench.tracking import read_metrics

ESCAPE = "\x1b"


def words(text: str) -> str:
    """``text`` with every run of white space as one blank: what it says, however it is set."""
    return " ".join(text.split())


# ---- normbench run ----


def test_a_run_ends_well_and_says_nothing_on_stderr(finished: Finished) -> None:
    assert finished.code == 0, finished.stderr
    assert finished.stderr == ""


def test_a_run_begins_with_what_will_run_and_on_which_data(finished: Finished) -> None:
    header = words(finished.stdout.partition("epoch 1/2")[0])

    assert header.startswith("Group normalization, batch 4, ConvNet-2, width 4")
    assert f"tiny: {NUM_TRAIN} training and {NUM_TEST} test images, 3 classes" in header
    assert "2 epochs of 6" in header
    assert "0.0125" in header, "the peak learning rate, 0.1·4/32"
    assert "float32 on cpu" in header


def test_a_run_prints_a_line_an_epoch(finished: Finished) -> None:
    lines = [line for line in finished.stdout.splitlines() if re.search(r"epoch \d+/2", line)]

    places = [re.search(r"seed (\d) +epoch (\d)/2", line) for line in lines]
    assert [place.groups() for place in places if place is not None] == [
        (seed, epoch) for seed in "01" for epoch in "12"
    ]
    assert all("loss" in line and "eval" in line and "img/s" in line for line in lines)


def test_away_from_a_terminal_nothing_moves_or_is_coloured(finished: Finished) -> None:
    assert ESCAPE not in finished.stdout
    assert "\r" not in finished.stdout
    assert " left" not in finished.stdout


def test_a_run_ends_with_a_table_and_where_to_find_things(finished: Finished) -> None:
    result = json.loads((finished.cell / "seed-0" / "result.json").read_text())
    closing = finished.stdout.rpartition("epoch 2/2")[2]

    assert re.search(rf"seed 0 +finished +{result['test_accuracy']:.2%}", closing)
    assert re.search(r"seed 1 +finished", closing)
    assert "mean" in closing
    where = finished.cell.relative_to(finished.home).as_posix()
    assert f"files: {where}" in closing
    assert "normbench tensorboard" in closing


def test_a_run_directory_holds_what_the_contract_says(finished: Finished) -> None:
    written = {re.sub(r"tfevents\..*", "tfevents", name) for name in files_below(finished.home)}
    cell = finished.cell.relative_to(finished.home).as_posix()
    of_a_seed = (
        "metrics.jsonl",
        "hparams.json",
        "events.out.tfevents",
        "result.json",
        "model.safetensors",
    )

    assert written == {
        f"{cell}/.lock",  # held while a process trains the cell
        f"{cell}/log.txt",
        f"{cell}/config.yaml",
        f"{cell}/environment.json",
        f"{cell}/summary.json",
        *(f"{cell}/seed-{seed}/{name}" for seed in (0, 1) for name in of_a_seed),
    }


def test_a_run_directory_is_named_after_norm_batch_and_digest(finished: Finished) -> None:
    summary = json.loads((finished.cell / "summary.json").read_text())

    assert finished.cell.parent == finished.home / "runs" / "default"
    assert finished.cell.name == f"group-b4-{summary['digest'][:8]}"


def test_a_result_says_how_a_seed_ended(finished: Finished) -> None:
    result = json.loads((finished.cell / "seed-1" / "result.json").read_text())

    assert result.keys() == {
        "seed",
        "status",
        "test_accuracy",
        "test_loss",
        "val_accuracy",
        "train_loss",
        "train_accuracy",
        "test_accuracy_reestimated",
        "test_accuracy_batch",
        "memory_bytes",
        "epochs",
        "steps",
        "seconds",
        "images_per_second",
        "diverged_at",
        "error",
    }
    assert (result["seed"], result["status"]) == (1, "finished")
    assert (result["epochs"], result["steps"]) == (2, 12)
    hits = result["test_accuracy"] * NUM_TEST
    assert hits == pytest.approx(round(hits), abs=1e-5)
    assert result["images_per_second"] == pytest.approx(12 * 4 / result["seconds"])
    assert result["val_accuracy"] is result["diverged_at"] is result["error"] is None


def test_an_accuracy_is_the_nearest_number_to_hits_over_images(finished: Finished) -> None:
    for seed in (0, 1):
        text = (finished.cell / f"seed-{seed}" / "result.json").read_text()
        accuracy = json.loads(text)["test_accuracy"]

        assert accuracy == round(accuracy * NUM_TEST) / NUM_TEST, "not a float32's idea of it"


def test_a_summary_says_how_a_cell_ended(finished: Finished) -> None:
    summary = json.loads((finished.cell / "summary.json").read_text())
    results = [
        json.loads((finished.cell / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 1)
    ]

    assert list(summary) == [
        "norm",
        "batch",
        "norm_batch",
        "model",
        "data",
        "seeds",
        "test_accuracy",
        "test_accuracy_mean",
        "test_accuracy_ci95",
        "status",
        "digest",
    ]
    assert (summary["norm"], summary["batch"], summary["norm_batch"]) == ("group", 4, 4)
    assert summary["model"] == "ConvNet-2, width 4"
    assert summary["data"]["name"] == "tiny"
    assert re.fullmatch("[0-9a-f]{64}", summary["data"]["sha256"])
    assert re.fullmatch("[0-9a-f]{64}", summary["digest"])
    assert summary["seeds"] == [0, 1]
    assert summary["test_accuracy"] == [result["test_accuracy"] for result in results]
    low, high = summary["test_accuracy_ci95"]
    assert low <= summary["test_accuracy_mean"] <= high
    assert summary["status"] == "finished"


def test_a_run_says_with_what_it_ran(finished: Finished) -> None:
    environment = json.loads((finished.cell / "environment.json").read_text())

    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["device"] == "cpu"
    assert environment["threads"] == 1
    assert "commit" in environment


def test_a_run_keeps_its_configuration(finished: Finished) -> None:
    config = yaml.safe_load((finished.cell / "config.yaml").read_text(encoding="utf-8"))

    assert (config["batch"], config["epochs"], config["seeds"]) == (4, 2, 2)
    assert config["norm"]["name"] == "group"
    assert config["model"] == {"name": "convnet", "depth": 2, "width": 4}
    assert config["data"]["name"] == "tiny"


def test_a_run_keeps_the_trained_weights(finished: Finished) -> None:
    weights = [load_file(finished.cell / f"seed-{seed}" / "model.safetensors") for seed in (0, 1)]

    assert weights[0]["head.weight"].shape == (3, 8)
    assert all(bool(value.isfinite().all()) for value in weights[0].values())
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])


def test_nothing_of_the_environment_is_written_down(finished: Finished) -> None:
    assert os.environ[SECRET[0]] == SECRET[1], "the run had it too"
    for path in finished.home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET[1].encode() not in content, path
            assert SECRET[0].encode() not in content, path


def test_the_built_in_images_train_too(
    script: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    overrides = ("data.limit=64", "epochs=1", "batch=16", "model=convnet", "model.depth=2")
    done = run_process(
        script, tmp_path / "empty", tmp_path, "run", *overrides, "model.width=4", "threads=1"
    )

    assert done.code == 0, done.stderr
    said = words(done.stdout)
    assert "synthetic: 64 training and 2,000 test images, 10 classes" in said
    assert "normbench data fetch cifar10" in said, "how to get the other"
    assert "normbench data import PATH --name cifar10" in said
    summary = json.loads((done.cell / "summary.json").read_text())
    assert summary["data"]["name"] == "synthetic"


# ---- the same again, and nearly the same ----


def test_the_same_command_again_trains_nothing(
    script: str, finished: Finished, tiny_library: Path
) -> None:
    before = files_below(finished.home)
    again = run_process(script, tiny_library, finished.home, *finished.arguments)
    after = files_below(finished.home)

    assert again.code == 0
    assert "--fresh" in again.stdout
    of_seeds = [name for name in before if "/seed-" in name]
    assert len(of_seeds) == 10
    assert [after[name] for name in of_seeds] == [before[name] for name in of_seeds]
    assert before.keys() == after.keys()


def test_a_run_that_trains_nothing_leaves_word_of_where_it_was_trained(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny, "seeds=2").exit_code == 0
    before = files_below(tmp_path)
    assert nb("run", *tiny, "seeds=1").exit_code == 0

    after = files_below(tmp_path)
    for name in before:
        if name.endswith(("config.yaml", "environment.json")):
            assert after[name] == before[name], name


def test_fresh_trains_again_and_comes_to_the_same_end(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny).exit_code == 0
    (cell,) = tmp_path.glob("runs/*/*")
    first = files_below(cell)
    lines = (cell / "seed-0" / "metrics.jsonl").read_text()
    (cell / "seed-9").mkdir()
    assert nb("run", *tiny, "--fresh").exit_code == 0

    second = files_below(cell)
    assert not (cell / "seed-9").exists()
    assert second["seed-0/result.json"] != first["seed-0/result.json"]
    curves = [
        [(line["step"], line["train/loss"]) for line in map(json.loads, text.splitlines())]
        for text in (lines, (cell / "seed-0" / "metrics.jsonl").read_text())
    ]
    assert curves[0] == curves[1]


def test_a_second_seed_is_trained_beside_the_first(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny, "seeds=1").exit_code == 0
    (cell,) = tmp_path.glob("runs/*/*")
    before = files_below(cell)
    result = nb("run", *tiny, "seeds=2")

    assert result.exit_code == 0
    assert list(tmp_path.glob("runs/*/*")) == [cell]
    after = files_below(cell)
    assert after["seed-0/result.json"] == before["seed-0/result.json"]
    assert after["seed-0/model.safetensors"] == before["seed-0/model.safetensors"]
    assert "seed-1/result.json" in after
    assert json.loads((cell / "summary.json").read_text())["seeds"] == [0, 1]


def test_two_configurations_never_share_a_directory(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    variants = [
        "optim.lr=0.1",
        "optim.lr=0.05",
        "epochs=1",
        "data.limit=16",
        "norm=layer",
        "batch=2",
    ]
    for variant in variants:
        assert nb("run", *tiny, variant).exit_code == 0, variant

    assert len(list(tmp_path.glob("runs/default/*"))) == len(variants)


def test_the_place_and_the_threads_do_not_make_another_cell(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    for variant in ("name=default", "name=other", "threads=2", "runs=elsewhere", "device=cpu"):
        assert nb("run", *tiny, variant).exit_code == 0, variant

    cells = [*tmp_path.glob("runs/*/*"), *tmp_path.glob("elsewhere/*/*")]
    assert len(cells) == 3
    assert len({cell.name for cell in cells}) == 1


def test_tensorboard_is_told_where_the_runs_are(nb: Command, tiny: list[str]) -> None:
    assert "normbench tensorboard elsewhere" in nb("run", *tiny, "runs=elsewhere").stdout


# ---- a run that comes to a bad end ----


def test_a_run_that_diverges_says_when_and_writes_its_result(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    result = nb("run", *tiny, "optim.lr=1e9", "norm=none")

    assert result.exit_code == 1
    assert result.stderr == ""
    (cell,) = tmp_path.glob("runs/*/*")
    told = json.loads((cell / "seed-0" / "result.json").read_text(), parse_constant=pytest.fail)
    assert told["status"] == "diverged"
    assert 1 <= told["diverged_at"] <= told["steps"] <= 12
    assert told["test_accuracy"] is told["test_loss"] is None
    summary = json.loads((cell / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["status"] == "diverged"
    assert summary["test_accuracy"] == [None]
    for line in (cell / "seed-0" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert f"diverged at step {told['diverged_at']}" in result.stdout


def test_a_run_that_diverged_is_not_tried_again(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    command = ["run", *tiny, "optim.lr=1e9", "norm=none"]
    assert nb(*command).exit_code == 1
    (result,) = tmp_path.glob("runs/*/*/seed-0/result.json")
    before = result.stat().st_mtime_ns

    assert nb(*command).exit_code == 1
    assert result.stat().st_mtime_ns == before


def test_a_result_that_cannot_be_believed_is_trained_again(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny).exit_code == 0
    (path,) = tmp_path.glob("runs/*/*/seed-0/result.json")
    good = json.loads(path.read_text())
    path.write_text(path.read_text()[:40])

    assert nb("run", *tiny).exit_code == 0
    assert json.loads(path.read_text())["test_accuracy"] == good["test_accuracy"]


@contextmanager
def running(script: str, library: Path, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A run without end that has come to its second epoch."""
    process = subprocess.Popen(
        [script, "run", *TINY, "epochs=1000000"],
        cwd=home,
        env=process_environment(library),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2/" in line:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_run_says_so_in_a_line_and_leaves_no_result(
    script: str, tiny_library: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with running(script, tiny_library, tmp_path) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)

    assert process.returncode == code
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("normbench: ")
    assert "Traceback" not in errors
    (folder,) = tmp_path.glob("runs/*/*/seed-0")
    assert not (folder / "result.json").exists()
    assert not list(tmp_path.rglob("summary.json"))
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_run_has_left_its_curve_and_no_result(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    with running(script, tiny_library, tmp_path) as process:
        process.kill()
        process.communicate()

    (folder,) = tmp_path.glob("runs/*/*/seed-0")
    assert not (folder / "result.json").exists()
    steps = [line["step"] for line in read_metrics(folder)]
    assert 6 in steps, "the epoch that was shown is on disk"


LIMITED = (  # a file that would grow beyond 4 KiB fails to, as on a full disk
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
    " os.execv(sys.argv[1], sys.argv[1:])"
)


def test_a_full_disk_is_one_line_and_no_result_that_is_half_there(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, script, "run", *TINY, "epochs=100"],
        cwd=tmp_path,
        env=process_environment(tiny_library),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, "a record that fails need not end training"
    assert done.stderr == ""
    assert done.stdout.count("recording stopped, training goes on: ") == 1
    for path in tmp_path.rglob("result.json"):
        json.loads(path.read_text())


def test_two_runs_of_one_cell_at_once_do_not_write_over_each_other(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    both = [
        subprocess.Popen(
            [script, "run", *TINY, "epochs=100"],
            cwd=tmp_path,
            env=process_environment(tiny_library),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert 0 in [process.wait(timeout=100) for process in both]

    (folder,) = tmp_path.glob("runs/*/*/seed-0")
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 601))
    assert len(list(folder.glob("events.*"))) == 1


# ---- on a terminal ----


def on_terminal(script: str, library: Path, home: Path, columns: int, *arguments: str) -> str:
    """What ``normbench`` sends to a terminal ``columns`` wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = process_environment(library) | {"TERM": "xterm-256color"}
    environment.pop("COLUMNS")
    process = subprocess.Popen(
        [script, *arguments], cwd=home, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    received = bytearray()
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 1.0)[0]:
                try:
                    chunk = os.read(master, 65536)
                except OSError:  # the other end is closed
                    break
                if not chunk:
                    break
                received += chunk
        assert process.wait(timeout=10) == 0, received.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return received.decode("utf-8")


def test_on_a_terminal_a_bar_shows_how_far_it_is(
    script: str, tiny_library: Path, tmp_path: Path
) -> None:
    sent = on_terminal(script, tiny_library, tmp_path, 120, "run", *TINY, "epochs=150")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)

    assert sent != plain, "there is colour"
    bars = [line for line in re.split(r"[\r\n]+", plain) if "step" in line and "left" in line]
    assert bars, plain
    for part in (r"epoch \d+/150", r"step [\d,]+/900", r"loss \d", r"acc [\d.]+%", r"[\d,]+ img/s"):
        assert re.search(part, bars[-1]), part
    assert re.search(r"\d+:\d\d left", bars[-1])
    assert "finished" in plain, "the closing table follows"


# ---- what cannot be run ----


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
    ("norm=grup", ["norm=grup", "did you mean group?", "batch, group, instance, layer, none"]),
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
    ("data.limit=3", ["batch=4", "at most 3"]),
    ("data.val_fraction=1", ["data.val_fraction=1", "from 0 to below 1"]),
    ("data.pad=-1", ["data.pad=-1", "from 0 to 16"]),
    ("batch=25", ["batch=25", "24 training images", "at most 24"]),
    ("model.depth=9", ["model.depth=9", "1 to 5"]),
    ("model.width=0", ["model.width=0", "at least 1"]),
    ("model.cardinality=2", ["model.cardinality", "depth, width"]),
    ("+batch=2", ["+batch=2", "KEY=VALUE"]),
    ("~batch", ["~batch", "KEY=VALUE"]),
    ("batch", ["batch", "KEY=VALUE"]),
    ("batch=2,4", ["batch=2,4", "one value"]),
    ("name=a/b", ["name=a/b", "without slashes"]),
    ("device=tpu", ["device=tpu", "cpu, cuda"]),
    ("device=meta", ["device=meta", "cpu, cuda"]),
    ("device=cuda:99", ["device=cuda:99", "device=cpu"]),
]


@pytest.mark.parametrize(("typed", "told"), BAD_SETTINGS, ids=[typed for typed, _ in BAD_SETTINGS])
def test_a_bad_setting_is_one_line(
    nb: Command, tiny: list[str], tmp_path: Path, typed: str, told: list[str]
) -> None:
    line = refused(nb("run", *tiny, typed), tmp_path)

    for part in told:
        assert part in line


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
    assert "device=cpu" in line


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

    assert line == (
        "normbench: norm=batch batch=1: layer blocks.10 takes each mean over a single value (input"
        " [1, 32, 1, 1]), so its output would be β whatever the input; use a larger batch or"
        " larger images, or norm=group\n"
    )


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
        (["norms", "nope"], ["nope", "batch, group, instance, layer, none"]),
        (["norms", "grup"], ["grup", "group"]),
        (["norms", "group", "--figure", "x.pdf"], ["x.pdf", ".png or .svg"]),
        (["norms", "group", "--figure", "x"], ["x: ", ".png or .svg"]),
        (["norms", "group", "--figure", "missing/x.png"], ["missing/x.png", "cannot write"]),
        (["tensorboard", "missing-dir"], ["missing-dir", "normbench run"]),
        (["tensorboard"], ["runs", "normbench run"]),
        (["data", "import", "missing"], ["missing", "does not exist"]),
        (["data", "import", ".", "--name", "auto"], ["'auto'", "taken"]),
        (["data", "import", ".", "--name", "a/b"], ["'a/b'", "letters, digits"]),
        (["data", "import", ".", "--name", "x", "--size", "0"], ["size=0", "to 512"]),
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


# ---- normbench show, norms, data ----


def test_show_prints_the_configuration_and_the_layers_and_writes_nothing(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    result = nb("show", *tiny, "norm=group", "batch=2")

    assert result.exit_code == 0
    printed, _, table = result.stdout.partition("\n\n")
    config = yaml.safe_load(printed)
    assert (config["batch"], config["norm"]["name"], config["model"]["depth"]) == (2, "group", 2)
    assert "(C/G)·H·W" in table
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", list(NORMS))
def test_norms_explains_each(nb: Command, name: str) -> None:
    result = nb("norms", name)

    assert result.exit_code == 0
    assert NORMS[name].title in result.stdout
    assert ESCAPE not in result.stdout


def test_norms_lists_all_and_draws_nothing(nb: Command, tmp_path: Path) -> None:
    result = nb("norms")

    assert result.exit_code == 0
    assert all(re.search(rf"^ *{name} ", result.stdout, re.MULTILINE) for name in NORMS)
    assert list(tmp_path.iterdir()) == []


def test_data_import_says_what_came_and_list_and_verify_find_it(
    nb: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pictures = write_pictures(tmp_path_factory.mktemp("pictures"))
    imported = nb("data", "import", str(pictures), "--name", "pets", "--size", "8")

    assert imported.exit_code == 0, imported.stderr
    assert f"{NUM_TRAIN} training, {NUM_TEST} test" in imported.stdout
    assert "normbench run norm=group batch=2 data=images data.name=pets" in imported.stdout
    assert re.search(r"pets +24 +12 +8×8", nb("data", "list").stdout)
    verified = nb("data", "verify")
    assert verified.exit_code == 0
    assert "pets: sound" in verified.stdout
    assert list(tmp_path.iterdir()) == []


def test_verify_finds_damage_and_exits_with_one(
    nb: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pictures = write_pictures(tmp_path_factory.mktemp("pictures"))
    assert nb("data", "import", str(pictures), "--name", "pets", "--size", "8").exit_code == 0
    (file,) = Path(os.environ["NORMBENCH_DATA"]).glob("pets.*")
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    result = nb("data", "verify")

    assert result.exit_code == 1
    assert "pets" in result.output
    assert "damaged" in result.output


def test_list_on_an_empty_machine_says_how_to_get_data(nb: Command) -> None:
    result = nb("data", "list")

    assert result.exit_code == 0
    assert "normbench data fetch cifar10" in result.stdout
    assert "normbench data import PATH" in result.stdout
    assert "synthetic" in result.stdout


def test_tensorboard_is_started_over_the_runs_on_this_machine_only(
    nb: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nb("run", *tiny).exit_code == 0
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(
        os, "execv", lambda program, arguments: started.append((program, arguments))
    )
    assert nb("tensorboard", "--port", "0").exit_code == 0

    ((program, arguments),) = started
    assert program == sys.executable
    assert arguments[1:] == ["-m", "tensorboard.main", "--logdir", "runs", "--port", "0"]


def test_what_the_machine_refuses_is_one_line_and_exit_code_1(
    nb: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/summary.json")

    monkeypatch.setattr("normbench.records.write_json", full)
    result = nb("run", *tiny)

    assert result.exit_code == 1
    assert result.stderr == "normbench: runs/summary.json: No space left on device\n"


def test_an_encoding_without_greek_is_no_reason_to_stop(script: str, tmp_path: Path) -> None:
    environment = process_environment(tmp_path / "empty") | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [script, "norms", "group"], env=environment, capture_output=True, text=True, check=True
    )

    assert "?_ng = mean of x[n, c, h, w]" in done.stdout


@pytest.mark.parametrize("command", ["norms", "norms group", "data list"])
def test_lists_fit_a_terminal_of_80_columns(script: str, tmp_path: Path, command: str) -> None:
    sent = on_terminal(script, tmp_path / "empty", tmp_path, 80, *command.split())
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent).splitlines()

    assert [line for line in lines if len(line) > 80] == []
    if command == "norms":
        assert len([line for line in lines if re.search(r" \d{4}\.\d{5}", line)]) == 4


# ---- help ----


def test_nothing_on_the_command_line_is_answered_with_help(nb: Command) -> None:
    for command in ([], ["data"]):
        result = nb(*command)

        assert result.exit_code == 2
        assert result.output.count("Usage: normbench") == 1


@pytest.mark.parametrize(
    "command",
    ["", "run", "show", "norms", "tensorboard", "data", "data list", "data fetch", "data import"],
)
def test_every_command_has_help(nb: Command, command: str) -> None:
    for flag in ("--help", "-h"):
        result = nb(*command.split(), flag)

        assert result.exit_code == 0
        assert "Usage: normbench" in result.stdout


def test_an_interruption_before_anything_has_begun_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-c", "from normbench.cli import main; main()"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (130, "normbench: interrupted\n")


def test_help_imports_nothing_that_takes_a_while() -> None:
    program = (
        "import sys\n"
        "from normbench import cli\n"
        "sys.argv = ['normbench', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = 'torch numpy hydra omegaconf tensorboard matplotlib scipy PIL yaml'.split()\n"
        "print(*[name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert "Train one norm" in done.stdout
    assert done.stderr.split() == []


def test_a_library_that_makes_an_error_of_sigterm_does_not_hide_it(
    nb: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except BaseException:
            raise UsageError("defaults:") from None

    monkeypatch.setattr("normbench.launch.load_config", interrupted)
    done = nb("run", *tiny)

    assert done.exit_code == 143
    assert done.stderr == "normbench: terminated; the same command trains what is missing\n"
