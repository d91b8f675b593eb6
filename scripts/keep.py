"""Copies the small records of finished cells: what a report needs, no weights, no event files.

python scripts/keep.py runs/naive results/naive
"""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import copyfile

import yaml

FILES = ("summary.json", "environment.json", "seed-*/result.json", "seed-*/metrics.jsonl")


def keep(source: Path, target: Path) -> int:
    """Copies every cell that has a summary; returns how many."""
    summaries = sorted(source.glob("*/summary.json"))
    for cell in (summary.parent for summary in summaries):
        place = target / cell.name
        for path in (path for pattern in FILES for path in sorted(cell.glob(pattern))):
            copy = place / path.relative_to(cell)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copyfile(path, copy)
        config = yaml.safe_load((cell / "config.yaml").read_text(encoding="utf-8"))
        config["runs"] = "runs"  # where they lay is nobody's business
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        (place / "config.yaml").write_text(text, encoding="utf-8")
    return len(summaries)


def main() -> None:
    """Copies from the first folder to the second."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(Path, sys.argv[1:])
    print(f"{keep(source, target)} cells: {target}")


if __name__ == "__main__":
    main()
