"""The norms against the article's examples."""

from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from normbench.norms import NORMS
from normbench.norms.group import GroupNormConfig
from tests.norm_checks import close, randn


class ArticleGroupNorm(nn.Module):
    """Group norm from scratch as the article writes it, with the unbiased variance of `var`."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, num_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, num_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, self.num_groups, c // self.num_groups, h, w)
        mean = x.mean(dim=(2, 3, 4), keepdim=True)
        var = x.var(dim=(2, 3, 4), keepdim=True)
        x = (x - mean) / torch.sqrt(var + self.eps)
        return x.reshape(n, c, h, w) * self.weight + self.bias


@pytest.mark.parametrize(
    ("channels_per_group", "side"),
    [(2, 1), (3, 1), (4, 1), (2, 2), (4, 2), (2, 8), (16, 4), (2, 16), (16, 8), (4, 32)],
)
def test_the_article_s_unbiased_variance_shrinks_the_output_by_the_group_s_size(
    channels_per_group: int, side: int
) -> None:
    m = channels_per_group * side * side
    c = 4 * channels_per_group
    x = randn(2, c, side, side)
    with torch.no_grad():
        ours = GroupNormConfig(groups=4, eps=1e-30).build(c, act=False).double()(x)
        article = ArticleGroupNorm(4, c, eps=1e-30).double()(x)
    expected = sqrt((m - 1) / m)
    torch.testing.assert_close(article, expected * ours, rtol=1e-10, atol=1e-12)
    difference = float((article - ours).norm() / ours.norm())
    assert difference == pytest.approx(1 - expected, rel=1e-6)
    # About 1/(2m): 29 % for pairs of numbers, 0.4 % for the last layers of the default network
    # (m = 2·8·8), 3 in 100,000 for the article's example.
    assert abs(difference * 2 * m - 1) <= 1 / m


def test_the_article_s_group_norm_example_differs_by_three_in_a_hundred_thousand() -> None:
    x = randn(32, 64, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        ours = GroupNormConfig(groups=4).build(64, act=False)(x)
        article = ArticleGroupNorm(4, 64)(x)
    assert ours.shape == (32, 64, 32, 32)
    difference = float((article - ours).norm() / ours.norm())
    assert difference == pytest.approx(1 / (2 * 16 * 32 * 32), rel=0.05)


def test_the_article_s_batch_and_layer_norm_examples_equal_ours() -> None:
    x = randn(32, 64)
    batch, layer = (NORMS[name](name=name).build(64, act=False) for name in ("batch", "layer"))
    close(batch.double()(x), nn.BatchNorm1d(64).double()(x), "batch norm")
    close(layer.double()(x), nn.LayerNorm(64).double()(x), "layer norm")
