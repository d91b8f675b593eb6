"""TensorBoard's file of one run, and its server: the only file that knows TensorBoard.

What is in an event file follows from the run's JSON files alone, byte by byte.
"""

from base64 import b64decode
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Event as Waiting
from typing import Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_SCALAR,
    Summary,
    SummaryMetadata,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import custom_scalars, hparams, text

from normbench.errors import UsageError
from normbench.store.results import Result

DESCRIPTIONS = {
    "train/loss": "Mean cross-entropy over the steps since the last record, on augmented images.",
    "train/accuracy": "Share of right answers (0..1) over the same steps, on augmented images.",
    "train/learning_rate": "Of the last step.",
    "train/images_per_second": "Training images of all seeds trained together, without evaluation.",
    "eval/loss": "Mean cross-entropy after each epoch, on the test set, or on the images held out"
    " by `data.val_fraction`.",
    "eval/accuracy": "Share of right answers (0..1) on the same images.",
    "gradient/norm": "Euclidean norm of the gradient of all parameters in one step.",
    "stray_mean": "By layer: |batch mean - running mean| in running standard deviations, mean over"
    " channels.",
    "stray_variance": "By layer: |log of batch variance / running variance|, mean over channels.",
    "result/test_error": "Share of wrong answers (0..1) on the whole test set after the last step.",
    "result/images_per_second": "Training images of this seed over its seconds of training.",
    "result/memory_mb": "What one training step of one seed holds, in units of 10⁶ bytes.",
}
"""What the tags mean; shown beside each chart."""

RESULT_TAGS = ("result/test_error", "result/images_per_second", "result/memory_mb")
"""What TensorBoard's HParams page compares."""

COMPARED = "eval/accuracy"
"""The curve that is also recorded under its batch size, so that a chart has one batch size."""


class EventFile:
    """An event file that is being written.

    Args:
        file: where to.
        head: what ``hparams.json`` says.
    """

    def __init__(self, file: BinaryIO, head: Mapping[str, Any]) -> None:
        self._writer = RecordWriter(file)
        self._head = head
        self._time: float = head["time"]
        self._described: set[str] = set()
        self.flush = self._writer.flush
        self.close = self._writer.close

    def write_head(self) -> None:
        """Writes all that is known before the first step."""
        head = self._head
        self._write(file_version="brain.Event:2")
        for summary in hparams(dict(head["values"]), dict.fromkeys(RESULT_TAGS)):
            for value in summary.value:  # maps: each process has an order of its own
                plugin = value.metadata.plugin_data
                parsed = HParamsPluginData.FromString(plugin.content)
                plugin.content = parsed.SerializeToString(deterministic=True)
            self._write(summary=summary)
        charts = {self._batch: ["Multiline", [f"{self._batch}/{COMPARED}"]]}
        self._write(summary=custom_scalars({"Accuracy of the norms, by batch size": charts}))
        if "config" in head:
            indented = "".join(f"    {line}\n" for line in head["config"].splitlines())
            self._write(summary=text("config", indented))
        if "images" in head:
            self._write(summary=_sheet(head["images"]))

    def write_all(self, metrics: Iterable[Mapping[str, Any]], result: Result | None) -> None:
        """Writes the whole file: the head, all lines of ``metrics.jsonl``, and the result."""
        self.write_head()
        for line in metrics:
            self.write_metrics(line)
        if result is not None:
            self.write_result(result)

    def write_metrics(self, line: Mapping[str, Any]) -> None:
        """Writes one line of ``metrics.jsonl``; its metrics are the keys with a slash."""
        self._time = line["time"]
        values = {tag: value for tag, value in line.items() if "/" in tag}
        if COMPARED in values:
            values[f"{self._batch}/{COMPARED}"] = values[COMPARED]
        self._write_scalars(line["step"], values)

    def write_result(self, result: Result) -> None:
        """Writes how the run has ended, as far as it can be drawn."""
        error = None if result.test_accuracy is None else 1 - result.test_accuracy
        memory = None if result.memory_bytes is None else result.memory_bytes / 1e6
        found = zip(RESULT_TAGS, (error, result.images_per_second, memory), strict=True)
        values = {tag: value for tag, value in found if value is not None}
        self._write_scalars(result.steps, values)

    @property
    def _batch(self) -> str:
        """``batch 8``, with the size of the sub-batches that share statistics where they differ."""
        values = self._head["values"]
        batch, norm_batch = values.get("batch"), values.get("norm_batch")
        same = norm_batch in (None, batch)
        return f"batch {batch}" if same else f"batch {batch}, statistics of {norm_batch}"

    def _write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._scalar(tag, value) for tag, value in values.items()]
        self._write(step=step, summary=Summary(value=scalars))

    def _scalar(self, tag: str, value: float) -> Summary.Value:
        if tag in self._described:
            return Summary.Value(tag=tag, simple_value=value)
        self._described.add(tag)
        plain = tag.removeprefix(f"{self._batch}/")
        about = DESCRIPTIONS.get(plain) or DESCRIPTIONS.get(plain.partition("/")[0], "")
        metadata = SummaryMetadata(summary_description=about, data_class=DATA_CLASS_SCALAR)
        metadata.plugin_data.plugin_name = "scalars"
        return Summary.Value(tag=tag, simple_value=value, metadata=metadata)

    def _write(self, **content: Any) -> None:
        self._writer.write(Event(wall_time=self._time, **content).SerializeToString())


def _sheet(encoded: str) -> Summary:
    """A sheet of images as a summary; base64 of a file that browsers know."""
    image = Summary.Image(encoded_image_string=b64decode(encoded), colorspace=3)
    return Summary(value=[Summary.Value(tag="images", image=image)])


def serve(directory: Path, port: int) -> None:
    """Serves TensorBoard over ``directory`` on this machine, until the process is interrupted.

    Raises:
        UsageError: the port is taken.
    """
    from tensorboard import default, program
    from tensorboard.data import server_ingester

    fast = ["true", "false"]  # by default it decides so as well, and says so in four lines
    try:
        server_ingester.get_server_binary()
    except server_ingester.NoDataServerError:
        fast = ["false"]
    url = ""
    for each in fast:
        board = program.TensorBoard(plugins=default.get_plugins())
        board.configure(logdir=str(directory), port=port, load_fast=each)
        try:
            url = board.launch()
            break
        except program.TensorBoardServerException as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"--port {port}: {reason}; --port 0 takes any that is free") from None
        except SystemExit:  # the fast server did not start, and it says so
            if each == fast[-1]:
                raise
    print(f"TensorBoard at {url} (Ctrl-C ends it)", flush=True)
    Waiting().wait()
