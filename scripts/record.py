"""Records what a person sees on a terminal, as plain text: runs, a sweep, the TAB key in bash.

    python scripts/record.py

Everything is typed into a bash on a pseudo-terminal, in an empty folder. What its screen shows in
the end is written to ``results/recordings/NAME.txt``, and some moments of the live bar below it.
"""

import argparse
import fcntl
import os
import pty
import re
import select
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS, ROWS = 110, 50
"""The size of the terminal."""

FRAMES = 4
"""How many moments of the live bar are kept."""

PROMPT = "$ "
LONGEST = 1800.0
"""Seconds that a command may take."""

SESSIONS: dict[str, tuple[str, ...]] = {
    "run": ("normbench run norm=group batch=2\n",),
    "sweep": (
        "normbench sweep experiment=quick --dry-run\n",
        "normbench sweep experiment=quick\n",
    ),
    "completion": (
        'eval "$(normbench completion bash)"\n',
        "normbench run ba\t4\x03",
        "normbench run norm=\t\tgr\t\x03",
        "normbench sweep experiment=\t\tqu\t\x03",
    ),
}
"""What is typed in each recording; \\t is the TAB key and \\x03 Ctrl-C, which leaves a line."""

_CODE = re.compile(
    r"\x1b\[([?\d;]*)([A-Za-z])|\x1b\][^\x07]*\x07|[\x00-\x1f\x7f]|[^\x00-\x1f\x7f]+"
)


@dataclass
class Paper:
    """A terminal that keeps all its lines: as much of one as bash and live bars need."""

    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0

    def write(self, text: str) -> None:
        """Shows text and obeys control codes."""
        for code in _CODE.finditer(text):
            if code[2]:
                self._move(code[2], code[1])
            elif not code[0].startswith("\x1b"):
                self._type(code[0])

    def _type(self, text: str) -> None:
        match text:
            case "\r":
                self.column = 0
            case "\n":
                self.row += 1
                self.lines += [""] * (self.row - len(self.lines) + 1)
            case "\b":
                self.column = max(0, self.column - 1)
            case _ if text >= " ":
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + text + line[self.column + len(text) :]
                self.column += len(text)

    def _move(self, code: str, count: str) -> None:
        number = int(count) if count.isdecimal() else 1
        line = self.lines[self.row]
        match code:
            case "A":
                self.row = max(0, self.row - number)
            case "C":
                self.column += number
            case "D":
                self.column = max(0, self.column - number)
            case "G":
                self.column = number - 1
            case "K":  # 2: all of the line; else from the cursor on
                self.lines[self.row] = "" if count == "2" else line[: self.column]
            case "P":
                self.lines[self.row] = line[: self.column] + line[self.column + number :]

    def text(self) -> str:
        """All lines, without blanks at their ends."""
        return "\n".join(line.rstrip() for line in self.lines).strip("\n")


class Terminal:
    """A bash on a pseudo-terminal of its own.

    Args:
        home: the folder it begins in.
        pause: seconds without a word after which keys were taken.
    """

    def __init__(self, home: Path, pause: float = 2.0) -> None:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NORMBENCH_DATA": str(home / ".library"),
            "HOME": str(home),
            "TERM": "xterm",
            "PS1": PROMPT,
        }
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        self.paper = Paper()
        self.pause = pause
        self.moments: list[tuple[float, str]] = []
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            os.chdir(home)
            os.execvpe("bash", ["bash", "--norc", "--noprofile"], environment)
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._until_prompt()

    def enter(self, keys: str) -> None:
        """Presses keys, the TAB key slowly, and waits for the next prompt."""
        for part in filter(None, re.split(r"(\t+|\x03)", keys)):
            os.write(self._file, part.encode())
            if "\n" not in part:
                self._read(quiet=self.pause)
        self._until_prompt()

    def close(self) -> None:
        """Ends bash."""
        os.write(self._file, b"exit\n")
        os.waitpid(self._pid, 0)
        os.close(self._file)

    def _until_prompt(self) -> None:
        start = time.monotonic()
        while not (self._read(quiet=0.3) and self._waiting()):
            seconds = time.monotonic() - start
            if seconds > LONGEST:
                raise TimeoutError(f"no prompt after {LONGEST:.0f} s:\n{self.paper.text()}")
            if not self._waiting():
                self.moments.append((seconds, _bars(self.paper)))

    def _waiting(self) -> bool:
        return self.paper.lines[self.paper.row] == PROMPT and os.tcgetpgrp(self._file) == self._pid

    def _read(self, quiet: float) -> bool:
        """Reads until nothing has come for a while, a second at most; whether it was quiet."""
        end = time.monotonic() + max(1.0, quiet)
        while time.monotonic() < end:
            if not select.select([self._file], [], [], quiet)[0]:
                return True
            self.paper.write(os.read(self._file, 1 << 16).decode(errors="replace"))
        return False


def _bars(paper: Paper) -> str:
    """The live bars at the end of a screen."""
    shown = [line.rstrip() for line in paper.lines if "━" in line]
    return "\n".join(shown)


def kept(moments: Sequence[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """Some of the moments in which there was a bar, evenly spread."""
    seen = [each for each in moments if each[1]]
    for number in range(min(FRAMES, len(seen))):
        yield seen[(2 * number + 1) * len(seen) // (2 * min(FRAMES, len(seen)))]


def record(name: str) -> str:
    """Types what a recording is of; its text."""
    with tempfile.TemporaryDirectory(prefix="normbench-record-") as home:
        terminal = Terminal(Path(home))
        try:
            for keys in SESSIONS[name]:
                terminal.enter(keys)
        finally:
            terminal.close()
        text = terminal.paper.text().removesuffix(PROMPT.strip()).rstrip() + "\n"
        assert home not in text, "a recording names no path of this machine"
    bars = [f"\nThe bar after {s:.0f} s:\n\n{bar}\n" for s, bar in kept(terminal.moments)]
    said = f"Recorded by `python scripts/record.py {name}`, {COLUMNS} columns wide.\n\n"
    return said + text + "".join(bars)


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the recordings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(SESSIONS), help="which; default: all")
    parser.add_argument("--out", type=Path, default=Path("results/recordings"), help="the folder")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        (options.out / f"{name}.txt").write_text(record(name), encoding="utf-8")


if __name__ == "__main__":
    main()
