"""Where the curves go: ``metrics.jsonl``, which is the truth, and TensorBoard, which mirrors it."""

import errno
import json
import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from math import isfinite
from pathlib import Path
from time import time
from typing import Any

from normbench.errors import UnreadableError
from normbench.files import LARGE, read_json, read_text, write_bytes, write_json, write_text
from normbench.store.events import EventFile
from normbench.store.results import METRICS, Result, is_done, read_result

HPARAMS, EVENTS = "hparams.json", "events.out.tfevents."

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system calls a disk that takes no more."""

HParam = str | int | float | bool


class Tracker:
    """Records the metrics of one seed in one folder, which is one TensorBoard run.

    Recording never ends training: where it fails, for example on a full disk, it says so once and
    stops.

    Args:
        folder: the seed's own; it exists.
        values: what TensorBoard's HParams page lists for the run.
        config: the configuration as text.
        images: some of the images, as one picture in a format that browsers know.
        after: the step that training goes on after: what was recorded later, by a run that was
            killed, is dropped, and the rest is kept.
        warn: told, in one line, why recording has stopped.

    Raises:
        OSError: the files cannot be opened, though the disk is not full.
    """

    def __init__(
        self,
        folder: Path,
        values: Mapping[str, HParam],
        *,
        config: str = "",
        images: bytes = b"",
        after: int = 0,
        warn: Callable[[str], None] = print,
    ) -> None:
        self._folder = folder
        self._warn = warn
        self._recording = True
        kept = [line for line in read_metrics(folder) if line["step"] <= after] if after else []
        head = {"time": kept[0]["time"] if kept else round(time(), 3), "values": dict(values)}
        if config:
            head["config"] = config
        if images:
            head["images"] = b64encode(images).decode()
        try:
            write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
            write_json(folder / HPARAMS, head)
            self._open(folder / METRICS, folder / _new_name(), head)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._open(Path(os.devnull), Path(os.devnull), head)
            self._stop(error)
        self._guarded(lambda: self._events.write_all(kept, None))
        self.flush()  # where nothing is left to record, nobody else does before the results

    def _open(self, lines: Path, events: Path, head: Mapping[str, Any]) -> None:
        for stale in self._folder.glob(f"{EVENTS}*"):
            stale.unlink()
        # A line at a time, so that a killed run has left all but its last.
        self._lines = lines.open("a", encoding="utf-8", buffering=1)
        # PyTorch's SummaryWriter has a thread of its own, whose errors nobody can catch.
        self._events = EventFile(events.open("wb"), head)

    def log(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Records ``metrics`` after ``step`` steps; those that are not finite are left out."""
        finite = {tag: value for tag, value in metrics.items() if isfinite(value)}
        line: dict[str, Any] = {"step": step, "epoch": round(epoch, 6), "time": round(time(), 3)}
        line |= finite

        def write() -> None:
            self._lines.write(json.dumps(line) + "\n")
            self._events.write_metrics(line)

        self._guarded(write)

    def flush(self) -> None:
        """Hands everything to the operating system, for those who watch."""
        self._guarded(self._events.flush)

    def sync(self) -> None:
        """Makes sure that what has been recorded survives a loss of power."""
        self._guarded(lambda: os.fsync(self._lines.fileno()))

    def close(self) -> None:
        """Ends the record, with the result if there is one by now."""
        result = _ended(self._folder)
        if result is not None:
            self._guarded(lambda: self._events.write_result(result))
        self._guarded(self._events.flush)
        for file in (self._lines, self._events):
            with suppress(OSError):
                file.close()

    def _guarded(self, write: Callable[[], object]) -> None:
        """Does ``write`` if recording goes on; if it fails, recording ends."""
        if not self._recording:
            return
        try:
            write()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self._recording = False
        reason = error.strerror or error
        self._warn(f"recording stopped, training goes on: {self._folder}: {reason}")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line that was cut short is left out.

    Raises:
        UnreadableError: there is no such file, or a line makes no sense.
    """
    read = [parse(line) for line in lines(folder) if line.endswith("\n")]
    if None in read:
        raise UnreadableError(f"{METRICS}: there are lines that make no sense")
    return [line for line in read if line is not None]


def lines(folder: Path) -> list[str]:
    """The lines of ``metrics.jsonl`` with their ends; the last may be half written.

    Raises:
        UnreadableError: there is no such file, or it is not text.
    """
    try:
        text = read_text(folder / METRICS, LARGE)
        if text is None:
            raise UnreadableError("there is no such file")
    except UnreadableError as error:
        raise UnreadableError(f"{METRICS}: {error}") from None
    return text.splitlines(keepends=True)


def parse(line: str) -> dict[str, Any] | None:
    """What one line of ``metrics.jsonl`` says; None where it makes no sense.

    Steps and epochs are there and in range, and everything measured is a finite number.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or type(values.get("step")) is not int:
        return None
    measured = [value for key, value in values.items() if key in ("epoch", "time") or "/" in key]
    sound = all(type(value) in (int, float) and abs(value) < 1e300 for value in measured)
    return values if sound and {"epoch", "time"} <= values.keys() else None


def can_be_shown(folder: Path) -> bool:
    """Whether a run has an event file, or what one is made from; committed records have neither."""
    return (folder / HPARAMS).exists() or any(folder.glob(f"{EVENTS}*"))


def is_sound(folder: Path) -> bool:
    """Whether the event file of a run is, byte by byte, what its JSON files say.

    Raises:
        OSError, UnreadableError: the files cannot be read.
    """
    found = list(folder.glob(f"{EVENTS}*"))
    return len(found) == 1 and found[0].read_bytes() == _rendered(folder)


def rebuild(folder: Path) -> None:
    """Writes the event file of a run anew from its JSON files.

    Raises:
        OSError, UnreadableError: the JSON files cannot be read, or the event file not written.
    """
    content = _rendered(folder)
    new = folder / _new_name()
    write_bytes(new, content)
    for stale in folder.glob(f"{EVENTS}*"):
        if stale != new:
            stale.unlink()


def _rendered(folder: Path) -> bytes:
    """What the event file of a run should be."""
    file = BytesIO()
    head = read_json(folder / HPARAMS, LARGE) or {}
    try:
        events = EventFile(file, head)
        events.write_all(read_metrics(folder), _ended(folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"{HPARAMS}: it makes no sense: {error}") from None
    events.flush()
    return file.getvalue()


def _ended(folder: Path) -> Result | None:
    """How a run has come to its end; a failure is none, for it is tried again."""
    return read_result(folder) if is_done(folder) else None


def _new_name() -> str:
    return f"{EVENTS}{time():.0f}"
