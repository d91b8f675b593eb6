"""Rows of the fault matrix: processes that are killed, in training, in a save, and asked to go."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import torch

from faults.inside import content_of
from faults.world import NUM_TRAIN, TINY, Running, World, cell_of, hold, hold_same
from normbench.errors import UsageError
from normbench.store import checkpoint

CELLS = [
    (norm, batch, seeds)
    for norm in ("batch", "group", "layer")
    for batch in (2, 16)
    for seeds in (["seeds=1"], ["seeds=2", "stack=2"])
]
SAVE_EVERY = ("0", "0.01", "0.05", "60")
"""After each step; after some; and the default, with which these runs save once an epoch."""

PHASES = ("before", "amid", "after")
SAVE_OPERATIONS = 11
"""A new file, four writes, sync, mode, rename, sync of the folder, removal of the rest and of the
oldest."""
ELSEWHERE = {3: "time", 6: "time", 9: "run"}
"""Tries, by their last digit, that kill somewhere else than at an operation of one save."""


def cell(number: int) -> tuple[list[str], int]:
    """Overrides of one of the twelve kinds of cells, and how many steps it has."""
    norm, batch, seeds = CELLS[number % len(CELLS)]
    epochs = 3 if batch == 2 else 8
    overrides = [f"norm={norm}", f"batch={batch}", f"epochs={epochs}", *seeds]
    return overrides, epochs * (NUM_TRAIN // batch)


GOES_ON = "goes on after step"


def left_to_do(home: Path, overrides: list[str]) -> bool:
    """Whether there are checkpoints, and seeds that have no result yet."""
    seeds = next(int(o.partition("=")[2]) for o in overrides if o.startswith("seeds="))
    ended = len(list(home.glob("runs/*/*/seed-*/result.json")))
    return ended < seeds and any(home.rglob("*.checkpoint"))


def killed(world: World, tries: int) -> Iterator[str | None]:
    """SIGKILL at random steps and times; then the same line, to the end."""
    return world.attempts("kill", tries, partial(_killed, world))


def _killed(world: World, draw: Random, home: Path, number: int) -> None:
    overrides, steps = cell(number)
    reference = world.reference(*overrides)
    line = ["run", *TINY, *overrides, f"save_every={draw.choice(SAVE_EVERY)}"]
    struck, attempts = 0, draw.choice((1, 1, 2, 3))
    while attempts > 0 or not struck:
        attempts -= 1
        again = ["--fresh"] if not struck else []  # a run that had ended before its kill
        how = draw.choice(("step", "step", "step", "time", "time", "evaluation", "results"))
        faults: list[list[object]] = []
        step = draw.randrange(steps) if how == "step" else 0
        if how == "step":
            faults = [["kill_at_step", step]]
        elif how == "evaluation":
            faults = [["kill_in_evaluation", draw.randrange(12)]]
        elif how == "results":
            faults = [["kill_at_write", draw.randrange(300), draw.choice(PHASES)]]
        real = how == "time" and number % 20 == 3  # a share is really the installed command
        process = world.start(home, *line, *again, faults=faults, real=real)
        if how == "time":
            process.poll(draw.uniform(0, 5.0 if real else 1.05 * reference["seconds"]))
            process.kill()
        ended = process.wait()
        hold(ended.code in (-signal.SIGKILL, 0), f"{how}: exit {ended.code}: {ended.err}")
        if ended.code:
            struck += 1
            world.counts[f"kills at a random {how}"] += 1
            saved = left_to_do(home, overrides)
            hold(saved or step < 2 or line[-1] != "save_every=0", "nothing was saved")
    saved = left_to_do(home, overrides)
    done = world.run(home, *line, real=number % 20 == 3)
    hold(done.code == 0, f"does not go on: exit {done.code}: {done.err[-500:]}{done.out[-500:]}")
    hold("damaged" not in done.out, f"a kill has damaged a checkpoint: {done.out[-500:]}")
    hold(not saved or GOES_ON in done.out, f"begins anew: {done.out[-500:]}")
    hold_same(home, reference)
    left = [path.name for path in home.rglob("*step-*")]
    hold(not left, f"checkpoints are left: {left}")


# ---- in a save ----


def killed_in_save(world: World, tries: int) -> Iterator[str | None]:
    """SIGKILL at each write, sync and rename of a save, at random times, and in whole runs."""
    return world.attempts("save", tries, partial(_killed_in_save, world))


def _killed_in_save(world: World, draw: Random, home: Path, number: int) -> None:
    if ELSEWHERE.get(number % 10) == "run":
        _killed_in_a_run(world, draw, home, number)
        return
    seed, before = draw.randrange(1000), draw.choice((0, 1, 2, 3))
    place = number - sum(each % 10 in ELSEWHERE for each in range(number))
    operation, phase = place // 3 % SAVE_OPERATIONS, PHASES[place % 3]
    if operation == SAVE_OPERATIONS - 1:  # there has to be one to be removed
        before = max(before, checkpoint.KEPT)
    for step in range(1, before + 1):
        checkpoint.save(home, step, content_of(seed, step), {"step": step})
    first = before + 1
    if number % 10 in ELSEWHERE:  # somewhere in a save, wherever that is
        process = world.start(home, task=["save_checkpoints", str(home), seed, first, 10_000])
        time.sleep(draw.uniform(0, 0.06))
        process.kill()
        world.counts["kills at a random time of a save"] += 1
        _hold_loads(home, seed, range(max(before, 1), 10_000), before)
        return
    fault = ["kill_at_write", operation, phase]
    process = world.start(
        home, faults=[fault], task=["save_checkpoints", str(home), seed, first, 1]
    )
    ended = process.wait()
    hold(ended.code in (-signal.SIGKILL, 0), f"exit {ended.code}: {ended.err}")
    hold(ended.code, f"a save has no operation {operation}")
    world.counts[f"kills {phase} an operation of a save"] += 1
    _hold_loads(home, seed, range(max(before, 1), first + 1), before)


def _hold_loads(home: Path, seed: int, steps: range, before: int) -> None:
    """Holds if the newest checkpoint loads, whole, and saving goes on after it."""
    warnings: list[str] = []
    try:
        found = checkpoint.load(home, lambda _: None, warnings.append)
    except UsageError as error:
        hold(False, f"no checkpoint loads: {error}")
        return
    hold(not warnings, f"a kill has damaged a checkpoint: {warnings}")
    hold(found is not None or before == 0, f"the {before} checkpoints before are gone")
    step = before
    if found is not None:
        step = found.values["step"]
        hold(step in steps, f"step {step} is not one of {steps}")
        wanted = content_of(seed, step)
        same = wanted.keys() == found.tensors.keys()
        same = same and all(torch.equal(wanted[name], found.tensors[name]) for name in wanted)
        hold(same, f"step {step} holds something else than was saved")
    hold(len(list(home.iterdir())) <= checkpoint.KEPT + 1, f"left over: {list(home.iterdir())}")
    checkpoint.save(home, step + 1, content_of(seed, step + 1), {"step": step + 1})
    hold(len(checkpoint.files(home)) <= checkpoint.KEPT, "too many checkpoints are kept")


def _killed_in_a_run(world: World, draw: Random, home: Path, number: int) -> None:
    """Killed at some write of a whole run: checkpoints, curves, results, summary."""
    overrides, _ = cell(number // 10)
    reference = world.reference(*overrides)
    line = ["run", *TINY, *overrides, "save_every=0"]
    fault = ["kill_at_write", draw.randrange(200), draw.choice(PHASES)]
    ended = world.run(home, *line, faults=[fault])
    hold(ended.code in (-signal.SIGKILL, 0), f"exit {ended.code}: {ended.err}")
    world.counts["kills at a write of a whole run" if ended.code else "runs that had ended"] += 1
    for folder in home.glob("runs/*/*/seed-*"):
        for path in checkpoint.files(folder):
            checkpoint.read(path)
    saved = left_to_do(home, overrides)
    done = world.run(home, *line)
    hold(done.code == 0, f"does not go on: exit {done.code}: {done.err[-500:]}{done.out[-500:]}")
    hold(not saved or GOES_ON in done.out, f"begins anew: {done.out[-500:]}")
    hold_same(home, reference)


# ---- asked to go ----


def interrupted(world: World, tries: int) -> Iterator[str | None]:
    """SIGTERM and SIGINT at random times: out within five seconds, and goes on."""
    return world.attempts("signal", tries, partial(_interrupted, world))


def _interrupted(world: World, draw: Random, home: Path, number: int) -> None:
    overrides, _ = cell(draw.randrange(len(CELLS)))
    reference = world.reference(*overrides)
    line = ["run", *TINY, *overrides, f"save_every={draw.choice(SAVE_EVERY)}"]
    which, code = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[number % 2]
    real = number % 5 == 4
    slow = number % 10 == 3  # a step that nothing can interrupt, longer than there is time
    faults = [["slow_steps", 8.0]] if slow else []
    process = world.start(home, *line, real=real, faults=faults)
    longest = 6.0 if real else 2.0 if slow else reference["seconds"]
    process.poll(draw.uniform(0.3 if slow else 0.0, longest))
    asked = time.monotonic()
    process.signal(which)
    twice = number % 10 == 6  # who asks twice is impatient
    if twice:
        time.sleep(0.01)
        process.signal(which)
    ended = process.wait(30)
    seconds = time.monotonic() - asked
    world.counts[f"{which.name} {'to the installed command' if real else 'to a fork'}"] += 1
    world.counts[f"exit {ended.code}"] += 1
    hold(seconds < 5, f"{seconds:.1f} s to get out after {which.name}")
    hold(ended.code in (code, -which, 0), f"exit {ended.code} after {which.name}: {ended.err}")
    hold("Traceback" not in ended.err, f"a traceback: {ended.err[-800:]}")
    hold(ended.err.count("\n") <= 1, f"more than a line: {ended.err}")
    done = world.run(home, *line)
    hold(done.code == 0, f"does not go on: exit {done.code}: {done.err}")
    hold_same(home, reference)


def saved_at(world: World, home: Path, overrides: list[str], steps: int) -> Path:
    """A run that was killed after so many steps: the folder of its first seed."""
    process: Running = world.start(
        home, "run", *TINY, *overrides, "save_every=0", faults=[["kill_at_step", steps]]
    )
    assert process.wait().code == -signal.SIGKILL
    return cell_of(home) / "seed-0"
