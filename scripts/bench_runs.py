"""Whole commands against plain loops that train the same seeds on as many images, side by side.

    python scripts/bench_runs.py --out results/runs

Times `normbench run` (start, arranging, training, an evaluation an epoch, decomposition, records)
and scripts/plain_run.py (`usual` and `tuned`) as processes, in turns: batch and group norm, batch
2 to 128, ResNet-8. Each runs for real on 2,560 training and 2,000 test images, and the parts it
took (the shortest of all rounds) are scaled to one epoch of 10,000 and to three of 50,000 images,
both with 10,000 test images: "extrapolated". With --patience S, a row whose three times are
expected to stay below S seconds each is run whole instead: "measured". Seeds of the plain loops,
which are trained one after another, are timed on one seed. Nothing is remembered from before: each
`normbench` arranges anew. Writes runs.csv (a row as soon as it is there; what is in it is not
measured again without --fresh), runs.md and runs.png. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from timing import machine

SCRIPTS = Path(__file__).parent
LENGTHS = {"1 x 10,000": (1, 10_000), "3 x 50,000": (3, 50_000)}
LOOPS = ("usual", "tuned", "normbench")
TRAIN, TEST, ALL_TEST = 2_560, 2_000, 10_000
QUICK_TRAIN, QUICK_TEST = 256, 200
FIELDS = (
    *("norm", "batch", "seeds", "length", "how", *LOOPS, "usual/normbench", "tuned/normbench"),
    "not training",
)

Parts = dict[str, float]
"""Seconds by what they went to; ``start`` is all that has no other name."""


@dataclass(frozen=True)
class Case:
    """What is trained, on how many images."""

    norm: str
    batch: int
    seeds: int
    epochs: int
    train: int
    test: int


def whole_command(command: Sequence[str], environment: dict[str, str]) -> tuple[float, str]:
    """Wall seconds of a command, and what it printed."""
    start = perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return perf_counter() - start, done.stdout


def run_plain(loop: str, case: Case, name: str) -> Parts:
    """Runs a plain loop as a process."""
    command = [sys.executable, str(SCRIPTS / "plain_run.py"), loop, "--name", name]
    for option in ("norm", "batch", "seeds", "epochs"):
        command += [f"--{option}", str(getattr(case, option))]
    command += ["--limit", str(case.train), "--test-limit", str(case.test)]
    wall, said = whole_command(command, dict(os.environ))
    parts: Parts = json.loads(said.splitlines()[-1])
    return parts | {"start": wall - sum(parts.values())}


def run_normbench(case: Case, name: str) -> Parts:
    """Runs normbench as a process, in a folder of its own and with an empty cache."""
    with TemporaryDirectory() as folder:
        command = [str(Path(sysconfig.get_path("scripts")) / "normbench"), "run"]
        command += [f"norm={case.norm}", f"batch={case.batch}", f"seeds={case.seeds}"]
        command += [f"epochs={case.epochs}", "data=images", f"data.name={name}", f"runs={folder}"]
        command += [f"data.limit={case.train}", f"data.test_limit={case.test}"]
        wall, _ = whole_command(command, os.environ | {"XDG_CACHE_HOME": folder})
        (path,) = Path(folder).rglob("time.json")
        parts: Parts = json.loads(path.read_text(encoding="utf-8"))
    named = {part: parts[part] for part in ("training", "evaluating", "decomposing")}
    return named | {"start": wall - sum(named.values())}


def run(loop: str, case: Case, name: str) -> Parts:
    """Runs one of the three."""
    return run_normbench(case, name) if loop == "normbench" else run_plain(loop, case, name)


def scaled(parts: Parts, seeds: float, done: Case, wanted: Case) -> Parts:
    """``parts`` of ``done`` as they would be of ``wanted``, and of ``seeds`` times the seeds."""
    images = wanted.epochs * (wanted.train // wanted.batch) / (done.train // done.batch)
    an_image = parts["evaluating"] / done.test
    more = (wanted.test - done.test) * an_image if parts.get("decomposing") else 0.0
    return {
        "start": parts["start"],
        "training": seeds * images * parts["training"],
        "evaluating": seeds * wanted.epochs * wanted.test * an_image,
        "decomposing": seeds * (parts.get("decomposing", 0.0) + more),
    }


def shortest(turns: Sequence[Parts]) -> Parts:
    """Each part's shortest time: what disturbs only ever adds."""
    return {part: min(turn[part] for turn in turns) for part in turns[0]}


def measure(
    norm: str, batch: int, seeds: Sequence[int], arguments: argparse.Namespace
) -> list[dict[str, str]]:
    """The rows of one norm and batch: all numbers of seeds and all lengths."""
    train, test = (QUICK_TRAIN, QUICK_TEST) if arguments.quick else (TRAIN, TEST)
    small = {k: Case(norm, batch, k, 1, train, test) for k in sorted({1, *seeds})}
    turns: dict[tuple[str, int], list[Parts]] = {}
    for _ in range(arguments.rounds):
        for loop in ("usual", "tuned"):
            turns.setdefault((loop, 1), []).append(run(loop, small[1], arguments.name))
        for k in seeds:
            found = run("normbench", small[k], arguments.name)
            turns.setdefault(("normbench", k), []).append(found)
    best = {key: shortest(each) for key, each in turns.items()}
    rows = []
    for k in seeds:
        for length in arguments.lengths:
            epochs, images = LENGTHS[length]
            wanted = Case(norm, batch, k, epochs, images, ALL_TEST)
            parts = {
                "usual": scaled(best["usual", 1], k, small[1], wanted),
                "tuned": scaled(best["tuned", 1], k, small[1], wanted),
                "normbench": scaled(best["normbench", k], 1, small[k], wanted),
            }
            how = "extrapolated"
            if max(sum(each.values()) for each in parts.values()) < arguments.patience:
                how = "measured"
                parts = {loop: run(loop, wanted, arguments.name) for loop in LOOPS}
            rows.append(row(wanted, length, how, parts))
    return rows


def row(case: Case, length: str, how: str, parts: dict[str, Parts]) -> dict[str, str]:
    """One line of the table."""
    seconds = {loop: sum(each.values()) for loop, each in parts.items()}
    ours = seconds["normbench"]
    return {
        "norm": case.norm,
        "batch": str(case.batch),
        "seeds": str(case.seeds),
        "length": length,
        "how": how,
        **{loop: f"{seconds[loop]:.1f}" for loop in LOOPS},
        "usual/normbench": f"{seconds['usual'] / ours:.2f}",
        "tuned/normbench": f"{seconds['tuned'] / ours:.2f}",
        "not training": f"{1 - parts['normbench']['training'] / ours:.1%}",
    }


def table(rows: Sequence[dict[str, str]]) -> str:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(FIELDS) + " |", "|" + "---|" * len(FIELDS)]
    return "\n".join([*lines, *("| " + " | ".join(r[f] for f in FIELDS) + " |" for r in rows)])


def picture(rows: Sequence[dict[str, str]], path: Path) -> None:
    """How many times as long the plain loops take; a panel for each length and number of seeds."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((r["length"], r["seeds"]) for r in rows))
    figure = Figure(figsize=(3.6 * len(panels), 3.6), layout="constrained")
    for number, (length, seeds) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for norm in dict.fromkeys(r["norm"] for r in rows):
            for loop, style in (("usual", "--"), ("tuned", "-")):
                mine = [
                    r for r in rows if (r["length"], r["seeds"], r["norm"]) == (length, seeds, norm)
                ]
                batches = [int(r["batch"]) for r in mine]
                ratios = [float(r[f"{loop}/normbench"]) for r in mine]
                colour = "#0072B2" if norm == "batch" else "#D55E00"
                axes.plot(batches, ratios, style, marker="o", color=colour, label=f"{loop}, {norm}")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_title(f"{seeds} seeds, {length} images")
        axes.set_xlabel("batch")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if number == 0:
            axes.set_ylabel("time of the plain loop / normbench")
            axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/runs"))
    parser.add_argument("--name", default="cifar10-jpeg", help="an imported data set")
    parser.add_argument("--norms", nargs="+", default=["batch", "group"])
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=2, help="turns of each command")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds of a whole run")
    parser.add_argument("--quick", action="store_true", help="few images, to try it")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = arguments.out / "runs.csv"
    rows: list[dict[str, str]] = []
    if store.exists() and not arguments.fresh:
        with store.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    for norm in arguments.norms:
        for batch in arguments.batches:
            there = {int(r["seeds"]) for r in rows if (r["norm"], r["batch"]) == (norm, str(batch))}
            missing = [k for k in arguments.seeds if k not in there]
            if not missing:
                continue
            rows += measure(norm, batch, missing, arguments)
            with store.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(rows)
            print(table(rows).splitlines()[-1], flush=True)
    where = machine(torch.device("cpu"))
    head = f"Seconds of whole commands, ResNet-8, {arguments.name}; {where}.\n\n"
    (arguments.out / "runs.md").write_text(head + table(rows) + "\n", encoding="utf-8")
    picture(rows, arguments.out / "runs.png")
    print("\n" + head + table(rows))


if __name__ == "__main__":
    main()
