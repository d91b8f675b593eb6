"""Rows of the fault matrix: read-only folders, odd paths, and a clock that is set back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from faults.world import TINY, World, cell_of, content, hold, hold_same
from normbench.store.curves import read_metrics

CELL = ["norm=group", "batch=4", "epochs=3"]


def read_only(world: World, tries: int) -> Iterator[str | None]:
    """The runs folder, the cell, the seed or the library can only be read."""
    return world.attempts("readonly", tries, partial(_read_only, world))


def _read_only(world: World, draw: Random, home: Path, number: int) -> None:
    kind = ("home", "runs", "cell", "seed", "library")[number % 5]
    world.counts[f"{kind} cannot be written to"] += 1
    line = ["run", *TINY, *CELL]
    if kind in ("cell", "seed"):
        world.run(home, *line, "save_every=0", faults=[["kill_at_step", draw.randrange(3, 40)]])
    (home / "runs").mkdir(exist_ok=True)
    if kind == "home":
        (home / "runs").rmdir()
    places = {
        "home": lambda: home,
        "runs": lambda: home / "runs",
        "cell": lambda: cell_of(home),
        "seed": lambda: cell_of(home) / "seed-0",
        "library": lambda: world.library,
    }
    place = places[kind]()
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    mode = place.stat().st_mode
    place.chmod(0o555)
    try:
        done = world.run(home, *line, faults=[["without_override"]])
    finally:
        place.chmod(mode)
    if kind == "library":
        hold(done.code == 0, f"images can be read all the same: exit {done.code}: {done.err}")
    else:
        hold(done.code in (1, 2), f"exit {done.code}: {done.err}{done.out[-600:]}")
        hold("Permission denied" in done.err + done.out, f"not said why: {done.err}{done.out}")
        hold("Traceback" not in done.err + done.out, f"a traceback: {done.err}{done.out}")
        hold(done.err.count("\n") <= 1, f"more than a line: {done.err}")
        now = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
        lost = [path.name for path in before if path not in now]
        hold(not lost, f"gone: {lost}")
    done = world.run(home, *line)
    hold(done.code == 0, f"writable again: exit {done.code}: {done.err}{done.out[-600:]}")
    hold_same(home, world.reference(*CELL))


NAMES = (
    "with spaces",
    "größer als κόσμος",
    "日本語 フォルダ",
    'quo\'te "both"',
    "a=b,c;d&e",
    "[brackets]*?",
    "${HOME} $(id)",
    "emoji 🧪",
    " leading and trailing ",
    "e\u0301 combined",
)


def paths(world: World, tries: int) -> Iterator[str | None]:
    """Working folder, library and runs have names that need quoting somewhere."""
    return world.attempts("paths", tries, partial(_paths, world))


def _paths(world: World, draw: Random, home: Path, number: int) -> None:
    name = NAMES[number % len(NAMES)]
    reference = world.reference(*CELL)
    inner = home / name
    library = home / f"{name} library"
    inner.mkdir()
    library.symlink_to(world.library)
    real = number % 5 == 4
    environment = {"NORMBENCH_DATA": str(library), "LC_ALL": draw.choice(("C", "C.UTF-8"))}
    line = ["run", *TINY, *CELL, "save_every=0"]
    place = ""
    if number % 2:  # the folder itself is named on the command line
        place = f"runs={inner / 'runs'}"
        line.append(place)
    if not real:
        faults = [["kill_at_step", draw.randrange(3, 40)]]
        world.run(inner, *line, faults=faults, environment=environment)
    done = world.run(inner, *line, real=real, environment=environment)
    if done.code == 2 and place:
        done.one_line("runs=")
        world.counts["refused in one line"] += 1
        hold(not (inner / "runs").exists(), "refused, but begun")
        return
    hold(done.code == 0, f"{name!r}: exit {done.code}: {done.err}{done.out[-600:]}")
    hold([path.name for path in inner.iterdir()] == ["runs"], f"{list(inner.iterdir())}")
    hold_same(inner, reference)
    world.counts["worked"] += 1


def clock(world: World, tries: int) -> Iterator[str | None]:
    """The wall clock goes backwards, while a run trains and between its kill and its end."""
    return world.attempts("clock", tries, partial(_clock, world))


def _clock(world: World, draw: Random, home: Path, number: int) -> None:
    back = [draw.choice((0.01, 1.0, 3600.0, 1e6)) for _ in range(3)]
    faults: list[list[object]] = [["set_clock_back", back]]
    line = ["run", *TINY, *CELL, f"save_every={draw.choice(('0', '0.01', '60'))}"]
    kill: list[list[object]] = [["kill_at_step", draw.randrange(3, 40)]]
    if number % 2:
        world.run(home, *line, faults=[*faults, *kill])
    else:
        world.run(home, *line, faults=kill)
        for path in home.rglob("*"):  # files from the future
            os.utime(path, (4e9, 4e9))
    done = world.run(home, *line, faults=faults)
    hold(done.code == 0, f"exit {done.code}: {done.err}{done.out[-600:]}")
    hold_same(home, world.reference(*CELL))
    times = [line["time"] for line in read_metrics(cell_of(home) / "seed-0")]
    hold(sorted(times) != times, "the clock was not set back")
    hold(content(home), "nothing there")
    world.counts["worked"] += 1
