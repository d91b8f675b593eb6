"""What batch norm alone has: running statistics as torch keeps them, and sub-batches."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from normbench.errors import UsageError
from normbench.norms import NORMS, NormConfig
from normbench.norms.batch import BatchNorm, BatchNormConfig
from tests.norm_checks import (
    CHANNELS,
    CHECKS,
    check_definition,
    close,
    network,
    randn,
    train,
)


def build(norm_batch: int | None = None, momentum: float = 0.1) -> BatchNorm:
    config = BatchNormConfig(momentum=momentum)
    return config.build(CHANNELS, act=False, norm_batch=norm_batch).double()


@pytest.mark.public(batch="torch `BatchNorm2d`")
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_the_reference_is_torch_s_batch_norm_with_its_running_statistics(momentum: float) -> None:
    theirs = nn.BatchNorm2d(CHANNELS, momentum=momentum).double()
    config = BatchNormConfig(momentum=momentum)
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    for step in range(3):
        x = randn(3, CHANNELS, 4, 3, seed=step) * (step + 1) + step
        close(config.reference(x, state, act=False), theirs(x), "training")
    close(state["running_mean"], theirs.running_mean, "running_mean")
    close(state["running_var"], theirs.running_var, "running_var")
    evaluated = config.reference(x, state, act=False, training=False)
    close(evaluated, theirs.eval()(x), "evaluation")


def test_in_a_batch_of_one_and_in_sub_batches_of_one_it_is_instance_norm() -> None:
    x = randn(6, CHANNELS, 4, 4)
    instance = NORMS["instance"](name="instance").build(CHANNELS, act=False).double()
    close(build()(x[:1]), instance(x[:1]), "a batch of one")
    close(build(norm_batch=1)(x), instance(x), "sub-batches of one")


def test_sub_batches_as_large_as_the_batch_are_plain_batch_norm() -> None:
    x = randn(6, CHANNELS, 3, 3)
    plain, ghost = build(), build(norm_batch=6)
    assert torch.equal(ghost(x), plain(x))
    for mine, theirs in zip(ghost.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_evaluation_knows_of_no_sub_batches() -> None:
    x = randn(5, CHANNELS, 3, 3)
    assert torch.equal(build(norm_batch=2).eval()(x), build().eval()(x))


def test_a_batch_that_sub_batches_do_not_divide_is_an_error() -> None:
    with pytest.raises(UsageError, match="norm_batch=4 does not divide a batch of 6"):
        build(norm_batch=4)(randn(6, CHANNELS, 3, 3))


@pytest.mark.parametrize(("n", "norm_batch"), [(1, None), (6, 1), (1, 4)])
def test_statistics_of_one_value_a_channel_are_an_error_in_training_only(
    n: int, norm_batch: int | None
) -> None:
    layer = build(norm_batch)
    with pytest.raises(UsageError, match=r"single value.*larger batch"):
        layer(randn(n, CHANNELS, 1, 1))
    assert layer.eval()(randn(n, CHANNELS)).shape == (n, CHANNELS)


# ---- Frozen statistics ----

LATE = BatchNormConfig(freeze_at=0.5)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_frozen_late_it_is_all_that_a_norm_must_be(check: Callable[[NormConfig], None]) -> None:
    if check is not check_definition:  # which is that of two norms, one after the other
        check(LATE)


def test_until_it_is_frozen_it_is_batch_norm_to_the_bit_and_then_frozen_batch_norm() -> None:
    plain, late = network(BatchNormConfig()), network(LATE)
    for model in (plain, late):
        train(model, [0], range(2))
    state = {key: value.clone() for key, value in late.state_dict().items()}
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in state.items())
    frozen = network(BatchNormConfig(frozen=True))
    frozen.load_state_dict(state)
    for model in (frozen, late):
        train(model, [0], range(2, 4))
    ended = late.state_dict()
    assert all(torch.equal(value, frozen.state_dict()[key]) for key, value in ended.items())
    assert all(torch.equal(ended[key], state[key]) for key in state if "running" in key)
    assert not torch.equal(ended["stem.weight"], state["stem.weight"])


def test_frozen_it_is_torch_s_layer_in_evaluation_mode() -> None:
    theirs = nn.BatchNorm2d(CHANNELS).double()
    theirs(randn(4, CHANNELS, 3, 3) * 3 + 1)
    mine = BatchNormConfig(frozen=True).build(CHANNELS, act=False).double()
    mine.load_state_dict(theirs.state_dict(), strict=False)
    theirs.eval()
    x = randn(2, CHANNELS, 3, 3, seed=1).requires_grad_()
    y = x.detach().clone().requires_grad_()
    close(mine(x), theirs(y), "output")
    mine(x).pow(3).sum().backward()
    theirs(y).pow(3).sum().backward()
    close(x.grad, y.grad, "gradient")
    close(mine.running_var, theirs.running_var, "running_var")


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_share_at_which_it_is_frozen_lies_within_the_training(value: float) -> None:
    with pytest.raises(UsageError, match=r"norm\.freeze_at=.*above 0 and below 1"):
        BatchNormConfig(freeze_at=value)


def test_frozen_from_the_start_and_late_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"norm\.frozen=true and norm\.freeze_at=0\.5"):
        BatchNormConfig(frozen=True, freeze_at=0.5)
