"""Where the fault matrix happens: a folder, small images, processes, and what is compared.

Every process has a secret in its environment. When an attempt is over, every file that it has left
is searched for it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normbench.store.curves import is_sound, read_metrics

SECRETS = ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD")
MEASURED = ("time", "train/images_per_second", "seconds", "images_per_second", "sha256")
"""What a clock says is not the same twice."""

TINY = (
    "data=images",
    "data.name=tiny",
    "batch=4",
    "epochs=3",
    "model=convnet",
    "model.depth=2",
    "model.width=4",
    "threads=1",
    "stack=1",
)
NUM_TRAIN, NUM_TEST = 64, 16
PATIENCE = 120.0
"""Seconds after which a process is taken to hang."""

MOST = 1 << 30
"""A file larger than this is one of the payloads."""

Fault = Sequence[Any]


class NotHeldError(Exception):
    """A promise does not hold; says what happened."""


def hold(condition: object, what: object) -> None:
    """Raises NotHeldError unless ``condition``."""
    if not condition:
        raise NotHeldError(str(what))


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, minus the signal that killed it, and what it printed."""

    pid: int
    code: int
    out: str
    err: str

    def one_line(self, *parts: str) -> None:
        """Holds if standard error is one line with all ``parts`` and there is no traceback."""
        said = f"exit {self.code}, out {self.out[-300:]!r}, err {self.err[-600:]!r}"
        hold(self.err.count("\n") == 1, f"not one line: {said}")
        hold("Traceback" not in self.err + self.out, f"a traceback: {said}")
        for part in parts:
            hold(part in self.err, f"{part!r} is not in the line: {said}")


class Running:
    """A process: a fork of the warm one, or the installed command."""

    def __init__(self, world: World, pid: int, out: Path, err: Path, real: Any) -> None:
        self.pid = pid
        self._world, self._real = world, real
        self._out, self._err = out, err
        self._code: int | None = None

    def poll(self, seconds: float = 0.0) -> int | None:
        """Its exit code; None if it runs for ``seconds`` and more."""
        if self._code is not None:
            return self._code
        if self._real is None:
            self._code = self._world.ask({"wait": {"pid": self.pid, "seconds": seconds}})
        else:
            try:
                self._code = self._real.wait(seconds)
            except subprocess.TimeoutExpired:
                self._code = None
        return self._code

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """Waits for its end."""
        code = self.poll(seconds)
        if code is None:
            self.kill()
            raise NotHeldError(f"hangs for {seconds:.0f} s: {self.said[-500:]!r}")
        err = self._err.read_text(encoding="utf-8", errors="replace")
        return Ended(self.pid, code, self.said, err)

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self._out.read_text(encoding="utf-8", errors="replace") if self._out.exists() else ""

    def signal(self, number: int) -> None:
        """Sends a signal to it alone, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> int:
        """Kills it and all that it has started; its exit code."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        code = self.poll(PATIENCE)
        assert code is not None, "a killed process is gone"
        return code


class World:
    """Images, an environment with secrets in it, a warm process, and a count of what was done.

    Args:
        folder: where everything happens; is there, and empty.
        seed: of all that is random.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.canary = f"canary-{random.SystemRandom().getrandbits(96):x}"
        self.counts: Counter[str] = Counter()
        self.leaks: list[str] = []
        self.sabotage: list[Fault] = []  # what every fork suffers
        self.processes = 0
        self.files_searched = 0
        self._references: dict[tuple[str, ...], dict[str, Any]] = {}
        self._number = 0
        self._server: subprocess.Popen[str] | None = None
        # Jobs of a shell without job control ignore it, and would hand that on.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.library = folder / "library"
        here = str(Path(__file__).parents[1])
        paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")},
            **dict.fromkeys(SECRETS, self.canary),
            "PYTHONPATH": os.pathsep.join(paths),
            "NORMBENCH_DATA": str(self.library),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            "TERM": "dumb",
        }
        pictures = write_pictures(folder / "pictures")
        done = self.run(folder, "data", "import", str(pictures), "--name", "tiny", "--size", "8")
        assert done.code == 0, done.err

    def close(self) -> None:
        """Ends the warm process."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(10)
            assert self._server.stdout is not None
            self._server.stdout.close()

    def ask(self, request: dict[str, Any]) -> Any:
        """The warm process's answer to a request."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "faults.server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
            assert self._server.stdout is not None
            assert self._server.stdout.readline() == "ready\n"
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        home: Path,
        *arguments: str,
        faults: Sequence[Fault] = (),
        task: Sequence[Any] = (),
        real: bool = False,
        environment: dict[str, str] | None = None,
    ) -> Running:
        """Starts ``normbench`` in ``home``: as a fork with ``faults``, or really the command.

        Of a key that has several values, the last counts.
        """
        last = {text.partition("=")[0]: text for text in arguments if "=" in text}
        arguments = tuple(
            text for text in arguments if "=" not in text or last[text.partition("=")[0]] is text
        )
        self.processes += 1
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        out, err = (logs / f"{self.processes}.{kind}" for kind in ("out", "err"))
        environment = self.environment | (environment or {})
        if real:
            assert not faults
            command = [str(Path(sys.executable).with_name("normbench")), *arguments]
            with out.open("wb") as stdout, err.open("wb") as stderr:
                process = subprocess.Popen(
                    command,
                    cwd=home,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            return Running(self, process.pid, out, err, process)
        request: dict[str, Any] = {
            "home": str(home),
            "arguments": arguments,
            "environment": environment,
            "out": str(out),
            "err": str(err),
            "faults": [list(fault) for fault in (*self.sabotage, *faults)],
        }
        if task:
            request["task"] = list(task)
        return Running(self, self.ask(request), out, err, None)

    def run(self, home: Path, *arguments: str, seconds: float = PATIENCE, **options: Any) -> Ended:
        """Runs ``normbench`` to its end, which has to come within ``seconds``."""
        return self.start(home, *arguments, **options).wait(seconds)

    def reference(self, *overrides: str) -> dict[str, Any]:
        """What an undisturbed run of a cell leaves, see :func:`content`."""
        if overrides not in self._references:
            home = self.folder / f"reference-{len(self._references)}"
            home.mkdir()
            start = time.monotonic()
            done = self.run(home, "run", *TINY, *overrides)
            assert done.code == 0, done.err + done.out
            found = content(home) | {"seconds": time.monotonic() - start}
            self._references[overrides] = found
            self._search(home)
        return self._references[overrides]

    def attempts(
        self, row: str, tries: int, attempt: Callable[[random.Random, Path, int], None]
    ) -> Iterator[str | None]:
        """Makes attempts, each in a folder of its own with randomness of its own.

        Yields:
            None where the promise held, else what happened.
        """
        for number in range(tries):
            place = self.folder / f"{row}-{number}"
            home = place / "home"
            home.mkdir(parents=True)
            problem = None
            try:
                attempt(random.Random(f"{self.seed}/{row}/{number}"), home, number)
            except NotHeldError as error:
                problem = f"{row} {number}: {error}"
            except Exception as error:  # what nobody has thought of does not hold either
                problem = f"{row} {number}: {type(error).__name__}: {error}"
            self._search(place)
            self._search(self.folder / "logs")
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(self.folder / "logs", ignore_errors=True)
            yield problem

    def _search(self, folder: Path) -> None:
        """Notes every file in ``folder`` that quotes a secret."""
        secret = self.canary.encode()
        for path in folder.rglob("*"):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST:
                continue
            self.files_searched += 1
            if secret in path.read_bytes():
                self.leaks.append(path.relative_to(self.folder).as_posix())


def write_pictures(folder: Path) -> Path:
    """Noise of 8×8 pixels in the ImageFolder layout."""
    draw = np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        for i in range(count):
            place = folder / split / ("cat", "dog")[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{i:02}.png")
    return folder


def cell_of(home: Path) -> Path:
    """The only cell there."""
    found = [path for path in home.glob("runs/*/*") if path.is_dir()]
    hold(len(found) == 1, f"not one cell: {found}")
    return found[0]


def content(home: Path) -> dict[str, Any]:
    """Weights, metrics and results of all seeds of all cells, without what a clock says."""
    found: dict[str, Any] = {}
    for place in sorted(home.glob("runs/*/*/seed-*")):
        name = f"{place.parent.name}/{place.name}"
        result = json.loads((place / "result.json").read_text(encoding="utf-8"))
        weights = place / "model.safetensors"
        found[f"{name}/weights"] = weights.read_bytes() if weights.exists() else None
        found[f"{name}/metrics"] = [_timeless(line) for line in read_metrics(place)]
        found[f"{name}/result"] = _timeless(result)
        hold(is_sound(place), f"{name}: the event file is not what metrics.jsonl says")
    return found


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in MEASURED}


def hold_same(home: Path, reference: dict[str, Any], parts: Sequence[str] = ("",)) -> None:
    """Holds if what is in ``home`` equals ``reference``, to the bit."""
    wanted = {key: value for key, value in reference.items() if key != "seconds"}
    try:
        found = content(home)
    except (OSError, ValueError) as error:
        raise NotHeldError(f"records cannot be read: {type(error).__name__}: {error}") from None
    hold(found.keys() == wanted.keys(), f"records {sorted(found)} instead of {sorted(wanted)}")
    differing = [k for k in wanted if found[k] != wanted[k] and any(p in k for p in parts)]
    hold(not differing, f"differs from the undisturbed run: {differing}")
