"""What can be set, read off the files in ``configs/``: shell completion cannot wait for torch."""

from importlib.resources import files
from typing import Any

CONFIGS = "normbench.configs"


def groups() -> dict[str, list[str]]:
    """The configuration groups, and the choices of each."""
    folders = (entry for entry in files(CONFIGS).iterdir() if entry.is_dir())
    found = {
        folder.name: sorted(
            file.name.removesuffix(".yaml")
            for file in folder.iterdir()
            if file.name.endswith(".yaml")
        )
        for folder in folders
    }
    return {name: choices for name, choices in sorted(found.items()) if choices}


def defaults() -> dict[str, Any]:
    """Every key that some choice of groups has, with its dots, and what it is by default."""
    found = _settings("config", "")
    for group, choices in groups().items():
        if group != "experiment":
            for choice in choices:
                found |= _settings(f"{group}/{choice}", f"{group}.")
    return found


def varied(experiment: str) -> set[str]:
    """The keys in which the cells of an experiment differ; none where there is no such file."""
    if experiment not in groups()["experiment"]:
        return set()
    sweeper = _read(f"experiment/{experiment}").get("hydra", {}).get("sweeper", {})
    return set(sweeper.get("params", {})).union(*sweeper.get("grids", []))


def _settings(file: str, prefix: str) -> dict[str, Any]:
    return {prefix + key: value for key, value in _read(file).items() if key != "defaults"}


def _read(file: str) -> dict[str, Any]:
    import yaml

    loaded = yaml.safe_load(files(CONFIGS).joinpath(f"{file}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict), f"{file} is no configuration"
    return loaded
