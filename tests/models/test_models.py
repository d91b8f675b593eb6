"""The networks: what they compute, how many numbers they learn, and where they start."""

from collections.abc import Callable
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models import ModelConfig
from normbench.models.convnet import ConvNetConfig
from normbench.models.inspection import layers
from normbench.models.preact_resnet import PreActResNetConfig
from normbench.models.resnet import BasicBlock, ResNet, ResNetConfig
from normbench.models.wide_resnet import WideBlock, WideResNetConfig
from normbench.norms import Norm, NormConfig
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import (
    GroupNormConfig,
)
from normbench.norms.none import NoNormConfig
from normbench.norms.parts import Slot
from normbench.training.stacking import stack

NETWORKS: dict[str, ModelConfig] = {
    "resnet8": ResNetConfig(),
    "resnext14": ResNetConfig(depth=14, width=8, cardinality=4),
    "zero_init": ResNetConfig(depth=8, width=8, zero_init=True),
    "preact_resnet8": PreActResNetConfig(),
    "preact_resnext14": PreActResNetConfig(depth=14, width=8, cardinality=4),
    "convnet": ConvNetConfig(),
    "wide_resnet": WideResNetConfig(depth=10, widen=1),
}
EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))


def build(
    network: ModelConfig, norm: NormConfig | None = None, classes: int = 10, seed: int = 0
) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return network.build(norm or BatchNormConfig(), classes, generator)


def images(n: int = 2, size: int = 32, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=dtype)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def conv_and_linear(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        for key, value in module.state_dict().items()
    }


# Figures of Idelbayev's "Proper ResNet implementation for CIFAR10" (0.27, 0.46, 0.85 M, as He et
# al. report for depth 20, 32 and 56), plus what projections cost instead of padded shortcuts.
PROJECTIONS = 16 * 32 + 32 * 64 + 2 * 32 + 2 * 64


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(8, 75_290), (20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_a_resnet_has_the_parameters_of_the_paper_s(depth: int, parameters: int) -> None:
    assert num_parameters(build(ResNetConfig(depth=depth))) == parameters + PROJECTIONS


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
def test_a_resnet_s_depth_counts_its_weighted_layers(depth: int) -> None:
    model = build(ResNetConfig(depth=depth, width=4), GroupNormConfig())
    weighted = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3))
    ]
    assert len(weighted) == depth
    assert model(images()).shape == (2, 10)


@pytest.mark.parametrize("size", [8, 15, 32, 48])
@pytest.mark.parametrize("classes", [2, 100])
def test_a_resnet_halves_the_resolution_and_doubles_the_channels_twice(
    classes: int, size: int
) -> None:
    model = build(ResNetConfig(depth=14, width=4), classes=classes)
    shapes = [info.shape for info in layers(model, (size, size)) if info.name.endswith("norm2")]
    half, quarter = -(-size // 2), -(-size // 4)
    assert shapes == [
        *[(4, size, size)] * 2,
        *[(8, half, half)] * 2,
        *[(16, quarter, quarter)] * 2,
    ]
    assert model(images(3, size)).shape == (3, classes)


@pytest.mark.parametrize("width", [1, 2, 5, 32])
def test_the_width_multiplies_every_channel_count(width: int) -> None:
    narrow, model = build(ResNetConfig(width=1)), build(ResNetConfig(width=width))
    for (name, a), (_, b) in zip(narrow.named_parameters(), model.named_parameters(), strict=True):
        factors = [width] if a.dim() == 1 else [width, 1 if name == "stem.weight" else width]
        if name.startswith("head"):
            factors = [1, width][: a.dim()]
        expected = [n * f for n, f in zip(a.shape, factors, strict=False)] + list(a.shape[2:])
        assert list(b.shape) == expected, name


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_knows_the_channels_of_its_norms(network: ModelConfig) -> None:
    model = network.build(BatchNormConfig(), 10, torch.Generator())
    channels = [layer.channels for layer in model.modules() if isinstance(layer, Norm)]

    assert network.norm_channels == tuple(dict.fromkeys(channels))


@pytest.mark.parametrize(
    ("depth", "widen", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (22, 8, 17.2)],  # table 4
)
def test_a_wide_resnet_has_the_parameters_of_the_paper_s(
    depth: int, widen: int, millions: float
) -> None:
    with torch.device("meta"):
        model = WideResNetConfig(depth=depth, widen=widen).network(10)
    norms = 2 * sum(slot.channels for slot in model.modules() if isinstance(slot, Slot))
    assert (num_parameters(model) + norms) / 1e6 == pytest.approx(millions, abs=0.06)


def test_a_wide_block_takes_its_shortcut_from_the_activated_input() -> None:
    model = build(WideResNetConfig(depth=10, widen=2)).double().eval()
    block = model.get_submodule("blocks.0")
    assert isinstance(block, WideBlock)
    assert block.shortcut is not None
    x = images(dtype=torch.float64).repeat(1, 6, 1, 1)[:, :16]
    first = F.relu(F.batch_norm(x, torch.zeros(16).double(), torch.ones(16).double()))
    second = F.conv2d(first, block.conv1.weight, padding=1)
    second = F.relu(F.batch_norm(second, torch.zeros(32).double(), torch.ones(32).double()))
    expected = F.conv2d(second, block.conv2.weight, padding=1)
    expected = expected + F.conv2d(first, block.shortcut.weight)
    torch.testing.assert_close(block(x), expected)


def test_the_convnet_has_the_parameters_counted_by_hand() -> None:
    # 3·3·(3·16 + 16·32 + 32·64) weights, γ and β for 16, 32 and 64 channels, 65·10 in the head.
    hand = 9 * (3 * 16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 65 * 10
    assert num_parameters(build(ConvNetConfig())) == hand
    for depth in range(1, 6):
        model = build(ConvNetConfig(depth=depth, width=4))
        infos = layers(model, (32, 32))
        shapes = [info.shape for info in infos if info.kind == "Conv2d"]
        assert shapes == [(4 * 2**i, 32 // 2**i, 32 // 2**i) for i in range(depth)]
        assert model(images()).shape == (2, 10)


@pytest.mark.parametrize(
    ("size", "shapes"), [(8, [8, 4, 2, 1, 1]), (11, [11, 6, 3, 2, 1]), (1, [1, 1, 1, 1, 1])]
)
def test_the_convnet_halves_rounded_up_down_to_one_position(size: int, shapes: list[int]) -> None:
    models = [build(ConvNetConfig(depth=5, width=4), GroupNormConfig(), seed=s) for s in (0, 1)]
    infos = layers(models[0], (size, size))
    assert [info.shape[1:] for info in infos if info.kind == "Conv2d"] == [(n, n) for n in shapes]
    stack(models, images(2, size))


@pytest.mark.parametrize(
    ("network", "title"),
    [
        (ResNetConfig(), "ResNet-8"),
        (ResNetConfig(depth=20, width=32), "ResNet-20, width 32"),
        (ResNetConfig(cardinality=4), "ResNeXt(C=4)-8"),
        (ConvNetConfig(), "ConvNet-3"),
        (ConvNetConfig(depth=2, width=8), "ConvNet-2, width 8"),
    ],
)
def test_a_network_s_title_tells_depth_and_what_is_unusual(
    network: ModelConfig, title: str
) -> None:
    assert network.title == title


# What they compute.


def functional_norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    groups = min(32, x.shape[1] // 2)  # for a power of two
    return F.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"])


def functional_resnet(
    state: dict[str, Tensor], x: Tensor, blocks_per_stage: int, cardinality: int
) -> Tensor:
    x = F.relu(functional_norm(state, "norm", F.conv2d(x, state["stem.weight"], padding=1)))
    for block in range(3 * blocks_per_stage):
        name = f"blocks.{block}"
        stride = 2 if block in (blocks_per_stage, 2 * blocks_per_stage) else 1
        inner = F.conv2d(
            x, state[f"{name}.conv1.weight"], stride=stride, padding=1, groups=cardinality
        )
        inner = F.relu(functional_norm(state, f"{name}.norm1", inner))
        inner = F.conv2d(inner, state[f"{name}.conv2.weight"], padding=1, groups=cardinality)
        inner = functional_norm(state, f"{name}.norm2", inner)
        if stride == 2:
            x = F.conv2d(x, state[f"{name}.shortcut.0.weight"], stride=2)
            x = functional_norm(state, f"{name}.shortcut.1", x)
        x = F.relu(inner + x)
    return F.linear(x.mean((2, 3)), state["head.weight"], state["head.bias"])


def functional_convnet(state: dict[str, Tensor], x: Tensor, depth: int) -> Tensor:
    for block in range(depth):
        x = F.conv2d(x, state[f"blocks.{3 * block}.weight"], padding=1)
        x = F.relu(functional_norm(state, f"blocks.{3 * block + 1}", x))
        n, c, h, w = x.shape
        x = x.view(n, c, h // 2, 2, w // 2, 2).amax((3, 5))
    return F.linear(x.mean((2, 3)), state["head.weight"], state["head.bias"])


def assert_equals_function(
    model: nn.Module, function: Callable[[dict[str, Tensor]], Tensor], x: Tensor
) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).double())
    state = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    y, expected = model(x), function(state)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
    y.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("depth", "cardinality"), [(8, 1), (14, 1), (8, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_resnet_computes_what_its_definition_says(
    depth: int, cardinality: int, memory_format: torch.memory_format
) -> None:
    network = ResNetConfig(depth=depth, width=4, cardinality=cardinality)
    model = build(network, GroupNormConfig()).double()
    model = model.to(memory_format=memory_format)
    x = images(2, 16, torch.float64).contiguous(memory_format=memory_format)
    blocks = (depth - 2) // 6
    assert_equals_function(model, lambda s: functional_resnet(s, x, blocks, cardinality), x)


def test_a_convnet_computes_what_its_definition_says() -> None:
    model = build(ConvNetConfig(depth=3, width=4), GroupNormConfig()).double()
    x = images(2, 16, torch.float64)
    assert_equals_function(model, lambda s: functional_convnet(s, x, 3), x)


# Group convolution.


@pytest.mark.parametrize("cardinality", [2, 4, 8, 16])
def test_group_convolution_divides_parameters_and_flops_by_the_number_of_groups(
    cardinality: int,
) -> None:
    plain = layers(build(ResNetConfig(depth=14)), (32, 32))
    grouped = layers(build(ResNetConfig(depth=14, cardinality=cardinality)), (32, 32))
    assert [info.name for info in grouped] == [info.name for info in plain]
    divided = 0
    for a, b in zip(plain, grouped, strict=True):
        assert b.shape == a.shape
        if b.name.endswith(("conv1", "conv2")):
            assert a.parameters == cardinality * b.parameters
            assert a.flops == cardinality * b.flops > 0
            divided += 1
        else:  # stem, shortcuts, norms and head are what they were
            assert (a.parameters, a.flops) == (b.parameters, b.flops)
    assert divided == 12


def test_most_of_the_network_is_in_the_convolutions_that_become_cheaper() -> None:
    def totals(cardinality: int) -> tuple[int, int]:
        infos = layers(build(ResNetConfig(depth=20, cardinality=cardinality)), (32, 32))
        return sum(info.parameters for info in infos), sum(info.flops for info in infos)

    (parameters, flops), (fewer_parameters, fewer_flops) = totals(1), totals(4)
    assert fewer_parameters < 0.28 * parameters
    assert fewer_flops < 0.28 * flops


# Initialization.


@EVERY_NETWORK
def test_initial_weights_are_a_function_of_the_seed_alone(network: ModelConfig) -> None:
    torch.manual_seed(1)
    first = build(network, seed=5).state_dict()
    torch.manual_seed(2)
    torch.rand(7)
    again = build(network, seed=5).state_dict()
    assert list(again) == list(first)
    assert all(torch.equal(again[key], first[key]) for key in first)

    other = conv_and_linear(build(network, seed=6))
    weights = [key for key in other if key.endswith("weight")]
    assert not any(torch.equal(other[key], first[key]) for key in weights)


@EVERY_NETWORK
def test_the_global_random_state_is_left_as_it_was(network: ModelConfig) -> None:
    before = torch.get_rng_state()
    build(network)
    assert torch.equal(torch.get_rng_state(), before)


def test_convolutions_start_normal_with_variance_two_over_fan_out() -> None:
    model = build(ResNetConfig(width=64, cardinality=2))
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 10_000]
    assert len(convs) > 5
    for conv in convs:
        assert conv.bias is None
        # The definition's fan-out, without regard to groups, as torch and torchvision have it.
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        deviations = conv.weight.detach().flatten() / sqrt(2 / fan_out)
        assert deviations.std().item() == pytest.approx(1, abs=0.03)
        assert deviations.mean().item() == pytest.approx(0, abs=0.04)
        assert (deviations.abs() < 1).float().mean().item() == pytest.approx(0.683, abs=0.02)


def test_the_linear_layer_starts_uniform_within_the_root_of_its_fan_in() -> None:
    head = build(ResNetConfig(width=64), classes=100).get_submodule("head")
    assert isinstance(head, nn.Linear)
    scaled = head.weight.detach().flatten() * sqrt(256)
    assert 0.999 < scaled.abs().max() <= 1
    assert scaled.std().item() == pytest.approx(1 / sqrt(3), abs=0.01)
    assert torch.equal(head.bias, torch.zeros(100))


@pytest.mark.parametrize(
    "norm", [BatchNormConfig(), GroupNormConfig(), NoNormConfig()], ids=lambda norm: norm.name
)
def test_zero_init_makes_every_block_start_as_its_shortcut(norm: NormConfig) -> None:
    network = ResNetConfig(depth=14, width=4, zero_init=True)
    model = build(network, norm)
    assert isinstance(model, ResNet)
    x = model.get_submodule("norm")(model.stem(images()))
    for block in model.blocks:
        assert isinstance(block, BasicBlock)
        y = block(x)
        assert torch.equal(y, F.relu(block.shortcut(x)))
        x = y
    model(images()).sum().backward()  # and yet it can leave that start
    for block in model.blocks:
        assert isinstance(block, BasicBlock)
        assert isinstance(block.norm2, Norm)
        assert block.norm2.weight is not None
        assert block.norm2.weight.grad is not None
        assert block.norm2.weight.grad.any()


def test_without_zero_init_every_scale_starts_at_one() -> None:
    for module in build(ResNetConfig(depth=14)).modules():
        if isinstance(module, Norm):
            assert module.weight is not None
            assert (module.weight == 1).all()


# What does not fit.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda d=d: ResNetConfig(depth=d), rf"model\.depth={d}: must be 6n\+2, for example 8")
            for d in (-4, 0, 2, 7, 9, 18, 51)
        ),
        (lambda: ResNetConfig(width=0), r"model\.width=0: must be from 1 to 65536"),
        (lambda: ResNetConfig(width=-16), r"model\.width=-16: must be from 1 to 65536"),
        (
            lambda: ResNetConfig(cardinality=3),
            r"model\.cardinality=3 does not divide model\.width=16; allowed: 1, 2, 4, 8, 16$",
        ),
        (
            lambda: ResNetConfig(width=12, cardinality=0),
            r"model\.cardinality=0 .* allowed: 1, 2, 3, 4, 6, 12$",
        ),
        (lambda: ResNetConfig(cardinality=32), r"model\.cardinality=32 does not divide"),
        *(
            (lambda d=d: ConvNetConfig(depth=d), rf"model\.depth={d}: must be 1 to 5")
            for d in (-1, 0, 6)
        ),
        *(
            (lambda d=d: WideResNetConfig(depth=d), rf"model\.depth={d}: must be 6n\+4")
            for d in (-2, 4, 12, 14)
        ),
        (lambda: WideResNetConfig(widen=0), r"model\.widen=0: must be from 1 to 4096"),
        (lambda: ConvNetConfig(width=0), r"model\.width=0: must be from 1 to 65536"),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_key_value_and_range(
    make: Callable[[], ModelConfig], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_zero_init_without_scales_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"model\.zero_init=true needs norm\.affine=true"):
        build(ResNetConfig(zero_init=True), GroupNormConfig(affine=False))


@EVERY_NETWORK
def test_a_norm_that_does_not_fit_the_width_is_an_error(network: ModelConfig) -> None:
    with pytest.raises(UsageError, match=r"norm\.groups=7 does not divide"):
        build(network, GroupNormConfig(groups=7))
