"""Batch norm evaluated with other statistics, and what a step holds in memory."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.data.batches import Batches, Split, split
from normbench.data.library import ImageSet
from normbench.data.sources import SyntheticConfig
from normbench.models.convnet import ConvNetConfig
from normbench.models.inspection import memory_of_step
from normbench.norms import NORMS, NormConfig
from normbench.norms.batch import BatchNorm, BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.norms.parts import share_hooks
from normbench.training.loop import evaluate
from normbench.training.precise_bn import batch_norms, decompose, estimation, reestimate
from tests.norm_checks import default

CLASSES = 3


def toy() -> ImageSet:
    """Colours that tell the class, class after class as in a folder."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.tensor([[40, 120, 200], [200, 120, 40], [120, 200, 40]])

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(CLASSES).repeat_interleave(count // CLASSES)
        noise = torch.randint(-40, 41, (len(labels), 3, 8, 8), generator=generator)
        return (colours[labels][:, :, None, None] + noise).to(torch.uint8), labels

    names = tuple(map(str, range(CLASSES)))
    return ImageSet("toy", "0" * 64, names, *draw(120), *draw(60))


SPLITS = split(toy(), SyntheticConfig(pad=0, flip=False), torch.device("cpu"))


def net(norm: NormConfig, seed: int = 0) -> nn.Module:
    """A network whose running statistics are far from those of its images."""
    generator = torch.Generator().manual_seed(seed)
    model = ConvNetConfig(depth=2, width=4).build(norm, CLASSES, generator)
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return model


def training(seeds: Sequence[int] = (0,)) -> Batches:
    return Batches(SPLITS.train, seeds=seeds, batch=2, flip=False)


def one_by_one(model: nn.Module, test: Split, size: int) -> float:
    """Accuracy with each batch's own statistics, a batch at a time."""
    hits = 0
    model.train()
    for start in range(0, len(test), size):
        part = slice(start, start + size)
        images = test.normalized(test.pixels[part], torch.float32).permute(0, 3, 1, 2)
        hits += int((model(images).argmax(1) == test.labels[part]).sum())
    return hits / len(test)


@pytest.mark.parametrize("size", [2, 4, 7, 20, 32])
def test_batch_statistics_are_those_of_batches_of_the_training_size(size: int) -> None:
    model = net(BatchNormConfig())

    found = decompose([model], training(), SPLITS.test, epoch=3, size=size)

    assert found is not None
    assert found.batch == [
        one_by_one(model, SPLITS.test.shuffled(len(SPLITS.test) // size * size), size)
    ]


def test_the_images_are_shuffled_because_folders_come_class_by_class() -> None:
    model = net(BatchNormConfig())

    found = decompose([model], training(), SPLITS.test, epoch=3, size=2)

    assert found is not None
    assert found.batch != [one_by_one(model, SPLITS.test, 2)]


def test_reestimated_statistics_are_those_of_the_training_images() -> None:
    model = net(BatchNormConfig())
    images = SPLITS.train.normalized(SPLITS.train.pixels, torch.float32).permute(0, 3, 1, 2)
    first = next(layer for layer in model.modules() if isinstance(layer, BatchNorm))
    seen: list[Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    expected = net(BatchNormConfig())
    for layer in expected.modules():  # all images at once: μ and σ² are those of the whole set
        if isinstance(layer, BatchNorm):
            layer.momentum = 1.0
    expected.train()(images)
    count = len(images) * 64
    largest = next(layer for layer in expected.modules() if isinstance(layer, BatchNorm))
    largest.running_var.mul_((count - 1) / count)

    model.eval()
    found = decompose([model], training(), SPLITS.test, epoch=3, size=2)
    hook.remove()

    assert found is not None
    # At most 250 images at once, so here all: one estimate over all training images.
    assert found.reestimated[0] == pytest.approx(
        evaluate([expected], SPLITS.test).accuracy[0], abs=0.02
    )
    whole = torch.cat([x for x in seen if len(x) == len(images)])
    var, mean = torch.var_mean(whole, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, expected_mean := largest.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var, largest.running_var, rtol=1e-4, atol=1e-5)
    assert expected_mean.abs().max() > 0


def test_slow_averages_are_the_means_of_what_each_batch_would_leave_behind() -> None:
    model, by_hand = net(BatchNormConfig()), net(BatchNormConfig()).train()
    batches = estimation(SPLITS.train, seed=0, flip=False, size=2)
    reestimate(model, batches, 5, size=2)

    layers = batch_norms(by_hand)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]
    ((images, _),) = batches.epoch(5)
    for pair in images.split(2):
        for layer in layers:
            layer.momentum = 1.0
        by_hand(pair)
        for kept, layer in zip(found, layers, strict=True):
            kept.append((layer.running_mean.clone(), layer.running_var.clone()))
    assert len(found[0]) == 60
    for layer, kept in zip(batch_norms(model), found, strict=True):
        means, variances = (torch.stack(each).mean(0) for each in zip(*kept, strict=True))
        torch.testing.assert_close(layer.running_mean, means, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, variances, rtol=1e-4, atol=1e-5)

    whole = net(BatchNormConfig())
    reestimate(whole, batches, 5)
    first, all_images = batch_norms(model)[0], batch_norms(whole)[0]
    assert (first.running_var < 0.9 * all_images.running_var).all(), "of two images, not of all"


@pytest.mark.parametrize(("size", "batch"), [(1, 120), (7, 119), (64, 64), (120, 120)])
def test_statistics_are_estimated_from_whole_sub_batches(size: int, batch: int) -> None:
    assert estimation(SPLITS.train, seed=0, flip=False, size=size).batch == batch


def test_a_layer_used_twice_gets_the_statistics_of_all_its_calls() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.unused = BatchNorm(3, act=False), BatchNorm(3, act=False)
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen += [x, 5 * self.norm(x) + 7]
            y: Tensor = self.norm(self.seen[-1])
            return y

    model = Shared()
    batches = Batches(SPLITS.train, seeds=[0], batch=40, flip=False)  # three
    reestimate(model, batches, 0)

    assert len(model.seen) == 6
    var, mean = torch.var_mean(torch.cat(model.seen), (0, 2, 3), correction=0)
    torch.testing.assert_close(model.norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.norm.running_var, var, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.unused.running_var, torch.ones(3))


def test_the_network_is_left_as_it_was() -> None:
    model = net(BatchNormConfig()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    decompose([model], training(), SPLITS.test, epoch=3, size=2)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert all(x.norm_batch is None for x in model.modules() if isinstance(x, BatchNorm))


WITH_RUNNING_STATISTICS = [
    *(c for c in map(default, sorted(NORMS)) if isinstance(c.build(4), BatchNorm)),
    BatchNormConfig(frozen=True),
    BatchNormConfig(freeze_at=0.5),
]


@pytest.mark.parametrize("config", WITH_RUNNING_STATISTICS, ids=str)
def test_whatever_corrects_or_freezes_statistics_the_estimate_is_the_images_own(
    config: NormConfig,
) -> None:
    model = net(config).eval()
    first = next(layer for layer in model.modules() if isinstance(layer, BatchNorm))
    for set_share in share_hooks(model):
        set_share(0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = first.frozen
    inputs: list[Tensor] = []
    by_batch: list[Tensor] = []
    estimates: list[tuple[Tensor, Tensor]] = []

    def look(layer: nn.Module, seen: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, BatchNorm)
        if layer.norm_batch is not None:
            expected = F.batch_norm(seen[0][: layer.norm_batch], None, None, training=True)
            by_batch.append(F.relu(expected) - output[: layer.norm_batch])
        elif layer.training:
            inputs.append(seen[0])
        else:
            estimates.append((layer.running_mean.clone(), layer.running_var.clone()))

    hook = first.register_forward_hook(look)
    decompose([model], training(), SPLITS.test, epoch=3, size=4)
    hook.remove()

    var, mean = torch.var_mean(torch.cat(inputs), (0, 2, 3), correction=0)
    torch.testing.assert_close(estimates[0][0], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(estimates[0][1], var, rtol=1e-4, atol=1e-5)
    if config.folds:  # else it does not use batch statistics alone
        assert max(float(each.abs().max()) for each in by_batch) < 1e-4
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert first.frozen == frozen


def test_an_evaluation_that_is_ended_leaves_the_network_as_it_was() -> None:
    class EndedError(Exception):
        pass

    calls = iter(range(2))

    def check() -> None:
        if next(calls, None) is None:
            raise EndedError

    model = net(BatchNormConfig()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    with pytest.raises(EndedError):
        decompose([model], training(), SPLITS.test, epoch=3, size=2, check=check)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_networks_are_decomposed_one_by_one_each_with_its_own_images() -> None:
    models = [net(BatchNormConfig(), seed) for seed in range(3)]
    alone = [
        decompose([model], training([seed]), SPLITS.test, epoch=3, size=2)
        for seed, model in enumerate(models)
    ]

    together = decompose(models, training(range(3)), SPLITS.test, epoch=3, size=2)

    assert together is not None
    found = [each for each in alone if each is not None]
    assert together.reestimated == [x.reestimated[0] for x in found]
    assert together.batch == [x.batch[0] for x in found]


def test_a_norm_without_running_statistics_has_nothing_to_decompose() -> None:
    assert decompose([net(GroupNormConfig())], training(), SPLITS.test, epoch=3, size=2) is None


def test_memory_is_counted_by_hand() -> None:
    """Linear, ReLU, linear: the input, the first layer's output after the ReLU, the logits."""
    model = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    images, labels = torch.zeros(5, 12), torch.zeros(5, dtype=torch.int64)
    learned = 3 * sum(p.numel() for p in model.parameters())
    floats = 5 * 12 + 5 * 7 + 5 * 3 + learned + 1  # cross-entropy keeps its total weight

    assert memory_of_step(model, images, labels) == 4 * floats + 8 * 5
    assert F.cross_entropy(model(images), labels).requires_grad


def test_memory_is_that_of_the_precision() -> None:
    model = net(GroupNormConfig())
    images, labels = torch.zeros(64, 3, 8, 8), torch.zeros(64, dtype=torch.int64)
    whole, half = (memory_of_step(model, images, labels, autocast=half) for half in (False, True))

    assert half < whole


def test_memory_grows_with_the_batch_and_not_by_chance() -> None:
    model = net(GroupNormConfig())
    small, large = (
        memory_of_step(model, torch.zeros(n, 3, 8, 8), torch.zeros(n, dtype=torch.int64))
        for n in (2, 4)
    )

    fixed = 3 * sum(p.numel() for p in model.parameters()) * 4
    assert 1.9 < (large - fixed) / (small - fixed) < 2.1


def test_statistics_of_a_single_value_are_none_and_cost_no_result() -> None:
    class Single(nn.Module):
        """A norm over one position, frozen, as where weights are tuned further."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 8), nn.Linear(4, CLASSES)
            self.norm = BatchNormConfig(frozen=True).build(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.norm(self.conv(x)).flatten(1))
            return y

    model = Single()
    found = decompose([model], training(), SPLITS.test, epoch=3, size=1)

    assert found is not None
    assert found.batch == [None]
    assert 0 <= found.reestimated[0] <= 1
    assert all(layer.frozen for layer in batch_norms(model))


def test_fewer_large_images_are_looked_at_together() -> None:
    def of(size: int) -> Batches:
        images = torch.zeros(300, 3, size, size, dtype=torch.uint8)
        labels = torch.zeros(300, dtype=torch.int64)
        mean, std = torch.zeros(3), torch.ones(3)
        part = Split(images, labels, mean=mean, std=std, device=torch.device("cpu"))
        return estimation(part, seed=0, flip=False)

    assert [of(size).batch for size in (32, 96, 160, 300)] == [250, 250, 90, 32]
