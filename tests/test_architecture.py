"""The house: imports go downward, and each outside library has one door."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import normbench
from normbench.data import DATA
from normbench.models import MODELS
from normbench.norms import NORMS

PACKAGE = Path(normbench.__file__).parent
ROOT = Path(__file__).parents[1]
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ROOMS = sorted(
    {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*/__init__.py")}
    - {"configs"}
)
DRAWING = (normbench.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0]

# Who may import what. "torch.utils.tensorboard" is TensorBoard, too.
DOORS = {
    "typer": {f"cli/{name}.py" for name in ("app", "catalog", "completion", "records", "training")},
    "hydra": {"launch/compose.py", "launch/grid.py"},
    "omegaconf": {"launch/compose.py", "launch/grid.py"},
    "tensorboard": {"store/events.py"},
    "torch.utils.tensorboard": {"store/events.py"},
    "requests": {"data/library/fetching.py"},
    "urllib.request": set(),
    "http.client": set(),
    "socket": set(),
    "pickle": {"data/library/cifar.py"},
    "pickletools": {"data/library/cifar.py"},
    "subprocess": {"store/environment.py"},
}


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so as soon as it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in at_once


def read_toml() -> dict[str, Any]:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("runs without its source tree")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def below(name: str, library: str) -> bool:
    return name == library or name.startswith(f"{library}.")


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_one_door(module: str) -> None:
    for name, _ in imported(PACKAGE / module):
        for library, doors in DOORS.items():
            assert module in doors or not below(name, library), f"{module} imports {name}"


# What may run code, and who does it: a file that the user names, and one that is only read.
CALLS = {
    "hydra.utils": set(),
    "instantiate(": set(),
    "eval(": set(),
    "exec(": {"models/python.py"},
    "torch.load(": {"models/files.py"},
}


@pytest.mark.parametrize("module", MODULES)
def test_nobody_makes_classes_from_strings(module: str) -> None:
    text = (PACKAGE / module).read_text(encoding="utf-8")

    for call, doors in CALLS.items():
        found = call in text.replace(".eval()", "").replace("ast.literal_eval(", "")
        assert module in doors or not found, f"{module}: {call}"
    assert text.count("torch.load(") == text.count("weights_only=True")


def test_the_doors_are_there() -> None:
    assert {door for doors in DOORS.values() for door in doors} <= set(MODULES)


def test_the_contracts_of_import_linter_hold() -> None:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("runs without its source tree")
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--config", ROOT / "pyproject.toml", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "KEPT" in done.stdout


def house(text: str) -> list[set[str]]:
    """The floors of a drawing, from the top down, each with its rooms and modules."""
    floors: list[set[str]] = []
    for number, name in re.findall(r"^ *(\d )? *(\w+(?:/|\.py))  +\S", text, re.MULTILINE):
        if number:
            floors.append(set())
        assert name not in set().union(*floors), f"{name} is drawn twice"
        floors[-1].add(name.removesuffix("/").removesuffix(".py"))
    return floors


def test_the_drawing_has_every_room_once() -> None:
    parts = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"configs"}

    assert set().union(*house(DRAWING)) == parts | rooms


def test_the_floors_are_those_of_the_import_contract() -> None:
    contract, *_ = read_toml()["tool"]["importlinter"]["contracts"]
    floors = [set(re.findall(r"normbench\.(\w+)", layer)) for layer in contract["layers"]]

    assert house(DRAWING) == floors


def test_contributing_has_the_same_drawing() -> None:
    if not (ROOT / "CONTRIBUTING.md").exists():
        pytest.skip("runs without its source tree")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (drawing,) = re.findall(r"```text\n(1 .*?)```", text, re.DOTALL)

    assert drawing.split() == DRAWING.split()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_s_docstring_names_each_of_its_modules_once(room: str) -> None:
    """All but the choices, which are found by their names: a new one is a file and no more."""
    folder = PACKAGE / room
    choices = {
        f"{cls.__module__.rpartition('.')[2]}.py"
        for registry in (NORMS, MODELS, DATA)
        for cls in registry.values()
    }
    inside = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    inside += [f"{path.parent.name}/" for path in folder.glob("*/__init__.py")]
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    drawing = (ast.get_docstring(tree, clean=False) or "").partition("::\n")[2]
    named = re.findall(r"  (\w+(?:\.py|/))  ", drawing)

    assert sorted(set(named) - choices) == sorted(set(inside) - choices)
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("normbench", "torch numpy hydra omegaconf typer rich"),
        ("normbench.cli", "torch numpy hydra omegaconf tensorboard matplotlib scipy PIL yaml"),
        (
            "normbench.norms, normbench.training.loop, normbench.training.stacking",
            "typer hydra omegaconf tensorboard matplotlib rich",
        ),
    ],
)
def test_importing_modules_does_not_import_what_they_do_not_need(modules: str, heavy: str) -> None:
    program = f"import sys, {modules}\nprint(*[n for n in {heavy.split()} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True
    )

    assert done.stdout.split() == []


def test_the_public_names_are_those_of_the_readme() -> None:
    assert sorted(normbench.__all__) == [
        "NORMS",
        "advise",
        "compare",
        "describe_swap",
        "diagnose",
        "stack",
        "swap_norm",
        "unstack",
    ]
    for name in normbench.__all__:
        assert getattr(normbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = normbench.nope
