"""Pre-activation networks: the paper's formula, their size, and where norms have their place."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models.inspection import layers
from normbench.models.preact_resnet import PreActBlock, PreActResNet, PreActResNetConfig
from normbench.models.resnet import ResNetConfig
from normbench.norms import NORMS, Norm, NormConfig
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNormConfig
from tests.norm_checks import close, default, network, randn


def build(norm: NormConfig | None = None, depth: int = 8, width: int = 16) -> nn.Module:
    config = PreActResNetConfig(depth=depth, width=width)
    return config.build(norm or BatchNormConfig(), 10, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", [8, 20, 110])
def test_it_has_the_weights_of_the_post_activation_network_and_fewer_norms(depth: int) -> None:
    def size(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    post = ResNetConfig(depth=depth).build(BatchNormConfig(), 10, torch.Generator())
    # No norm after the stem (16) and the projections (32, 64), none but the last one of 64 beside;
    # the first norms of the second and third stage have the inputs' 16 and 32 channels.
    fewer = 2 * (16 + (32 + 64) - 64 + (32 - 16) + (64 - 32))
    assert size(build(depth=depth)) == size(post) - fewer


def test_a_block_is_the_paper_s() -> None:
    model = build(GroupNormConfig(), width=8).double()
    assert isinstance(model, PreActResNet)
    x = randn(2, 3, 8, 8)

    def normalized(norm: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(norm, Norm)
        return F.group_norm(x, 8 * x.shape[1] // 16, norm.weight, norm.bias, norm.eps).relu()

    y = F.conv2d(x, model.stem.weight, padding=1)
    for number, block in enumerate(model.blocks):
        assert isinstance(block, PreActBlock)
        stride = 1 if number == 0 else 2
        a = normalized(block.norm1, y)
        b = F.conv2d(a, block.conv1.weight, stride=stride, padding=1)
        branch = F.conv2d(normalized(block.norm2, b), block.conv2.weight, padding=1)
        if number == 0:
            y = y + branch
        else:
            assert isinstance(block.projection, nn.Conv2d)
            y = F.conv2d(a, block.projection.weight, stride=2) + branch
    wanted = model.head(normalized(model.norm, y).mean((2, 3)))
    close(model(x), wanted, "the logits")


def test_every_norm_has_its_activation_and_none_stands_before_an_addition() -> None:
    norms = [module for module in build(depth=20).modules() if isinstance(module, Norm)]
    assert len(norms) == 19
    assert all(norm.act for norm in norms)


@pytest.mark.parametrize("name", sorted(name for name in NORMS if NORMS[name].norm_activation))
def test_before_an_addition_a_norm_that_is_an_activation_scales_and_shifts_only(name: str) -> None:
    post = network(default(name))
    before = [m for m in post.modules() if isinstance(m, Norm) and not m.act]
    assert before
    for layer in before:
        assert layer.weight is not None
        assert layer.bias is not None
        x = randn(2, layer.channels, 4, 4, seed=3)
        scaled = x * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
        close(layer(x), scaled, name)
    pre = build(default(name))
    assert all(module.act for module in pre.modules() if isinstance(module, Norm))


def test_its_layers_are_shown_with_halved_resolutions_and_a_title() -> None:
    infos = layers(build(width=4), (32, 32))
    shapes = [info.shape for info in infos if info.name.endswith("conv2")]
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]
    assert PreActResNetConfig(depth=20, width=8, cardinality=2).title == (
        "PreAct-ResNeXt(C=2)-20, width 8"
    )


@pytest.mark.parametrize("setting", [{"depth": 18}, {"width": 0}, {"cardinality": 3}])
def test_its_settings_have_the_ranges_of_the_post_activation_network_s(
    setting: dict[str, Any],
) -> None:
    with pytest.raises(UsageError, match=rf"^model\.{next(iter(setting))}="):
        PreActResNetConfig(**setting)
