"""Tries every fault for real and counts how often the promise about it held.

    python scripts/fault_matrix.py [--rows kill,save] [--scale 1.0] [--seed 0]

Real processes, real kills, real files, in a temporary folder. Writes results/faults/faults.md and
faults.json after each row; a row that is in the JSON file at this scale and seed is not tried again
without --fresh. Exit code 1 if something does not hold. As root, a full disk is a small tmpfs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from faults import cells, files, hostile, kills, places
from faults.world import World
from timing import machine

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A fault.

    Attributes:
        fault: what goes wrong.
        promise: what is said of it.
        tries: how often it is tried at scale 1.
        attempt: makes so many tries; yields None where the promise held, else what happened.
        least: fewer tries than this would leave out a kind of the fault.
    """

    fault: str
    promise: str
    tries: int
    attempt: Callable[[World, int], Iterator[str | None]]
    least: int = 1


ROWS = {
    "kill": Row(
        "SIGKILL at a random step, time, evaluation or write",
        "bit-identical end after resume",
        100,
        kills.killed,
        12,
    ),
    "save": Row(
        "SIGKILL inside a save (every write, sync and rename)",
        "a valid checkpoint always loads",
        500,
        kills.killed_in_save,
        48,
    ),
    "damage": Row(
        "bit flips and truncations of a checkpoint",
        "found, named, previous one used",
        1000,
        files.damaged,
        10,
    ),
    "signal": Row(
        "SIGTERM/SIGINT at a random time",
        "out within 5 s, resumes",
        50,
        kills.interrupted,
        10,
    ),
    "full": Row(
        "disk full while saving, while logging",
        "old checkpoint intact, one clear line; logging never ends training",
        50,
        files.full,
        2,
    ),
    "sweep": Row(
        "sweep of 24 cells killed",
        "same line again: only the missing work, same table as undisturbed",
        20,
        cells.killed_sweep,
    ),
    "jobs": Row(
        "one job raises, is killed, diverges; launchers basic, joblib, submitit_local",
        "the others finish",
        9,
        cells.bad_job,
        9,
    ),
    "two": Row(
        "two processes start one cell",
        "one works, the other says who holds it",
        100,
        cells.two,
        10,
    ),
    "events": Row(
        "event file damaged",
        "found, rebuilt from metrics.jsonl on request",
        100,
        files.events,
        10,
    ),
    "hostile": Row(
        "damaged data set, archive bomb, hostile archive, checkpoint, config and records",
        "refused, named, nothing run, nothing outside the folder",
        len(hostile.PAYLOADS),
        hostile.payloads,
    ),
    "readonly": Row("read-only directory", "works or one clear line", 10, places.read_only, 3),
    "paths": Row("path with spaces and non-ASCII", "works or one clear line", 10, places.paths),
    "clock": Row("clock set back", "works or one clear line", 10, places.clock),
}

SHOWN = 12
"""How many of the tries that did not hold are described."""


def try_row(name: str, scale: float, seed: int) -> dict[str, Any]:
    """Tries a row; what came of it, as it is written to the JSON file."""
    row = ROWS[name]
    tries = max(row.least, round(row.tries * scale))
    problems: list[str] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        world = World(Path(folder), seed)
        try:
            for number, problem in enumerate(row.attempt(world, tries)):
                if problem is not None:
                    problems.append(_placeless(problem))
                    print(f"\n  {problems[-1]}", flush=True)
                if (number + 1) % max(1, tries // 50) == 0:
                    print(f"\r{name}: {number + 1} of {tries}", end="", flush=True)
        finally:
            world.close()
    print()
    return {
        "scale": scale,
        "seed": seed,
        "tried": number + 1,
        "held": number + 1 - len(problems),
        "seconds": round(time.monotonic() - start, 1),
        "counts": dict(sorted(world.counts.items())),
        "problems": [problem[:2000] for problem in problems[:SHOWN]],
        "processes": world.processes,
        "files_searched": world.files_searched,
        "leaks": world.leaks,
    }


def _placeless(text: str) -> str:
    """A text whose absolute paths are shortened to their last part: they are of this machine."""
    return re.sub(r"(?<![\w.…])/(?:[^\s\"'/]+/)+", "…/", text)


def table(rows: Rows, command: str) -> str:
    """All rows that have been tried, as Markdown."""
    lines = [
        "# The fault matrix",
        "",
        f"From `{command}`; {machine(torch.device('cpu'))}. A row's tries are seeded; each is made"
        " on real files by real processes, most of them forks of a warm one.",
        "",
        "| fault | promise | tried | held | seconds |",
        "|---|---|---|---|---|",
    ]
    there = {name: rows[name] for name in ROWS if name in rows}
    for name, found in there.items():
        row = ROWS[name]
        lines.append(
            f"| {row.fault} | {row.promise} | {found['tried']:,} | {found['held']:,}"
            f" | {found['seconds']:.0f} |"
        )
    processes = sum(found["processes"] for found in there.values())
    leaks = sum(len(found["leaks"]) for found in there.values())
    searched = sum(found["files_searched"] for found in there.values())
    seconds = sum(found["seconds"] for found in there.values())
    lines.append(
        f"| secrets in the environment of all {processes:,} processes | in none of the files that"
        f" they wrote | {searched:,} | {searched - leaks:,} | |"
    )
    lines += ["", f"{seconds / 60:.0f} minutes in all. What the tries were:", ""]
    for name, found in there.items():
        counts = "; ".join(f"{number:,} × {what}" for what, number in found["counts"].items())
        lines.append(
            f"- {name} (scale {found['scale']}, seed {found['seed']}): {counts or 'alike'}"
        )
    problems = [problem for found in there.values() for problem in found["problems"]]
    problems += [f"secret in {leak}" for found in there.values() for leak in found["leaks"]]
    if problems:
        lines += ["", "What did not hold:", ""]
        lines += [f"- {' '.join(problem.split())[:600]}" for problem in problems]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the tries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/faults"))
    parser.add_argument("--fresh", action="store_true", help="try everything again")
    arguments = parser.parse_args()
    wanted = arguments.rows.split(",")
    if unknown := [name for name in wanted if name not in ROWS]:
        parser.error(f"no such rows: {', '.join(unknown)}")
    store = arguments.out / "faults.json"
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: Rows = {}
    command = f"python scripts/fault_matrix.py --scale {arguments.scale} --seed {arguments.seed}"
    for name in wanted:
        rows = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
        asked = (arguments.scale, arguments.seed)
        there = name in rows and (rows[name]["scale"], rows[name]["seed"]) == asked
        if there and not arguments.fresh:
            continue
        found = try_row(name, arguments.scale, arguments.seed)
        rows = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
        rows[name] = found
        store.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (arguments.out / "faults.md").write_text(table(rows, command), encoding="utf-8")
    print(table(rows, command))
    bad = [name for name in wanted if rows[name]["held"] < rows[name]["tried"]]
    if bad or any(rows[name]["leaks"] for name in wanted):
        sys.exit(1)


if __name__ == "__main__":
    main()
