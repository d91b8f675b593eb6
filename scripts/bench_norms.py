"""What each norm costs: time of a training step and memory it holds, by network and batch size.

    python scripts/bench_norms.py --out results/cost

All norms of a network and batch size are timed in turns, in one process, a step of one seed at a
time, so that their ratios hold even where the machine's mood changes; the seconds of a training
(`normbench report`) are as good as the machine was idle. Writes a table as Markdown and CSV. Run
it on an idle machine.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from statistics import median

import torch
from loops import Cell, normbench_model, solo
from timing import machine, turns

from normbench.data import ImageSet
from normbench.data.synthetic import draw
from normbench.models.inspection import memory_of_step
from normbench.report.compare.statistics import estimate

NORMS = ("batch", "group", "layer", "instance", "none")
REFERENCE = "batch"
FIELDS = (
    "network", "batch", "norm", "ms_per_step", "images_per_second", "ratio", "ratio_half_interval",
    "memory_bytes",
)  # fmt: skip


def measure(
    depth: int, batch: int, images: ImageSet, device: torch.device, rounds: int
) -> list[dict[str, str]]:
    """One row a norm."""
    cells = {norm: Cell(depth, norm, batch, images, device) for norm in NORMS}
    times = turns({norm: solo(cell, [0]) for norm, cell in cells.items()}, rounds=rounds)
    rows = []
    for norm, cell in cells.items():
        model = normbench_model(cell, 0).to(memory_format=torch.channels_last)
        pictures = torch.zeros(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        held = memory_of_step(model.train(), pictures, torch.zeros(batch, dtype=torch.int64))
        seconds = median(times[norm])
        ratios = [own / other for own, other in zip(times[norm], times[REFERENCE], strict=True)]
        ratio = estimate(ratios)
        assert ratio is not None
        rows.append(
            {
                "network": f"ResNet-{depth}",
                "batch": str(batch),
                "norm": norm,
                "ms_per_step": f"{1e3 * seconds:.3f}",
                "images_per_second": f"{batch / seconds:.0f}",
                "ratio": f"{ratio.mean:.3f}",
                "ratio_half_interval": f"{ratio.half or 0.0:.3f}",
                "memory_bytes": str(held),
            }
        )
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """The rows as a Markdown table: a line a network and batch size, a column a norm."""
    lines = [
        "| network | batch | " + " | ".join(NORMS) + " | memory |",
        "|---|---:|" + "---:|" * (len(NORMS) + 1),
    ]
    for network, batch in dict.fromkeys((r["network"], r["batch"]) for r in rows):
        mine = {r["norm"]: r for r in rows if (r["network"], r["batch"]) == (network, batch)}
        times = " | ".join(
            f"{float(mine[n]['ms_per_step']):.3g} ({float(mine[n]['ratio']):.2f} ±"
            f" {float(mine[n]['ratio_half_interval']):.2f})"
            if n != REFERENCE
            else f"{float(mine[n]['ms_per_step']):.3g}"
            for n in NORMS
        )
        held = [int(mine[norm]["memory_bytes"]) / 1e6 for norm in NORMS]
        lines.append(f"| {network} | {batch} | {times} | {min(held):.3g} to {max(held):.3g} MB |")
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/cost"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 20])
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each norm")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    images = draw()
    rows: list[dict[str, str]] = []
    for depth in arguments.depths:
        for batch in arguments.batches:
            rows += measure(depth, batch, images, device, arguments.rounds)
            print(table(rows[-len(NORMS) :]).splitlines()[-1], flush=True)
    text = (
        f"Made by `python scripts/bench_norms.py --rounds {arguments.rounds}`;"
        f" {machine(device)}.\n\n"
        "Milliseconds of one training step of one seed, median over rounds in which the norms\n"
        "are timed in turns. In brackets: how many times as long as with batch norm, the mean\n"
        "over the rounds with its 95 % interval; another start of the process may lie outside\n"
        "of it. And the memory that a step holds. `none` keeps γ and β, whose gradients are\n"
        "sums over all values, too.\n\n" + table(rows) + "\n"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "cost.md").write_text(text, encoding="utf-8")
    with (arguments.out / "cost.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    print("\n" + text)


if __name__ == "__main__":
    main()
