"""Trains seeds of committed cells again and says whether they end as their records say, to the bit.

    python scripts/train_again.py results/zoo-epoch/batch-b2-55721755 --out results/again.md

Of each CELL its first seed is trained from the configuration in its records, alone (stack=1), into
a folder that is thrown away. Compared are the result without its times, and the curves of training
and evaluation. Equal bits can only be expected on the processor and with the version of torch that
the records name, and for seeds that were trained alone. The exit code is 1 if one differs.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from normbench.report.compare.comparisons import compare
from normbench.report.read.cells import collect
from normbench.report.text.commands import commands
from normbench.store.curves import read_metrics
from normbench.store.results import Result, read_result

TIMES = ("seconds", "images_per_second", "memory_bytes")
"""What of a result is a property of the machine at that time."""

HEAD = ("cell", "seed", "test accuracy then", "now", "the same to the bit", "where it differs")


def main() -> int:
    """Trains the cells again."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cells", type=Path, nargs="+", metavar="CELL")
    parser.add_argument("--out", type=Path, help="a page to write; else it is printed")
    arguments = parser.parse_args()
    rows = [row(folder) for folder in arguments.cells]
    if arguments.out is None:
        print(page(rows))
    else:
        arguments.out.write_text(page(rows), encoding="utf-8")
    return int(any(each[4] != "yes" for each in rows))


def row(folder: Path) -> list[str]:
    """Trains a cell's first seed again: a row of the page."""
    (cell,) = collect(folder).cells
    seed = cell.seeds[0].seed
    record = folder / f"seed-{seed}"
    with TemporaryDirectory() as runs:
        again = trained(folder, seed, Path(runs))
        found = sorted(set(differing(record, again)))
        accuracies = [result(each).test_accuracy for each in (record, again)]
    print(f"{folder}: {'differs' if found else 'the same'}", file=sys.stderr)
    said = ["-" if value is None else f"{100 * value:.2f} %" for value in accuracies]
    return [folder.name, str(seed), *said, "no" if found else "yes", ", ".join(found) or "nowhere"]


def trained(cell: Path, seed: int, runs: Path) -> Path:
    """Trains a seed as its cell's records say; returns its folder."""
    (comparison,) = compare(collect(cell))
    (command,) = commands(comparison)
    own_keys = ("seed=", "seeds=", "threads=", "stack=")
    settings = [word for word in shlex.split(command)[2:] if not word.startswith(own_keys)]
    own = [f"runs={runs}", "name=again", f"seed={seed}", "seeds=1", "stack=1"]
    if threads := result(cell / f"seed-{seed}").threads:
        own.append(f"threads={threads}")
    normbench = Path(sys.executable).with_name("normbench")
    done = subprocess.run(
        [normbench, "run", *settings, *own], check=False, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):  # 1: a seed that diverges again is no less the same
        raise SystemExit(done.stderr)
    (folder,) = (runs / "again").glob(f"*/seed-{seed}")
    return folder


def differing(first: Path, second: Path) -> Iterator[str]:
    """What differs between two trainings of a seed, by name."""
    one, other = (asdict(result(folder)) for folder in (first, second))
    yield from (key for key in one if key not in TIMES and one[key] != other[key])
    curves = [[numbers(line) for line in read_metrics(folder)] for folder in (first, second)]
    if len(curves[0]) != len(curves[1]):
        yield "the number of lines of the curve"
    for here, there in zip(*curves, strict=False):
        yield from (key for key in here.keys() | there.keys() if here.get(key) != there.get(key))


def numbers(line: dict[str, Any]) -> dict[str, Any]:
    """What a line of a curve says of training and evaluation: not its times, nor its diagnoses."""
    kept = ("train/", "eval/")
    return {k: v for k, v in line.items() if k.startswith(kept) and k != "train/images_per_second"}


def result(folder: Path) -> Result:
    """The result in a seed's folder."""
    found = read_result(folder)
    assert found is not None, f"{folder}: there is no result"
    return found


def page(rows: Sequence[Sequence[str]]) -> str:
    """The rows as Markdown."""
    same = sum(each[4] == "yes" for each in rows)
    lines = [
        "# Trained again",
        "",
        f"{same} of {len(rows)} seeds end as their records say, to the bit: results and curves,",
        "without times. Made by `python scripts/train_again.py CELL... --out results/again.md`.",
        "",
        *("| " + " | ".join(each) + " |" for each in [HEAD, ["---"] * len(HEAD), *rows]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
