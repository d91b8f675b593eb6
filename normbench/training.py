"""The training loop, a generator of metrics, and evaluation.

Both work on one network or on a stack of K of them: images are [N, K·3, H, W], logits are
[N, K·classes], and a solo network is the case K = 1. Metrics are lists of K numbers, one a replica.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.capture import CapturedStep, TrainingStep
from normbench.data.plan import Split, Training, evaluation_batches
from normbench.optim import SGD, SGDConfig

LOGS_PER_EPOCH = 50
EVALUATION_BATCH = 250


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean cross-entropy and accuracy (0..1) over a set of images, one of each a replica."""

    loss: list[float]
    accuracy: list[float]


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is known after some steps; every list has one number a replica.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done, as a fraction.
        loss: mean training loss over the steps since the last record; not finite once diverged.
        accuracy: training accuracy over the same steps, 0..1, on augmented images.
        learning_rate: of the last step.
        epoch_loss, epoch_accuracy: the same over all steps of the epoch so far.
        seconds: spent on training since the last record, without evaluation.
        images_per_second: training images of all replicas together over ``seconds``.
        diverged: for each replica the first step with a loss that is not finite, or None.
        evaluation: at the end of an epoch; None in between.
    """

    step: int
    epoch: float
    loss: list[float]
    accuracy: list[float]
    epoch_loss: list[float]
    epoch_accuracy: list[float]
    learning_rate: float
    seconds: float
    images_per_second: float
    diverged: list[int | None]
    evaluation: Evaluation | None = None


class _Epoch:
    """The logits since the last record, kept on the device until it is time to look, and sums."""

    def __init__(self, training: Training, optim: SGDConfig) -> None:
        self.training = training
        self.optim = optim
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        replicas = len(training.seeds)
        self.loss = torch.zeros(replicas, dtype=torch.float64)
        self.hits = torch.zeros(replicas, dtype=torch.int64)
        self.steps = 0
        self.start = perf_counter()

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Takes a step's logits [N, K, classes] and labels [N, K]."""
        self.logits.append(logits)
        self.labels.append(labels)

    def read(self, step: int, rate: float, diverged: Sequence[int | None]) -> Metrics:
        """The metrics since the last call; this waits for the device."""
        logits, labels = torch.stack(self.logits), torch.stack(self.labels)
        losses = replica_losses(logits, labels, self.optim.label_smoothing).cpu().double()
        hits = (logits.argmax(-1) == labels).sum((0, 1)).cpu()
        now = perf_counter()
        seconds, self.start = now - self.start, now
        self.logits, self.labels = [], []
        self.loss += losses.sum(0)
        self.hits += hits
        self.steps += len(losses)
        batch = self.training.batch
        seen = len(losses) * batch
        return Metrics(
            step=step,
            epoch=step / self.training.steps,
            loss=losses.mean(0).tolist(),
            accuracy=(hits.double() / seen).tolist(),
            epoch_loss=(self.loss / self.steps).tolist(),
            epoch_accuracy=(self.hits.double() / (self.steps * batch)).tolist(),
            learning_rate=rate,
            seconds=seconds,
            images_per_second=seen * len(self.training.seeds) / seconds,
            diverged=_note_divergence(diverged, losses, step),
        )


def train(
    model: nn.Module,
    training: Training,
    optimizer: SGD,
    optim: SGDConfig,
    *,
    epochs: int,
    evaluation: Split,
    autocast: bool = False,
) -> Iterator[Metrics]:
    """Trains ``model`` in place, yielding metrics some fifty times an epoch.

    The last metrics of an epoch carry its evaluation. Training ends early when every replica has
    diverged; one that has diverged is not stopped while others go on, and cannot touch them.

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
    step = 0
    train_on = step_function(model, training, optimizer, optim, autocast=autocast)
    for epoch in range(epochs):
        model.train()
        seen = _Epoch(training, optim)
        for images, labels in training.epoch(epoch):
            rate = optim.rate(step, total, training.batch)
            optimizer.lr = rate
            logits = train_on(images, labels)
            seen.add(logits, labels)
            step += 1
            at_end = step == (epoch + 1) * training.steps
            if not at_end and (step - epoch * training.steps) % interval:
                continue
            metrics = seen.read(step, rate, diverged)
            dead = None not in metrics.diverged
            if at_end and not dead:
                held = evaluate(model, evaluation, replicas=replicas, autocast=autocast)
                metrics = replace(metrics, evaluation=held)
            diverged = metrics.diverged
            yield metrics
            if dead:
                return


def step_function(
    model: nn.Module,
    training: Training,
    optimizer: SGD,
    optim: SGDConfig,
    *,
    autocast: bool = False,
) -> TrainingStep:
    """What trains one step as fast as the device can: on a GPU, recorded and replayed."""

    def eager(images: Tensor, labels: Tensor) -> Tensor:
        return training_step(
            model, optimizer, images, labels, optim.label_smoothing, autocast=autocast
        )

    on_cuda = training.split.pixels.device.type == "cuda"
    return CapturedStep(eager) if on_cuda else eager


def training_step(
    model: nn.Module,
    optimizer: SGD,
    images: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    *,
    autocast: bool = False,
) -> Tensor:
    """One step on images [N, K·3, H, W] and labels [N, K].

    Returns:
        The replicas' logits [N, K, classes] before the step.
    """
    if autocast:
        # Without the cache of converted weights, which a CUDA graph would take for its own.
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            output = model(images)
    else:  # even a context that does nothing takes time
        output = model(images)
    logits = split_replicas(output, labels.shape[1])
    # The replicas' mean losses, summed: each gets exactly the gradient it would get alone.
    loss = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    (loss / len(images)).backward()
    optimizer.step()
    return logits.detach()


def split_replicas(output: Tensor, replicas: int) -> Tensor:
    """A network's output [N, K·classes] as logits [N, K, classes], in float32 if it was less."""
    logits = output.view(len(output), replicas, -1)
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


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


def nothing() -> None:
    """Does nothing; a check that never ends an evaluation."""


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    replicas: int = 1,
    autocast: bool = False,
    check: Callable[[], None] = nothing,
) -> Evaluation:
    """Evaluates ``model``, or each replica of a stack, on ``split``.

    The model is in evaluation mode meanwhile and in its former mode afterwards. ``check`` is called
    now and then, and may raise to end the evaluation.
    """
    was_training = model.training
    model.eval()
    try:
        return score(
            model, split, replicas=replicas, batch=EVALUATION_BATCH, autocast=autocast, check=check
        )
    finally:
        model.train(was_training)


@torch.inference_mode()
def score(
    model: nn.Module,
    split: Split,
    *,
    replicas: int,
    batch: int,
    autocast: bool,
    check: Callable[[], None],
) -> Evaluation:
    """What :func:`evaluate` does, with the layers in the modes that they are in.

    Args:
        model: the network, or a stack.
        split: the images.
        replicas: how many networks the stack has.
        batch: how many images are looked at together.
        autocast: whether to compute in bfloat16 where that is safe.
        check: called for each batch; may raise.
    """
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    for images, labels in evaluation_batches(split, batch, dtype):
        check()
        stacked = images.repeat(1, replicas, 1, 1)
        stacked = stacked.contiguous(memory_format=torch.channels_last)
        with torch.autocast(split.pixels.device.type, torch.bfloat16, enabled=autocast):
            logits = split_replicas(model(stacked), replicas)
        wanted = labels[:, None].expand(-1, replicas)
        losses.append(replica_losses(logits, wanted) * len(labels))
        hits.append((logits.argmax(-1) == wanted).sum(0))
    loss = torch.stack(losses).double().sum(0) / len(split)
    accuracy = torch.stack(hits).sum(0).double() / len(split)
    return Evaluation(loss.tolist(), accuracy.tolist())


def memory_of_step(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many bytes one training step of ``model`` holds: what a norm costs in memory.

    Those of the input, of everything that the forward pass keeps for the backward pass, and of
    weights, gradients, momentum and buffers. It does not depend on the machine, nor on how PyTorch
    allocates; scratch memory inside of kernels is not in it.

    Args:
        model: in training mode; its buffers may change.
        images: [N, 3, H, W].
        labels: [N].
    """
    kept = {images.untyped_storage().data_ptr(): images.untyped_storage().nbytes()}
    alive: list[Tensor] = []  # a freed storage's address could be taken for another's
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        F.cross_entropy(model(images), labels)
    learned = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    return sum(kept.values()) + 3 * learned + buffers


def norm_parameters(model: nn.Module, kinds: Sequence[type[nn.Module]]) -> list[nn.Parameter]:
    """The parameters of the layers of ``model`` that are of one of ``kinds``."""
    modules = (module for module in model.modules() if isinstance(module, tuple(kinds)))
    return [p for module in modules for p in module.parameters(recurse=False)]
