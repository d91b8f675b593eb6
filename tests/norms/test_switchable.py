"""Switchable normalization against loops over the paper's sets of values."""

import numpy as np
import pytest
import torch

from normbench.norms import NORMS
from normbench.norms.switchable import SwitchableNorm, SwitchableNormConfig
from normbench.training.stacking import stack
from tests.norm_checks import CHANNELS, close, randn

CONFIG = SwitchableNormConfig(momentum=0.25)


def build() -> SwitchableNorm:
    return CONFIG.build(CHANNELS, act=False).double()


@pytest.mark.public(switchable="not in torch or timm; loops over the paper's sets in NumPy")
def test_each_value_is_normalized_with_the_weighted_statistics_of_its_three_sets() -> None:
    layer = build()
    with torch.no_grad():
        layer.mean_weight.copy_(torch.tensor([[0.2, -1.0, 0.7]]))
        layer.var_weight.copy_(torch.tensor([[-0.3, 0.4, 1.1]]))
    x = randn(3, CHANNELS, 2, 3) * 2 + 1
    y, values = layer(x), x.numpy()
    w = np.exp([0.2, -1.0, 0.7]) / np.exp([0.2, -1.0, 0.7]).sum()
    v = np.exp([-0.3, 0.4, 1.1]) / np.exp([-0.3, 0.4, 1.1]).sum()
    for n, c, i, j in np.ndindex(values.shape):
        sets = [values[n, c], values[n], values[:, c]]
        mean = sum(w[k] * sets[k].mean() for k in range(3))
        variance = sum(v[k] * sets[k].var() for k in range(3))
        wanted = (values[n, c, i, j] - mean) / np.sqrt(variance + 1e-5)
        assert np.isclose(y[n, c, i, j].item(), wanted)
    for c in range(CHANNELS):
        assert np.isclose(layer.running_mean[c].item(), 0.25 * values[:, c].mean())
        assert np.isclose(layer.running_var[c].item(), 0.75 + 0.25 * values[:, c].var())


def test_with_all_weight_on_one_set_it_is_that_norm() -> None:
    x = randn(4, CHANNELS, 3, 3) * 3 - 1
    for index, name in enumerate(("instance", "layer", "batch")):
        layer = build()
        with torch.no_grad():
            for learned in (layer.mean_weight, layer.var_weight):
                learned.fill_(-100.0)[0, index] = 100.0
        close(layer(x), NORMS[name](name=name).build(CHANNELS, act=False).double()(x), name)


def test_a_stack_learns_a_set_of_weights_for_each_replica() -> None:
    networks = [torch.nn.Sequential(torch.nn.Conv2d(3, CHANNELS, 1), build()) for _ in range(2)]
    joint = stack([network.double() for network in networks], randn(4, 3, 2, 2))
    shapes = {key: list(value.shape) for key, value in joint.named_parameters()}
    assert shapes["network.1.mean_weight"] == shapes["network.1.var_weight"] == [2, 3]
