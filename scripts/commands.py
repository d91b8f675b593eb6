"""Commands that are timed whole, as processes: normbench and the plain loops, and pairs of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

SCRIPTS = Path(__file__).parent
NORMBENCH = str(Path(sysconfig.get_path("scripts")) / "normbench")
RATES = ("0.025", "0.05", "0.1", "0.2")

ARRANGE = """
import sys, torch
from normbench.launch.compose import load_config
from normbench.run.cell import Cell
from normbench.run.arranging import arrange
from normbench.terminal.screen import Screen
cell = Cell.of(load_config(sys.argv[1:]))
arrange(cell.replicas(), cell.splits(torch.device("cpu")), Screen())
"""
"""Measures an arrangement, and remembers it."""

RUN = """
import sys
from normbench.cli import main
from normbench.run import machine
if sys.argv.pop(1) == "default":
    machine.keep_freed_memory = lambda: None
main()
"""
"""The command, its memory kept or as the C library has it."""

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

    def overrides(self, name: str) -> list[str]:
        """It for normbench."""
        return [
            *(f"norm={self.norm}", f"batch={self.batch}", f"seeds={self.seeds}"),
            *(f"epochs={self.epochs}", "data=images", f"data.name={name}"),
            *(f"data.limit={self.train}", f"data.test_limit={self.test}"),
        ]


def timed(*commands: Sequence[str], cache: str, at_once: bool = False) -> tuple[float, list[str]]:
    """Wall seconds of commands, and what they printed; nothing is remembered but in ``cache``."""
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    start, said = perf_counter(), []
    started: list[subprocess.Popen[str]] = []
    for command in commands:
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        )
        if not at_once:
            said.append(started[-1].communicate()[0])
    if at_once:
        said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"a command failed: {commands}\n{said}")
    return perf_counter() - start, said


def run_plain(loop: str, case: Case, name: str) -> Parts:
    """Runs a plain loop as a process."""
    command = [sys.executable, str(SCRIPTS / "plain_run.py"), loop, "--name", name]
    for option in ("norm", "batch", "seeds", "epochs"):
        command += [f"--{option}", str(getattr(case, option))]
    command += ["--limit", str(case.train), "--test-limit", str(case.test)]
    with TemporaryDirectory() as folder:
        wall, (said,) = timed(command, cache=folder)
    parts: Parts = json.loads(said.splitlines()[-1])
    return parts | {"start": wall - sum(parts.values())}


def run_normbench(case: Case, name: str, *, ahead: bool) -> Parts:
    """Runs normbench as a process; ``ahead``: seeds are arranged before, as for a long training."""
    with TemporaryDirectory() as folder:
        if ahead and case.seeds > 1:
            long = replace(case, epochs=1000).overrides(name)
            timed([sys.executable, "-c", ARRANGE, *long], cache=folder)
        command = [NORMBENCH, "run", *case.overrides(name), f"runs={folder}"]
        wall, _ = timed(command, cache=folder)
        (path,) = Path(folder).rglob("time.json")
        parts: Parts = json.loads(path.read_text(encoding="utf-8"))
    named = {part: parts[part] for part in ("arranging", "training", "evaluating", "decomposing")}
    return named | {"start": wall - sum(named.values())}


def run(loop: str, case: Case, name: str, *, ahead: bool) -> Parts:
    """Runs one of the three."""
    if loop == "normbench":
        return run_normbench(case, name, ahead=ahead)
    return run_plain(loop, case, name)


def sweep(case: Case, name: str) -> tuple[float, float]:
    """Seconds of four rates as one sweep, and as a run each; long, so that starts weigh little."""
    case = replace(case, norm="group", batch=2, seeds=3, train=4 * case.train)
    base = case.overrides(name)
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        rates = f"optim.lr={','.join(RATES)}"
        together, _ = timed([NORMBENCH, "sweep", *base, rates, f"runs={one}"], cache=one)
        runs = [[NORMBENCH, "run", *base, f"optim.lr={r}", f"runs={other}"] for r in RATES]
        apart, _ = timed(*runs, cache=other)
    return together, apart


def beside(case: Case, name: str) -> tuple[float, float]:
    """Seconds of two commands at once, and one after another."""
    found = []
    for at_once in (True, False):
        with TemporaryDirectory() as folder:
            commands = [
                [NORMBENCH, "run", *each.overrides(name), f"runs={folder}"]
                for norm in ("batch", "group")
                for each in [replace(case, norm=norm, batch=2, seeds=4)]
            ]
            found.append(timed(*commands, cache=folder, at_once=at_once)[0])
    return found[0], found[1]


def allocator(case: Case, name: str) -> tuple[float, float]:
    """Seconds of a command with freed memory kept, and as the C library has it."""
    base = replace(case, norm="group", batch=128, train=2 * case.train).overrides(name)
    found = []
    for memory in ("kept", "default"):
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-c", RUN, memory, "run", *base, f"runs={folder}"]
            found.append(timed(command, cache=folder)[0])
    return found[0], found[1]


Pair = Callable[[Case, str], tuple[float, float]]
PAIRS: dict[str, tuple[Pair, str]] = {
    "sweep": (sweep, "group norm, batch 2, four rates x three seeds: one sweep, four runs"),
    "beside": (beside, "batch and group norm, batch 2, four seeds: at once, one after another"),
    "allocator": (allocator, "group norm, batch 128, one seed: freed memory kept, not kept"),
}
