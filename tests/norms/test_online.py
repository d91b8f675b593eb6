"""Online norm against a NumPy twin of the paper's recursion, one example and channel at a time."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from normbench.norms.online import OnlineNormConfig, _recursion
from tests.norm_checks import CHANNELS, close, randn

Array = NDArray[np.float64]


class Twin:
    """The control processes of one channel, with the paper's letters."""

    def __init__(self, alpha_f: float, alpha_b: float, eps: float) -> None:
        self.alpha_f, self.alpha_b, self.eps = alpha_f, alpha_b, eps
        self.mu, self.sigma2 = 0.0, 1.0
        self.eps_y, self.eps_1 = 0.0, 0.0

    def forward(self, x: Array) -> Array:
        a = self.alpha_f
        self.sigma = float(np.sqrt(self.sigma2 + self.eps))
        self.y: Array = (x - self.mu) / self.sigma
        change = float(x.mean()) - self.mu
        self.sigma2 = a * self.sigma2 + (1 - a) * float(x.var()) + a * (1 - a) * change**2
        self.mu += (1 - a) * change
        return self.y

    def backward(self, dy: Array) -> Array:
        tilde = dy - (1 - self.alpha_b) * self.eps_y * self.y
        self.eps_y += float((tilde * self.y).mean())
        dx: Array = tilde / self.sigma - (1 - self.alpha_b) * self.eps_1
        self.eps_1 += float(dx.mean())
        return dx


@pytest.mark.public(online="not in torch or timm; the paper's recursion in NumPy")
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_it_is_the_paper_s_recursion_over_examples_in_both_directions(batch: int) -> None:
    config = OnlineNormConfig(
        forward_decay=0.9, backward_decay=0.7, layer_scaling=False, affine=False
    )
    layer = config.build(CHANNELS, act=False).double()
    twins = [Twin(0.9, 0.7, config.eps) for _ in range(CHANNELS)]
    scale = torch.linspace(0.3, 3, CHANNELS).double().view(-1, 1, 1)
    for step in range(4):
        x = (randn(batch, CHANNELS, 3, 2, seed=step) * scale + scale).requires_grad_()
        upstream = randn(batch, CHANNELS, 3, 2, seed=50 + step)
        y = layer(x)
        y.backward(upstream)
        assert x.grad is not None
        for c, twin in enumerate(twins):
            for n in range(batch):  # an example's backward pass needs its own y and σ
                assert np.allclose(y[n, c].detach(), twin.forward(x[n, c].detach().numpy()))
                assert np.allclose(x.grad[n, c], twin.backward(upstream[n, c].numpy()))
            for name, value in (
                *(("running_mean", twin.mu), ("running_var", twin.sigma2)),
                *(("output_error", twin.eps_y), ("constant_error", twin.eps_1)),
            ):
                assert np.isclose(layer.get_buffer(name)[c].item(), value), name


def test_a_batch_is_its_examples_one_after_another() -> None:
    config = OnlineNormConfig(forward_decay=0.8, backward_decay=0.9)
    whole, single = (config.build(CHANNELS).double() for _ in range(2))
    for step in range(3):
        x = (5 * randn(5, CHANNELS, 4, seed=step) + 2).requires_grad_()
        apart = x.detach().clone().requires_grad_()
        y = whole(x)
        y.sum().backward()
        for n in range(5):
            one = single(apart[n : n + 1])
            one.sum().backward()
            close(one[0], y[n], "output")
        close(x.grad, apart.grad, "gradient")
    for name, buffer in whole.named_buffers():
        close(buffer, single.get_buffer(name), name)


def test_an_example_depends_on_those_before_it_and_not_on_those_after_it() -> None:
    config = OnlineNormConfig(forward_decay=0.5)
    x = randn(3, CHANNELS, 4, 4)
    other = x.clone()
    other[1] += 3
    first, second = (config.build(CHANNELS).double()(each) for each in (x, other))
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[2], second[2])


def test_over_many_steps_the_gradient_has_no_part_along_the_output_or_a_constant() -> None:
    layer = OnlineNormConfig(forward_decay=0.99, backward_decay=0.9, layer_scaling=False).build(
        CHANNELS, act=False
    )
    along = torch.zeros(CHANNELS)
    level = torch.zeros(CHANNELS)
    steps = 400
    for step in range(steps):
        x = randn(8, CHANNELS, 4, 4, seed=step).float().requires_grad_()
        y = layer(x)
        y.backward(2 * y.detach() + 3)  # a gradient that is all constant and output
        assert x.grad is not None
        along += (x.grad * y.detach()).mean((0, 2, 3)) / steps
        level += x.grad.mean((0, 2, 3)) / steps
    assert along.abs().max() < 0.05
    assert level.abs().max() < 0.05


def test_layer_scaling_leaves_a_root_mean_square_of_one_over_each_layer() -> None:
    x = 7 * randn(3, CHANNELS, 4, 4)
    scaled, plain = (
        OnlineNormConfig(layer_scaling=each).build(CHANNELS, act=False).double()(x)
        for each in (True, False)
    )
    size = plain.square().mean((1, 2, 3), keepdim=True)
    close(scaled, plain / (size + 1e-5).sqrt(), "output")
    assert (scaled.square().mean((1, 2, 3)) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_pairs_of_steps_become_what_a_loop_over_steps_gives(length: int) -> None:
    factor, term, start = randn(length, 4), randn(length, 4, seed=1), randn(4, seed=2)
    factor[length // 2, 0] = 0.0  # nothing is divided by
    wanted = [start]
    for f, t in zip(factor, term, strict=True):
        wanted.append(f * wanted[-1] + t)
    close(_recursion(factor, term, start), torch.stack(wanted), "values")
