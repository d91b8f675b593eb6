"""Where the curves go: ``metrics.jsonl``, which is the truth, and TensorBoard, which mirrors it."""

import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from math import isfinite
from pathlib import Path
from threading import Event as ThreadEvent
from time import time
from typing import Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from normbench.errors import UnreadableError, UsageError
from normbench.files import LARGE, read_json, read_text, write_bytes, write_json, write_text

HPARAM_METRIC = "eval/accuracy"
METRICS, HPARAMS, EVENTS = "metrics.jsonl", "hparams.json", "events.out.tfevents."

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
        after: int = 0,
        warn: Callable[[str], None] = print,
    ) -> None:
        self._folder = folder
        self._warn = warn
        self._recording = True
        kept = [line for line in read_metrics(folder) if line["step"] <= after] if after else []
        head = {"time": kept[0]["time"] if kept else round(time(), 3), "values": dict(values)}
        try:
            write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
            write_json(folder / HPARAMS, head)
            self._open(folder / METRICS, folder / _new_name())
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._open(Path(os.devnull), Path(os.devnull))
            self._stop(error)
        self._guarded(lambda: self._events.write_all(head, kept))
        self.flush()  # where nothing is left to record, nobody else does before the results

    def _open(self, lines: Path, events: Path) -> None:
        for stale in self._folder.glob(f"{EVENTS}*"):
            stale.unlink()
        # A line at a time, so that a killed run has left all but its last.
        self._lines = lines.open("a", encoding="utf-8", buffering=1)
        # PyTorch's SummaryWriter has a thread of its own, whose errors nobody can catch.
        self._events = _Events(events.open("wb"))

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
        """Ends the record."""
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


class _Events:
    """TensorBoard's file of one run; what is in it follows from the JSON files alone."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = RecordWriter(file)
        self.flush = self._writer.flush
        self.close = self._writer.close

    def write_all(self, head: Mapping[str, Any], metrics: Iterable[Mapping[str, Any]]) -> None:
        """Writes what ``hparams.json`` says, and ``metrics``."""
        self._write(head["time"], file_version="brain.Event:2")
        for summary in hparams(dict(head["values"]), {HPARAM_METRIC: None}):
            for value in summary.value:  # maps: each process has an order of its own
                plugin = value.metadata.plugin_data
                parsed = HParamsPluginData.FromString(plugin.content)
                plugin.content = parsed.SerializeToString(deterministic=True)
            self._write(head["time"], summary=summary)
        for line in metrics:
            self.write_metrics(line)

    def write_metrics(self, line: Mapping[str, Any]) -> None:
        """Writes one line of ``metrics.jsonl``; its metrics are the keys with a slash."""
        scalars = [Summary.Value(tag=t, simple_value=v) for t, v in line.items() if "/" in t]
        self._write(line["time"], step=line["step"], summary=Summary(value=scalars))

    def _write(self, walltime: float, **content: Any) -> None:
        self._writer.write(Event(wall_time=walltime, **content).SerializeToString())


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
    events = _Events(file)
    head = read_json(folder / HPARAMS) or {}
    try:
        events.write_all(head, read_metrics(folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"{HPARAMS}: it makes no sense: {error}") from None
    events.flush()
    return file.getvalue()


def serve(directory: Path, port: int) -> None:
    """Serves TensorBoard over ``directory`` on this machine, until the process is interrupted.

    Raises:
        UsageError: the port is taken.
    """
    from tensorboard import default, program
    from tensorboard.data import server_ingester

    fast = "true"  # by default it decides so as well, and says so in four lines
    try:
        server_ingester.get_server_binary()
    except server_ingester.NoDataServerError:
        fast = "false"
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(logdir=str(directory), port=port, load_fast=fast)
    try:
        url = board.launch()
    except program.TensorBoardServerException as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--port {port}: {reason}; --port 0 takes any that is free") from None
    print(f"TensorBoard at {url} (Ctrl-C ends it)", flush=True)
    ThreadEvent().wait()


def _new_name() -> str:
    return f"{EVENTS}{time():.0f}"
