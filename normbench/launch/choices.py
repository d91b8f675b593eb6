"""What can be set, read off the sources: shell completion cannot wait for torch."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from normbench.registry import NAMED_BY

CONFIGS = "normbench.configs"

LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm", "ray")
"""Hydra's launchers that are known to work here."""

USUAL = ("batch", "group", "layer", "instance")
"""The norms that race unless told otherwise."""

# Where the classes are that a group chooses between, below the package, and their registry.
_HOMES = {"norm": "norms", "model": "models", "data": "data", "optim": "training"}
_CONFIG = ""  # stands for the group of all that has no dots
_REGISTRIES = {"NORMS": "norm", "MODELS": "model", "DATA": "data", "OPTIMS": "optim"}


def groups() -> dict[str, list[str]]:
    """The configuration groups, and the choices of each."""
    found = {group: sorted(_choices(group)) for group in _HOMES}
    experiments = files(CONFIGS).joinpath("experiment").iterdir()
    names = [file.name.removesuffix(".yaml") for file in experiments if file.name.endswith(".yaml")]
    return dict(sorted({**found, "experiment": sorted(names)}.items()))


def defaults() -> dict[str, Any]:
    """Every key that some choice of groups has, with its dots, and what it is by default."""
    found = {key: value for key, value in _read("config").items() if key != "defaults"}
    for group in _HOMES:
        for name in _choices(group).values():
            own = _fields(group, name).items()
            found |= {f"{group}.{key}": _default(each.value) for key, each in own}
    return found


def members() -> dict[str, list[str]]:
    """Every key whose values are an Enum's, with its dots, and what they are called."""
    classes = [(group, name) for group in _HOMES for name in _choices(group).values()]
    found = {
        f"{group}.{key}".removeprefix("."): _members(group, ast.unparse(each.annotation))
        for group, name in [(_CONFIG, "Config"), *classes]
        for key, each in _fields(group, name).items()
    }
    return {key: names for key, names in found.items() if names}


def varied(experiment: str) -> set[str]:
    """The keys in which the cells of an experiment differ; none where there is no such file."""
    if experiment not in groups()["experiment"]:
        return set()
    sweeper = _read(f"experiment/{experiment}").get("hydra", {}).get("sweeper", {})
    return set(sweeper.get("params", {})).union(*sweeper.get("grids", []))


def _read(file: str) -> dict[str, Any]:
    import yaml

    loaded = yaml.safe_load(files(CONFIGS).joinpath(f"{file}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict), f"{file} is no configuration"
    return loaded


@cache
def _classes(group: str) -> dict[str, ast.ClassDef]:
    """The classes in the files of a group, by name."""
    package = Path(__file__).parents[1]
    pattern = "config.py" if group == _CONFIG else f"{_HOMES[group]}/*.py"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.glob(pattern))]
    nodes = [node for tree in trees for node in tree.body]
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def _choices(group: str) -> dict[str, str]:
    """The class of each choice, by the name it is registered under."""
    return {
        ast.literal_eval(call.args[0]): name
        for name, node in _classes(group).items()
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "register"
        and _REGISTRIES.get(ast.unparse(call.func.value)) == group
    }


def _fields(group: str, name: str) -> dict[str, ast.AnnAssign]:
    """The settings of a class and of those it derives from, as they are written."""
    node = _classes(group).get(name)
    if node is None:
        return {}
    found: dict[str, ast.AnnAssign] = {}
    for base in reversed(node.bases):
        found |= _fields(group, ast.unparse(base))
    return found | dict(_own_fields(group, node))


def _own_fields(group: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.AnnAssign]]:
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each.annotation):
            name = ast.unparse(each.target)
            if name != NAMED_BY.get(group):
                yield name, each


def _members(group: str, name: str) -> list[str]:
    """The names of an Enum's members; none of what is no Enum in the files of a group."""
    node = _classes(group).get(name)
    if node is None or {"Enum", "StrEnum"}.isdisjoint(map(ast.unparse, node.bases)):
        return []
    return [ast.unparse(each.targets[0]) for each in node.body if isinstance(each, ast.Assign)]


def _default(value: ast.expr | None) -> Any:
    """A default as it is written: a literal, ``setting(literal, …)``, ``Enum.member`` or a list."""
    if isinstance(value, ast.Call) and value.args:
        value = value.args[0]
    if isinstance(value, ast.Call) and value.keywords:  # field(default_factory=lambda: [...])
        value = value.keywords[0].value
    if isinstance(value, ast.Lambda):
        value = value.body
    if isinstance(value, ast.Attribute):
        return value.attr
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None
