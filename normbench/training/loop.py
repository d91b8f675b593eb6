"""The training loop, a generator of metrics, and evaluation.

Both work on one network or on a stack of K of them: images are [N, K·3, H, W], logits are
[N, K·classes], and a solo network is the case K = 1. Metrics are lists of K numbers, one a replica.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.data.batches import Split, Training, evaluation_batches
from normbench.norms.parts import Part, share_hooks
from normbench.training.cuda_graph import CapturedStep, TrainingStep
from normbench.training.diagnosis import Diagnosis
from normbench.training.optim import SGD, SGDConfig
from normbench.training.progress import Evaluation, Metrics, Progress, replica_losses

EVALUATION_BATCH = 250


def nothing() -> None:
    """Does nothing; a check that never ends an evaluation."""


def train(
    model: nn.Module,
    training: Training,
    optimizer: SGD,
    optim: SGDConfig,
    *,
    epochs: int,
    evaluation: Split,
    progress: Progress | None = None,
    autocast: bool = False,
    check: Callable[[], None] = nothing,
) -> Iterator[Metrics | None]:
    """Trains ``model`` in place; yields after every step, with metrics some fifty times an epoch.

    Whenever it yields, ``model``, ``optimizer`` and ``progress`` together can be saved, and
    training goes on from them to the bit. The last metrics of an epoch carry its evaluation.
    Training ends early when every replica has diverged; one that has diverged is not stopped while
    others go on, and cannot touch them.

    Args:
        model: maps [N, K·3, H, W] to [N, K·classes].
        training: the batches.
        optimizer: of the model; its learning rate is set before each step.
        optim: the course of the learning rate, and label smoothing.
        epochs: how many.
        evaluation: what is evaluated on after each epoch.
        progress: where training stands; the beginning by default.
        autocast: whether to compute in bfloat16 where that is safe.
        check: called now and then in evaluations; may raise to end training. ``progress`` is then
            as it was before the evaluation.
    """
    if progress is None:
        progress = Progress(training, optim.label_smoothing)
    total = epochs * training.steps
    model.train()
    smoothing = optim.label_smoothing
    at_share = share_hooks(model)
    eager = partial(training_step, model, optimizer, label_smoothing=smoothing, autocast=autocast)
    train_on = step_function(model, training, optimizer, optim, autocast=autocast)
    batches = training.batches(progress.step)
    while True:
        if progress.due:
            metrics = progress.read(optim.rate(progress.step - 1, total, training.batch))
            if progress.at_end_of_epoch and None in metrics.diverged:
                k = len(training.seeds)
                held = evaluate(model, evaluation, replicas=k, autocast=autocast, check=check)
                metrics = replace(metrics, evaluation=held)
            progress.record(metrics)
            yield metrics
        if progress.dead or progress.step >= total:
            return
        images, labels = next(batches)
        optimizer.lr = optim.rate(progress.step, total, training.batch)
        for set_share in at_share:
            set_share(progress.step / total)
        if progress.diagnosis_due:
            logits, progress.diagnosis = _diagnosed(eager, model, images, labels)
        else:
            logits = train_on(images, labels)
        progress.add(logits, labels)
        yield None


def _diagnosed(
    step: Callable[[Tensor, Tensor, Callable[[], None]], Tensor],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Trains one step under observation: the logits, and what was found."""
    diagnosis = Diagnosis(model, labels.shape[1])
    with diagnosis.watching() as after_backward:
        logits = step(images, labels, after_backward)
    return logits, diagnosis.values


def step_function(
    model: nn.Module,
    training: Training,
    optimizer: SGD,
    optim: SGDConfig,
    *,
    autocast: bool = False,
) -> TrainingStep:
    """What trains one step as fast as the device can: on a GPU, recorded and replayed."""
    eager = partial(
        training_step,
        model,
        optimizer,
        label_smoothing=optim.label_smoothing,
        autocast=autocast,
    )
    on_cuda = training.split.pixels.device.type == "cuda"
    return CapturedStep(eager, forget=optimizer.forget) if on_cuda else eager


def training_step(
    model: nn.Module,
    optimizer: SGD,
    images: Tensor,
    labels: Tensor,
    after_backward: Callable[[], None] = nothing,
    *,
    label_smoothing: float = 0.0,
    autocast: bool = False,
) -> Tensor:
    """One step on images [N, K·3, H, W] and labels [N, K].

    ``after_backward`` is called when the gradients are there and not yet used.

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
    after_backward()
    optimizer.step()
    return logits.detach()


def split_replicas(output: Tensor, replicas: int) -> Tensor:
    """A network's output [N, K·classes] as logits [N, K, classes], in float32 if it was less."""
    logits = output.view(len(output), replicas, -1)
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


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


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the norms of ``model`` learn: γ, β and the like, not the weights of convolutions."""
    parts = [module for module in model.modules() if isinstance(module, Part)]
    return [p for part in parts for p in part.norm_parameters()]
