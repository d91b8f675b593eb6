"""Rows of the fault matrix: sweeps that are killed, jobs that go wrong, two processes, one cell."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from faults.world import TINY, Ended, NotHeldError, Running, World, cell_of, hold, hold_same
from normbench.store.results import read_result

BASE = [each for each in TINY if not each.startswith(("batch=", "epochs="))]
GRID = ["norm=batch,group,layer", "batch=4,8,16,32", "optim.lr=0.05,0.1", "epochs=1"]
NUM_CELLS = 24


# ---- a sweep is killed ----


def killed_sweep(world: World, tries: int) -> Iterator[str | None]:
    """A sweep is killed once or more; the same line trains what is missing and nothing else."""
    origin = world.folder / "undisturbed"
    origin.mkdir()
    start = time.monotonic()
    done = world.run(origin, "sweep", *BASE, *GRID)
    assert done.code == 0, done.err + done.out[-2000:]
    seconds = time.monotonic() - start
    attempt = partial(_killed_sweep, world, seconds, table(done.out))
    return world.attempts("sweep", tries, attempt)


def _killed_sweep(
    world: World, seconds: float, wanted: list[list[str]], draw: Random, home: Path, number: int
) -> None:
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if number % 10 == 9 else []
    line = ["sweep", *BASE, *GRID, *joblib]
    before: dict[str, int] = {}
    struck, attempts = 0, draw.choice((1, 2, 3))
    while attempts > 0 or not struck:
        attempts -= 1
        if not struck and before:  # it had ended before its kill
            shutil.rmtree(home / "runs")
            before, seconds = {}, seconds / 2
        process = world.start(home, *line, real=bool(joblib))
        # Planning and the report at the end have a share of the kills, training has most.
        process.poll(draw.uniform(0.0, seconds) + (5 if joblib else 0))
        killed = process.kill() != 0
        struck += killed
        world.counts["kills" if killed else "sweeps that had ended"] += 1
        _hold_untouched(home, before)
        before = _results(home)
    world.counts["cells that were trained before the last kill"] += len(before)
    done = world.run(home, *line)
    hold(done.code == 0, f"exit {done.code}: {done.err}{done.out[-800:]}")
    _hold_untouched(home, before)
    hold(len(_results(home)) == NUM_CELLS, f"{len(_results(home))} of {NUM_CELLS} cells")
    told = f"{len(before)} of them trained already"
    hold(not before or told in done.out, f"not said that {told}: {done.out[:300]}")
    hold(len(wanted) >= NUM_CELLS, f"the undisturbed table has {len(wanted)} rows")
    hold(table(done.out) == wanted, f"another table: {done.out[-3000:]}")
    origin = world.folder / "undisturbed"
    for path in sorted(origin.glob("runs/*/*/seed-*/model.safetensors")):
        there = home / path.relative_to(origin)
        hold(there.read_bytes() == path.read_bytes(), f"{path.parent.parent.name}: other weights")


def _results(home: Path) -> dict[str, int]:
    found = home.glob("runs/*/*/seed-*/result.json")
    return {path.relative_to(home).as_posix(): path.stat().st_mtime_ns for path in found}


def _hold_untouched(home: Path, before: dict[str, int]) -> None:
    now = _results(home)
    again = [name for name, written in before.items() if now.get(name) != written]
    hold(not again, f"trained again: {again}")


def table(out: str) -> list[list[str]]:
    """The rows of the table that a sweep ends with, without the two columns that a clock fills."""
    rows = [line.split() for line in out.splitlines() if " finished " in line]
    return [[*row[:-4], *row[-2:]] for row in rows]


# ---- a job goes wrong ----

LAUNCHERS: dict[str, list[str]] = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
}
FAULTS = ("raises", "is killed", "diverges")
JOBS = [(launcher, fault) for launcher in LAUNCHERS for fault in FAULTS]


def bad_job(world: World, tries: int) -> Iterator[str | None]:
    """One cell of four goes wrong, under each launcher; the others finish."""
    return world.attempts("jobs", tries, partial(_bad_job, world))


def _bad_job(world: World, draw: Random, home: Path, number: int) -> None:
    launcher, fault = JOBS[number % len(JOBS)]
    world.counts[f"{launcher}: {fault}"] += 1
    rate = "1e30" if fault == "diverges" else "0.1"
    grid = ["norm=group,layer", f"optim.lr=0.05,{rate}", "batch=2", "epochs=20"]
    line = ["sweep", *BASE, *grid, *LAUNCHERS[launcher]]
    cells = _plan(world, home, line)
    bad = set(cells[1::2])  # the grid's last axis has two rates
    if fault != "diverges":
        bad = {draw.choice(sorted(bad))}
    if fault == "raises":
        for name in bad:
            place = home / "runs" / "default" / name / "seed-0"
            place.mkdir()
            (place / "step-000000003.checkpoint").write_bytes(b"no checkpoint")
    process = world.start(home, *line, real=True)
    if fault == "is killed":
        (name,) = bad
        _kill_holder(home / "runs" / "default" / name, process)
    done = process.wait(200)
    if fault == "is killed" and launcher == "basic":
        hold(done.code == -signal.SIGKILL, f"exit {done.code}")
        done = world.run(home, *line)
    said = f"{launcher}, {fault}: exit {done.code}: {done.err[-600:]}{done.out[-1500:]}"
    hold("Traceback" not in done.err + done.out, f"a traceback: {said}")
    states = {name: _state(home / "runs" / "default" / name) for name in cells}
    others = {name: state for name, state in states.items() if name not in bad}
    hold(set(others.values()) == {"finished"}, f"others did not finish: {states}; {said}")
    wanted = {"raises": "failed", "is killed": "finished", "diverges": "diverged"}[fault]
    hold({states[name] for name in bad} == {wanted}, f"not {wanted}: {states}; {said}")
    hold(done.code == (wanted != "finished"), f"another exit code: {said}")


def _plan(world: World, home: Path, line: list[str]) -> list[str]:
    """The folders of a sweep's cells, from a sweep that ended when its first cell was held."""
    process = world.start(home, *[each for each in line if "hydra" not in each])
    while process.poll(0.01) is None:
        if "Group" in process.said or "Layer" in process.said:
            break
    process.kill()
    plan: dict[str, Any] = json.loads((home / "runs/default/sweep.json").read_text("utf-8"))
    names = [each["folder"] for each in plan["cells"]]
    for name in names:  # nothing but the plan stays, and the empty folders
        place = home / "runs" / "default" / name
        place.mkdir(exist_ok=True)
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return names


def _kill_holder(cell: Path, sweep: Running) -> None:
    """Kills the process that trains ``cell``, once there is one."""
    while sweep.poll(0.005) is None:
        try:
            pid = int(json.loads((cell / ".holder.json").read_text("utf-8"))["pid"])
        except (OSError, ValueError):
            continue
        time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        return
    raise NotHeldError(f"{cell.name} was never trained: {sweep.said[-600:]}")


def _state(cell: Path) -> str:
    result = read_result(cell / "seed-0")
    return "none" if result is None else result.status


# ---- two processes, one cell ----

CELL = ["norm=batch", "batch=4", "epochs=3"]


def two(world: World, tries: int) -> Iterator[str | None]:
    """Two processes start one cell: one works, and the other says who does."""
    return world.attempts("two", tries, partial(_two, world))


def _two(world: World, draw: Random, home: Path, number: int) -> None:
    real = number % 10 == 9
    overrides = ["norm=batch", "batch=2", "epochs=60"] if real else CELL
    reference = world.reference(*overrides)
    line = ["run", *TINY, *overrides]
    faults: list[list[object]] = [] if real else [["slow_steps", 0.02]]
    if number % 10 in (1, 2, 3):  # between locking and saying so
        faults.append(["slow_holder", 0.2])
    if number % 10 in (3, 4):  # who worked here last was killed
        world.run(home, *line, faults=[["kill_at_step", 5]])
        hold((cell_of(home) / ".holder.json").exists(), "no word of the one that was killed")
        world.counts["with the word of a dead one there"] += 1
    one = world.start(home, *line, real=real, faults=faults)
    time.sleep(draw.choice((0.0, draw.uniform(0, 0.2))))
    other = world.start(home, *line, real=real, faults=faults)
    ended = [one.wait(), other.wait()]
    _hold_one_works(world, ended)
    hold_same(home, reference)
    world.counts["installed commands" if real else "forks"] += 1


def _hold_one_works(world: World, ended: list[Ended]) -> None:
    codes = sorted(each.code for each in ended)
    if codes == [0, 0]:  # one came after the other had done
        trained = ["epoch 1/" in each.out or "goes on after" in each.out for each in ended]
        hold(trained.count(True) == 1, f"not one has trained: {[e.out for e in ended]}")
        world.counts["one after the other"] += 1
        return
    said = "; ".join(f"exit {each.code}: {each.err}{each.out[-300:]}" for each in ended)
    hold(codes == [0, 2], said)
    winner, loser = sorted(ended, key=lambda each: each.code)
    loser.one_line(f"process {winner.pid} on ", "is training this cell", "name=NAME")
    world.counts["at the same time"] += 1
