"""The TAB key in bash and zsh: commands, keys and values, whole or after an equals sign."""

import inspect
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from enum import EnumType
from pathlib import Path

import pytest
import typer

from normbench import advise
from normbench.cli.app import app
from normbench.cli.completion import WORDS, complete
from normbench.files import DATA_SET
from normbench.launch.advise.command import advise as race
from normbench.launch.choices import USUAL, defaults, members, varied
from normbench.launch.compose import load_config
from normbench.launch.hints import known_keys
from tests.conftest import Command, process_environment

ROOT = typer.main.get_command(app)

LINES = {
    "normbench ": [
        "completion",
        "data",
        "diagnose",
        "norms",
        "report",
        "run",
        "runs",
        "show",
        "sweep",
    ],
    "normbench ru": ["run", "runs"],
    "normbench data ": ["fetch", "import", "list", "verify"],
    "normbench data import --s": ["--size", "--skip-broken"],
    "normbench run --": ["--fresh", "--help"],
    "normbench run ba": ["batch="],
    "normbench run batch=2 nor": ["norm=", "norm.affine=", "norm_batch="],
    "normbench run optim.l": ["optim.lr=", "optim.label_smoothing="],
    "normbench run norm=": ["norm=batch", "norm=group", "norm=instance", "norm=layer"],
    "normbench run norm=g": ["norm=group"],
    "normbench sweep experiment=": ["experiment=naive", "experiment=quick"],
    "normbench sweep norm=batch,g": ["norm=batch,group"],
    "normbench run norm.affine=": ["norm.affine=false", "norm.affine=true"],
    "normbench run precision=": ["precision=bf16", "precision=float32"],
    "normbench run model.stem=": ["model.stem=cifar", "model.stem=original"],
    "normbench sweep optim.schedule=step,": ["optim.schedule=step,cosine"],
    "normbench run data=images data.name=": ["data.name=animals"],
    "normbench data verify ": ["animals"],
    "normbench sweep hyd": ["hydra/launcher="],
    "normbench run hyd": [],
    "normbench sweep hydra/launcher=j": ["hydra/launcher=joblib"],
    "normbench norms g": ["group"],
    "normbench completion ": [],
    "normbench run xyzzy": [],
}


@pytest.mark.parametrize("line", list(LINES))
def test_a_line_is_completed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_DATA", str(tmp_path))
    (tmp_path / f"animals{DATA_SET}").touch()
    found = complete(ROOT, line)

    assert set(LINES[line]) <= set(found)
    assert bool(found) == bool(LINES[line])
    assert all(each.startswith(line.rpartition(" ")[2]) for each in found)


def test_a_value_is_offered_once_in_a_sweep() -> None:
    assert "norm=batch,batch" not in complete(ROOT, "normbench sweep norm=batch,b")


def test_the_keys_are_those_that_can_be_set() -> None:
    of_choice = {"norm.name", "model.name", "optim.name", "data.source"}  # set by norm= and so on

    assert set(defaults()) == set(known_keys()) - of_choice


def test_the_values_are_those_that_there_are() -> None:
    kinds = known_keys().items()
    enums = {key: list(kind.__members__) for key, kind in kinds if isinstance(kind, EnumType)}

    assert members() == enums
    assert {"precision", "optim.scaling", "model.stem"} <= enums.keys()
    for key, values in WORDS.items():
        for value in values:
            load_config([f"{key}={value}"])


def test_the_norms_that_race_are_written_once(nb: Command) -> None:
    defaults = {inspect.signature(each).parameters["norms"].default for each in (race, advise)}

    assert defaults == {USUAL}
    assert ",".join(USUAL) in nb("advise", "--help").output


def test_an_experiment_varies_the_keys_of_its_grids() -> None:
    assert varied("isolated") == {"norm", "norm_batch"}
    assert varied("naive") == {"norm", "batch"}
    assert varied("nope") == set()


def test_completion_imports_nothing_that_takes_a_while(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from normbench import cli\n"
        "sys.argv = ['normbench', 'completion', 'bash', '--line', 'normbench run norm=']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = 'torch numpy hydra omegaconf tensorboard matplotlib scipy PIL'.split()\n"
        "print(*[name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert "norm=group" in done.stdout.split()
    assert done.stderr.split() == []


BASH = """
eval "$(normbench completion bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
compopt() { local IFS=' '; echo "compopt $*"; }
_normbench
printf '%s\\n' "${COMPREPLY[@]}"
complete -p normbench
"""


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("normbench run norm=gr", ["group"]),  # bash has split the word at the =
        ("normbench run ba", ["compopt -o nospace", "batch="]),
        ("normbench sweep norm=batch,gr", ["batch,group"]),
        ("normbench sh", ["show"]),
    ],
)
def test_bash_gets_what_it_puts_in_place_of_the_word(
    script: str, tmp_path: Path, line: str, replies: list[str]
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    environment = process_environment(tmp_path)
    environment["PATH"] = f"{Path(script).parent}:{environment['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", BASH, "bash", line],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == [*replies, "complete -o default -F _normbench normbench"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("normbench run norm=gr\t", "normbench run norm=group"),
        ("normbench run epo\t3", "normbench run epochs=3"),
        ("normbench sweep experiment=qu\t", "normbench sweep experiment=quick"),
    ],
)
def test_the_tab_key_completes_in_a_real_shell(
    script: str, tmp_path: Path, shell: str, typed: str, becomes: str
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    assert becomes in typed_in(program, Path(script).parent, tmp_path, typed, becomes)


def typed_in(shell: str, folder: Path, home: Path, typed: str, sign: str) -> str:
    """What an interactive shell shows, until a sign, after keys were pressed on its terminal."""
    name = Path(shell).name
    start = (
        "autoload -Uz compinit; compinit -u -D; "
        if name == "zsh"
        else "bind 'set bell-style none'; "
    )
    quiet = ["--norc", "--noprofile", "-i"] if name == "bash" else ["-f", "-i"]
    environment = process_environment(home) | {"HOME": str(home), "TERM": "dumb", "PS1": "$ "}
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        os.execve(shell, [name, *quiet], environment)
    try:
        os.write(terminal, f'{start}eval "$(normbench completion {name})"; echo re""ady\n'.encode())
        read_until(terminal, "ready")
        os.write(terminal, typed.encode())
        return read_until(terminal, sign)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, sign: str, seconds: float = 30.0) -> str:
    """What a terminal shows until a sign comes, or for so long."""
    shown = b""
    end = time.monotonic() + seconds
    while sign.encode() not in shown and (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            shown += os.read(terminal, 65536)
    return shown.decode(errors="replace")


def test_the_script_is_printed_for_each_shell(nb: Command) -> None:
    for shell in ("bash", "zsh"):
        assert "_normbench" in nb("completion", shell).stdout
