"""The training loop, a generator of metrics, and evaluation.

Both work on one network or on a stack of K of them: images are [N, K·3, H, W], logits are
[N, K·classes], and a solo network is the case K = 1. Metrics are lists of K numbers, one a replica.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.data.plan import Split, Training, evaluation_batches
from normbench.optim import SGDConfig

LOGS_PER_EPOCH = 50
EVALUATION_BATCH = 250


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is known after some steps; every list has one number a replica.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done, as a fraction.
        loss: mean training loss over the steps since the last record; not finite once diverged.
        accuracy: training accuracy over the same steps, 0..1, on augmented images.
        learning_rate: of the last step.
        seconds: spent on training since the last record.
        images_per_second: training images of all replicas together, without evaluation.
        diverged: for each replica the first step with a loss that is not finite, or None.
        eval_loss, eval_accuracy: at the end of an epoch; None in between.
    """

    step: int
    epoch: float
    loss: list[float]
    accuracy: list[float]
    learning_rate: float
    seconds: float
    images_per_second: float
    diverged: list[int | None]
    eval_loss: list[float] | None = None
    eval_accuracy: list[float] | None = None


class _Window:
    """The losses and logits since the last record, kept on the device until it is time to look."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.losses: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.start = perf_counter()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Takes a step's losses [K], logits [N, K, classes] and labels [N, K]."""
        self.losses.append(loss.detach())
        self.logits.append(logits.detach())
        self.labels.append(labels)

    def read(self) -> tuple[Tensor, Tensor, float]:
        """Losses [steps, K], hits [K], both on the CPU (this waits for the device), and seconds."""
        losses = torch.stack(self.losses).cpu()
        correct = torch.stack(self.logits).argmax(-1) == torch.stack(self.labels)
        hits = correct.sum((0, 1)).cpu()
        return losses, hits, perf_counter() - self.start


def train(
    model: nn.Module,
    training: Training,
    optimizer: torch.optim.Optimizer,
    optim: SGDConfig,
    *,
    epochs: int,
    evaluation: Split,
    autocast: bool = False,
) -> Iterator[Metrics]:
    """Trains ``model`` in place, yielding metrics some fifty times an epoch and at its end.

    Ends early when every replica has diverged; a replica that has diverged is not stopped while
    others go on, and cannot touch them.

    Args:
        model: maps [N, K·3, H, W] to [N, K·classes].
        training: the batches.
        optimizer: of the model; its learning rate is set before each step.
        optim: the course of the learning rate, and label smoothing.
        epochs: how many.
        evaluation: what is evaluated on after each epoch.
        autocast: whether to compute in bfloat16 where that is safe.
    """
    replicas = len(training.seeds)
    total = epochs * training.steps
    interval = max(1, training.steps // LOGS_PER_EPOCH)
    diverged: list[int | None] = [None] * replicas
    device_type = training.split.pixels.device.type
    step = 0
    for epoch in range(epochs):
        model.train()
        window = _Window(replicas)
        for images, labels in training.epoch(epoch):
            rate = optim.rate(step, total, training.batch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(device_type, torch.bfloat16, enabled=autocast):
                logits = model(images).float().unflatten(1, (replicas, -1))
            losses = replica_losses(logits, labels, optim.label_smoothing)
            # Summed, not averaged: each replica gets exactly the gradient it would get alone.
            losses.sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            window.add(losses, logits, labels)
            in_epoch = step - epoch * training.steps
            if in_epoch % interval and in_epoch < training.steps:
                continue
            losses_seen, hits, seconds = window.read()
            _note_divergence(diverged, losses_seen, step)
            metrics = Metrics(
                step=step,
                epoch=step / training.steps,
                loss=losses_seen.mean(0).tolist(),
                accuracy=(hits / (len(losses_seen) * training.batch)).tolist(),
                learning_rate=rate,
                seconds=seconds,
                images_per_second=len(losses_seen) * training.batch * replicas / seconds,
                diverged=list(diverged),
            )
            if None not in diverged:
                yield metrics
                return
            if in_epoch < training.steps:
                yield metrics
                window = _Window(replicas)
        loss, accuracy = evaluate(model, evaluation, replicas=replicas, autocast=autocast)
        for replica, value in enumerate(loss):
            if not isfinite(value) and diverged[replica] is None:
                diverged[replica] = step
        yield Metrics(
            step=step,
            epoch=epoch + 1.0,
            loss=metrics.loss,
            accuracy=metrics.accuracy,
            learning_rate=metrics.learning_rate,
            seconds=seconds,
            images_per_second=metrics.images_per_second,
            diverged=list(diverged),
            eval_loss=loss,
            eval_accuracy=accuracy,
        )


def replica_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Each replica's mean cross-entropy, [K], from logits [N, K, classes] and labels [N, K]."""
    n, replicas, _ = logits.shape
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return losses.view(n, replicas).mean(0)


def _note_divergence(diverged: list[int | None], losses: Tensor, step: int) -> None:
    """Enters the first step whose loss is not finite; ``losses`` [steps, K] end at ``step``."""
    bad = ~losses.isfinite()
    for replica in bad.any(0).nonzero().flatten().tolist():
        if diverged[replica] is None:
            first = int(bad[:, replica].int().argmax())
            diverged[replica] = step - len(losses) + first + 1


@torch.inference_mode()
def evaluate(
    model: nn.Module, split: Split, *, replicas: int = 1, autocast: bool = False
) -> tuple[list[float], list[float]]:
    """Mean cross-entropy and accuracy (0..1) over ``split``, one of each a replica.

    The model is in evaluation mode meanwhile and in its former mode afterwards.
    """
    device_type = split.pixels.device.type
    was_training = model.training
    model.eval()
    try:
        losses: list[Tensor] = []
        hits: list[Tensor] = []
        for images, labels in evaluation_batches(split, EVALUATION_BATCH):
            stacked = images.repeat(1, replicas, 1, 1)
            stacked = stacked.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device_type, torch.bfloat16, enabled=autocast):
                logits = model(stacked).float().unflatten(1, (replicas, -1))
            wanted = labels[:, None].expand(-1, replicas)
            losses.append(replica_losses(logits, wanted) * len(labels))
            hits.append((logits.argmax(-1) == wanted).sum(0))
        loss = torch.stack(losses).sum(0) / len(split)
        accuracy = torch.stack(hits).sum(0) / len(split)
        return loss.tolist(), accuracy.tolist()
    finally:
        model.train(was_training)


def norm_parameters(model: nn.Module, kinds: Sequence[type[nn.Module]]) -> list[nn.Parameter]:
    """The parameters of the layers of ``model`` that are of one of ``kinds``."""
    modules = (module for module in model.modules() if isinstance(module, tuple(kinds)))
    return [p for module in modules for p in module.parameters(recurse=False)]
