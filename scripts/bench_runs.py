"""Whole commands against plain loops that train the same seeds on as many images, side by side.

    python scripts/bench_runs.py --out results/runs

Times processes in turns, ResNet-8. Rows:

- `table`: `normbench run` (start, arranging, training, an evaluation an epoch, decomposition,
  records) and scripts/plain_run.py (`usual` and `tuned`), batch and group norm, batch 2 to 128, one
  seed and eight, one epoch of 10,000 images and three of 50,000, 10,000 test images. One seed over
  one epoch is run whole by `tuned` and `normbench`. All else (`~`) is extrapolated: the parts that
  a run took are scaled to more images, epochs and, for the plain loops, seeds, which they train one
  after another. `usual` and the eight seeds run on 2,560 training images, 5,120 at batch 128, and
  2,000 test images. How the eight are arranged is measured before, as for a long training, and
  counted with the most that the training would have taken for it.
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

LENGTHS = {"1 x 10,000": (1, 10_000), "3 x 50,000": (3, 50_000)}
LOOPS = ("usual", "tuned", "normbench")
TEST, ALL_TEST = 2_000, 10_000
IDENTITY = ("norm", "batch", "seeds", "length", "data", "quick")
FIELDS = (
    *(*IDENTITY, "measured", *LOOPS, "usual/normbench", "tuned/normbench"),
    *("not training", "spread"),
)
COMMANDS = ("what", "data", "quick", "seconds", "instead of", "ratio", "spread")

Row = dict[str, str]


def scaled(parts: Parts, seeds: int, done: Case, wanted: Case) -> Parts:
    """``parts`` of ``done`` as they would be of ``wanted``, and of ``seeds`` times the seeds."""
    if done == wanted and seeds == 1:
        return parts
    steps = wanted.epochs * (wanted.train // wanted.batch) / (done.train // done.batch)
    an_image = parts["evaluating"] / done.test
    more = (wanted.test - done.test) * an_image if parts.get("decomposing") else 0.0
    training = seeds * steps * parts["training"]
    return {
        "start": parts["start"],
        "arranging": time_to_measure(training) if "arranging" in parts else 0.0,
        "training": training,
        "evaluating": seeds * wanted.epochs * wanted.test * an_image,
        "decomposing": seeds * (parts.get("decomposing", 0.0) + more),
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
    few = 256 if arguments.quick else max(2_560, 40 * batch)
    test = 200 if arguments.quick else TEST
    small = {k: Case(norm, batch, k, 1, few, test) for k in (1, *seeds)}
    whole = small[1] if arguments.quick else Case(norm, batch, 1, 1, 10_000, ALL_TEST)
    done = {("usual", 1): small[1], ("tuned", 1): whole}
    done |= {("normbench", k): small[k] if k > 1 else whole for k in seeds}
    turns: dict[tuple[str, int], list[Parts]] = {key: [] for key in done}
    for _ in range(arguments.rounds):
        for (loop, k), case in done.items():
            turns[loop, k].append(run(loop, case, arguments.name))
    rows = []
    for k in seeds:
        keys = {"usual": ("usual", 1), "tuned": ("tuned", 1), "normbench": ("normbench", k)}
        for length in arguments.lengths:
            epochs, images = LENGTHS[length]
            wanted = Case(norm, batch, k, epochs, images, ALL_TEST)
            times, parts = {}, {}
            for loop, key in keys.items():
                more = k // key[1]
                scale = [scaled(each, more, done[key], wanted) for each in turns[key]]
                times[loop] = [sum(each.values()) for each in scale]
                parts[loop] = scaled(shortest(turns[key]), more, done[key], wanted)
            measured = " ".join(loop for loop, key in keys.items() if done[key] == wanted)
            spreads = " / ".join(filter(None, (spread(times[loop]) for loop in LOOPS)))
            identity = (norm, batch, k, length, arguments.name, arguments.quick)
            known = dict(zip(IDENTITY, map(str, identity), strict=True))
            rows.append(known | {"measured": measured, "spread": spreads} | seconds(parts))
    return rows


def seconds(parts: dict[str, Parts]) -> Row:
    """What a row says of the times."""
    total = {loop: sum(each.values()) for loop, each in parts.items()}
    ours = total["normbench"]
    return {
        **{loop: f"{total[loop]:.1f}" for loop in LOOPS},
        **{f"{loop}/normbench": f"{total[loop] / ours:.2f}" for loop in LOOPS[:2]},
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
    text = f"Seconds of whole commands, ResNet-8; {where}. ~: extrapolated from measured parts.\n\n"
    if rows:
        text += table(rows, [name for name in FIELDS if name != "measured"]) + "\n\n"
    text += "Two ways to do the same, measured:\n\n" + table(pairs, COMMANDS) + "\n"
    (arguments.out / "runs.md").write_text(text, encoding="utf-8")
    if rows:
        picture(rows, arguments.out / "runs.png")
    print("\n" + text)


if __name__ == "__main__":
    main()
