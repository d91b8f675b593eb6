"""A step recorded as a CUDA graph trains as the eager one does; and what of it a CPU can show."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.data import DATA
from normbench.data.batches import Batches, split
from normbench.data.synthetic import draw
from normbench.models import MODELS
from normbench.norms import NORMS
from normbench.training.cuda_graph import WARM_UP, CapturedStep, on_the_host
from normbench.training.loop import norm_parameters, training_step
from normbench.training.optim import SGDConfig
from normbench.training.sgd import SGD

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")


def trained(
    device: torch.device, *, captured: bool, steps: int = 12, waits: bool = False
) -> nn.Module:
    images = split(draw(), DATA["synthetic"](source="synthetic", limit=200), device).train
    generator = torch.Generator().manual_seed(0)
    model = MODELS["resnet"](name="resnet").build(NORMS["batch"](name="batch"), 10, generator)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    config = SGDConfig()
    optimizer = config.build(model, norm_parameters(model))

    def eager(images: Tensor, labels: Tensor) -> Tensor:
        def wait() -> None:
            if waits:
                labels.sum().item()

        return training_step(model, optimizer, images, labels, wait)

    step = CapturedStep(eager, optimizer.forget) if captured else eager
    batches = Batches(images, seeds=[0], batch=4, flip=True).batches()
    for number in range(steps):
        optimizer.lr = config.rate(number, steps, 4)
        step(*next(batches))
    return model


@needs_cuda
def test_a_captured_step_trains_as_an_eager_one() -> None:
    device = torch.device("cuda")
    eager = trained(device, captured=False).state_dict()
    captured = trained(device, captured=True, steps=WARM_UP + 9).state_dict()
    for name, tensor in eager.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-2, atol=1e-3)


@needs_cuda
def test_a_step_that_cannot_be_recorded_trains_as_an_eager_one() -> None:
    """It waits for the device with its gradients there, which nothing has computed."""
    device = torch.device("cuda")
    eager = trained(device, captured=False).state_dict()
    with pytest.warns(UserWarning, match="cannot be recorded"):
        captured = trained(device, captured=True, waits=True).state_dict()
    for name, tensor in eager.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-2, atol=1e-3)


class Draws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (random.random() < 0.5)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return x


class Averages(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.get_buffer("mean")
        if self.in_place:
            mean.mul_(0.9).add_(x.mean())
        else:
            self.mean = 0.9 * mean + x.mean()
        return x


@pytest.mark.parametrize(
    ("layer", "steady"),
    [
        (nn.Linear(3, 3), True),
        (nn.BatchNorm1d(3), True),
        (Averages(in_place=True), True),
        (Averages(in_place=False), False),
        (Draws(), False),
        (Counts(), False),
    ],
)
def test_what_a_replay_would_not_do_again_is_seen(layer: nn.Module, *, steady: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 3), layer)
    before = on_the_host(model)
    kept = list(model.buffers())  # else a new buffer may lie where the old one lay
    model(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))

    assert (on_the_host(model) == before) is steady
    assert len(kept) == len(list(model.buffers()))


@needs_cuda
def test_a_step_that_draws_on_the_cpu_is_not_recorded() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Draws()).cuda()
    step = CapturedStep(lambda images, _: model(images), lambda: None, lambda: on_the_host(model))
    images = torch.ones(4, 3, device="cuda")
    with pytest.warns(UserWarning, match="draws random numbers"):
        found = {bool(step(images, images).any()) for _ in range(60)}

    assert found == {False, True}


def test_a_rate_that_is_a_tensor_moves_the_weights_as_a_number_does() -> None:
    weights = []
    for tensor in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(5, 3)
        optimizer = SGD(list(layer.parameters()), [1e-2, 1e-2], momentum=0.9)
        if tensor:
            optimizer._spans[0].rate = torch.zeros(())
        for number in range(1, 5):
            optimizer.lr = 0.1 / number
            F.mse_loss(layer(torch.ones(2, 5)), torch.zeros(2, 3)).backward()
            optimizer.step()
        weights.append(layer.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])
