"""A row of the fault matrix: what was made to do harm is refused, in one line that names it.

Each payload would leave a mark if it ran or led outside: a file called ``pwned``, anything else in
the folder around the one it was let loose in, or what the absolute paths among them name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from faults.archives import ARCHIVES, ESCAPES, LIBRARIES
from faults.kills import saved_at
from faults.states import CELL, PLANTED, STATES
from faults.world import NUM_TRAIN, TINY, Ended, World, cell_of, hold, hold_same

MARK = "pwned"
OUTSIDE = (Path(ESCAPES["absolute"]), Path("/tmp/x"))
"""Where the payloads with absolute paths lead."""
SOON = 60.0
"""Seconds after which something waits for what will not come."""

OVERRIDES = {
    "a launcher of its own": ["sweep", "hydra.launcher._target_=os.system"],
    "a launcher within the launcher": [
        "sweep",
        "hydra/launcher=submitit_slurm",
        f"hydra.launcher.additional_parameters={{x:{{_target_:os.system,_args_:[touch {MARK}]}}}}",
    ],
    "a setting of a launcher that makes something": [
        "sweep",
        "hydra/launcher=joblib",
        f"hydra.launcher.temp_folder={{_target_:os.system,_args_:['touch {MARK}']}}",
    ],
    "a launcher's setting that quotes the environment": [
        "sweep",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=${oc.env:AWS_SECRET_ACCESS_KEY}",
    ],
    "a sweeper of its own": ["sweep", "hydra.sweeper._target_=os.system"],
    "a folder for Hydra": ["sweep", "hydra.sweep.dir=../elsewhere"],
    "a key of Hydra's": ["run", "+hydra.x=1"],
    "a callback": ["sweep", "+hydra.callbacks.x._target_=os.system"],
    "a norm of its own": ["run", "norm._target_=os.system"],
    "an added key": ["run", "+norm._target_=os.system"],
    "a removed key": ["run", "~norm"],
    "a norm from elsewhere": ["run", "norm=../../../etc/passwd"],
    "an experiment from elsewhere": ["sweep", "experiment=../../secret"],
    "a name that leads out": ["run", "name=../../x"],
    "a name with a slash": ["run", "name=/tmp/x"],
    "a name of dots": ["run", "name=.."],
    "a data set that leads out": ["run", "data=images", "data.name=../../x"],
    "a name that quotes the environment": ["run", "name=${oc.env:AWS_SECRET_ACCESS_KEY}"],
    "a folder that quotes the environment": ["run", "runs=${oc.env:AWS_SECRET_ACCESS_KEY}"],
    "a reference to another key": ["run", "name=${data.name}"],
    "a package": ["run", "norm@data=group"],
    "a folder of configurations": ["run", "--config-dir=.."],
    "a seed too large": ["run", "seed=99999999999999999999"],
    "more seeds than there is room for": ["run", "seeds=1000000000"],
    "a grid without end": ["sweep", "seed=0", "optim.lr=range(0,100000000)"],
}


def payloads(world: World, tries: int) -> Iterator[str | None]:
    """Each payload once."""
    every = list(PAYLOADS.items())

    def attempt(draw: Random, home: Path, number: int) -> None:
        name, payload = every[number * len(every) // tries]
        around = _listing(home.parent)
        outside = {path for path in OUTSIDE if path.exists()}
        payload(world, draw, home)
        world.counts[name.partition(":")[0]] += 1
        found = [path for path in _listing(home.parent) - around if "home/" not in path]
        hold(not found, f"{name}: outside its folder: {found}")
        hold(not list(home.parent.rglob(MARK)), f"{name}: it ran")
        escaped = [path for path in OUTSIDE if path.exists() and path not in outside]
        hold(not escaped, f"{name}: outside of all folders: {escaped}")

    return world.attempts("hostile", tries, attempt)


def _listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _refused(done: Ended, name: str, *parts: str) -> None:
    hold(done.code in (1, 2), f"{name}: exit {done.code}: {done.err}{done.out[-500:]}")
    done.one_line(*parts)


Payload = Callable[[World, Random, Path], None]


def _override(name: str) -> Payload:
    def payload(world: World, draw: Random, home: Path) -> None:
        del draw
        command, *overrides = OVERRIDES[name]
        rest = [each for each in TINY if overrides[-1].split("=")[0] != each.split("=")[0]]
        done = world.run(home, command, *rest, "norm=group", *overrides)
        _refused(done, name)
        hold(world.canary not in done.err + done.out, f"{name}: quotes the environment")
        hold(not list(home.iterdir()), f"{name}: wrote {list(home.iterdir())}")

    return payload


def _archive(name: str) -> Payload:
    def payload(world: World, draw: Random, home: Path) -> None:
        path = ARCHIVES[name](home, draw)
        library = home / "library"
        environment = {"NORMBENCH_DATA": str(library)}
        done = world.run(
            home,
            *("data", "import", str(path), "--name", "mine"),
            environment=environment,
            seconds=SOON,
        )
        _refused(done, name, path.name)
        made = [
            each for each in library.rglob("*") if each.is_file() and ".locks" not in each.parts
        ]
        hold(not made, f"{name}: the library holds {made}")

    return payload


def _library(name: str) -> Payload:
    def payload(world: World, draw: Random, home: Path) -> None:
        library = home / "library"
        library.mkdir()
        content = (world.library / "tiny.safetensors").read_bytes()
        LIBRARIES[name](library / "tiny.safetensors", content, draw)
        environment = {"NORMBENCH_DATA": str(library)}
        done = world.run(home, "run", *TINY, "norm=group", environment=environment, seconds=SOON)
        _refused(done, name, "tiny")
        hold(not (home / "runs").exists(), f"{name}: it was trained on")
        done = world.run(home, "data", "list", environment=environment, seconds=SOON)
        hold("Traceback" not in done.err, f"{name}: data list: {done.err[-500:]}")

    return payload


def _state(name: str) -> Payload:
    def payload(world: World, draw: Random, home: Path) -> None:
        folder = saved_at(world, home, CELL, NUM_TRAIN // 4 + 5)
        STATES[name](folder, draw)
        names = [path.name for path in folder.glob("step-*")]
        done = world.run(home, "run", *TINY, *CELL, seconds=SOON)
        if done.code == 0:  # what changes nothing may be taken
            hold_same(home, world.reference(*CELL))
            world.counts["checkpoints that change nothing"] += 1
            return
        _refused(done, name, *names)
        hold(not (folder / "result.json").exists(), f"{name}: there is a result")

    return payload


def _planted(name: str) -> Payload:
    """Files in the folder of a run that others read: the report, the next run, the next sweep."""

    def payload(world: World, draw: Random, home: Path) -> None:
        done = world.run(home, "run", *TINY, *CELL)
        hold(done.code == 0, done.err)
        PLANTED[name](cell_of(home), draw)
        for line in (["report", "runs"], ["run", *TINY, *CELL], ["sweep", *TINY, *CELL]):
            done = world.run(home, *line, seconds=SOON)
            said = f"{name}: {line[0]}: exit {done.code}: {done.err[-700:]}{done.out[-200:]}"
            hold("Traceback" not in done.err + done.out, said)
            hold(done.code in (0, 1, 2) and done.err.count("\n") <= 1, said)
            hold(world.canary not in done.err + done.out, said)
        for path in home.rglob("*.html"):
            text = path.read_text("utf-8")
            hold("<script>alert" not in text, f"{name}: the report runs what it read")

    return payload


PAYLOADS: dict[str, Payload] = {
    **{f"command line: {name}": _override(name) for name in OVERRIDES},
    **{f"archive: {name}": _archive(name) for name in ARCHIVES},
    **{f"data set: {name}": _library(name) for name in LIBRARIES},
    **{f"checkpoint: {name}": _state(name) for name in STATES},
    **{f"records: {name}": _planted(name) for name in PLANTED},
}

assert os.sep == "/", "paths are compared as POSIX has them"
