"""What training measures, and where it stands: all that it needs to go on, but the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.data.batches import Batches

LOGS_PER_EPOCH = 50

DIAGNOSED = 5
"""One in so many metrics says what happens inside the network."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How replicas did on a set of images.

    Attributes:
        loss: mean cross-entropy, one a replica.
        accuracy: 0..1, one a replica.
        correct: bool [K, images] on the CPU, whether each replica got each image right; None where
            a training went on from a checkpoint after the evaluation, which holds the means alone.
    """

    loss: list[float]
    accuracy: list[float]
    correct: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is known after some steps; every list has one number a replica.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done, as a fraction.
        loss: mean training loss over the steps since the last record; not finite once diverged.
        accuracy: training accuracy over the same steps, 0..1, on augmented images.
        learning_rate: of the last step, one a replica.
        epoch_loss, epoch_accuracy: the same over all steps of the epoch so far.
        seconds: spent on training since the last record, without evaluation.
        images_per_second: training images of all replicas together over ``seconds``.
        diverged: for each replica the first step with a loss that is not finite, or None.
        evaluation: at the end of an epoch that has one; None in between.
        evaluation_seconds: spent on it.
        diagnosis: of the last step, by name, see
            :class:`normbench.training.diagnosis.Diagnosis`; often empty.
    """

    step: int
    epoch: float
    loss: list[float]
    accuracy: list[float]
    epoch_loss: list[float]
    epoch_accuracy: list[float]
    learning_rate: list[float]
    seconds: float
    images_per_second: float
    diverged: list[int | None]
    evaluation: Evaluation | None = None
    evaluation_seconds: float = 0.0
    diagnosis: Mapping[str, list[float]] = field(default_factory=dict)


class Progress:
    """Where a training stands, apart from the network and its optimizer.

    With them it is all that a training needs to go on as if it had never stopped: the images of
    every step follow from the seeds and the step's number.

    Args:
        training: the batches.
        label_smoothing: of the training loss.

    Attributes:
        step: optimizer steps done.
        recorded: how many of them are in the last metrics.
        diverged: for each replica the first step with a loss that is not finite, or None.
        evaluation: the last one, or None.
        diagnosis: of the last step, until it is recorded.
    """

    def __init__(self, training: Batches, label_smoothing: float = 0.0) -> None:
        self._training = training
        self._label_smoothing = label_smoothing
        replicas = len(training.seeds)
        self.step = 0
        self.recorded = 0
        self.diverged: list[int | None] = [None] * replicas
        self.evaluation: Evaluation | None = None
        self.diagnosis: dict[str, list[float]] = {}
        # Sums over the epoch of the last metrics, without the steps that came after them.
        self._loss = torch.zeros(replicas, dtype=torch.float64)
        self._hits = torch.zeros(replicas, dtype=torch.int64)
        self._read = self._loss, self._hits
        # Of the steps since the last metrics, kept on the device until it is time to look.
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._start = perf_counter()

    @property
    def dead(self) -> bool:
        """Whether every replica has diverged."""
        return None not in self.diverged

    @property
    def at_end_of_epoch(self) -> bool:
        """Whether the last step was an epoch's last."""
        return self.step > 0 and self.step % self._training.steps == 0

    @property
    def due(self) -> bool:
        """Whether it is time for metrics: fifty times an epoch, and at its end."""
        rest = self.step % self._training.steps
        return self.step > self.recorded and (rest == 0 or rest % self._interval == 0)

    def evaluation_due(self, epochs: int, every: int) -> bool:
        """Whether the last step ended an epoch to be evaluated: each ``every``-th, and the last."""
        epoch = self.step // self._training.steps
        return self.at_end_of_epoch and (epoch % every == 0 or epoch == epochs)

    @property
    def diagnosis_due(self) -> bool:
        """Whether the next step is one to be diagnosed."""
        rest = (self.step + 1) % self._training.steps
        return rest == 0 or rest % (DIAGNOSED * self._interval) == 0

    @property
    def _interval(self) -> int:
        """Steps between two metrics."""
        return max(1, int(self._training.steps // LOGS_PER_EPOCH))

    def end(self, epochs: int) -> int:
        """The steps that so many epochs have."""
        return epochs * self._training.steps

    @property
    def epoch_loss(self) -> list[float]:
        """Each replica's mean training loss over the epoch of the last metrics."""
        return _floats(self._loss / self._steps_of_epoch(self.recorded))

    @property
    def epoch_accuracy(self) -> list[float]:
        """Each replica's training accuracy over the same."""
        seen = self._steps_of_epoch(self.recorded) * self._training.batch
        return _floats(self._hits.double() / seen)

    def _steps_of_epoch(self, step: int) -> int:
        """How many steps of its epoch are done after ``step`` steps; all of them at its end."""
        return (step - 1) % self._training.steps + 1

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Takes a step's logits [N, K, classes] and labels [N, K]."""
        self._logits.append(logits)
        self._labels.append(labels)
        self.step += 1

    def read(self, rate: float | Sequence[float]) -> Metrics:
        """The metrics of the steps since the last ones; this waits for the device.

        Nothing changes until they are recorded, so that whoever is interrupted in between, for
        example while evaluating, can read them again.
        """
        steps, batch = self._training.steps, self._training.batch
        logits, labels = torch.stack(self._logits), torch.stack(self._labels)
        losses = replica_losses(logits, labels, self._label_smoothing).cpu().double()
        hits = (logits.argmax(-1) == labels).sum((0, 1)).cpu()
        seconds = perf_counter() - self._start
        seen = len(losses) * batch
        loss, all_hits = losses.sum(0), hits
        if self.recorded % steps:  # the epoch has begun before
            loss, all_hits = self._loss + loss, self._hits + hits
        self._read = loss, all_hits
        of_epoch = self._steps_of_epoch(self.step)
        return Metrics(
            step=self.step,
            epoch=self.step / steps,
            loss=_floats(losses.mean(0)),
            accuracy=_floats(hits.double() / seen),
            epoch_loss=_floats(loss / of_epoch),
            epoch_accuracy=_floats(all_hits.double() / (of_epoch * batch)),
            learning_rate=[rate] * len(loss) if isinstance(rate, float) else list(rate),
            seconds=seconds,
            images_per_second=seen * len(self._training.seeds) / seconds,
            diverged=_note_divergence(self.diverged, losses, self.step),
            diagnosis=self.diagnosis,
        )

    def record(self, metrics: Metrics) -> None:
        """Takes the metrics just read as recorded, and begins anew."""
        self._loss, self._hits = self._read
        self.diverged = list(metrics.diverged)
        self.evaluation = metrics.evaluation or self.evaluation
        self.recorded = self.step
        self.diagnosis = {}
        self._logits, self._labels = [], []
        self._start = perf_counter()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of it, as tensors and as what JSON can hold."""
        tensors = {"loss": self._loss, "hits": self._hits}
        if self._logits:
            tensors |= {"logits": torch.stack(self._logits), "labels": torch.stack(self._labels)}
        evaluation = self.evaluation
        values = {
            "step": self.step,
            "recorded": self.recorded,
            "diverged": self.diverged,
            "evaluation": evaluation and {"loss": evaluation.loss, "accuracy": evaluation.accuracy},
            "diagnosis": self.diagnosis,
            "seconds": perf_counter() - self._start,
        }
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state` gave, on whatever device this training runs.

        Raises:
            KeyError, TypeError: something is missing.
            ValueError: it is of another training.
        """
        replicas = len(self._training.seeds)
        pending = values["step"] - values["recorded"]
        shapes = {"loss": [replicas], "hits": [replicas]}
        if pending:
            shapes["labels"] = [pending, self._training.batch, replicas]
        if any(list(tensors[name].shape) != shape for name, shape in shapes.items()):
            raise ValueError("the progress is that of another training")
        self.step, self.recorded = values["step"], values["recorded"]
        self.diverged = list(values["diverged"])
        evaluation = values["evaluation"]
        self.evaluation = None if evaluation is None else Evaluation(**evaluation)
        self.diagnosis = dict(values["diagnosis"])
        self._loss, self._hits = tensors["loss"], tensors["hits"]
        device = self._training.split.pixels.device
        self._logits = list(tensors["logits"].to(device).unbind()) if pending else []
        self._labels = list(tensors["labels"].to(device).unbind()) if pending else []
        self._start = perf_counter() - values["seconds"]


def replica_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Each replica's mean cross-entropy over N: logits [..., N, K, classes] to [..., K]."""
    losses = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return losses.view(labels.shape).mean(-2)


def _note_divergence(diverged: Sequence[int | None], losses: Tensor, step: int) -> list[int | None]:
    """Adds each replica's first loss that is not finite; ``losses`` [steps, K] end at ``step``."""
    noted = list(diverged)
    bad = ~losses.isfinite()
    for replica in bad.any(0).nonzero().flatten().tolist():
        if noted[replica] is None:
            first = int(bad[:, replica].int().argmax())
            noted[replica] = step - len(losses) + first + 1
    return noted


def _floats(tensor: Tensor) -> list[float]:
    values: list[float] = tensor.tolist()
    return values
