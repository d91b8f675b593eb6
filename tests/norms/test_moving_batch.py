"""MABN against its recursion for one channel in NumPy, its warm-up, centred convolutions."""

from collections import deque

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from normbench.errors import UsageError
from normbench.norms import swap_norm
from normbench.norms.moving_batch import CentredConv, MovingBatchNormConfig
from tests.norm_checks import CHANNELS, close, randn

Array = NDArray[np.float64]
CONFIG = MovingBatchNormConfig(momentum=0.2, window=4, warmup=3, limit=1.1)


class Channel:
    """One channel: two simple averages over the last steps, one exponential average."""

    def __init__(self, gamma: float, beta: float) -> None:
        self.gamma, self.beta, self.step, self.average = gamma, beta, 0, 1.0
        self.squares: deque[float] = deque(maxlen=CONFIG.window)
        self.psis: deque[float] = deque(maxlen=CONFIG.window)
        self.unlimited = 1.0

    def forward(self, x: Array) -> Array:
        square = float((x * x).mean())
        self.squares.append(square)
        self.step += 1
        warm = self.step <= CONFIG.warmup
        used = square if warm else float(np.mean(self.squares))
        if self.step == 1:
            self.average = square
        self.unlimited = np.sqrt((used + CONFIG.eps) / (self.average + CONFIG.eps))
        self.r = 1.0 if warm else float(np.clip(self.unlimited, 1 / 1.1, 1.1))
        self.average = 0.8 * self.average + 0.2 * square
        self.chi = np.sqrt(used + CONFIG.eps)
        self.z = x / self.chi
        y: Array = self.gamma * self.r * self.z + self.beta
        return y

    def backward(self, dy: Array) -> tuple[Array, float]:
        dz = self.gamma * self.r * dy
        self.psis.append(float((dz * self.z).mean()))
        psi = self.psis[-1] if self.step <= CONFIG.warmup else float(np.mean(self.psis))
        dx: Array = (dz - self.z * psi) / self.chi
        return dx, float((dy * self.r * self.z).sum())


@pytest.mark.public(moving_batch="not in torch or timm; the paper's recursion in NumPy")
@pytest.mark.parametrize("norm_batch", [None, 2])
def test_it_is_the_paper_s_recursion_through_the_warm_up_and_after(norm_batch: int | None) -> None:
    layer = CONFIG.build(CHANNELS, act=False, norm_batch=norm_batch).double()
    assert layer.weight is not None
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 2, CHANNELS))
        layer.bias.copy_(torch.linspace(1, 3, CHANNELS))
    affine = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    channels = [Channel(gamma, beta) for gamma, beta in affine]
    scale = torch.linspace(0.3, 3, CHANNELS).double().view(-1, 1, 1)
    limited = []
    for step in range(9):
        x = (randn(2, CHANNELS, 2, 2, seed=step) * scale * (1 + step % 3)).requires_grad_()
        upstream = randn(2, CHANNELS, 2, 2, seed=50 + step)
        layer.zero_grad()
        y = layer(x)
        y.backward(upstream)
        assert x.grad is not None
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        for c, channel in enumerate(channels):
            wanted = channel.forward(x[:, c].detach().numpy())
            dx, d_gamma = channel.backward(upstream[:, c].numpy())
            assert np.allclose(y[:, c].detach().numpy(), wanted, atol=1e-12)
            assert np.allclose(x.grad[:, c].numpy(), dx, atol=1e-12)
            assert np.isclose(layer.weight.grad[c].item(), d_gamma)
            assert np.isclose(layer.bias.grad[c].item(), upstream[:, c].sum().item())
            assert np.isclose(layer.running_square[c].item(), channel.average)
            limited.append(channel.step > 3 and channel.r != channel.unlimited)
    assert True in limited
    assert False in limited[3 * CHANNELS :]
    x = randn(2, CHANNELS, 2, 2, seed=99)
    for c, channel in enumerate(channels):
        evaluated = layer.eval()(x)[:, c].detach().numpy()
        root = np.sqrt(channel.average + CONFIG.eps)
        assert np.allclose(evaluated, channel.gamma * x[:, c].numpy() / root + channel.beta)


def test_sub_batches_enter_the_averages_as_steps_would() -> None:
    whole = CONFIG.build(CHANNELS, act=False, norm_batch=2).double()
    steps = CONFIG.build(CHANNELS, act=False).double()
    whole.steps.fill_(CONFIG.warmup)
    steps.steps.fill_(CONFIG.window)
    for start in range(2):
        x = randn(6, CHANNELS, 2, 2, seed=start).requires_grad_()
        y = whole(x)
        apart = torch.cat([steps(part) for part in x.detach().split(2)])
        close(y, apart, "output")
        close(whole.square_window, steps.square_window, "window")
        close(whole.running_square, steps.running_square, "average")


def test_in_the_warm_up_the_backward_pass_is_the_derivative() -> None:
    layer = MovingBatchNormConfig(warmup=10_000).build(CHANNELS, act=False).double()
    x = randn(3, CHANNELS, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_convolutions_are_centred_for_each_output_channel(kind: type[nn.Conv2d]) -> None:
    conv = kind(4, 6, 3, groups=2)
    made = MovingBatchNormConfig().convolution(conv)
    assert isinstance(made, CentredConv)
    assert made.weight is conv.weight
    x = torch.ones(2, 4, *(5,) * (conv.weight.dim() - 2))
    assert conv.bias is not None
    wanted = conv.bias.view(-1, *(1,) * (x.dim() - 2)).expand(made(x).shape)
    torch.testing.assert_close(made(x), wanted)  # a constant is not seen by centred weights


def test_a_convolution_that_centring_would_make_0_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4))
    with pytest.raises(
        UsageError, match=r"4 outputs has one weight each: less its mean, each would be 0"
    ):
        swap_norm(model, MovingBatchNormConfig())
