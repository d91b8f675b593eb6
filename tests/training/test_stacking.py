"""Stacked seeds are trained exactly as they would have been alone, and apart from one another."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from normbench import NORMS, stack, unstack
from normbench.data import DATA
from normbench.data.batches import Batches, Split, split
from normbench.data.synthetic import draw
from normbench.models import MODELS
from normbench.models.foreign import ForeignConfig
from normbench.training.loop import norm_parameters, train, training_step
from normbench.training.optim import SGDConfig
from normbench.training.stacking import Stack, StackError

CPU = torch.device("cpu")
OPTIM = SGDConfig(lr=0.2, weight_decay=5e-4)


@pytest.fixture(scope="module")
def images() -> Split:
    """The first of the built-in images, of which every other pixel is left out."""
    whole = draw()
    halved = replace(
        whole,
        train_images=whole.train_images[:, :, ::2, ::2],
        test_images=whole.test_images[:, :, ::2, ::2],
    )
    return split(halved, DATA["synthetic"](source="synthetic", limit=400), CPU).train


OWN = sorted(name for name, cls in MODELS.items() if not issubclass(cls, ForeignConfig))


def build(seed: int, norm: str = "batch", model: str = "resnet", **settings: Any) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return MODELS[model](name=model, **settings).build(NORMS[norm](name=norm), 10, generator)


def narrow(seeds: Sequence[int], norm: str) -> list[nn.Module]:
    """Networks for tests of what is exact, which is so whatever the number of channels."""
    return [build(seed, norm, width=8) for seed in seeds]


def trained(
    images: Split, seeds: Sequence[int], norm: str, dtype: torch.dtype, steps: int
) -> list[nn.Module]:
    """The networks of ``seeds`` after ``steps`` steps together at a batch of two."""
    models = narrow(seeds, norm)
    # What the proof would show by a few steps is shown here by many.
    model = models[0] if len(models) == 1 else stack(models, proven=True)
    model = model.to(dtype).to(memory_format=torch.channels_last).train()
    training = Batches(images, seeds=seeds, batch=2, flip=True, dtype=dtype)
    optimizer = OPTIM.build(model, norm_parameters(model))
    for step, (pixels, labels) in zip(range(steps), training.batches(), strict=False):
        optimizer.lr = OPTIM.rate(step, steps, 2)
        training_step(model, optimizer, pixels, labels)
    return unstack(model) if isinstance(model, Stack) else [model]


def largest_relative_difference(first: nn.Module, second: nn.Module) -> float:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    return max(
        float((a[name] - b[name]).abs().max() / a[name].abs().max().clamp_min(1e-30)) for name in a
    )


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_fifty_float64_steps_in_a_stack_of_four_equal_the_solo_steps(
    images: Split, norm: str
) -> None:
    together = trained(images, [0, 1, 2, 3], norm, torch.float64, 50)
    (alone,) = trained(images, [3], norm, torch.float64, 50)
    assert largest_relative_difference(alone, together[3]) < 1e-10


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_one_float32_step_in_a_stack_equals_the_solo_step(images: Split, norm: str) -> None:
    together = trained(images, [0, 1, 2, 3], norm, torch.float32, 1)
    for seed in range(4):
        (alone,) = trained(images, [seed], norm, torch.float32, 1)
        # Norm and activation in one, a quotient of deviations, rounds a little more.
        bound = 2e-5 if NORMS[norm].norm_activation else 1e-5
        assert largest_relative_difference(alone, together[seed]) < bound


def test_a_stack_keeps_the_modes_of_its_layers() -> None:
    models = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(2)]
    for model in models:
        model[1].eval()
    stacked = stack(models)
    for kept in (stacked, *unstack(stacked)):
        modes = {type(m).__name__: m.training for m in kept.modules()}
        assert modes["BatchNorm2d"] is False
        assert modes["Conv2d"] is True


def test_replicas_of_a_stack_differ_from_one_another(images: Split) -> None:
    first, second = trained(images, [0, 1], "group", torch.float64, 5)
    assert largest_relative_difference(first, second) > 1e-2


def test_a_replica_driven_to_nan_leaves_the_others_bit_identical(images: Split) -> None:
    def results(broken: bool) -> tuple[list[nn.Module], list[int | None], list[float]]:
        models = narrow(range(3), "batch")
        if broken:
            with torch.no_grad():
                next(models[1].parameters()).fill_(float("nan"))
        model = Stack(_joined(models), 3) if broken else stack(models)
        training = Batches(images, seeds=[0, 1, 2], batch=8, flip=True)
        optimizer = OPTIM.build(model, norm_parameters(model))
        every = train(model, training, optimizer, [OPTIM], epochs=1, evaluation=images)
        records = [metrics for metrics in every if metrics is not None]
        evaluation = records[-1].evaluation
        assert evaluation is not None
        return unstack(model), records[-1].diverged, evaluation.accuracy

    whole, none_diverged, accuracy = results(broken=False)
    parts, diverged, with_nan = results(broken=True)
    assert none_diverged == [None, None, None]
    assert diverged == [None, 1, None]
    for replica in (0, 2):
        mine, theirs = whole[replica].state_dict(), parts[replica].state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert with_nan[replica] == accuracy[replica]


def _joined(models: list[nn.Module]) -> nn.Module:
    """A stack of networks of which one cannot pass the proof, because it holds NaN."""
    stacked = stack(narrow(range(len(models)), "batch"))
    sound = stacked.network.state_dict()
    states = [model.state_dict() for model in models]
    for name, tensor in sound.items():
        tensor.copy_(torch.cat([state[name] for state in states]))
    return stacked.network


@pytest.mark.parametrize(
    ("norm", "model"), [(norm, OWN[i % len(OWN)]) for i, norm in enumerate(sorted(NORMS))]
)
def test_unstack_gives_back_what_was_stacked(norm: str, model: str) -> None:
    models = [build(seed, norm, model) for seed in range(3)]
    parts = unstack(stack(models, torch.randn(4, 3, 16, 16)))
    for before, after in zip(models, parts, strict=True):
        assert str(after) == str(before)
        states = zip(before.state_dict().items(), after.state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)


def test_a_stack_shares_no_memory_with_its_networks_or_parts() -> None:
    models = [build(seed, "group", "convnet") for seed in range(2)]
    before = [tensor.clone() for tensor in models[0].state_dict().values()]
    stacked = stack(models)
    parts = unstack(stacked)
    with torch.no_grad():
        for parameter in stacked.parameters():
            parameter.zero_()
    for model in (models[0], parts[0]):
        states = zip(before, model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in states)


def test_a_torchvision_network_with_dropout_stacks_as_it_comes() -> None:
    models = [torchvision.models.MobileNetV2(5, 0.1) for _ in range(2)]
    stacked = stack(models).eval()
    inputs = torch.randn(2, 2, 3, 32, 32)
    with torch.no_grad():
        together = stacked(inputs.transpose(0, 1).flatten(1, 2))
        alone = [model.eval()(x) for model, x in zip(models, inputs, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-3, atol=1e-4)


class Unknown(nn.Module):
    """A layer that a stack has never heard of."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


def test_an_unknown_layer_is_named_with_its_place() -> None:
    models = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(Unknown())) for _ in range(2)]
    with pytest.raises(StackError, match=r"does not know the layer Unknown at 1\.0"):
        stack(models)


class Counting(nn.Module):
    """A forward pass that counts on the number of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x).view(len(x), 4, -1).mean(2)
        return y


def test_a_forward_pass_that_counts_channels_is_refused() -> None:
    with pytest.raises(StackError, match="Counting cannot be stacked"):
        stack([Counting(), Counting()])


class Hidden(nn.Module):
    """A branch that mixes channels, and that adds nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x) + self.norm(self.conv(x)).flip(1)
        return y.mean((2, 3))


def test_a_branch_that_starts_at_0_is_not_hidden_from_the_proof() -> None:
    with pytest.raises(StackError, match="Hidden cannot be stacked"):
        stack([Hidden(), Hidden()])


def test_hooks_stay_with_the_networks_they_were_put_on() -> None:
    models = [nn.Sequential(nn.Linear(3, 4), nn.ReLU()) for _ in range(2)]
    called: list[str] = []
    stacked = stack(models)
    assert isinstance(stacked.network, nn.Sequential)
    models[0][0].register_forward_hook(lambda *_: called.append("network"))
    stacked.network[0].register_forward_hook(lambda *_: called.append("stack"))

    stacked(torch.zeros(1, 6))
    assert called == ["stack"]
    models[0](torch.zeros(1, 3))
    assert called == ["stack", "network"]


def test_networks_of_different_architecture_are_refused() -> None:
    with pytest.raises(StackError, match="differ in more than their weights"):
        stack([nn.Linear(3, 4), nn.Linear(3, 5)])


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(StackError, match="empty"):
        stack([])


@pytest.mark.parametrize("shape", [(0, 3), (3,), ()])
def test_an_example_that_is_no_batch_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(StackError, match="example is no batch"):
        stack([nn.Linear(3, 4)], torch.zeros(shape))


def test_networks_may_come_one_by_one() -> None:
    assert stack(nn.Linear(3, 4) for _ in range(3)).replicas == 3  # type: ignore[arg-type]


def test_a_stack_takes_an_empty_batch_as_its_networks_do() -> None:
    stacked = stack([nn.Sequential(nn.Linear(6, 3)) for _ in range(2)])
    x = torch.zeros(0, 12, requires_grad=True)
    y = stacked(x)
    y.sum().backward()

    assert y.shape == (0, 6)
    assert x.grad is not None


def test_hooks_on_all_layers_of_the_process_are_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(StackError, match="hooks for all layers of the process"):
            stack([nn.Linear(6, 3) for _ in range(2)])
    finally:
        handle.remove()
    stack([nn.Linear(6, 3) for _ in range(2)])


def test_dropout_does_not_spoil_the_proof_and_is_kept() -> None:
    models = [nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 2)) for _ in range(2)]
    stacked = stack(models)
    dropouts = [module for module in stacked.modules() if isinstance(module, nn.Dropout)]
    assert [module.p for module in dropouts] == [0.5]


class Casting(nn.Module):
    """A network that computes in float32 whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.conv(x).mean((2, 3)).float())
        return y


def test_a_network_that_casts_is_not_asked_for_another_example() -> None:
    with pytest.raises(StackError, match="it computes in a type of its own") as caught:
        stack([Casting() for _ in range(2)])
    assert "give an example" not in str(caught.value)


def test_under_autocast_a_stack_gives_the_type_that_a_network_alone_gives() -> None:
    models = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 2)) for _ in range(2)]
    x = torch.randn(2, 3, 4, 4)
    together = stack(models, x)
    with torch.autocast("cpu", torch.bfloat16):
        alone, both = models[0](x), together(torch.cat([x, x], 1))

    assert both.dtype == alone.dtype == torch.bfloat16
    torch.testing.assert_close(both[:, :2], alone, rtol=0.05, atol=0.02)
