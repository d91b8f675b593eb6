"""Copies the small records of cells: what a report needs, no weights, no event files.

python scripts/keep.py runs/naive results/naive

Cells that have come to an end are copied, good or bad. The others are in the plan, which is copied
too, so that a report of what is kept says how many are missing. Nothing that says where or whose
the machine is goes along: no folder but the experiment's own, and of errors no more than their
names. What is kept already is never removed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import yaml

from normbench.errors import UnreadableError
from normbench.files import write_text
from normbench.store import plan
from normbench.store.results import read_result, write_result

AS_THEY_ARE = (
    "summary.json",
    "environment.json",
    "seed-*/environment.json",
    "seed-*/metrics.jsonl",
    "seed-*/outcomes.json",
)


def _keep_cell(cell: Path, place: Path) -> None:
    for path in (path for pattern in AS_THEY_ARE for path in sorted(cell.glob(pattern))):
        copy = place / path.relative_to(cell)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copyfile(path, copy)
    for folder in sorted(path.parent for path in cell.glob("seed-*/result.json")):
        result = read_result(folder)
        assert result is not None
        if result.error:  # the error's name is enough; in its text there may be a folder
            result = replace(result, error=result.error.partition(":")[0])
        write_result(place / folder.name, result)
    written = cell / "config.yaml"
    if not written.is_file():  # it failed before it began
        return
    config = _without_places(yaml.safe_load(written.read_text(encoding="utf-8")))
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_text(place / "config.yaml", text)


def _without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without where things lay, which is nobody's business."""
    kept = dict(settings)
    if "runs" in kept:
        kept["runs"] = "runs"
    model = {
        key: Path(value).name if key in ("file", "weights") and value else value
        for key, value in kept.get("model", {}).items()
    }
    return kept | {"model": model} if model else kept


def _keep_plan(source: Path, target: Path) -> list[str]:
    """Copies the plan; returns the folders of its cells, none where there is no plan."""
    entries = plan.read(source)
    if entries:
        plan.add(target, [replace(e, settings=_without_places(e.settings)) for e in entries])
        (target / f".{plan.PLAN}.lock").unlink(missing_ok=True)
    return [entry.folder for entry in entries]


def keep(source: Path, target: Path) -> list[str]:
    """Copies the plan and every cell that has a summary; returns lines about what is kept."""
    cells = [summary.parent for summary in sorted(source.glob("*/summary.json"))]
    for cell in cells:
        _keep_cell(cell, target / cell.name)
    planned = _keep_plan(source, target)
    there = {summary.parent.name for summary in target.glob("*/summary.json")}
    lines = [f"{len(cells)} cells: {target}"]
    if not planned:
        return [*lines, f"no plan in {source}: how many cells are missing cannot be said"]
    if lacking := [name for name in planned if name not in there]:
        lines.append(f"{len(lacking)} of {len(planned)} planned cells are missing")
    if others := sorted(there - set(planned)):
        lines.append(f"not in the plan, and left as they are: {', '.join(others)}")
    return lines


def main() -> None:
    """Copies from the first folder to the second."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(Path, sys.argv[1:])
    try:
        print(*keep(source, target), sep="\n")
    except UnreadableError as error:
        sys.exit(f"keep.py: {error}")


if __name__ == "__main__":
    main()
