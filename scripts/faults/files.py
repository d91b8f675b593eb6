"""Rows of the fault matrix: damaged checkpoints and event files, and disks that are full."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from threading import Event

from faults.kills import saved_at
from faults.world import TINY, NotHeldError, World, cell_of, hold, hold_same
from normbench.config import Config
from normbench.errors import UnreadableError, UsageError
from normbench.launch.compose import load_config
from normbench.run.autosave import Saver
from normbench.run.cell import Cell, Replica
from normbench.run.seeds import Replicas
from normbench.store import checkpoint
from normbench.store.curves import EVENTS, is_sound, read_metrics, rebuild
from normbench.training.progress import Progress

CELL = ["norm=batch", "batch=4", "epochs=3"]
AT_STEP = 30
"""Where the run is killed whose checkpoints are damaged."""


# ---- checkpoints ----


def damage(draw: Random, content: bytes) -> tuple[str, bytes]:
    """What is done to a file, and its content then, which is another."""
    kind = draw.choice(("flip",) * 12 + ("cut",) * 5 + ("empty", "grown", "zeros", "moved"))
    place = draw.randrange(len(content))
    harmed = bytearray(content)
    match kind:
        case "flip":
            harmed[place] ^= 1 << draw.randrange(8)
        case "cut":
            del harmed[place:]
        case "empty":
            harmed.clear()
        case "grown":
            harmed += draw.randbytes(draw.randrange(1, 5000))
        case "zeros":
            size = draw.randrange(1, 4097)
            harmed[place : place + size] = bytes(len(harmed[place : place + size]))
        case _:
            harmed = harmed[place:] + harmed[:place]
    if bytes(harmed) == content:  # zeros over zeros
        return damage(draw, content)
    return kind, bytes(harmed)


def damaged(world: World, tries: int) -> Iterator[str | None]:
    """A checkpoint is damaged: it is found out and named, and the one before it used."""
    origin = world.folder / "saved"
    if not origin.exists():
        origin.mkdir()
        saved_at(world, origin, CELL, AT_STEP)
    place = (cell_of(origin) / "seed-0").relative_to(origin)
    with _library(world):
        config = load_config([*TINY, *CELL, "save_every=0", f"runs={origin}/runs"])
        return (yield from world.attempts("damage", tries, partial(_damaged, world, config, place)))


class _library:  # noqa: N801
    """This process looks for images where the others do."""

    def __init__(self, world: World) -> None:
        self._mine = os.environ.get("NORMBENCH_DATA")
        os.environ["NORMBENCH_DATA"] = str(world.library)

    def __enter__(self) -> None:
        """Nothing more is to be done."""

    def __exit__(self, *_: object) -> None:
        del os.environ["NORMBENCH_DATA"]
        if self._mine is not None:
            os.environ["NORMBENCH_DATA"] = self._mine


def _damaged(
    world: World, config: Config, place: Path, draw: Random, home: Path, number: int
) -> None:
    shutil.copytree(world.folder / "saved" / "runs", home / "runs")
    newest, older = checkpoint.files(home / place)
    which = ("newest",) * 8 + ("older", "both")
    target = which[number % 10]
    for path in {"newest": [newest], "older": [older], "both": [newest, older]}[target]:
        kind, harmed = damage(draw, path.read_bytes())
        path.write_bytes(harmed)
        world.counts[f"{target}: {kind}"] += 1
    if number % 40 in (7, 8, 9):  # a share by the command
        _go_on(world, home, target, newest, older)
    else:
        _look(config, home, target, newest, older)


def _look(config: Config, home: Path, target: str, newest: Path, older: Path) -> None:
    """What the saver makes of it, in this process."""
    cell = Cell.of(config)
    moved = Cell(config, cell.images, cell.digest, newest.parent.parent)
    splits = cell.splits(next(cell.build_model(0).parameters()).device)
    replicas = [Replica(moved, 0)]
    network = Replicas.of(replicas, splits)
    said: list[str] = []
    progress = Progress(network.training)
    saver = Saver(replicas, network, said.append)
    steps = {path: int(path.stem.partition("-")[2]) for path in (newest, older)}
    try:
        saver.resume(progress)
    except UsageError as error:
        hold(target == "both", f"refused though one is sound: {error}")
        message = str(error)
        hold(newest.name in message and older.name in message, f"not named: {message}")
        hold("--fresh" in message and "\n" not in message, f"no clear line: {message}")
        hold(newest.exists() and older.exists(), "what might be repaired is gone")
        return
    hold(target != "both", f"went on at step {progress.step} from nothing")
    wanted = steps[older] if target == "newest" else steps[newest]
    hold(progress.step == wanted, f"at step {progress.step} instead of {wanted}; said {said}")
    if target == "older":
        hold(not said, f"a sound checkpoint was doubted: {said}")
        return
    hold(len(said) == 1, f"not one line: {said}")
    hold(str(newest) in said[0] and "\n" not in said[0], f"not named: {said}")
    hold(not newest.exists(), "it stays in the way")
    hold(newest.with_suffix(checkpoint.DAMAGED).exists(), "it is not kept to be looked at")


def _go_on(world: World, home: Path, target: str, newest: Path, older: Path) -> None:
    """What the command makes of it."""
    line = ["run", *TINY, *CELL, "save_every=0"]
    done = world.run(home, *line)
    if target == "both":
        hold(done.code == 2, f"exit {done.code}")
        done.one_line(newest.name, older.name, "--fresh")
        done = world.run(home, *line, "--fresh")
    hold(done.code == 0, f"exit {done.code}: {done.err}{done.out}")
    named = newest.name in done.out
    hold(named or target != "newest", f"not named: {done.out}")
    hold_same(home, world.reference(*CELL))


# ---- event files ----


def events(world: World, tries: int) -> Iterator[str | None]:
    """An event file is damaged, cut, gone or doubled: found, and rebuilt to the bit."""
    origin = world.folder / "finished"
    if not origin.exists():
        origin.mkdir()
        done = world.run(origin, "run", *TINY, *CELL)
        assert done.code == 0, done.err
    return world.attempts("events", tries, partial(_events, world))


def _events(world: World, draw: Random, home: Path, number: int) -> None:
    shutil.copytree(world.folder / "finished" / "runs", home / "runs")
    folder = cell_of(home) / "seed-0"
    (file,) = folder.glob(f"{EVENTS}*")
    before = file.read_bytes()
    hold(is_sound(folder), "sound files are doubted")
    if number % 10 == 8:
        kind, harmed = "gone", b""
        file.unlink()
    elif number % 10 == 9:
        kind, harmed = "doubled", before
        (folder / f"{EVENTS}{draw.randrange(10**9)}").write_bytes(before)
    else:
        kind, harmed = damage(draw, before)
        file.write_bytes(harmed)
    world.counts[kind] += 1
    hold(not is_sound(folder), f"not found: {kind}")
    rebuild(folder)
    hold(is_sound(folder), "not sound after it was rebuilt")
    (file,) = folder.glob(f"{EVENTS}*")
    hold(file.read_bytes() == before, "rebuilt as something else")
    _hold_read(folder)


def _hold_read(folder: Path) -> None:
    """Holds if TensorBoard reads what ``metrics.jsonl`` says."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    steps = [event.step for event in accumulator.Scalars("train/loss")]
    wanted = [line["step"] for line in read_metrics(folder) if "train/loss" in line]
    hold(steps == wanted, f"TensorBoard reads {len(steps)} of {len(wanted)} steps")


# ---- full disks ----


def full(world: World, tries: int) -> Iterator[str | None]:
    """A disk that is full at another size each time, and files that cannot grow."""
    return world.attempts("full", tries, partial(_full, world))


def _full(world: World, draw: Random, home: Path, number: int) -> None:
    runs = home / "runs"
    runs.mkdir()
    overrides = [*CELL, "seeds=2", "stack=2"] if number % 4 > 1 else CELL
    line = ["run", *TINY, *overrides, "save_every=0"]
    reference = world.reference(*overrides)
    size = draw.choice((draw.randrange(4, 40), draw.randrange(4, 200))) << 10
    if number % 2 == 0 and _mount(runs, size):
        world.counts["a tmpfs that is full (ENOSPC)"] += 1
        free: Callable[[], object] = partial(_grow, runs)
        limit: list[list[object]] = []
    else:
        world.counts["a limit on the size of files (EFBIG)"] += 1
        free, limit = Event().set, [["limit_files", size // 4]]
    try:
        if draw.random() < 0.5:  # something is there already, which must stay
            world.run(home, *line, faults=[["kill_at_step", draw.randrange(2, 40)]])
        sound = {p.name for p in home.rglob("*.checkpoint") if _reads(p)}
        done = world.run(home, *line, faults=limit)
        world.counts[f"exit {done.code}"] += 1
        _hold_survived(home, sound, done.out, done.err, done.code)
        stopped = "recording stopped" in done.out
        free()
        done = world.run(home, *line)
        hold(done.code == 0, f"with room: exit {done.code}: {done.err}{done.out[-500:]}")
        _hold_end(home, reference, stopped)
    finally:
        subprocess.run(["umount", str(runs)], capture_output=True, check=False)


def _hold_survived(home: Path, sound: set[str], out: str, err: str, code: int) -> None:
    """Holds if what was there is sound and all that went wrong was said in lines."""
    hold(code in (0, 1, 2), f"exit {code}: {err}")
    hold("Traceback" not in err + out, f"a traceback: {err[-800:]}{out[-800:]}")
    hold(err.count("\n") <= 1, f"more than a line: {err[-800:]}")
    hold(out.count("recording stopped") <= 2, "said more than once a seed")
    if code:
        text = err + out
        said = ("No space left", "File too large")
        hold(any(each in text for each in said), f"exit {code} without a reason: {err}{out[-500:]}")
    bad = [path.name for path in home.rglob("*.checkpoint") if not _reads(path)]
    hold(not bad, f"checkpoints that cannot be read: {bad}")
    there = {path.name for path in home.rglob("*.checkpoint")}
    finished = list(home.rglob("result.json"))
    hold(not sound or there or finished, f"the checkpoints {sound} are gone: {out[-500:]}")
    partly = list(home.rglob(".step-*"))
    hold(not partly, f"half-written checkpoints take room: {partly}")
    steps = re.findall(r"no checkpoint at step ([\d,]+)", out)
    hold(len(steps) == len(set(steps)), f"said more than once a save: {steps}")
    if code == 1:
        named = "runs" in err or re.search("failed: .*runs", out)
        hold(named, f"not said which file: {err}{out[-300:]}")
    if code == 0:
        seeds = home.glob("runs/*/*/seed-*")
        hold(all((seed / "result.json").exists() for seed in seeds), f"exit 0, no result: {out}")


def _hold_end(home: Path, reference: dict[str, object], stopped: bool) -> None:
    """Holds if weights and results are those of an undisturbed run; the curve too, if recorded."""
    parts = ("weights", "result") if stopped else ("",)
    if not stopped:
        hold_same(home, reference)
        return
    try:
        hold_same(home, reference, parts)
    except NotHeldError as error:
        # An event file that was cut off with its disk is found; its numbers are in metrics.jsonl.
        if "event file" not in str(error):
            raise
        for folder in home.glob("runs/*/*/seed-*"):
            rebuild(folder)
        hold_same(home, reference, parts)


def _reads(path: Path) -> bool:
    try:
        checkpoint.read(path)
    except UnreadableError:
        return False
    return True


def _mount(place: Path, size: int) -> bool:
    """Puts a small disk there; whether this machine lets us."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _grow(place: Path) -> None:
    command = ["mount", "-o", "remount,size=64m", str(place)]
    subprocess.run(command, capture_output=True, check=True)
