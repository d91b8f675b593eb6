"""Every command and every line of Python in README and docs is run, or named with the reason.

The commands of a block run in order, in one folder, as they are written but for what SMALLER
adds. The data sets they name are there, with the same names, as a few small images of noise.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from normbench.data import ImageSet, library
from normbench.data.library import content_digest, fetching
from normbench.errors import UsageError
from normbench.launch import grid
from normbench.launch.advise.question import Question
from normbench.store import events
from normbench.terminal.screen import Screen
from tests.conftest import Command, write_pictures
from tests.script_helpers import run_script

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))]

FEW = "data.limit=48 data.test_limit=12"

# What is appended to a command that begins so; of settings that are given twice, the last counts.
SMALLER = {
    "normbench run": f"epochs=1 model.width=4 threads=1 {FEW}",
    "normbench run norm=group batch=2 seeds=8": "stack=2",
    "normbench sweep": f"epochs=1 model.width=4 threads=1 stack=1 seeds=1 {FEW}",
    "normbench advise": f"epochs=1 model.width=4 threads=1 stack=1 {FEW}",
    "normbench sweep model=python": "batch=2",
    "normbench sweep experiment=quick": "data=images data.name=cifar10 data.limit=32",
    "normbench sweep experiment=naive": "norm=batch,group batch=2,8",
    "normbench data import": "--size 8",
    "python scripts/bench_norms.py": "--rounds 1 --depths 8 --batches 2 --out cost",
    "python scripts/bench_speed.py": "--rounds 1 --norms group --batches 2",
    "python scripts/bench_sweep.py": "--cells 2 --depths 8 --rounds 1",
    "python scripts/choice_spread.py": "",
    "python scripts/stack_drift.py": "--norms group --replicas 2 --steps 1 --out drift.md",
}

# What stands for something of the reader's.
PLACEHOLDERS = {"PATH": "pictures"}

# Not run here: sent to a stand-in, or composed and planned, or run by the file that is named.
NOT_RUN = {
    "normbench data fetch": "needs the network",
    "normbench tensorboard": "becomes a server",
    "python scripts/bench_stacking.py": "tests/scripts/test_scripts.py",
    "scripts/reproduce.sh": "tests/scripts/test_scripts.py",
}


FENCED = re.compile(r"^```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content."""
    return FENCED.findall((ROOT / page).read_text(encoding="utf-8"))


def prose(page: str) -> str:
    """The rest of a page."""
    return FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))


def consoles() -> Iterator[object]:
    """The content of every console block, with its page and number as its name."""
    for page in PAGES:
        found = [content for language, content in blocks(page) if language == "console"]
        for number, content in enumerate(found, 1):
            yield pytest.param(content, id=f"{page}-{number}")


def smaller(words: list[str]) -> list[str]:
    """The same command on something tiny."""
    known = [PLACEHOLDERS.get(word, word) for word in words]
    known = [found for word in known for found in _expanded(word)]
    line = shlex.join(words)
    added = [more.split() for start, more in SMALLER.items() if f"{line} ".startswith(f"{start} ")]
    own = any(word.startswith("model=") for word in words)  # another network has no such settings
    more = [word for words in added for word in words if not (own and word.startswith("model."))]
    return [*known, *more]


def _expanded(word: str) -> list[str]:
    """What a shell makes of a word: the files that a pattern names."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the data sets that the pages name: 160 + 12 images of 8×8 pixels."""
    folder = tmp_path_factory.mktemp("noise")
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (172, 3, 8, 8), dtype=torch.uint8, generator=random)
    labels = torch.arange(172) % 3
    parts = (images[:160], labels[:160], images[160:], labels[160:])
    classes = ("cat", "dog", "eel")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NORMBENCH_DATA", str(folder))
        for name in ("cifar10", "cifar10-jpeg"):
            library.save(ImageSet(name, content_digest(classes, *parts), classes, *parts), "noise")
    return folder


@pytest.fixture
def place(noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the reader's pictures in it, and the library."""
    shutil.copytree(noise, tmp_path / "library")
    monkeypatch.setenv("NORMBENCH_DATA", str(tmp_path / "library"))
    write_pictures(tmp_path / "pictures")
    network = next(text for kind, text in blocks("docs/your-network.md") if kind == "python")
    (tmp_path / "net.py").write_text(network)
    return tmp_path


def planned(arguments: list[str]) -> None:
    """Composes every cell of a sweep, with its launcher; times and launches nothing."""
    with patch("normbench.launch.sweep.finish"), patch("normbench.launch.sweep.foreseen"):
        if "hydra/launcher=ray" in arguments and find_spec("ray") is None:
            with pytest.raises(UsageError, match=r"normbench\[ray\]"):
                grid.train_all(arguments, Screen())
        else:
            assert grid.train_all(arguments, Screen())


def asked(settings: list[str]) -> None:
    """Reads the question of a race, with its launcher; measures and launches nothing."""
    if "hydra/launcher=ray" in settings and find_spec("ray") is None:
        with pytest.raises(UsageError, match=r"normbench\[ray\]"):
            Question.of(settings, ["batch", "group"])
    else:
        assert Question.of(settings, ["batch", "group"]).launcher


def fetched(nb: Command, arguments: list[str]) -> None:
    with patch.object(fetching, "fetch", side_effect=UsageError("no network")) as fetch:
        nb(*arguments)
    assert fetch.call_args.args == (arguments[-1],)


def served(nb: Command, arguments: list[str]) -> None:
    with patch.object(events, "serve") as serve:
        result = nb(*arguments)
    assert result.exit_code == 0, result.output
    assert serve.call_count == 1


def run(nb: Command, words: list[str]) -> None:
    """Runs one command of a page."""
    match words:
        case ["normbench", "data", "fetch", *_]:
            fetched(nb, words[1:])
        case ["normbench", "tensorboard", *_]:
            served(nb, words[1:])
        case ["normbench", "sweep", *rest] if any(word.startswith("hydra/") for word in rest):
            planned(rest)
        case ["normbench", "advise", *rest] if any(word.startswith("hydra/") for word in rest):
            asked([word for word in rest if "=" in word])
        case ["normbench", *_]:
            with patch("normbench.launch.advise.race.SEEDS_RACED", 3):
                result = nb(*smaller(words)[1:])
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
        case ["python", script, *_] if shlex.join(words[:2]) in SMALLER:
            run_script(Path(script).name, *smaller(words)[2:])
        case _:
            (by,) = [
                reason
                for start, reason in NOT_RUN.items()
                if shlex.join(words)[: len(start)] == start
            ]
            script = next(word for word in words if word.startswith("scripts/"))
            assert Path(script).name in (ROOT / by).read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("block", list(consoles()))
def test_every_command_runs(block: str, nb: Command, place: Path) -> None:
    for line in block.splitlines():
        assert line.startswith("$ "), line
        run(nb, shlex.split(line[2:], comments=True))


@pytest.mark.parametrize("page", [page for page in PAGES if "python" in dict(blocks(page))])
def test_the_python_of_a_page_runs(page: str) -> None:
    names: dict[str, object] = {}
    for language, content in blocks(page):
        if language == "python":
            exec(compile(content, page, "exec"), names)

    assert len(names) > 1


@pytest.mark.parametrize("page", PAGES)
def test_a_block_is_one_that_the_tests_know_how_to_run(page: str) -> None:
    shell = ["bash", "bash"] if page == "README.md" else []  # its first two, which .ci/run runs
    found = [language for language, _ in blocks(page)]

    assert set(found) <= {"console", "python", "text", *shell}
    assert [language for language in found if language == "bash"] == shell


def test_ci_runs_the_two_set_up_commands_of_readme_as_they_are_written() -> None:
    expected = [content.strip() for language, content in blocks("README.md") if language == "bash"]
    printed = [
        subprocess.run(
            [sys.executable, ".ci/readme_commands.py", str(number)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for number in (1, 2)
    ]

    assert printed == expected
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").count(".ci/readme_commands.py") == 2


@pytest.mark.parametrize("page", [*PAGES, "results/README.md"])
def test_sweeps_named_in_the_text_can_be_planned(page: str, place: Path) -> None:
    for line in re.findall(r"`normbench sweep ([^`]+)`", prose(page)):
        planned(shlex.split(line))


@pytest.mark.parametrize("page", [*PAGES, "results/README.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_links_to_is_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", prose(page))
    local = [link for link in links if not link.startswith("http")]

    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []
