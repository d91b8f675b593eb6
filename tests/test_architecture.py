"""The house: imports go downward, and each outside library has one door."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import normbench

PACKAGE = Path(normbench.__file__).parent
ROOT = Path(__file__).parents[1]
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

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


def below(name: str, library: str) -> bool:
    return name == library or name.startswith(f"{library}.")


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_one_door(module: str) -> None:
    for name, _ in imported(PACKAGE / module):
        for library, doors in DOORS.items():
            assert module in doors or not below(name, library), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_nobody_makes_classes_from_strings(module: str) -> None:
    text = (PACKAGE / module).read_text(encoding="utf-8")

    for call in ("hydra.utils", "instantiate(", "eval(", "exec(", "torch.load("):
        assert call not in text.replace(".eval()", ""), f"{module}: {call}"


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


def test_import_linter_knows_every_module() -> None:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("runs without its source tree")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    parts = {module.partition("/")[0].removesuffix(".py") for module in MODULES} - {"__init__"}

    assert [part for part in sorted(parts) if f"normbench.{part}" not in text] == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("normbench", "torch numpy hydra omegaconf typer rich"),
        ("normbench.cli", "torch numpy hydra omegaconf tensorboard matplotlib scipy PIL yaml"),
        ("normbench.training.loop", "typer hydra omegaconf tensorboard matplotlib rich"),
        ("normbench.norms", "typer hydra omegaconf tensorboard matplotlib rich"),
        ("normbench.training.stacking", "typer hydra omegaconf tensorboard matplotlib rich"),
    ],
)
def test_importing_a_module_does_not_import_what_it_does_not_need(module: str, heavy: str) -> None:
    program = f"import sys, {module}\nprint(*[n for n in {heavy.split()} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True
    )

    assert done.stdout.split() == []


def test_the_public_names_are_those_of_the_readme() -> None:
    assert sorted(normbench.__all__) == ["NORMS", "stack", "swap_norm", "unstack"]
    for name in normbench.__all__:
        assert getattr(normbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = normbench.nope
