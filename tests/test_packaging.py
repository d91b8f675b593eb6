"""What is shipped: a wheel with everything it needs, and a tree without a trace of this machine."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tracked() -> list[Path]:
    """The files of the source tree that are under version control, or to be."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("runs outside a git checkout")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("build")
    pytest.importorskip("setuptools")
    tree = tmp_path_factory.mktemp("tree")
    for path in tracked():  # a copy: building leaves folders behind
        copy = tree / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_has_every_module(wheel: zipfile.ZipFile) -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.is_relative_to(ROOT / "normbench") and path.suffix == ".py"
    }

    assert len(modules) > 20
    assert modules - set(wheel.namelist()) == set()


def test_the_wheel_has_every_configuration(wheel: zipfile.ZipFile) -> None:
    configs = {
        f"normbench/{path.relative_to(ROOT).as_posix()}"
        for path in tracked()
        if path.is_relative_to(ROOT / "configs")
    }

    assert "normbench/configs/config.yaml" in configs
    assert "normbench/configs/experiment/quick.yaml" in configs
    assert configs - set(wheel.namelist()) == set()


def test_the_wheel_is_typed_licensed_and_has_its_command(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()

    assert "normbench/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "normbench = normbench.cli:command" in wheel.read(entry_points).decode()


def test_the_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    strangers = [
        name
        for name in wheel.namelist()
        if not re.match(r"normbench(-[^/]+\.dist-info)?/", name)
        or name.endswith((".pyc", ".ipynb", ".pt"))
        or "test" in name
    ]

    assert strangers == []


def test_no_file_names_a_place_of_this_machine_or_a_registry() -> None:
    # Put together here, so that this file does not contain them itself.
    places = [
        "/".join(("", *parts))
        for parts in (("work", "main"), ("work", "shared"), ("root", ""), ("tmp", "venv"))
    ]
    hosts = [".".join(parts) for parts in (("py" + "pi", "org"), ("python" + "hosted", "org"))]
    hosts += [".".join(("download", "pytorch", "org")), ".".join(("ana" + "conda", "org"))]
    hosts.append("/".join(("", "simple", "")))
    found = []
    for path in tracked():
        content = path.read_bytes().decode("utf-8", "ignore")
        found += [(path.name, each) for each in (*places, *hosts) if each in content]

    assert found == []


def test_the_tree_carries_no_results_caches_or_archives() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked()]

    for pattern in (r"^runs/", r"__pycache__", r"\.egg-info", r"\.safetensors$", r"\.tar"):
        assert [name for name in names if re.search(pattern, name)] == []
