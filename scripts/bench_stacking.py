"""Several seeds in lockstep against one after another: replica-steps per second, by six loops.

    python scripts/bench_stacking.py --out results/stacking

For ResNet-8 and ResNet-20, batch and group norm, batch 1 to 128 and 8 seeds, in one interleaved
run: a usual loop (DataLoader, PIL transforms, default SGD, .item() each step), a tuned bare loop
(resident tensors, fused SGD, channels_last), torch.func's vmap over stacked parameters, normbench
one seed after another, normbench with all seeds in one stack, and normbench as `stack=auto`
arranges the seeds (stacks in lanes, chosen by measuring, as `normbench run` does). Loops that train
one seed after another are timed on one seed: their seeds do not help each other. Writes a table as
Markdown and CSV, and a picture. Run it on an idle machine; a cell that is in the CSV already is not
measured again without --fresh.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from pathlib import Path

import torch
from loops import (
    Cell,
    Step,
    arranged,
    choose,
    normbench_model,
    solo,
    stacked,
    tuned,
    usual,
    vmapped,
)
from timing import in_turns, machine, matrix_product_peak

from normbench.data.synthetic import draw
from normbench.models.inspection import layers

LOOPS = ("usual", "tuned", "vmap", "solo", "stacked", "auto")
PALETTE = ("#999999", "#E69F00", "#CC79A7", "#56B4E9", "#009E73", "#0072B2")
FIELDS = (
    "depth",
    "norm",
    "batch",
    "seeds",
    "loop",
    "lanes",
    "stack",
    "ms_per_replica_step",
    "replica_steps_per_second",
    "images_per_second",
    "share_of_peak",
)


def measure(cell: Cell, seeds: int, peak: float, rounds: int) -> list[dict[str, str]]:
    """One row a loop."""
    everyone = list(range(seeds))
    # Long enough that the lanes' start and end, which training has once, do not count.
    inner = {1: 20, 2: 20, 4: 15, 8: 10, 32: 4}.get(cell.batch, 2)
    best = choose(cell, everyone)
    # What one call runs, and how many seeds' steps that is.
    loops: dict[str, tuple[Step, int, int, int]] = {
        "usual": (usual(cell, [0]), 1, 1, 1),
        "tuned": (tuned(cell, [0]), 1, 1, 1),
        "solo": (solo(cell, [0]), 1, 1, 1),
        "stacked": (stacked(cell, everyone), seeds, 1, seeds),
        "auto": (arranged(cell, everyone, best, inner), seeds * inner, best.lanes, best.size),
        # Last, because the gigabytes it frees at a large batch slow down whatever follows it.
        "vmap": (vmapped(cell, everyone), seeds, 1, seeds),
    }
    times = in_turns({name: loop[0] for name, loop in loops.items()}, rounds=rounds)
    infos = layers(normbench_model(cell, 0), (32, 32))
    flops = 3 * cell.batch * sum(info.flops for info in infos)  # backward costs twice the forward
    rows = []
    for name, (_, replicas, lanes, size) in loops.items():
        seconds = times[name] / replicas
        rows.append(
            {
                "depth": str(cell.depth),
                "norm": cell.norm,
                "batch": str(cell.batch),
                "seeds": str(seeds),
                "loop": name,
                "lanes": str(lanes),
                "stack": str(size),
                "ms_per_replica_step": f"{1e3 * seconds:.3f}",
                "replica_steps_per_second": f"{1 / seconds:.1f}",
                "images_per_second": f"{cell.batch / seconds:.0f}",
                "share_of_peak": f"{flops / seconds / peak:.3f}",
            }
        )
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """The rows as a Markdown table, a cell a line."""
    lines = [
        "| network | norm | batch | usual | tuned | vmap | solo | stacked | auto | lanes × stack"
        " | share of peak: tuned, solo, auto | auto/usual | auto/tuned |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells = {(r["depth"], r["norm"], r["batch"]) for r in rows}
    for depth, norm, batch in sorted(cells, key=lambda c: (int(c[0]), c[1], int(c[2]))):
        mine = {
            r["loop"]: r
            for r in rows
            if (r["depth"], r["norm"], r["batch"]) == (depth, norm, batch)
        }
        rate = {name: float(mine[name]["replica_steps_per_second"]) for name in LOOPS}
        shares = ", ".join(
            f"{100 * float(mine[name]['share_of_peak']):.0f} %"
            for name in ("tuned", "solo", "auto")
        )
        rates = " | ".join(f"{rate[name]:.4g}" for name in LOOPS)
        how = f"{mine['auto']['lanes']} × {mine['auto']['stack']}"
        lines.append(
            f"| ResNet-{depth} | {norm} | {batch} | {rates} | {how} | {shares} |"
            f" {rate['auto'] / rate['usual']:.2f} | {rate['auto'] / rate['tuned']:.2f} |"
        )
    return "\n".join(lines)


def picture(rows: list[dict[str, str]], path: Path) -> None:
    """Replica-steps per second against the batch, a panel a network and norm."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    panels = list(dict.fromkeys((r["depth"], r["norm"]) for r in rows))
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    colours = dict(zip(LOOPS, PALETTE, strict=True))
    for number, (depth, norm) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for loop in LOOPS:
            mine = [r for r in rows if (r["depth"], r["norm"], r["loop"]) == (depth, norm, loop)]
            mine.sort(key=lambda r: int(r["batch"]))
            batches = [int(r["batch"]) for r in mine]
            rates = [float(r["images_per_second"]) for r in mine]
            axes.plot(batches, rates, marker="o", markersize=4, color=colours[loop], label=loop)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(batches, map(str, batches))
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_title(f"ResNet-{depth}, {norm} norm")
        axes.set_xlabel("batch")
        axes.grid(alpha=0.3)
        if number == 0:
            axes.set_ylabel("images per second, over all seeds")
            axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/stacking"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 20])
    parser.add_argument("--norms", nargs="+", default=["batch", "group"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 32, 128])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each loop")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
    device = torch.device(arguments.device)
    peak = matrix_product_peak(device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = arguments.out / "stacking.csv"
    rows: list[dict[str, str]] = []
    if store.exists() and not arguments.fresh:
        with store.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    images = draw()
    for depth in arguments.depths:
        for norm in arguments.norms:
            for batch in arguments.batches:
                key = (str(depth), norm, str(batch), str(arguments.seeds))
                if any((r["depth"], r["norm"], r["batch"], r["seeds"]) == key for r in rows):
                    continue
                cell = Cell(depth, norm, batch, images, device)
                rows += measure(cell, arguments.seeds, peak, arguments.rounds)
                with store.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    writer.writeheader()
                    writer.writerows(rows)
                print(table(rows[-len(LOOPS) :]).splitlines()[-1], flush=True)
    rows = [row for row in rows if row["seeds"] == str(arguments.seeds)]
    head = (
        f"{arguments.seeds} seeds; {machine(device)}; matrix product {peak / 1e9:.0f} GFLOP/s.\n"
        "Replica-steps per second: a step of one seed counts one. `auto` is `stack=auto`.\n\n"
    )
    (arguments.out / "stacking.md").write_text(head + table(rows) + "\n", encoding="utf-8")
    picture(rows, arguments.out / "stacking.png")
    print("\n" + head + table(rows))


if __name__ == "__main__":
    main()
