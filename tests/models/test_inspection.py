"""What a network consists of: shapes, parameters, FLOPs, and what cannot be normalized."""

import pytest
import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models import ModelConfig
from normbench.models.convnet import ConvNetConfig
from normbench.models.inspection import LayerInfo, check_statistics, layers
from normbench.models.resnet import ResNetConfig
from normbench.norms import Norm, NormConfig
from normbench.norms.batch import BatchNorm, BatchNormConfig
from normbench.norms.group import (
    GroupNorm,
    GroupNormConfig,
    InstanceNormConfig,
)
from normbench.norms.layer import LayerNormConfig
from normbench.norms.none import NoNormConfig

NETWORKS: list[ModelConfig] = [
    ResNetConfig(depth=14, width=8),
    ResNetConfig(depth=8, width=8, cardinality=4),
    ConvNetConfig(depth=3, width=8),
]
EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.title)


def build(network: ModelConfig, norm: NormConfig | None = None) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return network.build(norm or GroupNormConfig(), 10, generator)


def norm_infos(model: nn.Module, size: tuple[int, int] = (32, 32)) -> list[LayerInfo]:
    return [info for info in layers(model, size) if info.norm is not None]


def test_a_convnet_layer_by_layer() -> None:
    infos = layers(build(ConvNetConfig(depth=2, width=4)), (32, 16))
    rows = [(i.name, i.kind, i.shape, i.parameters, i.flops) for i in infos]
    assert rows == [
        ("blocks.0", "Conv2d", (4, 32, 16), 4 * 3 * 9, 2 * 4 * 3 * 9 * 32 * 16),
        ("blocks.1", "GroupNorm", (4, 32, 16), 8, 0),
        ("blocks.3", "Conv2d", (8, 16, 8), 8 * 4 * 9, 2 * 8 * 4 * 9 * 16 * 8),
        ("blocks.4", "GroupNorm", (8, 16, 8), 16, 0),
        ("head", "Linear", (10,), 90, 2 * 8 * 10),
    ]
    assert [tuple(info.input_shape) for info in infos] == [
        (1, 3, 32, 16),
        (1, 4, 32, 16),
        (1, 4, 16, 8),
        (1, 8, 16, 8),
        (1, 8),
    ]
    assert [type(info.norm) for info in infos] == [
        type(None),
        GroupNorm,
        type(None),
        GroupNorm,
        type(None),
    ]


@EVERY_NETWORK
def test_parameters_add_up_to_the_network_s(network: ModelConfig) -> None:
    model = build(network)
    infos = layers(model, (32, 32))
    assert sum(info.parameters for info in infos) == sum(p.numel() for p in model.parameters())


@EVERY_NETWORK
def test_flops_are_those_counted_by_hand_with_group_convolution(network: ModelConfig) -> None:
    model = build(network)
    for info in layers(model, (32, 32)):
        module = model.get_submodule(info.name)
        if isinstance(module, nn.Conv2d):
            # A multiplication and an addition for each weight at each position of the output.
            inputs = module.in_channels // module.groups * module.kernel_size[0] ** 2
            outputs, height, width = info.shape
            assert info.flops == 2 * inputs * outputs * height * width
        elif isinstance(module, nn.Linear):
            assert info.flops == 2 * module.in_features * module.out_features
        else:
            assert info.flops == 0


@EVERY_NETWORK
def test_layers_are_listed_once_in_the_order_they_are_reached(network: ModelConfig) -> None:
    model = build(network)
    infos = layers(model, (32, 32))
    names = [info.name for info in infos]
    holders = {
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear, Norm))
    }
    assert len(names) == len(set(names))
    assert set(names) == holders
    if isinstance(network, ResNetConfig):
        first = [name for name in names if name.startswith("blocks.0.")]
        assert names[:2] == ["stem", "norm"]
        assert first == [f"blocks.0.{part}" for part in ("conv1", "norm1", "conv2", "norm2")]
        assert names[-1] == "head"


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_looking_changes_nothing(training: bool) -> None:
    model = build(ResNetConfig(), BatchNormConfig()).train(training)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    layers(model, (32, 32))
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_that_fails_is_left_without_hooks_and_in_its_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(7, 2))
    with pytest.raises(RuntimeError):
        layers(model, (32, 32))
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_that_take_and_give_no_single_tensor_are_listed() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.conv(x).flatten(2).transpose(1, 2)
            y: Tensor = self.head(input=self.attend(tokens, tokens, tokens)[0].mean(1))
            return y

    model = Attends()
    found = {info.name: info for info in layers(model, (6, 6))}
    assert found["attend"].shape == (16, 8)
    assert found["head"].shape == (2,)
    unseen = sum(p.numel() for p in model.attend.out_proj.parameters())  # used, but not called
    total = sum(p.numel() for p in model.parameters())
    assert sum(info.parameters for info in found.values()) == total - unseen


def test_what_is_reached_again_is_not_counted_again() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    infos = layers(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), conv, conv, conv), (6, 6))

    assert [info.parameters for info in infos] == [224, 584, 0, 0]
    assert [info.flops for info in infos] == [2 * 27 * 8 * 36, 3 * 2 * 72 * 8 * 36, 0, 0]


def test_a_norm_without_parameters_is_listed_too() -> None:
    model = build(ConvNetConfig(), GroupNormConfig(affine=False))
    infos = norm_infos(model)
    assert len(infos) == 3
    assert all(info.parameters == 0 for info in infos)


def test_other_channels_than_three_can_be_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(6, 8, 3), BatchNorm(8))
    shapes = [info.shape for info in layers(model, (10, 12), channels=6)]
    assert shapes == [(8, 8, 10), (8, 8, 10)]


def to_one_pixel(norm: NormConfig) -> nn.Module:
    """A network whose second norm sees one pixel of an 8 × 8 image."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), norm.build(8), nn.Conv2d(8, 8, 2), norm.build(8)
    )


@pytest.mark.parametrize("batch", [2, 32])
@pytest.mark.parametrize(
    "norm",
    [BatchNormConfig(), LayerNormConfig(), GroupNormConfig(), NoNormConfig()],
    ids=lambda norm: norm.name,
)
def test_what_can_be_normalized_passes(norm: NormConfig, batch: int) -> None:
    model = to_one_pixel(norm)
    check_statistics(layers(model, (8, 8)), batch)
    model(torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_batch_norm_of_one_value_a_channel_is_an_error_that_names_the_layer() -> None:
    model = to_one_pixel(BatchNormConfig())
    infos = layers(model, (8, 8))
    with pytest.raises(UsageError, match=r"layer 3 .*\[1, 8, 1, 1\].*larger batch") as caught:
        check_statistics(infos, 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError):  # and the network would have said so too
        model(torch.zeros(1, 3, 8, 8))
    check_statistics(layers(model, (16, 16)), 1)  # larger images help


def test_resnets_of_tiny_images_at_a_batch_of_one_are_an_error_with_batch_norm_only() -> None:
    size = (4, 4)  # 4, 2, 1
    with pytest.raises(UsageError, match=r"layer blocks\.2\.norm1"):
        check_statistics(layers(build(ResNetConfig(), BatchNormConfig()), size), 1)
    check_statistics(layers(build(ResNetConfig(), GroupNormConfig()), size), 1)
    check_statistics(layers(build(ResNetConfig(), BatchNormConfig()), size), 2)


def test_sub_batches_of_one_are_an_error_where_a_batch_of_one_would_be() -> None:
    generator = torch.Generator().manual_seed(0)

    model = ResNetConfig().build(BatchNormConfig(), 10, generator, norm_batch=1)
    with pytest.raises(UsageError, match="single value"):
        check_statistics(layers(model, (4, 4)), 32)


def test_instance_norm_of_one_value_a_channel_is_an_error_whatever_the_batch() -> None:
    model = to_one_pixel(InstanceNormConfig())
    with pytest.raises(UsageError, match=r"layer 3 .*single value.*norm=layer"):
        layers(model, (8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_norms_of_the_default_network_average_over_what_the_article_says() -> None:
    averaged = {
        config.name: [
            info.norm.values_per_statistic(torch.Size((32, *info.input_shape[1:])))
            for info in norm_infos(build(ResNetConfig(), config))
            if info.norm is not None and info.name.endswith("norm1")
        ]
        for config in (
            BatchNormConfig(),
            LayerNormConfig(),
            InstanceNormConfig(),
            GroupNormConfig(),
        )
    }
    assert averaged == {
        "batch": [32 * 32 * 32, 32 * 16 * 16, 32 * 8 * 8],
        "layer": [16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8],
        "instance": [32 * 32, 16 * 16, 8 * 8],
        "group": [2 * 32 * 32, 2 * 16 * 16, 2 * 8 * 8],
    }
