"""The training loop, a generator of metrics, and evaluation.

Training works on one network or on a stack of K of them: images are [N, K·3, H, W], logits are
[N, K·classes], and a solo network is the case K = 1. Evaluation works on the K networks one at a
time, which is faster. Metrics are lists of K numbers, one a replica.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.data.batches import Batches, Split, evaluation_batches
from normbench.norms.parts import Part, share_hooks
from normbench.training.cuda_graph import CapturedStep, TrainingStep, on_the_host
from normbench.training.diagnosis import Diagnosis
from normbench.training.dropout import seed_dropout
from normbench.training.optim import OptimConfig, stacked_rates
from normbench.training.optimizer import Optimizer
from normbench.training.progress import Evaluation, Metrics, Progress
from normbench.training.stacking import Stack, unstack

EVALUATION_BATCH = 64
"""Images evaluated at once: few enough for the activations of a small network to stay in the cache,
many enough for calls to cost little."""


def nothing() -> None:
    """Does nothing; a check that never ends an evaluation."""


def train(
    model: nn.Module,
    training: Batches,
    optimizer: Optimizer,
    optims: Sequence[OptimConfig],
    *,
    epochs: int,
    evaluation: Split,
    networks: Sequence[nn.Module] | None = None,
    evaluate_every: int = 1,
    progress: Progress | None = None,
    autocast: bool = False,
    check: Callable[[], None] = nothing,
) -> Iterator[Metrics | None]:
    """Trains ``model`` in place; yields after every step, with metrics some fifty times an epoch.

    Whenever it yields, ``model``, ``optimizer`` and ``progress`` together can be saved, and
    training goes on from them to the bit. The last metrics of an epoch carry its evaluation, if it
    has one.
    Training ends early when every replica has diverged; one that has diverged is not stopped while
    others go on, and cannot touch them.

    Args:
        model: maps [N, K·3, H, W] to [N, K·classes].
        training: the batches.
        optimizer: of the model; its learning rate is set before each step.
        optims: the courses of the learning rates, one for all replicas or one a replica, which
            differ in learning rate and weight decay alone.
        epochs: how many.
        evaluation: what is evaluated on after an epoch.
        networks: the K replicas as networks that share ``model``'s tensors, to be evaluated;
            :func:`networks_of` it by default.
        evaluate_every: epochs between two evaluations; the last epoch always has one.
        progress: where training stands; the beginning by default.
        autocast: whether to compute in bfloat16 where that is safe.
        check: called now and then in evaluations; may raise to end training. ``progress`` is then
            as it was before the evaluation.
    """
    if progress is None:
        progress = Progress(training, optims[0].label_smoothing)
    networks = networks_of(model) if networks is None else networks
    total = epochs * training.steps
    model.train()
    at_share = share_hooks(model)
    draw_for = seed_dropout(model, training.seeds)
    eager, train_on = step_functions(model, training, optimizer, optims[0], autocast=autocast)
    batches = training.batches(progress.step)
    while True:
        if progress.due:
            metrics = progress.read(stacked_rates(optims, progress.step - 1, total, training.batch))
            if progress.evaluation_due(epochs, evaluate_every) and None in metrics.diverged:
                metrics = _evaluated(metrics, networks, evaluation, autocast, check)
            progress.record(metrics)
            yield metrics
        if progress.dead or progress.step >= total:
            return
        images, labels = next(batches)
        optimizer.lr = stacked_rates(optims, progress.step, total, training.batch)
        for set_share in at_share:
            set_share(progress.step / total)
        draw_for(progress.step)
        if progress.diagnosis_due:
            logits, progress.diagnosis = _diagnosed(eager, model, images, labels)
        else:
            logits = train_on(images, labels)
        progress.add(logits, labels)
        yield None


def _evaluated(
    metrics: Metrics,
    networks: Sequence[nn.Module],
    split: Split,
    autocast: bool,
    check: Callable[[], None],
) -> Metrics:
    """``metrics`` with an evaluation on ``split``."""
    start = perf_counter()
    evaluation = evaluate(networks, split, autocast=autocast, check=check)
    return replace(metrics, evaluation=evaluation, evaluation_seconds=perf_counter() - start)


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


def step_functions(
    model: nn.Module,
    training: Batches,
    optimizer: Optimizer,
    optim: OptimConfig,
    *,
    autocast: bool = False,
) -> tuple[Callable[..., Tensor], TrainingStep]:
    """What trains one step, see :func:`training_step`, and what does so as fast as the device can:
    on a GPU, recorded and replayed."""
    eager = partial(
        training_step,
        model,
        optimizer,
        label_smoothing=optim.label_smoothing,
        autocast=autocast,
    )
    on_cuda = training.split.pixels.device.type == "cuda"
    if not on_cuda:
        return eager, eager
    return eager, CapturedStep(eager, forget=optimizer.forget, host=partial(on_the_host, model))


def training_step(
    model: nn.Module,
    optimizer: Optimizer,
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
    networks: Sequence[nn.Module],
    split: Split,
    *,
    autocast: bool = False,
    check: Callable[[], None] = nothing,
) -> Evaluation:
    """Evaluates each of ``networks`` on ``split``.

    They are in evaluation mode meanwhile and in their former modes afterwards. ``check`` is called
    now and then, and may raise to end the evaluation.
    """
    modes = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        return score(networks, split, autocast=autocast, check=check)
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)


@torch.no_grad()  # what a network keeps of an evaluation it may train with, but in inference mode
def score(
    networks: Sequence[nn.Module],
    split: Split,
    *,
    batch: int = EVALUATION_BATCH,
    autocast: bool,
    check: Callable[[], None],
) -> Evaluation:
    """What :func:`evaluate` does, with the layers in the modes that they are in.

    Args:
        networks: each maps [N, 3, H, W] to [N, classes].
        split: the images.
        batch: how many images are looked at together.
        autocast: whether to compute in bfloat16 where that is safe.
        check: called for each batch; may raise.
    """
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    several = len(networks) > 1
    for images, labels in evaluation_batches(split, batch, dtype_of(networks[0])):
        for network in networks:
            check()
            own = images.clone() if several else images  # a network may work in place
            with torch.autocast(split.pixels.device.type, torch.bfloat16, enabled=autocast):
                output = network(own)
            logits = split_replicas(output, 1)[:, 0]
            losses.append(F.cross_entropy(logits, labels, reduction="none").double().sum())
            hits.append(logits.argmax(-1) == labels)
    k = len(networks)
    loss = torch.stack(losses).view(-1, k).sum(0) / len(split)
    correct = torch.stack([torch.cat(hits[replica::k]) for replica in range(k)]).cpu()
    return Evaluation(loss.tolist(), (correct.sum(1).double() / len(split)).tolist(), correct)


def dtype_of(network: nn.Module) -> torch.dtype:
    """What a network computes in."""
    return next((p.dtype for p in network.parameters()), torch.float32)


def networks_of(model: nn.Module) -> list[nn.Module]:
    """The replicas of ``model`` as networks that share its tensors, whatever these become."""
    if not isinstance(model, Stack):
        return [model]
    networks = unstack(model)
    tensors = model.network.state_dict()
    for replica, network in enumerate(networks):
        own = {
            name: tensor.chunk(len(networks))[replica] if tensor.dim() else tensor
            for name, tensor in tensors.items()
        }
        network.load_state_dict(own, assign=True)
    return networks


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the norms of ``model`` learn: γ, β and the like, not the weights of convolutions."""
    parts = [module for module in model.modules() if isinstance(module, Part)]
    return [p for part in parts for p in part.norm_parameters()]
