"""Changing the norm of networks that exist already, this package's and torchvision's."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from normbench.errors import UsageError
from normbench.models.resnet import ResNetConfig
from normbench.norms import NormConfig, swap_norm
from normbench.norms.batch import BatchNorm, BatchNormConfig
from normbench.norms.group import (
    GroupNorm,
    GroupNormConfig,
)
from normbench.norms.layer import LayerNormConfig


def images(n: int = 2, size: int = 32, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=dtype)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_our_batch_norm_in_resnet18_computes_what_torch_s_did() -> None:
    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=10).double()
    x = images(4, dtype=torch.float64)
    expected = model(x)
    expected.sum().backward()
    gradient = model.conv1.weight.grad
    assert gradient is not None
    model.zero_grad()

    swap_norm(model, BatchNormConfig())
    y = model(x)
    y.sum().backward()
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.conv1.weight.grad, gradient, rtol=0, atol=1e-10)


def test_slots_keep_their_activation() -> None:
    model = nn.Sequential(
        GroupNormConfig().build(8, act=True), GroupNormConfig().build(8, act=False)
    )
    swap_norm(model, BatchNormConfig())
    acts = [layer.act for layer in model if isinstance(layer, BatchNorm)]
    assert acts == [True, False]


def test_sub_batches_are_handed_on() -> None:
    model = ResNetConfig(depth=8).build(GroupNormConfig(), 10, generator())
    swap_norm(model, BatchNormConfig(), norm_batch=2)
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    assert {layer.norm_batch for layer in layers} == {2}


@pytest.mark.parametrize(
    "old",
    [
        nn.BatchNorm1d(8),
        nn.BatchNorm2d(8),
        nn.BatchNorm3d(8),
        nn.SyncBatchNorm(8),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm1d(8),
        nn.InstanceNorm2d(8, affine=True),
        nn.InstanceNorm3d(8),
        GroupNorm(8, 2),
        BatchNorm(8),
    ],
    ids=lambda old: type(old).__name__,
)
def test_a_norm_by_itself_is_answered_with_its_replacement(old: nn.Module) -> None:
    new = swap_norm(old, LayerNormConfig())
    assert new is not old
    assert isinstance(new, GroupNorm)
    assert (new.channels, new.num_groups) == (8, 1)


def test_a_network_without_norms_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    children = list(model)
    assert swap_norm(model, GroupNormConfig()) is model
    assert list(model) == children


@pytest.mark.parametrize(
    ("misfit", "message"),
    [
        (GroupNormConfig(groups=16), r"norm\.groups=16 does not divide 24 channels"),
        (GroupNormConfig(channels_per_group=16), r"norm\.channels_per_group=16 does not divide 24"),
    ],
)
def test_a_norm_that_does_not_fit_leaves_the_network_untouched(
    misfit: NormConfig, message: str
) -> None:
    model = nn.Sequential(  # the first layer would fit
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 24, 3), nn.BatchNorm2d(24)
    )
    modules = list(model.modules())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UsageError, match=message):
        swap_norm(model, misfit)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "old",
    [
        lambda: nn.InstanceNorm2d(8),
        lambda: nn.GroupNorm(2, 8, affine=False),
        lambda: GroupNorm(8, 2, affine=False),
    ],
)
def test_the_replacement_of_a_layer_without_tensors_has_the_network_s_dtype(
    old: Callable[[], nn.Module],
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), old()).double()
    swap_norm(model, GroupNormConfig())
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}


def test_the_replacement_is_in_the_mode_of_what_it_replaces() -> None:
    model = resnet18(weights=None).eval()
    swap_norm(model, BatchNormConfig())
    assert not any(module.training for module in model.modules())


def test_a_layer_used_twice_is_replaced_in_both_places_by_one() -> None:
    shared = nn.BatchNorm2d(3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    swap_norm(model, LayerNormConfig())
    assert isinstance(model[0], GroupNorm)
    assert model[2] is model[0]
