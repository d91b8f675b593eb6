"""``normbench show``, ``norms``, ``data`` and ``tensorboard``, and help."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from normbench.cli import endings
from normbench.errors import UsageError
from normbench.norms import NORMS
from tests.cli_helpers import ESCAPE, lists_on_terminal
from tests.conftest import (
    NUM_TEST,
    NUM_TRAIN,
    Command,
    Finished,
    process_environment,
    write_pictures,
)

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


def test_verify_goes_on_after_a_file_that_is_no_data_set(
    nb: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pictures = write_pictures(tmp_path_factory.mktemp("pictures"))
    assert nb("data", "import", str(pictures), "--name", "pets", "--size", "8").exit_code == 0
    (Path(os.environ["NORMBENCH_DATA"]) / "model (1).safetensors").write_bytes(b"x")
    result = nb("data", "verify")

    assert result.exit_code == 1
    assert "pets: sound" in result.output
    assert "'model (1)' is not allowed" in result.output


def test_a_norm_s_defaults_are_printed_as_they_are_typed(nb: Command) -> None:
    said = nb("norms", "batch").stdout

    assert "norm.affine=true" in said
    assert re.search(r"norm\.eps=1e-05\b", said)
    assert re.search(r"norm\.channels_per_group=null\b", nb("norms", "group").stdout)
    assert re.search(r"norm\.over=all\b", nb("norms", "layer").stdout)


def test_list_on_an_empty_machine_says_how_to_get_data(nb: Command) -> None:
    result = nb("data", "list")

    assert result.exit_code == 0
    assert "normbench data fetch cifar10" in result.stdout
    assert "normbench data import PATH" in result.stdout
    assert "synthetic" in result.stdout


def test_tensorboard_serves_the_runs_on_this_machine_until_it_is_interrupted(
    script: str, finished: Finished, tiny_library: Path
) -> None:
    process = subprocess.Popen(
        [script, "tensorboard", "--port", "0"],
        cwd=finished.home,
        env=process_environment(tiny_library),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = re.search(r"http://localhost:\d+/", said)
        assert address is not None, said
        with urlopen(f"{address[0]}data/environment", timeout=60) as answer:
            assert json.load(answer)["data_location"] == "runs"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert (process.returncode, errors) == (130, "normbench: interrupted\n")


class Interrupted:
    """What raises in the making of a class; Python 3.11 makes a RuntimeError of that."""

    def __set_name__(self, owner: type, name: str) -> None:
        signal.raise_signal(signal.SIGTERM if name == "terminated" else signal.SIGINT)


@pytest.mark.parametrize(("word", "code"), [("interrupted", 130), ("terminated", 143)])
def test_an_interruption_while_a_library_is_imported_is_one_line(
    word: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as left, endings.one_line("again"):
            type("Imported", (), {word: Interrupted()})
    finally:
        signal.signal(signal.SIGINT, before)

    assert left.value.code == code
    assert capsys.readouterr().err == f"normbench: {word}; again\n"


def test_what_the_machine_refuses_is_one_line_and_exit_code_1(
    nb: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/summary.json")

    monkeypatch.setattr("normbench.run.run.write_json", full)
    result = nb("run", *tiny)

    assert result.exit_code == 1
    assert result.stderr == "normbench: runs/summary.json: No space left on device\n"


def test_an_encoding_without_greek_is_no_reason_to_stop(script: str, tmp_path: Path) -> None:
    environment = process_environment(tmp_path / "empty") | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [script, "norms", "group"], env=environment, capture_output=True, text=True, check=True
    )

    assert "?_ng = mean of x[n, c, h, w]" in done.stdout


def test_lists_fit_a_terminal_of_80_columns(tmp_path: Path) -> None:
    commands = ["norms", "norms group", "data list"]
    sent = lists_on_terminal(tmp_path / "empty", tmp_path, 80, commands)

    assert all(lines for lines in sent.values())
    assert [line for lines in sent.values() for line in lines if len(line) > 80] == []
    papers = [cls.cite for cls in NORMS.values() if re.search(r"\d{4}\.\d{5}", cls.cite)]
    found = [line for line in sent["norms"] if re.search(r"\b\d{4}\.\d{5}\b", line)]
    assert len(found) == len(papers)


def test_at_40_columns_tables_drop_columns_instead_of_breaking_words(
    tiny_library: Path, finished: Finished
) -> None:
    words = {
        "norms": ["instance", "name"],
        "data list": ["tiny", "training"],
        f"show {' '.join(finished.arguments[1:-1])}": ["blocks.0", "averages", "conv"],
        "runs": [finished.cell.name, "error %"],
    }
    sent = lists_on_terminal(tiny_library, finished.home, 40, list(words))

    for command, wanted in words.items():
        table = [line for line in sent[command] if len(line) <= 40]
        missing = [word for word in wanted if not any(word in line for line in table)]
        assert missing == [], command


# ---- help ----


def test_nothing_on_the_command_line_is_answered_with_help(nb: Command) -> None:
    for command in ([], ["data"]):
        result = nb(*command)

        assert result.exit_code == 2
        assert result.output.count("Usage: normbench") == 1


@pytest.mark.parametrize(
    "command",
    [
        *("", "run", "sweep", "advise", "show", "diagnose", "norms", "report", "runs"),
        *("tensorboard", "completion", "data", "data list", "data fetch", "data import"),
        "data verify",
    ],
)
def test_every_command_has_help(nb: Command, command: str) -> None:
    for flag in ("--help", "-h"):
        result = nb(*command.split(), flag)

        assert result.exit_code == 0
        assert "Usage: normbench" in result.stdout


def test_the_help_of_a_report_says_where_it_goes(nb: Command) -> None:
    assert "DIRECTORY/report-NAME" in nb("report", "--help").stdout


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
    def interrupted(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except BaseException:
            raise UsageError("defaults:") from None

    monkeypatch.setattr("normbench.launch.compose.load_config", interrupted)
    done = nb("run", *tiny)

    assert done.exit_code == 143
    assert done.stderr == "normbench: terminated; the same command trains what is missing\n"


SWALLOWS = """
import sys, time
from normbench.cli import endings
with endings.process(), endings.one_line("again"):
    print("ready", flush=True)
    try:
        time.sleep(60)
    except BaseException:
        {then}
"""


@pytest.mark.parametrize("then", ["pass", "time.sleep(60)"])
def test_a_library_that_swallows_the_interruption_does_not_go_on_for_long(then: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SWALLOWS.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert (process.returncode, errors) == (130, "normbench: interrupted; again\n")
    assert time.monotonic() - start < 10


def test_the_version_is_the_package_s(nb: Command) -> None:
    assert nb("--version").stdout == f"normbench {version('normbench')}\n"


def test_a_bare_sweep_prints_its_help(nb: Command, tmp_path: Path) -> None:
    result = nb("sweep")

    assert "Usage: normbench sweep" in result.output
    assert list(tmp_path.iterdir()) == []


def test_runs_lists_cells_seeds_states_and_results(
    nb: Command, tiny: list[str], tmp_path: Path
) -> None:
    assert nb("run", *tiny, "norm=group", "seeds=2").exit_code == 0
    assert nb("run", *tiny, "norm=none", "optim.lr=1e9").exit_code == 1
    assert nb("run", *tiny, "norm=batch").exit_code == 0
    (interrupted,) = tmp_path.glob("runs/default/batch-*/seed-0/result.json")
    interrupted.unlink()
    lines = {line.split("-")[0].strip(): line for line in nb("runs").stdout.splitlines()}

    assert re.search(r" finished.2/2 +\d+\.\d+ ± \d+\.\d+ ", lines["default/group"])
    assert re.search(r" diverged.at.step.\d+ +- ", lines["default/none"])
    assert re.search(r" interrupted.epoch.\d\.\d/\d +- ", lines["default/batch"])
