"""What sweeps and checkpoints cost beside the training itself.

    python scripts/bench_sweep.py

Trains a sweep of many tiny cells on noise, runs the same line again, and saves checkpoints of real
networks. Run it on an idle machine; it takes about five minutes and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from hydra import compose, initialize_config_module
from PIL import Image
from rich.console import Console
from timing import machine

from normbench.data.library.importing import import_images
from normbench.launch.choices import CONFIGS
from normbench.launch.compose import load_config, register_schemas
from normbench.launch.grid import train_all
from normbench.run.autosave import Saver
from normbench.run.cell import Cell, Replica
from normbench.run.seeds import Replicas
from normbench.store import results
from normbench.terminal.screen import Screen
from normbench.training.progress import Progress

TINY = ["data=images", "data.name=noise", "model=convnet", "model.depth=1", "model.width=4"]
TINY += ["batch=24", "epochs=1", "norm=group"]


def quiet() -> Screen:
    """A screen that nobody sees."""
    return Screen(Console(file=io.StringIO()))


def noise(folder: Path) -> Path:
    """Writes 36 pictures of 8×8 pixels in the ImageFolder layout."""
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in "abc":
            place = folder / split / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def composing(count: int) -> float:
    """Seconds in which Hydra composes one configuration."""
    register_schemas()
    times = []
    with initialize_config_module(CONFIGS, version_base="1.3"):
        for number in range(count):
            start = perf_counter()
            compose("config", overrides=[*TINY, f"batch={number + 1}"])
            times.append(perf_counter() - start)
    return median(times)


def sweeps(count: int) -> None:
    """Prints what a cell costs beside its training, and what a finished one costs."""
    import_images(noise(Path("pictures")), "noise", size=8)
    line = [*TINY, "name=many", f"optim.momentum=range(0,{count / 2000},0.0005)"]
    start = perf_counter()
    with redirect_stdout(io.StringIO()):  # every cell has a screen of its own
        cells = train_all(line, quiet())
    first = perf_counter() - start
    trained = sum(
        result.seconds for cell in cells for result in results.read_results(cell.directory)
    )
    start = perf_counter()
    assert len(train_all(line, quiet())) == len(cells)
    again = perf_counter() - start
    start = perf_counter()
    for cell in cells:
        assert cell.finished
    reading = perf_counter() - start
    hydra = composing(20)
    number = len(cells)
    print(f"{number} cells, each of one step on noise\n")
    print(f"starting, scoring and ending a cell   {1e3 * (first - trained) / number:7.1f} ms")
    print(f"  of that, Hydra's composing          {1e3 * hydra:7.1f} ms")
    print(f"the same line again, all finished     {again:7.2f} s")
    print(f"  a finished cell                     {1e3 * again / number:7.2f} ms")
    print(f"  of that, reading its results        {1e3 * reading / number:7.2f} ms\n")


def checkpoints(depths: list[int], rounds: int) -> None:
    """Prints how long a checkpoint takes, and its share of the time between two."""
    print(f"{'checkpoint of':24} {'seeds':>5} {'MB':>6} {'ms':>7} {'of 60 s':>8}")
    for depth in depths:
        for seeds in (1, 8):
            config = load_config(
                ["norm=batch", "batch=2", "data=synthetic", f"model.depth={depth}", "epochs=4"]
            )
            cell = Cell.of(config)
            members = [Replica(cell, seed) for seed in range(seeds)]
            replicas = Replicas.of(members, cell.splits(torch.device("cpu")))
            progress = Progress(replicas.training)
            saver = Saver(members, replicas, print)
            cell.seed_folder(0).mkdir(parents=True, exist_ok=True)
            for _ in range(3):
                replicas.stepper()()
            times = []
            for number in range(rounds):
                progress.step = progress.recorded = number
                start = perf_counter()
                saver.save(progress, [])
                times.append(perf_counter() - start)
            size = max(path.stat().st_size for path in cell.seed_folder(0).glob("step-*"))
            saver.clear()
            share = median(times) / config.save_every
            name = f"{config.model.title}"
            print(f"{name:24} {seeds:5} {size / 1e6:6.2f} {1e3 * median(times):7.1f} {share:8.3%}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 20, 110])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    print(machine(torch.device("cpu")) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NORMBENCH_DATA"] = str(Path(folder) / "library")
        os.chdir(folder)
        sweeps(arguments.cells)
        checkpoints(arguments.depths, arguments.rounds)
        os.chdir("/")


if __name__ == "__main__":
    main()
