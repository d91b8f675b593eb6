"""The committed results are those that today's commands would find, and go on with."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from normbench.data.library import Description
from normbench.launch.compose import load_config
from normbench.store import plan
from normbench.store.results import FINISHED, read_result, summarize

RESULTS = Path(__file__).parents[1] / "results"
CELLS = sorted(path.parent for path in RESULTS.glob("*/*/config.yaml"))
NAMES = [str(cell.relative_to(RESULTS)) for cell in CELLS]
GROUPS = {"norm": "name", "model": "name", "data": "source", "optim": "name"}


def overrides(settings: dict[str, Any]) -> list[str]:
    """A configuration that was written down as the settings that a person would type."""
    choices = [f"{key}={settings[key].get(name, 'sgd')}" for key, name in GROUPS.items()]
    inner = [
        f"{key}.{name}={_typed(value)}"
        for key, own in GROUPS.items()
        for name, value in settings[key].items()
        if name != own and not (name == "name" and value is None)
    ]
    plain = [f"{key}={_typed(value)}" for key, value in settings.items() if key not in GROUPS]
    return choices + inner + plain


def _typed(value: Any) -> str:
    return "null" if value is None else json.dumps(value).strip('"')


@pytest.mark.parametrize("cell", CELLS, ids=NAMES)
def test_a_committed_folder_is_the_one_that_its_command_composes_today(cell: Path) -> None:
    config = load_config(overrides(yaml.safe_load((cell / "config.yaml").read_text())))
    summary = json.loads((cell / "summary.json").read_text())
    images = Description(summary["data"]["name"], summary["data"]["sha256"], (), 0, 0, (0, 0))

    digest = config.digest(images)
    assert cell.name == f"{config.norm.name}-b{config.batch}-{digest[:8]}"
    assert summary["digest"] == digest


@pytest.mark.parametrize("cell", CELLS, ids=NAMES)
def test_committed_results_are_believed_and_their_summary_follows_from_them(cell: Path) -> None:
    found = [read_result(folder) for folder in sorted(cell.glob("seed-*"))]
    summary = json.loads((cell / "summary.json").read_text())

    assert found
    assert all(result is not None for result in found)
    assert all(summary[key] == value for key, value in summarize([r for r in found if r]).items())
    assert {r.status for r in found if r} <= {FINISHED, "diverged"}


def test_what_was_planned_and_committed_is_in_its_place() -> None:
    for folder in sorted({path.parent for path in RESULTS.glob("*/sweep.json")}):
        for entry in plan.read(folder):
            there = (folder / entry.folder / "summary.json").is_file()
            assert there or not (folder / entry.folder).exists(), f"{folder.name}: {entry.folder}"


def test_there_are_committed_results() -> None:
    assert len(CELLS) >= 40
