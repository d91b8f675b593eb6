"""Changing the norm of networks that exist already, this package's and torchvision's."""

import pickle
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import convnext_tiny, resnet18
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FrozenBatchNorm2d

from normbench.errors import UsageError
from normbench.models.resnet import ResNetConfig
from normbench.norms import NORMS, Norm, NormConfig, describe_swap, swap_norm
from normbench.norms.batch import BatchNorm, BatchNormConfig
from normbench.norms.group import (
    GroupNorm,
    GroupNormConfig,
)
from normbench.norms.layer import LayerNormConfig


def images(n: int = 2, size: int = 32, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=dtype)


def named(norm: str) -> NormConfig:
    return NORMS[norm](name=norm)


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


# What is carried.


def trained(layer: nn.Module) -> nn.Module:
    """The layer with tensors away from their start, in evaluation mode."""
    numbers = torch.Generator().manual_seed(1)
    for tensor in [*layer.parameters(), *layer.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=numbers, dtype=tensor.dtype))
    return layer.eval()


BATCH_NORMS: list[Callable[[], nn.Module]] = [
    lambda: nn.BatchNorm2d(8),
    lambda: nn.SyncBatchNorm(8),
    lambda: FrozenBatchNorm2d(8),
    lambda: BatchNorm(8, act=False),
]


@pytest.mark.parametrize("make", BATCH_NORMS, ids=["torch", "sync", "frozen", "own"])
def test_a_batch_norm_of_any_library_goes_on_as_ours(make: Callable[[], nn.Module]) -> None:
    old = trained(make().double())
    x = torch.randn(4, 8, 5, 5, dtype=torch.float64)
    expected = old(x)
    (told,) = describe_swap(old, BatchNormConfig(), carry=True)
    assert told.carried == ("weight", "bias", "running_mean", "running_var")
    assert told.lost == ()
    new = swap_norm(old, BatchNormConfig(), carry=True)
    assert type(new) is BatchNorm
    torch.testing.assert_close(new(x), expected, rtol=0, atol=1e-10)


class BNReLU(nn.BatchNorm2d):
    """An activation that nothing tells of."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(input))


class Doubled(nn.InstanceNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Scaled(nn.Module):
    """A norm by its tensors, which computes more."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return F.leaky_relu(F.batch_norm(x, mean, var))


class Renamed(nn.BatchNorm2d):
    """Computes as the class it comes from does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input)


class Fewer(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(2, channels)


@pytest.mark.parametrize("kind", [lambda: BNReLU(8), lambda: Doubled(8), Scaled])
def test_a_layer_that_computes_more_than_its_norm_is_refused(kind: Callable[[], nn.Module]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), kind())
    before = str(network)

    with pytest.raises(UsageError, match=r"^1 is a \w+, which computes more than a norm: put what"):
        swap_norm(network, GroupNormConfig())
    assert str(network) == before


@pytest.mark.parametrize(
    "kind", [lambda: Renamed(8), lambda: Fewer(8), lambda: FrozenBatchNorm2d(8)]
)
def test_a_layer_of_a_class_of_one_s_own_that_is_a_norm_is_replaced(
    kind: Callable[[], nn.Module],
) -> None:
    assert type(swap_norm(kind(), GroupNormConfig())) is GroupNorm


def test_a_scale_of_0_hides_no_activation() -> None:
    layer = BNReLU(8)
    nn.init.zeros_(layer.weight)
    with pytest.raises(UsageError, match="computes more than a norm"):
        swap_norm(nn.Sequential(layer), GroupNormConfig())


def test_autocast_and_wider_tensors_keep_their_precision() -> None:
    x = torch.randn(4, 8, 5, 5)
    plain = NORMS["rms"](name="rms", affine=False).build(8, act=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert plain(x.bfloat16()).dtype == torch.float32
    assert plain(x.bfloat16()).dtype == torch.bfloat16
    assert NORMS["rms"](name="rms").build(8, act=False)(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_in_half_precision_stays_one(norm: str) -> None:
    config = NORMS[norm](name=norm)
    if config.needs:
        pytest.skip("for networks of normbench's own")
    layer = config.build(8, act=True, norm_batch=4).to(torch.bfloat16)
    x = torch.randn(4, 8, 5, 5).to(torch.bfloat16)

    assert layer(x).dtype == torch.bfloat16
    assert layer.eval()(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "norm", ["evonorm_b0", "dyt", "moving_batch", "batch_renorm", "switchable"]
)
def test_in_half_precision_values_and_gradients_are_those_of_float32_but_for_rounding(
    norm: str,
) -> None:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        layer = named(norm).build(8, act=False).to(dtype)
        x = torch.randn(8, 8, 6, 6).bfloat16().to(dtype).requires_grad_()
        above = torch.randn(8, 8, 6, 6).bfloat16().to(dtype)
        y = layer(x)
        (y * above).sum().backward()
        assert x.grad is not None
        found[dtype] = (y.detach().float(), x.grad.float())

    for wide, narrow in zip(*found.values(), strict=True):
        assert (wide - narrow).norm() < 0.02 * wide.norm()


def test_dynamic_tanh_keeps_its_digits_around_0_in_half_precision() -> None:
    layer = named("dyt").build(1, act=False).bfloat16()
    x = torch.full((1, 1, 1, 1), 2e-3, dtype=torch.bfloat16)

    assert float(layer(x).detach()) == pytest.approx(1e-3, rel=0.01)


def test_sums_of_squares_fit_into_half_precision() -> None:
    layer = named("moving_batch").build(1, act=False).half().train()
    y = layer(torch.randn(64, 1, 40, 40).half())

    assert float(y.detach().float().std()) == pytest.approx(1, abs=0.05)
    assert dict(layer.named_buffers())["running_square"].isfinite().all()


def test_a_frozen_norm_stays_frozen_where_it_is_carried() -> None:
    for frozen in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).requires_grad_(not frozen)
        carried = swap_norm(deepcopy(model), GroupNormConfig(), carry=True)
        anew = swap_norm(model, GroupNormConfig())

        assert {p.requires_grad for p in carried[1].parameters()} == {not frozen}  # type: ignore[index]
        assert {p.requires_grad for p in anew[1].parameters()} == {True}  # type: ignore[index]


def test_a_network_of_transformed_convolutions_is_pickled_and_copied() -> None:
    model = swap_norm(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), named("ws_group")
    ).eval()
    x = torch.randn(2, 3, 5, 5)
    for again in (pickle.loads(pickle.dumps(model)), deepcopy(model)):
        assert torch.equal(again(x), model(x))
        assert type(again[0]) is type(model[0])  # type: ignore[index]


def test_a_convolution_whose_weight_is_computed_is_refused_where_it_would_be_changed() -> None:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8))
    with pytest.raises(UsageError, match="norm=ws_group changes convolutions, and the weight of 0"):
        swap_norm(model, named("ws_group"))


def test_a_convolution_that_cannot_be_standardized_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1, groups=3), nn.BatchNorm2d(3))
    with pytest.raises(UsageError, match="norm=ws_batch, 0: a convolution of 3 outputs"):
        swap_norm(model, named("ws_batch"))


def test_running_statistics_bring_their_eps_along_unless_another_is_asked_for() -> None:
    old = trained(nn.BatchNorm2d(8, eps=0.1).double())
    old.get_buffer("running_var").fill_(0.01)
    x = torch.randn(4, 8, 5, 5, dtype=torch.float64)
    expected = old(x)
    (told,) = describe_swap(old, BatchNormConfig(), carry=True)
    assert told.new.endswith("eps=0.1, act=False)")
    torch.testing.assert_close(swap_norm(old, BatchNormConfig(), carry=True)(x), expected)

    for norm, carry, eps in (
        (BatchNormConfig(eps=1e-3), True, 1e-3),
        (BatchNormConfig(), False, 1e-5),
        (GroupNormConfig(), True, 1e-5),
    ):
        assert swap_norm(old, norm, carry=carry).eps == eps


def test_scale_and_shift_are_carried_where_there_are_no_running_statistics() -> None:
    old = trained(nn.BatchNorm2d(8))
    new = swap_norm(old, GroupNormConfig(), carry=True)
    assert torch.equal(new.get_parameter("weight"), old.get_parameter("weight"))
    assert torch.equal(new.get_parameter("bias"), old.get_parameter("bias"))
    (told,) = describe_swap(old, GroupNormConfig(), carry=True)
    assert told.carried == ("weight", "bias")
    assert told.lost == ("running_mean", "running_var")
    assert str(told).endswith("; γ, β carried; running μ, running σ² lost")


def test_nothing_is_carried_unless_asked_for() -> None:
    old = trained(nn.BatchNorm2d(8))
    new = swap_norm(old, BatchNormConfig())
    assert (new.get_parameter("weight") == 1).all()
    assert (new.get_buffer("running_mean") == 0).all()
    assert describe_swap(old, BatchNormConfig())[0].carried == ()


def test_a_carried_float64_keeps_its_digits() -> None:
    old = trained(nn.BatchNorm2d(8).double())
    new = swap_norm(old, BatchNormConfig(), carry=True)
    assert torch.equal(new.get_parameter("weight"), old.get_parameter("weight"))


def test_a_norm_without_scale_takes_none_over() -> None:
    (told,) = describe_swap(nn.GroupNorm(2, 8), GroupNormConfig(affine=False), carry=True)
    assert told.carried == ()
    assert told.lost == ("weight", "bias")
    (told,) = describe_swap(nn.InstanceNorm2d(8), GroupNormConfig(), carry=True)
    assert (told.carried, told.lost) == ((), ())


def test_a_two_dimensional_layer_norm_is_replaced() -> None:
    old = trained(LayerNorm2d(8))
    new = swap_norm(old, BatchNormConfig(), carry=True)
    assert isinstance(new, BatchNorm)
    assert torch.equal(new.get_parameter("weight"), old.get_parameter("weight"))


def test_a_layer_norm_over_the_last_dimension_stays_and_is_told() -> None:
    model = convnext_tiny(num_classes=3)
    told = describe_swap(model, LayerNormConfig())
    kept = [each for each in told if each.kept]
    swapped = [each for each in told if not each.kept]
    assert {each.old for each in kept} == {"LayerNorm"}
    assert [each.old.partition("(")[0] for each in swapped] == ["LayerNorm2d"] * len(swapped)
    assert len(kept) == 18  # one a block: 3, 3, 9 and 3
    assert len(swapped) == 5  # stem, three between stages, head
    assert "kept" in str(kept[0])


def test_what_became_of_each_layer_is_told_before_and_is_so_afterwards() -> None:
    model = resnet18(num_classes=3)
    told = describe_swap(model, GroupNormConfig(groups="gcd32"))
    assert isinstance(model.bn1, nn.BatchNorm2d)  # as it was
    swap_norm(model, GroupNormConfig(groups="gcd32"))
    norms = {name: m for name, m in model.named_modules() if isinstance(m, Norm)}
    assert list(norms) == [each.name for each in told]
    assert told[0].old == "BatchNorm2d(64, eps=1e-05)"
    for each in told:
        layer = norms[each.name]
        assert each.new == f"{type(layer).__name__}({layer.extra_repr()})"


class OwnConv(nn.Conv2d):
    """Computes in a way of its own."""


class SpectralNormConv2d(nn.Conv2d):
    """A convolution by its class, whatever it calls itself."""


def test_a_convolution_that_calls_itself_a_norm_is_none() -> None:
    network = nn.Sequential(SpectralNormConv2d(3, 8, 3), nn.BatchNorm2d(8))

    assert [each.name for each in describe_swap(network, GroupNormConfig())] == ["1"]


@pytest.mark.parametrize("norm", ["ws_group", "moving_batch"])
def test_a_norm_that_changes_convolutions_refuses_those_that_it_does_not_know(norm: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), OwnConv(4, 4, 3))
    before = str(network)

    with pytest.raises(UsageError, match=f"norm={norm} changes convolutions, and 2 is a OwnConv"):
        swap_norm(network, NORMS[norm](name=norm))
    assert str(network) == before
    assert type(swap_norm(network, GroupNormConfig()).get_submodule("2")) is OwnConv


def test_a_degenerate_number_of_groups_is_told() -> None:
    (told,) = describe_swap(nn.BatchNorm2d(16), GroupNormConfig(groups="gcd32"))
    assert "instance norm" in str(told)


# timm's layers, which bring an activation.


def test_a_fused_activation_is_kept_behind_the_new_norm() -> None:
    timm_layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    for act, kind in (("silu", nn.SiLU), ("relu", nn.ReLU)):
        old = trained(timm_layers.BatchNormAct2d(8, act_layer=act).double())
        x = torch.randn(4, 8, 5, 5, dtype=torch.float64)
        expected = old(x.clone())
        (told,) = describe_swap(old, BatchNormConfig(), carry=True)
        new = swap_norm(old, BatchNormConfig(), carry=True)
        torch.testing.assert_close(new(x), expected, rtol=0, atol=1e-10)
        assert isinstance(new, nn.Sequential)
        assert [type(part) for part in new] == [BatchNorm, kind]
        assert told.name == "0"
        again = swap_norm(new, GroupNormConfig(), carry=True)
        assert [type(part) for part in again.children()] == [GroupNorm, kind]


@pytest.mark.parametrize(
    "name", ["FrozenBatchNormAct2d", "GroupNormAct", "LayerNormAct2d", "RmsNorm2d", "LayerNorm2d"]
)
def test_timm_s_other_norms_are_known(name: str) -> None:
    timm_layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    new = swap_norm(getattr(timm_layers, name)(32), BatchNormConfig())
    assert [layer.channels for layer in new.modules() if isinstance(layer, BatchNorm)] == [32]
