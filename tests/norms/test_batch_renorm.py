"""Batch renormalization against algorithm 1 of its paper, written out in NumPy, and its limits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from normbench.errors import UsageError
from normbench.norms.batch import BatchNormConfig
from normbench.norms.batch_renorm import BatchRenormConfig
from tests.norm_checks import CHANNELS, close, randn

Array = NDArray[np.float64]


class Paper:
    """Algorithm 1 for one feature, and the gradients below it, with the paper's letters."""

    def __init__(self, gamma: float, beta: float, config: BatchRenormConfig) -> None:
        self.gamma, self.beta, self.config = gamma, beta, config
        self.mu, self.sigma = 0.0, float(np.sqrt(1.0 + config.eps))

    def forward(self, x: Array, r_max: float, d_max: float) -> Array:
        alpha = self.config.momentum
        self.x = x
        self.mu_b = x.mean()
        self.sigma_b = np.sqrt(self.config.eps + ((x - self.mu_b) ** 2).mean())
        self.r = min(max(self.sigma_b / self.sigma, 1 / r_max), r_max)
        self.d = min(max((self.mu_b - self.mu) / self.sigma, -d_max), d_max)
        self.x_hat = (x - self.mu_b) / self.sigma_b * self.r + self.d
        self.mu += alpha * (self.mu_b - self.mu)
        self.sigma += alpha * (self.sigma_b - self.sigma)
        y: Array = self.gamma * self.x_hat + self.beta
        return y

    def backward(self, dy: Array) -> tuple[Array, float, float]:
        m = len(self.x)
        d_hat = dy * self.gamma
        d_sigma = (d_hat * (self.x - self.mu_b) * (-self.r / self.sigma_b**2)).sum()
        d_mu = (d_hat * (-self.r / self.sigma_b)).sum()
        centred = (self.x - self.mu_b) / (m * self.sigma_b)
        dx: Array = d_hat * self.r / self.sigma_b + d_sigma * centred + d_mu / m
        return dx, float((dy * self.x_hat).sum()), float(dy.sum())


# Limits that are met by some of the channels and not by others.
CONFIG = BatchRenormConfig(momentum=0.3, r_max=1.5, d_max=0.7, starts_at=0.2, r_at=0.6, d_at=0.4)


@pytest.mark.public(batch_renorm="not in torch or timm; algorithm 1 of the paper in NumPy")
@pytest.mark.parametrize(
    ("share", "r_max", "d_max"),
    [(0.0, 1.0, 0.0), (0.2, 1.0, 0.0), (0.3, 1.125, 0.35), (0.5, 1.375, 0.7), (0.9, 1.5, 0.7)],
)
def test_it_is_algorithm_1_of_the_paper(share: float, r_max: float, d_max: float) -> None:
    layer = CONFIG.build(CHANNELS, act=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 2, CHANNELS))  # type: ignore[union-attr]
        layer.bias.copy_(torch.linspace(1, 3, CHANNELS))  # type: ignore[union-attr]
    layer.set_share(share)
    affine = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)  # type: ignore[union-attr]
    paper = [Paper(gamma, beta, CONFIG) for gamma, beta in affine]
    scale = torch.linspace(0.3, 3, CHANNELS).double().view(-1, 1, 1)
    limited = set()
    for step in range(4):
        x = (randn(3, CHANNELS, 2, 2, seed=step) * scale + scale).requires_grad_()
        upstream = randn(3, CHANNELS, 2, 2, seed=50 + step)
        layer.zero_grad()
        y = layer(x)
        y.backward(upstream)
        for c, channel in enumerate(paper):
            values = x[:, c].detach().numpy().ravel()
            wanted = channel.forward(values, r_max, d_max)
            dx, d_gamma, d_beta = channel.backward(upstream[:, c].numpy().ravel())
            assert np.allclose(y[:, c].detach().numpy().ravel(), wanted, atol=1e-12)
            assert np.allclose(x.grad[:, c].numpy().ravel(), dx, atol=1e-12)  # type: ignore[index]
            assert np.isclose(layer.weight.grad[c].item(), d_gamma)  # type: ignore[union-attr, index]
            assert np.isclose(layer.bias.grad[c].item(), d_beta)  # type: ignore[union-attr, index]
            assert np.isclose(layer.running_mean[c].item(), channel.mu)
            assert np.isclose(layer.running_var[c].item() + CONFIG.eps, channel.sigma**2)
            limited.add(channel.r in (r_max, 1 / r_max))
            limited.add(abs(channel.d) == d_max)
    assert limited == ({True} if share <= 0.2 else {True, False})


def test_before_the_limits_rise_it_trains_as_batch_norm_does() -> None:
    mine = BatchRenormConfig().build(CHANNELS).double()
    plain = BatchNormConfig().build(CHANNELS).double()
    x = randn(4, CHANNELS, 3, 3) * 5 + 2
    close(mine(x), plain(x), "output")


def test_where_the_running_statistics_are_the_batch_s_nothing_is_corrected() -> None:
    mine = BatchRenormConfig(momentum=1.0).build(CHANNELS, act=False).double()
    plain = BatchNormConfig().build(CHANNELS, act=False).double()
    x = randn(4, CHANNELS, 3, 3) * 5 + 2
    mine(x)
    mine.set_share(1.0)
    close(mine(x), plain(x), "output")
    close(mine.eval()(x), plain(x), "evaluation")


@pytest.mark.parametrize("key", ["r_at", "d_at"])
def test_a_limit_reached_before_it_rises_is_an_error(key: str) -> None:
    with pytest.raises(UsageError, match=rf"norm\.{key}=0\.1: must be above norm\.starts_at"):
        replace(CONFIG, **{"starts_at": 0.1, key: 0.1})  # type: ignore[arg-type]
