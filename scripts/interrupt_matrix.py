"""Interrupts every command at random moments, and looks how it leaves.

    python scripts/interrupt_matrix.py --moments 100 --seed 0

A command has to be gone within two seconds, with exit code 130 and one line, unless its work was
done by then. Moments before normbench begins, while Python starts, are counted apart. What each
left behind must not keep the same command from ending well afterwards.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LIMIT = 2.0
"""Seconds within which an interrupted command is gone, on a machine that is idle."""

LINE = re.compile(r"normbench: interrupted(; [^\n]+)?\n")

TINY = (
    *("data=images", "data.name=shapes", "batch=4", "epochs=20", "model=convnet"),
    *("model.depth=2", "model.width=4", "threads=1", "save_every=0.2"),
)

COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "version": ("--version",),
    "norms": ("norms", "group"),
    "figure": ("norms", "--figure", "norms.png"),
    "show": ("show", *TINY),
    "run": ("run", "--fresh", *TINY),
    "sweep": ("sweep", *TINY, "norm=batch,group", "seeds=2"),
    "dry run": ("sweep", "--dry-run", *TINY, "norm=batch,group"),
    "report": ("report", "trained/default"),
    "runs": ("runs", "trained"),
    "tensorboard": ("tensorboard", "trained", "--port", "0"),
    "list": ("data", "list"),
    "import": ("data", "import", "pictures", "--name", "shapes", "--size", "8", "--replace"),
    "verify": ("data", "verify"),
    "completion": ("completion", "bash", "--line", "normbench run norm="),
}

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


class Place:
    """A folder with pictures, a library and trained runs, for the commands to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "NORMBENCH_DATA": str(folder / "library"),
            "OMP_NUM_THREADS": "1",
            "TERM": "dumb",
        }
        _draw(folder / "pictures")
        self.finish("import")
        self.run("run", *TINY, "epochs=1", "runs=trained", "seeds=2")

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

    def interrupt(self, command: str, after: float) -> Outcome:
        """Interrupts a command so many seconds after its start."""
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


def moments(count: int, whole: float, generator: random.Random) -> Iterator[float]:
    """Random moments in the life of a command, a third of them in its first half second."""
    for number in range(count):
        yield generator.uniform(0.0, min(0.5, whole) if number % 3 == 0 else whole)


def try_command(place: Place, command: str, count: int, generator: random.Random) -> list[Outcome]:
    """Interrupts one command ``count`` times, and lets it end well afterwards."""
    endless = command == "tensorboard"
    whole = 8.0 if endless else place.finish(command)
    found = [place.interrupt(command, after) for after in moments(count, whole, generator)]
    if not endless:
        place.finish(command)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries the commands and prints a line each; 1 if one of them left otherwise than it should."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=100, help="tries a command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="*", default=list(COMMANDS), help="some of the commands")
    parser.add_argument("--json", type=Path, help="where to write what was found")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="normbench-interrupt-"))
    report: dict[str, dict[str, object]] = {}
    try:
        place = Place(folder)
        for command in options.only:
            generator = random.Random(f"{options.seed} {command}")
            found = try_command(place, command, options.moments, generator)
            kinds = Counter(each.kind for each in found)
            slowest = max(each.seconds for each in found)
            wrong = sorted({each.details for each in found if each.details})
            report[command] = {"kinds": kinds, "slowest_s": round(slowest, 2), "wrong": wrong}
            print(
                f"{command}: {dict(kinds)}, slowest {slowest:.2f} s", *wrong, sep="\n  ", flush=True
            )
    finally:
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(each["wrong"] for each in report.values()))


if __name__ == "__main__":
    sys.exit(main())
