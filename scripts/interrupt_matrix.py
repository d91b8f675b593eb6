"""Interrupts every command at random moments, and looks how it leaves.

    python scripts/interrupt_matrix.py --moments 100 --within 240

The commands take turns, so that a time that is too short for all moments has some of every command.
The same line again goes on; ``results/faults/interrupts.md`` holds what was found so far.

A command has to be gone within two seconds, with exit code 130 and one line, unless its work was
done by then. Moments before normbench begins, while Python starts, are counted apart. What every
tenth left behind must not keep the same command from ending well afterwards.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

import numpy as np
from PIL import Image

from normbench.store.environment import processor

LIMIT = 2.0
"""Seconds within which an interrupted command is gone, on a machine that is idle."""

TURN = 10
"""Moments of a command before the next one has its turn."""

LINE = re.compile(r"normbench: interrupted(; [^\n]+)?\n")

TINY = (
    *("data=images", "data.name=shapes", "batch=4", "model=convnet"),
    *("model.depth=2", "model.width=4", "threads=1", "save_every=0.2"),
)

COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "version": ("--version",),
    "norms": ("norms", "group"),
    "figure": ("norms", "--figure", "norms.png"),
    "show": ("show", *TINY),
    "run": ("run", "--fresh", *TINY, "epochs=20"),
    "sweep": ("sweep", *TINY, "epochs=20", "norm=batch,group", "seeds=2"),
    "advise": ("advise", *TINY, "epochs=2", "--norms", "batch,group", "--within", "60s"),
    "diagnose": ("diagnose", *TINY, "norm=batch", "weights.safetensors", "--fix", "fixed.pt"),
    "dry run": ("sweep", "--dry-run", *TINY, "norm=batch,group"),
    "report": ("report", "trained/default"),
    "runs": ("runs", "trained"),
    "tensorboard": ("tensorboard", "trained", "--port", "0"),
    "list": ("data", "list"),
    "import": ("data", "import", "pictures", "--name", "shapes", "--size", "8", "--replace"),
    "verify": ("data", "verify"),
    "completion": ("completion", "bash", "--line", "normbench run norm="),
}

READERS = ("diagnose", "report", "runs", "tensorboard")
"""Commands that need something trained."""

STARTED = "import sys; from normbench.cli import main; sys.stderr.write('\\0'); main()"
"""What the installed command does, and says as it begins."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one interrupted command has left.

    Attributes:
        kind: ``interrupted``, ``done`` (before it heard), ``python`` (before ours begins), or
            ``wrong``.
        seconds: from the signal to the end.
        details: what was wrong.
    """

    kind: str
    seconds: float
    details: str = ""


Found = dict[str, list[Outcome]]
"""What was found, by command."""


class Place:
    """A folder with pictures and a library, for the commands to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.environment = os.environ | {
            "NORMBENCH_DATA": str(folder / "library"),
            "OMP_NUM_THREADS": "1",
            "TERM": "dumb",
        }
        _draw(folder / "pictures")
        self.seconds["import"] = self.finish("import")

    def train(self) -> None:
        """Trains what some of the commands read, once."""
        if not (self.folder / "trained").exists():
            self.run("run", *TINY, "norm=batch", "epochs=1", "runs=trained", "seeds=2")
            (weights,) = self.folder.glob("trained/default/*/seed-0/model.safetensors")
            shutil.copy(weights, self.folder / "weights.safetensors")

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end."""
        return subprocess.run(
            _line(arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )

    def finish(self, command: str) -> float:
        """Runs a command of the list to its end; the seconds it took."""
        start = time.monotonic()
        self.run(*COMMANDS[command])
        return time.monotonic() - start

    def clear(self) -> None:
        """Removes what the commands write."""
        for left in ("runs", "fixed.pt", "norms.png"):
            shutil.rmtree(self.folder / left, ignore_errors=True)
            (self.folder / left).unlink(missing_ok=True)

    def interrupt(self, command: str, after: float) -> Outcome:
        """Interrupts a command that has not been run here, so many seconds after its start."""
        self.clear()
        process = subprocess.Popen(
            _line(COMMANDS[command]),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            time.sleep(after)
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            seconds = time.monotonic() - start
        finally:
            process.kill()
            process.wait()
        return _judged(process.returncode, errors, seconds)


def _line(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", STARTED, *arguments]


def _judged(code: int, errors: str, seconds: float) -> Outcome:
    begun, _, said = errors.rpartition("\0")
    if "\0" not in errors or begun:
        return Outcome("python", seconds)
    if code == 0 and said == "":
        return Outcome("done", seconds)
    if code == 128 + signal.SIGINT and LINE.fullmatch(said) and seconds <= LIMIT:
        return Outcome("interrupted", seconds)
    return Outcome("wrong", seconds, f"exit code {code} after {seconds:.1f} s: {said!r}")


def _draw(folder: Path) -> None:
    """Noise in class folders."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog", "eel"):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def moment(whole: float, seed: int, command: str, number: int) -> float:
    """A random moment in the life of a command, every third in its first half second."""
    latest = min(0.5, whole) if number % 3 == 0 else whole
    return random.Random(f"{seed} {command} {number}").uniform(0.0, latest)


def try_command(place: Place, command: str, numbers: range, seed: int) -> list[Outcome]:
    """Interrupts one command at some of its moments, and lets it end well afterwards."""
    if command in READERS:
        place.train()
    endless = command == "tensorboard"
    if not endless and command not in place.seconds:
        place.seconds[command] = place.finish(command)
    whole = place.seconds.get(command, 8.0)
    found = [place.interrupt(command, moment(whole, seed, command, n)) for n in numbers]
    if not endless:
        if found[-1].kind == "done":  # `diagnose --fix` writes over nothing
            place.clear()
        place.finish(command)
    return found


def table(found: Found, line: str) -> str:
    """What was found, as Markdown."""
    seconds = round(LIMIT)
    lines = [
        "# Ctrl-C at random moments",
        "",
        f"From `{line}`; {processor()}. Promised: gone within {seconds} seconds, one line, exit"
        " code 130, unless the work was done by then; and after every tenth the same command ends"
        " well.",
        "",
        "| command | tried | interrupted | done before | Python starting | wrong | slowest, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for command, outcomes in found.items():
        kinds = Counter(each.kind for each in outcomes)
        counts = [kinds[kind] for kind in ("interrupted", "done", "python", "wrong")]
        slowest = max((each.seconds for each in outcomes if each.kind == "interrupted"), default=0)
        cells = [f"`{command}`", len(outcomes), *counts, f"{slowest:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    wrong = {f"- {name}: {each.details}" for name in found for each in found[name] if each.details}
    lines += ["", "What was wrong:", "", *sorted(wrong)] if wrong else []
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries the commands and writes the table; 1 if one of them left otherwise than it should."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=100, help="tries a command")
    parser.add_argument("--within", type=float, default=inf, help="minutes; then it stops")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="*", default=list(COMMANDS), help="some of the commands")
    parser.add_argument("--out", type=Path, default=Path("results/faults"), help="the folder")
    parser.add_argument("--fresh", action="store_true", help="try everything again")
    options = parser.parse_args(arguments)
    # A shell's background job ignores Ctrl-C, and so would the commands: as if all were done.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end = time.monotonic() + 60 * options.within
    line = f"python scripts/interrupt_matrix.py --moments {options.moments} --seed {options.seed}"
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / f"interrupts-{options.seed}.json"
    found = {} if options.fresh else _read(store)
    folder = Path(tempfile.mkdtemp(prefix="normbench-interrupt-"))
    place = None
    try:
        for command, numbers in turns(found, options.only, options.moments):
            if time.monotonic() > end:
                break
            place = place or Place(folder)
            found.setdefault(command, []).extend(try_command(place, command, numbers, options.seed))
            rows = {name: [asdict(each) for each in found[name]] for name in found}
            store.write_text(json.dumps(rows) + "\n", encoding="utf-8")
            (options.out / "interrupts.md").write_text(table(found, line), encoding="utf-8")
    finally:
        shutil.rmtree(folder)
    print(table(found, line), end="")
    return int(any(each.details for outcomes in found.values() for each in outcomes))


def turns(found: Found, commands: Sequence[str], moments: int) -> Iterator[tuple[str, range]]:
    """The commands and which of their moments come next, a few of each in turn."""
    for last in range(TURN, moments + TURN, TURN):
        for command in commands:
            numbers = range(len(found.get(command, ())), min(last, moments))
            if numbers:
                yield command, numbers


def _read(store: Path) -> Found:
    rows = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    return {command: [Outcome(**each) for each in rows[command]] for command in rows}


if __name__ == "__main__":
    sys.exit(main())
