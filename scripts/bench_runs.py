"""Whole commands against plain loops that train the same seeds on as many images, side by side.

    python scripts/bench_runs.py --out results/runs

Times processes in turns, ResNet-8. Rows:

- `table`: `normbench run` (start, arranging, training, an evaluation an epoch, decomposition,
  records) and scripts/plain_run.py (`usual` and `tuned`), batch and group norm, batch 2 to 128, one
  seed and eight, one epoch of 10,000 images and three of 50,000, 10,000 test images. One epoch of
  10,000 is run whole by `normbench`, and by `tuned` for one seed; three of 50,000 by both for one
  seed at batch size 32 and more, where they take a minute. All else (`~`) is extrapolated:
  the parts that a run of at least 200 steps took, in which the first and slower ones hardly count,
  are scaled to more images, epochs and, for the plain loops, seeds, which they train one after
  another. How eight are arranged is measured before such a run, as for a long training, and counted
  with the most that the training would have taken for it.
  Batch norm is evaluated once more at the end by all three, with re-estimated statistics;
  `plain` is `tuned` without that.
- `sweep`: twelve replicas, four rates and three seeds, as one sweep and as four runs.
- `beside`: two commands at once and one after another.
- `allocator`: with freed memory kept, and not.

Nothing is remembered from before. Writes runs.csv and commands.csv (a row as soon as it is there;
what is in them is not measured again without --fresh), runs.md and runs.png. Run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from commands import PAIRS, Case, Parts, run
from timing import machine

from normbench.run.placement import time_to_measure

SHORT, LONG = (1, 10_000), (3, 50_000)
LENGTHS = {"1 x 10,000": SHORT, "3 x 50,000": LONG}
WHOLE = 32
LOOPS = ("usual", "tuned", "normbench")
FEW, STEPS = 2_560, 200
TEST, ALL_TEST = 2_000, 10_000
IDENTITY = ("norm", "batch", "seeds", "length", "data", "quick")
FIELDS = (
    *(*IDENTITY, "measured", *LOOPS, "usual/normbench", "tuned/normbench"),
    *("plain/normbench", "not training", "spread"),
)
COMMANDS = ("what", "data", "quick", "seconds", "instead of", "ratio", "spread")

Row = dict[str, str]


def scaled(parts: Parts, done: Case, wanted: Case) -> Parts:
    """``parts`` of ``done`` as they would be of ``wanted``."""
    if done == wanted:
        return parts
    seeds = wanted.seeds // done.seeds
    steps, those = (each.epochs * (each.train // each.batch) for each in (wanted, done))
    an_image = parts["evaluating"] / done.epochs / done.test
    again = seeds * parts["decomposing"]
    if again:
        again += seeds * (wanted.test - done.test) * an_image
    training = seeds * steps / those * parts["training"]
    return {
        "start": parts["start"],
        "arranging": time_to_measure(training) if "arranging" in parts else 0.0,
        "training": training,
        "evaluating": seeds * wanted.epochs * wanted.test * an_image,
        "decomposing": again,
    }


def shortest(turns: Sequence[Parts]) -> Parts:
    """Each part's shortest time: what disturbs only ever adds."""
    return {part: min(turn[part] for turn in turns) for part in turns[0]}


def spread(turns: Sequence[float]) -> str:
    """By how much the slowest turn took longer than the fastest; nothing of a single one."""
    return f"{max(turns) / min(turns) - 1:.0%}" if len(turns) > 1 else ""


def measure(
    norm: str, batch: int, seeds: Sequence[int], arguments: argparse.Namespace
) -> list[Row]:
    """The rows of one norm and batch: all numbers of seeds and all lengths."""
    train, test = (256, 200) if arguments.quick else (max(FEW, STEPS * batch), TEST)
    part = {k: Case(norm, batch, k, 1, train, test) for k in (1, *seeds)}
    short = part if arguments.quick else {k: Case(norm, batch, k, *SHORT, ALL_TEST) for k in part}

    long = Case(norm, batch, 1, *LONG, ALL_TEST)

    def runs(loop: str, k: int, length: str) -> tuple[str, Case]:
        """What is run for a row; the plain loops train one seed."""
        k = k if loop == "normbench" else 1
        if loop == "usual":
            return loop, part[k]
        if LENGTHS[length] == SHORT:
            return loop, short[k]
        return loop, long if k == 1 and batch >= WHOLE and not arguments.quick else part[k]

    wanted = [(k, length) for k in seeds for length in arguments.lengths]
    turns: dict[tuple[str, Case], list[Parts]] = {
        runs(loop, *row): [] for row in wanted for loop in LOOPS
    }
    for _ in range(arguments.rounds):
        for (loop, case), found in turns.items():
            found.append(run(loop, case, arguments.name, ahead=case in part.values()))
    rows = []
    for k, length in wanted:
        row = Case(norm, batch, k, *LENGTHS[length], ALL_TEST)
        keys = {loop: runs(loop, k, length) for loop in LOOPS}
        parts = {loop: scaled(shortest(turns[key]), key[1], row) for loop, key in keys.items()}
        spreads = [
            spread([sum(scaled(turn, key[1], row).values()) for turn in turns[key]])
            for key in keys.values()
        ]
        identity = (norm, batch, k, length, arguments.name, arguments.quick)
        rows.append(
            dict(zip(IDENTITY, map(str, identity), strict=True))
            | {"measured": " ".join(loop for loop, key in keys.items() if key[1] == row)}
            | {"spread": " / ".join(filter(None, spreads))}
            | seconds(parts)
        )
    return rows


def seconds(parts: dict[str, Parts]) -> Row:
    """What a row says of the times."""
    total = {loop: sum(each.values()) for loop, each in parts.items()}
    ours = total["normbench"]
    plain = total["tuned"] - parts["tuned"]["decomposing"]
    return {
        **{loop: f"{total[loop]:.1f}" for loop in LOOPS},
        **{f"{loop}/normbench": f"{total[loop] / ours:.2f}" for loop in LOOPS[:2]},
        "plain/normbench": f"{plain / ours:.2f}",
        "not training": f"{1 - parts['normbench']['training'] / ours:.1%}",
    }


def pair(kind: str, arguments: argparse.Namespace) -> Row:
    """The row of two ways to do the same."""
    work, what = PAIRS[kind]
    case = Case("group", 2, 1, 1, *((256, 200) if arguments.quick else (1_280, TEST)))
    turns = [work(case, arguments.name) for _ in range(arguments.rounds)]
    ours, other = (min(turn[side] for turn in turns) for side in (0, 1))
    spreads = " / ".join(filter(None, (spread([turn[side] for turn in turns]) for side in (0, 1))))
    numbers = (f"{ours:.1f}", f"{other:.1f}", f"{other / ours:.2f}", spreads)
    return dict(zip(COMMANDS, (what, arguments.name, str(arguments.quick), *numbers), strict=True))


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The rows as Markdown; what was not measured has a ~."""
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [
            "~" * (name in LOOPS and name not in row["measured"].split()) + row[name]
            for name in names
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read(path: Path, names: Sequence[str], *, fresh: bool) -> list[Row]:
    """The rows that are there; those of an older version of this script are not taken."""
    if fresh or not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return list(rows) if rows.fieldnames == [*names] else []


def keep(path: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Writes rows, and prints the last."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    print(", ".join(rows[-1].values()), flush=True)


def picture(rows: Sequence[Row], path: Path) -> None:
    """How many times as long the plain loops take; a panel for each length and number of seeds.

    Of several sets of images that which was measured last.
    """
    from matplotlib.figure import Figure

    last = rows[-1]
    rows = [r for r in rows if (r["data"], r["quick"]) == (last["data"], last["quick"])]
    panels = list(dict.fromkeys((r["length"], r["seeds"]) for r in rows))
    figure = Figure(figsize=(3.6 * len(panels), 3.6), layout="constrained")
    for number, (length, seeds) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for norm in dict.fromkeys(r["norm"] for r in rows):
            for loop, style in (("usual", "--"), ("tuned", "-")):
                mine = [
                    r for r in rows if (r["length"], r["seeds"], r["norm"]) == (length, seeds, norm)
                ]
                mine.sort(key=lambda r: int(r["batch"]))
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
    parser.add_argument("--rows", nargs="+", choices=["table", *PAIRS], default=["table", *PAIRS])
    parser.add_argument("--norms", nargs="+", default=["batch", "group"])
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=2, help="turns of each command")
    parser.add_argument("--quick", action="store_true", help="few images, to try it")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    whole, commands = arguments.out / "runs.csv", arguments.out / "commands.csv"
    rows = read(whole, FIELDS, fresh=arguments.fresh)
    for norm in arguments.norms if "table" in arguments.rows else ():
        for batch in arguments.batches:
            there = {tuple(row[key] for key in IDENTITY) for row in rows}
            rest = (arguments.name, str(arguments.quick))
            missing = [
                k
                for k in arguments.seeds
                if any((norm, str(batch), str(k), x, *rest) not in there for x in arguments.lengths)
            ]
            if missing:
                rows += [
                    row
                    for row in measure(norm, batch, missing, arguments)
                    if tuple(row[key] for key in IDENTITY) not in there
                ]
                keep(whole, rows, FIELDS)
    pairs = read(commands, COMMANDS, fresh=arguments.fresh)
    for kind in PAIRS:
        key = (PAIRS[kind][1], arguments.name, str(arguments.quick))
        if kind in arguments.rows and key not in [
            tuple(row[k] for k in COMMANDS[:3]) for row in pairs
        ]:
            pairs.append(pair(kind, arguments))
            keep(commands, pairs, COMMANDS)
    where = machine(torch.device("cpu"))
    text = f"Seconds of whole commands, ResNet-8; {where}. ~: extrapolated from measured parts. "
    text += "plain: tuned, but batch norm is not evaluated with re-estimated statistics.\n\n"
    if rows:
        text += table(rows, [name for name in FIELDS if name != "measured"]) + "\n\n"
    text += "Two ways to do the same, measured:\n\n" + table(pairs, COMMANDS) + "\n"
    (arguments.out / "runs.md").write_text(text, encoding="utf-8")
    if rows:
        picture(rows, arguments.out / "runs.png")
    print("\n" + text)


if __name__ == "__main__":
    main()
