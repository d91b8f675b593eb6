"""Where the curves go: ``metrics.jsonl``, which is the truth, and TensorBoard, which mirrors it."""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from time import time
from typing import Any

from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

HPARAM_METRIC = "eval/accuracy"


class Tracker:
    """Records the metrics of one seed in one folder, which is one TensorBoard run.

    Args:
        folder: the seed's own; it exists.
        hparams: what TensorBoard's HParams page lists for the run.
    """

    def __init__(self, folder: Path, hparams: Mapping[str, str | int | float | bool]) -> None:
        self._lines = (folder / "metrics.jsonl").open("w", encoding="utf-8")
        for stale in folder.glob("events.out.tfevents.*"):
            stale.unlink()
        self._writer = SummaryWriter(str(folder))
        self._write_hparams(hparams)

    def _write_hparams(self, values: Mapping[str, str | int | float | bool]) -> None:
        # SummaryWriter.add_hparams would open a run of its own below this one.
        for summary in hparams(dict(values), {HPARAM_METRIC: None}):
            self._writer._get_file_writer().add_summary(summary)

    def log(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Records ``values`` after ``step`` steps; those that are not finite are left out."""
        now = time()
        finite = {tag: value for tag, value in values.items() if isfinite(value)}
        line: dict[str, Any] = {"step": step, "epoch": round(epoch, 6), "time": round(now, 3)}
        self._lines.write(json.dumps(line | finite) + "\n")
        for tag, value in finite.items():
            self._writer.add_scalar(tag, value, step, walltime=now)

    def flush(self) -> None:
        """Hands everything to the operating system, for those who watch."""
        self._lines.flush()
        self._writer.flush()

    def close(self) -> None:
        """Ends the record."""
        self._lines.close()
        self._writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line that was cut short is left out."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
