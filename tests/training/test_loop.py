"""The training loop against a plain PyTorch loop, evaluation against a direct computation."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.data.batches import Batches, Splits, evaluation_batches, split
from normbench.data.library import ImageSet
from normbench.data.sources import SyntheticConfig
from normbench.models.convnet import ConvNetConfig
from normbench.models.resnet import ResNetConfig
from normbench.norms import Norm, NormConfig
from normbench.norms.batch import BatchNorm, BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.norms.none import NoNormConfig
from normbench.training.loop import evaluate, networks_of, norm_parameters, train
from normbench.training.optim import Scaling, Schedule, SGDConfig
from normbench.training.progress import Metrics, replica_losses
from normbench.training.stacking import stack, unstack

CLASSES = 4


def toy_images(num_train: int = 243, num_test: int = 263) -> ImageSet:
    """Noise on a colour that tells the class, 8 × 8 pixels."""
    generator = torch.Generator().manual_seed(11)
    colours = torch.tensor([[60, 120, 180], [180, 120, 60], [120, 180, 60], [60, 60, 120]])

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % CLASSES
        noise = torch.randint(-60, 61, (count, 3, 8, 8), generator=generator)
        return (colours[labels][:, :, None, None] + noise).to(torch.uint8), labels

    names = tuple(map(str, range(CLASSES)))
    return ImageSet("toy", "0" * 64, names, *draw(num_train), *draw(num_test))


IMAGES = toy_images()


def splits(limit: int | None = None) -> Splits:
    return split(IMAGES, SyntheticConfig(pad=1, limit=limit), torch.device("cpu"))


def net(norm: NormConfig | None = None, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return ConvNetConfig(depth=2, width=4).build(norm or GroupNormConfig(), CLASSES, generator)


class Pair(nn.Module):
    """Replicas side by side, as a stack of them: [N, K·3, H, W] to [N, K·classes]."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(3, dim=1)
        return torch.cat([net(part) for net, part in zip(self.nets, parts, strict=True)], dim=1)


class Poison(nn.Module):
    """Lets ``model`` answer with NaN in training from its ``step``-th call on."""

    def __init__(self, model: nn.Module, step: int) -> None:
        super().__init__()
        self.model = model
        self.left = step

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        self.left -= self.training
        return y * nan if self.left <= 0 else y


def run(
    model: nn.Module,
    optim: SGDConfig,
    *,
    batch: int = 2,
    epochs: int = 1,
    seeds: Sequence[int] = (0,),
    data: Splits | None = None,
    autocast: bool = False,
    evaluate_every: int = 1,
) -> list[Metrics]:
    data = data or splits()
    training = Batches(data.train, seeds=seeds, batch=batch, flip=True)
    optimizer = optim.build(model, norm_parameters(model))
    every = train(
        model,
        training,
        optimizer,
        [optim],
        epochs=epochs,
        evaluation=data.test,
        networks=list(model.nets) if isinstance(model, Pair) else None,
        evaluate_every=evaluate_every,
        autocast=autocast,
    )
    return [metrics for metrics in every if metrics is not None]


@dataclass
class Plain:
    """What a plain loop measured in each step and after each epoch."""

    losses: list[float]
    hits: list[int]
    rates: list[float]
    evaluations: list[tuple[float, float]]


def plain_loop(
    model: nn.Module, optim: SGDConfig, *, batch: int = 2, epochs: int = 1, seed: int = 0
) -> Plain:
    """The training loop as anyone would write it, with an optimizer that is not fused."""
    data = splits()
    training = Batches(data.train, seeds=[seed], batch=batch, flip=True)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=1.0,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        foreach=False,
    )
    seen = Plain([], [], [], [])
    total = epochs * (len(data.train) // batch)
    for epoch in range(epochs):
        model.train()
        for images, labels in training.epoch(epoch):
            optimizer.param_groups[0]["lr"] = optim.rate(len(seen.losses), total, batch)
            seen.rates.append(optimizer.param_groups[0]["lr"])
            logits = model(images)
            loss = F.cross_entropy(logits, labels[:, 0], label_smoothing=optim.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.losses.append(loss.item())
            seen.hits.append(int((logits.argmax(1) == labels[:, 0]).sum()))
        seen.evaluations.append(direct(model, data))
    return seen


def direct(model: nn.Module, data: Splits) -> tuple[float, float]:
    """Loss and accuracy over the test images, all at once."""
    pixels = IMAGES.test_images.float()
    x = (pixels - data.test.mean[:, None, None]) * data.test.scale[:, None, None]
    model.eval()
    with torch.no_grad():
        logits = model(x)
    model.train()
    loss = F.cross_entropy(logits.double(), IMAGES.test_labels).item()
    return loss, float((logits.argmax(1) == IMAGES.test_labels).double().mean())


def close(actual: Sequence[float], expected: Sequence[float], tolerance: float = 2e-5) -> None:
    assert list(actual) == pytest.approx(list(expected), rel=tolerance, abs=tolerance)


# Training.


def test_training_learns() -> None:
    metrics = run(net(), SGDConfig(lr=0.2), batch=8, epochs=4)
    final = metrics[-1]
    assert final.evaluation is not None
    assert final.evaluation.accuracy[0] > 0.8
    assert final.loss[0] < 0.6 * metrics[0].loss[0]
    assert final.diverged == [None]


@pytest.mark.parametrize(
    ("norm", "optim"),
    [
        (GroupNormConfig(), SGDConfig()),
        (BatchNormConfig(), SGDConfig(label_smoothing=0.1, schedule=Schedule.cosine)),
        (NoNormConfig(), SGDConfig(momentum=0.5, weight_decay=0.0, warmup=0.0)),
    ],
    ids=["group", "batch", "none"],
)
def test_every_record_is_what_a_plain_loop_measures(norm: NormConfig, optim: SGDConfig) -> None:
    model, theirs = net(norm), net(norm)
    metrics = run(model, optim, epochs=2)
    plain = plain_loop(theirs, optim, epochs=2)
    steps = len(plain.losses) // 2
    assert steps == 121

    # 121 // 50 = 2 steps a record, and the last step of an epoch by itself.
    ends = [*range(2, 121, 2), 121]
    assert [m.step for m in metrics] == ends + [121 + end for end in ends]
    start = 0
    for m in metrics:
        close(m.loss, [sum(plain.losses[start : m.step]) / (m.step - start)])
        close(m.accuracy, [sum(plain.hits[start : m.step]) / (2 * (m.step - start))])
        assert m.learning_rate == [plain.rates[m.step - 1]]
        assert m.epoch == pytest.approx(m.step / 121)
        assert m.diverged == [None]
        assert m.seconds > 0
        assert m.images_per_second == pytest.approx(2 * (m.step - start) / m.seconds)
        start = m.step
    assert [m.step for m in metrics if m.evaluation is not None] == [121, 242]
    evaluations = [m.evaluation for m in metrics if m.evaluation is not None]
    for evaluation, (loss, accuracy) in zip(evaluations, plain.evaluations, strict=True):
        close(evaluation.loss, [loss])
        close(evaluation.accuracy, [accuracy])
    for (name, mine), (_, other) in zip(
        model.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, msg=name)


def test_label_smoothing_enters_the_training_loss_and_not_the_evaluation() -> None:
    # At a learning rate of almost nothing the network stays what it was.
    losses, evaluations = {}, {}
    for smoothing in (0.0, 0.3):
        optim = SGDConfig(lr=1e-12, label_smoothing=smoothing)
        metrics = run(net(), optim, batch=60)
        losses[smoothing], evaluations[smoothing] = metrics[0].loss[0], metrics[-1].evaluation
    assert evaluations[0.3] == evaluations[0.0] is not None
    data = splits()
    images, labels = next(Batches(data.train, seeds=[0], batch=60, flip=True).epoch(0))
    log_probabilities = F.log_softmax(net()(images).detach().double(), dim=1)
    target = F.one_hot(labels[:, 0], CLASSES).double()
    for smoothing, loss in losses.items():
        smoothed = (1 - smoothing) * target + smoothing / CLASSES
        assert loss == pytest.approx(-(smoothed * log_probabilities).sum(1).mean().item(), rel=1e-5)


def test_the_same_run_again_is_the_same_to_the_bit() -> None:
    first, again = net(), net()
    a, b = run(first, SGDConfig(), epochs=2), run(again, SGDConfig(), epochs=2)
    assert [(m.loss, m.accuracy, m.evaluation) for m in a] == [
        (m.loss, m.accuracy, m.evaluation) for m in b
    ]
    for mine, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_network_handed_over_in_evaluation_mode_is_trained_in_training_mode() -> None:
    model = net(BatchNormConfig())
    expected = run(model, SGDConfig(), batch=8)
    metrics = run(net(BatchNormConfig()).eval(), SGDConfig(), batch=8)
    assert [m.loss for m in metrics] == [m.loss for m in expected]


def test_an_epoch_of_a_single_step_is_one_record() -> None:
    metrics = run(net(), SGDConfig(), batch=243, epochs=3)
    assert [m.step for m in metrics] == [1, 2, 3]
    assert [m.epoch for m in metrics] == [1.0, 2.0, 3.0]
    assert all(m.evaluation is not None for m in metrics)


def test_bfloat16_computes_convolutions_in_it_and_keeps_the_weights_in_float32() -> None:
    single = run(net(), SGDConfig(), batch=8, epochs=2)
    model = net()
    seen = set()
    conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    conv.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    half = run(model, SGDConfig(), batch=8, epochs=2, autocast=True)
    assert seen == {torch.bfloat16}  # in evaluation too
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert half[0].loss != single[0].loss
    assert half[0].loss == pytest.approx(single[0].loss, rel=0.02)
    assert half[-1].evaluation is not None
    assert single[-1].evaluation is not None
    close(half[-1].evaluation.loss, single[-1].evaluation.loss, 0.1)


@pytest.mark.parametrize("norm", [BatchNormConfig(), GroupNormConfig(), NoNormConfig()])
def test_resnets_train_in_bfloat16_with_every_kind_of_norm(norm: NormConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    model = ResNetConfig(width=4).build(norm, CLASSES, generator, norm_batch=8)
    model = model.to(memory_format=torch.channels_last)
    metrics = run(model, SGDConfig(), batch=16, epochs=2, autocast=True)
    assert metrics[-1].diverged == [None]
    assert metrics[-1].loss[0] < metrics[0].loss[0]


def test_a_float64_network_is_trained_in_float64() -> None:
    model, data = net().double(), splits()
    training = Batches(data.train, seeds=[0], batch=8, flip=True, dtype=torch.float64)
    optim = SGDConfig(lr=1e-12)
    optimizer = optim.build(model, norm_parameters(model))
    (images, labels), *_ = training.epoch(0)
    expected = F.cross_entropy(net().double()(images), labels[:, 0]).item()
    every = train(model, training, optimizer, [optim], epochs=1, evaluation=data.test)
    first = next(metrics for metrics in every if metrics is not None)
    assert first.loss[0] == pytest.approx(expected, rel=1e-12)


def test_a_float64_network_is_evaluated_in_float64() -> None:
    model, data = net().double(), splits()
    images = torch.cat([images for images, _ in evaluation_batches(data.test, 263)])
    expected = F.cross_entropy(model(images.double()), data.test.labels).item()
    assert evaluate([model], data.test).loss[0] == pytest.approx(expected, rel=1e-12)


# Replicas.


def test_replicas_side_by_side_measure_what_each_measures_alone() -> None:
    nets = [net(BatchNormConfig(), seed) for seed in (3, 4)]
    together = run(Pair(nets), SGDConfig(), batch=8, seeds=[3, 4])
    for replica, seed in enumerate((3, 4)):
        solo = net(BatchNormConfig(), seed)
        alone = run(solo, SGDConfig(), batch=8, seeds=[seed])
        assert len(alone) == len(together)
        for a, b in zip(alone, together, strict=True):
            close([b.loss[replica]], a.loss)
            close([b.accuracy[replica]], a.accuracy)
            assert (a.step, 2 * a.learning_rate) == (b.step, b.learning_rate)
        assert alone[-1].evaluation is not None
        assert together[-1].evaluation is not None
        close([together[-1].evaluation.loss[replica]], alone[-1].evaluation.loss)
        close([together[-1].evaluation.accuracy[replica]], alone[-1].evaluation.accuracy)
        for mine, other in zip(nets[replica].parameters(), solo.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_images_per_second_count_those_of_all_replicas() -> None:
    for m in run(Pair([net(), net()]), SGDConfig(), batch=27, seeds=[0, 1]):
        assert m.images_per_second == pytest.approx(54 / m.seconds)


def test_a_replica_that_diverges_leaves_the_others_alone() -> None:
    healthy, alone = net(seed=3), net(seed=3)
    metrics = run(Pair([Poison(net(), 5), healthy]), SGDConfig(), epochs=2, seeds=[0, 3])
    expected = run(alone, SGDConfig(), epochs=2, seeds=[3])
    assert len(metrics) == len(expected)
    assert metrics[-1].diverged == [5, None]
    assert isnan(metrics[-1].loss[0])
    for a, b in zip(expected, metrics, strict=True):
        close([b.loss[1]], a.loss)
    for mine, other in zip(healthy.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_training_ends_when_the_last_replica_has_diverged() -> None:
    pair = Pair([Poison(net(), 9), Poison(net(), 31)])
    metrics = run(pair, SGDConfig(), epochs=2, seeds=[0, 1])
    assert metrics[-1].diverged == [9, 31]
    assert metrics[-1].step == 32
    assert [m.diverged for m in metrics if m.step in (8, 10)] == [[None, None], [9, None]]


# Divergence.


def test_a_weight_that_is_not_a_number_ends_the_run_at_its_first_step() -> None:
    model = net()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = nan
    metrics = run(model, SGDConfig(), epochs=2)
    assert [m.step for m in metrics] == [2]
    assert metrics[0].diverged == [1]
    assert not isfinite(metrics[0].loss[0])
    assert metrics[0].evaluation is None


@pytest.mark.parametrize("step", [1, 2, 3, 57, 120, 121, 122, 123, 242])
def test_the_first_step_with_a_loss_that_is_not_finite_is_reported(step: int) -> None:
    metrics = run(Poison(net(), step), SGDConfig(), epochs=2)
    assert [m.diverged for m in metrics[:-1]] == [[None]] * (len(metrics) - 1)
    assert metrics[-1].diverged == [step]
    # Two steps a record: noticed within it, and nothing is trained or evaluated after.
    assert 0 <= metrics[-1].step - step < 2
    assert metrics[-1].evaluation is None
    assert all(isfinite(m.loss[0]) for m in metrics[:-1])


def test_a_learning_rate_that_is_too_high_diverges_where_a_plain_loop_does() -> None:
    optim = SGDConfig(lr=1e4, scaling=Scaling.none, warmup=0.0)
    plain = plain_loop(net(NoNormConfig()), optim)
    first = next(n for n, loss in enumerate(plain.losses, 1) if not isfinite(loss))
    metrics = run(net(NoNormConfig()), optim)
    assert metrics[-1].diverged == [first]
    assert 1 < first <= metrics[-1].step < 30


def test_a_loss_that_is_not_finite_in_evaluation_only_is_told_by_the_evaluation() -> None:
    model = net(BatchNormConfig())
    norm = next(module for module in model.modules() if isinstance(module, BatchNorm))
    norm.running_mean.fill_(nan)  # training does not look at it
    metrics = run(model, SGDConfig(), batch=8, epochs=2)
    assert [m.step for m in metrics if m.evaluation is not None] == [30, 60]
    for m in metrics:
        assert m.diverged == [None]  # the first step with a *training* loss that is not finite
        assert isfinite(m.loss[0])
        assert m.evaluation is None or isnan(m.evaluation.loss[0])


# Evaluation.


@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_every_so_many_epochs_and_the_last_are_evaluated(every: int, evaluated: list[int]) -> None:
    metrics = run(net(), SGDConfig(), batch=81, epochs=5, evaluate_every=every)
    assert [m.epoch for m in metrics if m.evaluation is not None] == evaluated
    assert all((m.evaluation_seconds > 0) == (m.evaluation is not None) for m in metrics)


@pytest.mark.parametrize("norm", [BatchNormConfig(), GroupNormConfig()], ids=lambda n: n.name)
def test_evaluation_equals_a_direct_computation(norm: NormConfig) -> None:
    model, data = net(norm), splits()
    run(model, SGDConfig(), batch=8)  # so that running statistics are not those of the start
    assert len(data.test) == 263  # several batches of evaluation, and a short one
    found = evaluate([model], data.test)
    loss, accuracy = direct(model, data)
    close(found.loss, [loss], 1e-6)
    close(found.accuracy, [accuracy], 1e-6)


def test_evaluation_of_replicas_is_the_evaluation_of_each() -> None:
    nets, data = [net(seed=seed) for seed in range(3)], splits()
    together = evaluate(nets, data.test)
    alone = [evaluate([model], data.test) for model in nets]
    assert together.loss == [found.loss[0] for found in alone]
    assert together.accuracy == [found.accuracy[0] for found in alone]
    assert len(set(together.loss)) == 3
    right = torch.cat([found.correct for found in alone if found.correct is not None])
    assert together.correct is not None
    assert together.correct.tolist() == right.tolist()
    assert together.accuracy == (right.double().mean(1)).tolist()


@pytest.mark.parametrize("norm", [BatchNormConfig(), GroupNormConfig()], ids=lambda n: n.name)
def test_a_trained_stack_is_evaluated_as_the_networks_it_shares_tensors_with(
    norm: NormConfig,
) -> None:
    stacked = stack([net(norm, seed) for seed in range(2)])
    stacked = stacked.to(memory_format=torch.channels_last)
    networks, data = networks_of(stacked), splits()
    metrics = run(stacked, SGDConfig(), batch=8, seeds=[0, 1])
    assert metrics[-1].evaluation == evaluate(unstack(stacked), data.test)
    assert metrics[-1].evaluation == evaluate(networks, data.test)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_evaluation_changes_nothing(training: bool) -> None:
    model = net(BatchNormConfig()).train(training)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    evaluate([model], splits().test)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_evaluation_that_fails_restores_the_mode() -> None:
    model = nn.Sequential(net(), nn.Linear(7, 4))
    with pytest.raises(RuntimeError):
        evaluate([model], splits().test)
    assert all(module.training for module in model.modules())


def test_evaluation_is_in_evaluation_mode() -> None:
    model = net(BatchNormConfig())
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    evaluate([model], splits().test)
    assert modes == [False] * 5


def test_evaluation_in_bfloat16_is_near_that_in_float32() -> None:
    model, data = net(), splits()
    single, half = evaluate([model], data.test), evaluate([model], data.test, autocast=True)
    assert half.loss != single.loss
    close(half.loss, single.loss, 0.02)


# The pieces.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_each_replica_has_the_loss_of_its_own_logits_and_labels(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (5, 3), generator=generator)
    losses = replica_losses(logits, labels, smoothing)
    for replica in range(3):
        expected = F.cross_entropy(
            logits[:, replica], labels[:, replica], label_smoothing=smoothing
        )
        torch.testing.assert_close(losses[replica], expected, rtol=1e-12, atol=0)
    several = replica_losses(torch.stack([logits, logits + logits**2]), labels.repeat(2, 1, 1))
    assert several.shape == (2, 3)
    torch.testing.assert_close(several[0], replica_losses(logits, labels), rtol=1e-12, atol=0)


def test_norm_parameters_are_the_scales_and_shifts_and_nothing_else() -> None:
    model = net(GroupNormConfig())
    wanted = [
        parameter
        for module in model.modules()
        if isinstance(module, Norm)
        for parameter in (module.weight, module.bias)
    ]
    found = norm_parameters(model)
    assert len(found) == 4
    assert all(a is b for a, b in zip(found, wanted, strict=True))
    assert norm_parameters(nn.Sequential(nn.BatchNorm2d(4), nn.Linear(2, 2))) == []


def test_the_test_images_are_those_of_the_direct_computation() -> None:
    # The yardstick of this module: `direct` normalizes as `evaluation_batches` does.
    data = splits()
    seen = torch.cat([images for images, _ in evaluation_batches(data.test, 100)])
    pixels = IMAGES.test_images.double()
    mean = IMAGES.train_images.double().mean((0, 2, 3))
    std = IMAGES.train_images.double().std((0, 2, 3), correction=0)
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(seen.double(), expected, rtol=1e-5, atol=1e-5)


class InPlace(nn.Module):
    """Changes the images that it is given, as a forward pass may."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x.mul_(2).sub_(1))
        return y


def test_networks_that_work_in_place_are_each_evaluated_on_the_images() -> None:
    models = [InPlace(net(seed=seed)) for seed in range(3)]
    together = evaluate(models, splits().test)
    alone = [evaluate([model], splits().test) for model in models]

    assert together.loss == [each.loss[0] for each in alone]
    assert together.accuracy == [each.accuracy[0] for each in alone]


def test_a_network_can_train_with_what_it_keeps_of_an_evaluation() -> None:
    class Remembering(nn.Module):
        """Keeps a grid for the largest batch it has met."""

        def __init__(self) -> None:
            super().__init__()
            self.model, self.grid = net(), torch.ones(1, 1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            if len(self.grid) < len(x):
                self.grid = torch.ones(len(x), 1, 1, 1)
            y: Tensor = self.model(x) * self.grid[: len(x), :, 0, 0]
            return y

    model, parts = Remembering(), splits()
    evaluate([model], parts.test)
    images, labels = next(evaluation_batches(parts.train, 2))
    F.cross_entropy(model(images), labels).backward()
    assert all(p.grad is not None for p in model.parameters())
