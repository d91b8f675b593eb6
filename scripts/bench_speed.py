"""How fast the command line answers and how fast one seed trains, against what people use today.

    python scripts/bench_speed.py

Prints three tables: `normbench --help` against `import torch`; a training step of ResNet-8 by a
usual PyTorch loop, a tuned one and normbench; and the share of a step that the data path takes.
Everything is measured side by side in this one run; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from loops import Cell, Step, solo, tuned, usual
from timing import in_turns, machine

from normbench.data import ImageSet
from normbench.data.batches import Batches
from normbench.data.synthetic import draw


def whole_process(commands: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Median wall seconds of each command, in turns, after one turn that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            start = perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if turn:
                times[name].append(perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def start_up(rounds: int) -> None:
    """Prints the first table."""
    normbench = str(Path(sysconfig.get_path("scripts")) / "normbench")
    commands = {
        "normbench --help": [normbench, "--help"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    times = whole_process(commands, rounds)
    for name, seconds in times.items():
        print(f"{name:20} {1e3 * seconds:7.0f} ms")
    print(f"{'ratio':20} {times['normbench --help'] / times['import torch']:7.3f}\n")


def steps(
    images: ImageSet, device: torch.device, norms: list[str], batches: list[int], rounds: int
) -> None:
    """Prints the second table."""
    print(f"{'norm':6} {'batch':>5} {'usual':>9} {'2 workers':>9} {'tuned':>9} {'normbench':>9}"
          "  ms a step;  usual/normbench  tuned/normbench")  # fmt: skip
    for norm in norms:
        for batch in batches:
            cell = Cell(8, norm, batch, images, device)
            loops: dict[str, Step] = {
                "usual": usual(cell, [0]),
                "workers": usual(cell, [0], workers=2),
                "tuned": tuned(cell, [0]),
                "normbench": solo(cell, [0]),
            }
            times = in_turns(loops, rounds=rounds)
            best_usual = min(times["usual"], times["workers"])
            columns = " ".join(f"{1e3 * times[name]:9.2f}" for name in loops)
            print(
                f"{norm:6} {batch:5} {columns} {best_usual / times['normbench']:27.2f}"
                f" {times['tuned'] / times['normbench']:16.2f}"
            )
    print("usual/normbench compares with the faster of the two usual loops\n")


def data_path(images: ImageSet, device: torch.device, batches: list[int], rounds: int) -> None:
    """Prints the third table."""
    for batch in batches:
        cell = Cell(8, "group", batch, images, device)
        stream = Batches(cell.split(), seeds=[0], batch=batch, flip=True).batches()
        count = max(1, 512 // batch)

        def prepare() -> None:
            for _ in range(count):  # noqa: B023 (used within this turn)
                next(stream)  # noqa: B023

        times = in_turns({"data": prepare, "step": solo(cell, [0])}, rounds=rounds)
        share = times["data"] / count / times["step"]
        print(f"data path at batch {batch:3}: {share:.2%} of a step")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--norms", nargs="+", default=["batch", "group"])
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 128])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(machine(device), "\n")
    start_up(min(arguments.rounds, 9))
    images = draw()
    steps(images, device, arguments.norms, arguments.batches, arguments.rounds)
    data_path(images, device, arguments.batches, arguments.rounds)


if __name__ == "__main__":
    main()
