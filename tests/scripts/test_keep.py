"""What scripts/keep.py copies of an experiment, and what it says is missing."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from normbench.files import write_json
from normbench.report.read.cells import collect
from normbench.report.read.seeds import WAITING
from normbench.report.read.states import overview
from normbench.store.outcomes import write_outcomes
from normbench.store.results import read_result, write_result
from tests.report_helpers import write_cell

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from keep import keep


def planned(folder: str, norm: str, batch: int) -> dict[str, object]:
    return {
        **{"folder": folder, "norm": norm, "batch": batch, "norm_batch": batch},
        **{"model": "ResNet-8", "data": "cifar10-jpeg", "seeds": [0, 1]},
    }


def write_experiment(source: Path) -> Path:
    """A finished cell, one that is being trained and one that has not begun; and a plan of them."""
    done = write_cell(source, "batch", 2, [0.6, None])
    begun = write_cell(source, "group", 2, [0.6], seeds=2, summary=False)
    cells = [planned(done.name, "batch", 2), planned(begun.name, "group", 2)]
    write_json(source / "sweep.json", {"cells": [*cells, planned("group-b4-0123abcd", "group", 4)]})
    return done


def test_what_is_kept_says_how_many_cells_are_missing(tmp_path: Path) -> None:
    source, target = tmp_path / "runs" / "naive", tmp_path / "results" / "naive"
    done = write_experiment(source)
    said = keep(source, target)
    assert said == [f"1 cells: {target}", "2 of 3 planned cells are missing"]
    found = collect(target).cells
    assert [cell.folder for cell in found if cell.finished] == [done.name]
    assert [run.state for cell in found[1:] for run in cell.seeds] == [WAITING] * 4
    assert overview(found).startswith("0 of 3 cells finished; of 6 seeds 1 finished, 4 waiting")
    assert (target / done.name / "summary.json").read_bytes() == (
        done / "summary.json"
    ).read_bytes()


def test_where_things_lay_is_not_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "private" / "naive", tmp_path / "kept"
    done = write_experiment(source)
    settings = {"runs": "/home/me/runs", "model": {"name": "python", "file": "/home/me/net.py"}}
    cells = [planned(done.name, "batch", 2) | {"settings": settings}]
    write_json(source / "sweep.json", {"cells": cells})
    keep(source, target)

    text = "".join(path.read_text() for path in target.rglob("*.json"))
    assert "net.py" in text
    assert "/home/me" not in text


def test_cells_that_the_plan_does_not_name_are_said_and_left(tmp_path: Path) -> None:
    source, target = tmp_path / "naive", tmp_path / "kept"
    done = write_experiment(source)
    other = write_cell(target, "layer", 2, [0.5, 0.6])
    files = sorted(other.rglob("*"))
    assert keep(source, target)[-1] == f"not in the plan, and left as they are: {other.name}"
    assert sorted(other.rglob("*")) == files
    assert {cell.folder for cell in collect(target).cells} >= {done.name, other.name}


def test_a_cell_that_failed_before_it_began_is_kept_without_a_configuration(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "naive", tmp_path / "kept"
    done = write_experiment(source)
    early = write_cell(source, "instance", 2, [0.5])
    (early / "config.yaml").unlink()
    assert keep(source, target)[0] == f"2 cells: {target}"
    assert (target / early.name / "summary.json").exists()
    assert (target / done.name / "config.yaml").exists()


def test_without_a_plan_the_kept_one_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "naive", tmp_path / "kept"
    write_experiment(source)
    keep(source, target)
    before = (target / "sweep.json").read_bytes()
    (source / "sweep.json").unlink()
    assert keep(source, target)[-1].startswith(f"no plan in {source}")
    assert (target / "sweep.json").read_bytes() == before


def test_nothing_of_the_machine_is_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "naive", tmp_path / "kept"
    done = write_experiment(source)
    config = yaml.safe_load((done / "config.yaml").read_text())
    (done / "config.yaml").write_text(yaml.safe_dump({**config, "runs": "/home/me/runs"}))
    ended = read_result(done / "seed-1")
    assert ended is not None
    failed = replace(ended, status="failed", error="OSError: /home/me/x")
    write_result(done / "seed-1", failed)
    plan = json.loads((source / "sweep.json").read_text())
    plan["cells"][0]["host"] = "/home/me"
    write_json(source / "sweep.json", plan)
    write_outcomes(done / "seed-0", 0, np.array([True, False]))
    (done / "log.txt").write_text("/home/me")
    (done / "seed-0" / "model.safetensors").write_text("/home/me")

    keep(source, target)
    kept = [path for path in target.rglob("*") if path.is_file()]
    assert not [path for path in kept if "/home" in path.read_text() or "me/" in path.read_text()]
    assert not {path.name for path in kept} & {"log.txt", "model.safetensors"}
    assert target / done.name / "seed-0" / "outcomes.json" in kept
    kept_result = read_result(target / done.name / "seed-1")
    assert kept_result is not None
    assert kept_result.error == "OSError"
    assert len(json.loads((target / "sweep.json").read_text())["cells"]) == 3
