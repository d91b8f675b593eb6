"""Batches: batch norm's running statistics, a batch of one, ghost batch norm."""

from math import sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from normbench.errors import UsageError
from normbench.norms.batch import BatchNorm
from tests.norm_helpers import (
    CHANNELS,
    CONFIGS,
    EPS,
    INDEPENDENT,
    LAYOUTS,
    SHAPES,
    Definition,
    assert_equal,
    build,
    laid_out,
    randn,
    randomize,
)

# Batch norm's running statistics.


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("dimension", SHAPES)
def test_running_statistics_move_by_momentum_with_the_unbiased_variance(
    dimension: str, momentum: float
) -> None:
    layer = build("batch", momentum=momentum)
    assert isinstance(layer, BatchNorm)
    mean, variance = np.zeros(CHANNELS), np.ones(CHANNELS)
    for step in range(3):
        x = randn(*SHAPES[dimension], seed=step) * (step + 1) + step
        layer(x)
        channels = np.moveaxis(x.numpy(), 1, 0).reshape(CHANNELS, -1)
        mean = (1 - momentum) * mean + momentum * channels.mean(1)
        variance = (1 - momentum) * variance + momentum * channels.var(1, ddof=1)
    assert_equal(layer.running_mean, mean)
    assert_equal(layer.running_var, variance)


def test_evaluation_uses_the_running_statistics_and_leaves_them_alone() -> None:
    layer = build("batch")
    assert isinstance(layer, BatchNorm)
    layer(randn(16, CHANNELS, 3, 3) * 2 + 5)
    mean, variance = layer.running_mean.clone(), layer.running_var.clone()
    x = randn(4, CHANNELS, 3, 3, seed=1)
    in_training = layer(x)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    layer.eval()
    shape = (1, CHANNELS, 1, 1)
    expected = (x - mean.view(shape)) / (variance.view(shape) + EPS).sqrt()
    assert_equal(layer(x), expected)
    assert_equal(layer(x[:1]), expected[:1])  # whatever the batch
    assert torch.equal(layer.running_mean, mean)
    assert torch.equal(layer.running_var, variance)
    assert (in_training - expected).abs().max() > 0.1


@pytest.mark.parametrize("name", INDEPENDENT)
def test_training_and_evaluation_are_the_same_without_batch_statistics(name: str) -> None:
    layer = randomize(build(name))
    x = randn(3, CHANNELS, 4, 4)
    assert torch.equal(layer.train()(x), layer.eval()(x))
    assert not list(layer.buffers())


# A batch of one.


@pytest.mark.parametrize("dimension", ["NCL", "NCHW", "NCDHW"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_of_one_with_spatial_extent_works_for_every_norm(name: str, dimension: str) -> None:
    layer = randomize(build(name))
    x = laid_out(dimension)[:1]
    assert_equal(layer(x), Definition(x, layer.weight, layer.bias, name, act=False).output)


def test_in_a_batch_of_one_batch_norm_is_instance_norm() -> None:
    x = randn(1, CHANNELS, 4, 4)
    assert_equal(build("batch")(x), build("instance")(x))


@pytest.mark.parametrize("shape", [(1, CHANNELS), (1, CHANNELS, 1), (1, CHANNELS, 1, 1)])
def test_batch_norm_of_one_value_a_channel_is_an_error_in_training_only(
    shape: tuple[int, ...],
) -> None:
    layer = build("batch")
    with pytest.raises(UsageError, match=r"single value.*larger batch"):
        layer(randn(*shape))
    x = randn(*shape)
    assert_equal(layer.eval()(x), x.numpy() / sqrt(1 + EPS))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(5, CHANNELS), (5, CHANNELS, 1, 1)])
def test_instance_norm_of_one_value_a_channel_is_an_error(
    shape: tuple[int, ...], training: bool
) -> None:
    for layer in (build("instance"), build("group", groups=CHANNELS)):
        with pytest.raises(UsageError, match=r"single value.*fewer groups"):
            layer.train(training)(randn(*shape))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ["layer", "group", "none"])
def test_features_without_space_suit_the_norms_that_average_channels(name: str, n: int) -> None:
    x = randn(n, CHANNELS)
    assert_equal(build(name)(x), Definition(x, None, None, name, act=False).output)


# Ghost batch norm.


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm_batch", [2, 3, 4, 6])
def test_ghost_batch_norm_equals_batch_norm_of_each_sub_batch(
    norm_batch: int, layout: str, affine: bool
) -> None:
    ghost = randomize(build("batch", act=True, norm_batch=norm_batch, affine=affine, momentum=0.3))
    assert isinstance(ghost, BatchNorm)
    shape, memory_format = (12, *LAYOUTS[layout][0][1:]), LAYOUTS[layout][1]
    weight = None if ghost.weight is None else ghost.weight.detach().clone().requires_grad_()
    bias = None if ghost.bias is None else ghost.bias.detach().clone().requires_grad_()
    mean = torch.zeros(CHANNELS, dtype=torch.float64)
    var = torch.ones(CHANNELS, dtype=torch.float64)
    for step in range(2):  # the second starts from running statistics that have moved
        x = (step + 1) * randn(*shape, seed=step).contiguous(memory_format=memory_format)
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        upstream = randn(*shape, seed=5)
        y1 = ghost(x1)
        y1.backward(upstream)
        outputs, means, variances = [], [], []
        for part in x2.split(norm_batch):
            part_mean, part_var = mean.clone(), var.clone()
            y = F.batch_norm(part, part_mean, part_var, weight, bias, True, 0.3, EPS)
            outputs.append(F.relu(y))
            means.append(part_mean)
            variances.append(part_var)
        mean, var = torch.stack(means).mean(0), torch.stack(variances).mean(0)
        y2 = torch.cat(outputs)
        y2.backward(upstream)

        assert_equal(y1, y2)
        assert_equal(ghost.running_mean, mean)
        assert_equal(ghost.running_var, var)
        assert x2.grad is not None
        assert_equal(x1.grad, x2.grad)
        if weight is not None and bias is not None:
            assert ghost.weight is not None
            assert ghost.bias is not None
            assert weight.grad is not None
            assert bias.grad is not None
            assert_equal(ghost.weight.grad, weight.grad)
            assert_equal(ghost.bias.grad, bias.grad)
    # Evaluation knows of no sub-batches: five is no multiple of their size.
    x = randn(5, *shape[1:])
    expected = F.relu(F.batch_norm(x, mean, var, weight, bias, False, 0.3, EPS))
    assert_equal(ghost.eval()(x), expected)


def test_sub_batches_as_large_as_the_batch_are_plain_batch_norm() -> None:
    x = randn(6, CHANNELS, 3, 3)
    plain, ghost = build("batch"), build("batch", norm_batch=6)
    assert torch.equal(ghost(x), plain(x))
    for mine, theirs in zip(ghost.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_sub_batches_of_one_normalize_each_example_alone_in_training() -> None:
    x = randn(6, CHANNELS, 3, 3)
    assert_equal(build("batch", norm_batch=1)(x), build("instance")(x))


@pytest.mark.parametrize("name", INDEPENDENT)
def test_the_other_norms_ignore_sub_batches(name: str) -> None:
    x = randn(6, CHANNELS, 3, 3)
    assert torch.equal(build(name, norm_batch=2)(x), build(name)(x))


def test_a_batch_that_sub_batches_do_not_divide_is_an_error() -> None:
    with pytest.raises(UsageError, match="norm_batch=4 does not divide a batch of 6"):
        build("batch", norm_batch=4)(randn(6, CHANNELS, 3, 3))


def test_sub_batches_of_one_value_a_channel_are_an_error() -> None:
    with pytest.raises(UsageError, match="single value"):
        build("batch", norm_batch=1)(randn(6, CHANNELS))


def test_a_batch_of_one_value_a_channel_is_an_error_even_if_sub_batches_may_be_larger() -> None:
    layer = build("batch", norm_batch=4)
    with pytest.raises(UsageError, match="single value"):
        layer(randn(1, CHANNELS))
