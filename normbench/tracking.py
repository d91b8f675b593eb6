"""Where the curves go: ``metrics.jsonl``, which is the truth, and TensorBoard, which mirrors it."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from time import time
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

HPARAM_METRIC = "eval/accuracy"


class Tracker:
    """Records the metrics of one seed in one folder, which is one TensorBoard run.

    Recording never ends training: where it fails, for example on a full disk, it says so once and
    stops.

    Args:
        folder: the seed's own; it exists.
        hparams: what TensorBoard's HParams page lists for the run.
        warn: told, in one line, why recording has stopped.

    Raises:
        OSError: the files cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        hparams: Mapping[str, str | int | float | bool],
        warn: Callable[[str], None] = print,
    ) -> None:
        self._folder = folder
        self._warn = warn
        self._recording = True
        for stale in folder.glob("events.out.tfevents.*"):
            stale.unlink()
        # A line at a time, so that a killed run has left all but its last.
        self._lines = (folder / "metrics.jsonl").open("w", encoding="utf-8", buffering=1)
        # PyTorch's SummaryWriter has a thread of its own, whose errors nobody can catch.
        self._events = RecordWriter((folder / f"events.out.tfevents.{time():.0f}").open("wb"))
        self._guarded(lambda: self._write_head(hparams))

    def _write_head(self, values: Mapping[str, str | int | float | bool]) -> None:
        self._write_event(file_version="brain.Event:2")
        for summary in hparams(dict(values), {HPARAM_METRIC: None}):
            self._write_event(summary=summary)

    def _write_event(self, *, walltime: float | None = None, **content: Any) -> None:
        event = Event(wall_time=time() if walltime is None else walltime, **content)
        self._events.write(event.SerializeToString())

    def log(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Records ``values`` after ``step`` steps; those that are not finite are left out."""
        now = time()
        finite = {tag: value for tag, value in values.items() if isfinite(value)}
        line: dict[str, Any] = {"step": step, "epoch": round(epoch, 6), "time": round(now, 3)}
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in finite.items()]

        def write() -> None:
            self._lines.write(json.dumps(line | finite) + "\n")
            self._write_event(walltime=now, step=step, summary=Summary(value=scalars))

        self._guarded(write)

    def flush(self) -> None:
        """Hands everything to the operating system, for those who watch."""
        self._guarded(self._events.flush)

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
            self._recording = False
            reason = error.strerror or error
            self._warn(f"recording stopped, training goes on: {self._folder}: {reason}")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line that was cut short is left out."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
