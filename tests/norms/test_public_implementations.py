"""Each layer against an independent public implementation, timm's, and by how much ε differs.

The layers here are held to their definitions elsewhere; this says that the definitions are those
that others have written.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from normbench.norms import NormConfig
from normbench.norms.evonorm_b0 import EvoNormB0Config
from normbench.norms.evonorm_s0 import EvoNormS0Config
from normbench.norms.frn import FilterResponseNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.norms.layer import LayerNormConfig, Over
from normbench.norms.none import NoNormConfig
from normbench.norms.norm_free import ScaledConv, clip
from normbench.norms.rms import RMSNormConfig
from normbench.norms.weight_standardization import Standardization, StandardizedConv
from tests.norm_checks import close, moved, randn

layers = pytest.importorskip("timm.layers", reason="timm, of the extra `dev`, is not installed")

Public = Callable[[], nn.Module]

# Ours, theirs, whether ours is with its activation, and their names of parameters and buffers where
# they are not ours.
PAIRS: dict[str, tuple[NormConfig, Public, bool, dict[str, str]]] = {
    "EvoNorm2dS0": (
        EvoNormS0Config(groups=4),
        lambda: layers.EvoNorm2dS0(8, groups=4, eps=1e-5),
        True,
        {},
    ),
    "EvoNorm2dS0, no activation": (
        EvoNormS0Config(groups=4),
        lambda: layers.EvoNorm2dS0(8, groups=4, apply_act=False),
        False,
        {},
    ),
    "EvoNorm2dB0": (
        EvoNormB0Config(eps=1e-3),
        lambda: layers.EvoNorm2dB0(8),
        True,
        {},
    ),
    "EvoNorm2dB0, no activation": (
        EvoNormB0Config(),
        lambda: layers.EvoNorm2dB0(8, apply_act=False),
        False,
        {},
    ),
    "FilterResponseNormTlu2d": (
        FilterResponseNormConfig(eps=1e-5),
        lambda: layers.FilterResponseNormTlu2d(8),
        True,
        {"threshold": "tau"},
    ),
    "FilterResponseNormAct2d": (
        FilterResponseNormConfig(eps=1e-5),
        lambda: layers.FilterResponseNormAct2d(8, act_layer=nn.Identity),
        False,
        {},
    ),
    "GroupNorm": (
        GroupNormConfig(groups=4),
        lambda: layers.GroupNorm(8, num_groups=4),
        False,
        {},
    ),
    "GroupNorm1": (
        LayerNormConfig(),
        lambda: layers.GroupNorm1(8),
        False,
        {},
    ),
    "LayerNorm2d": (
        LayerNormConfig(over=Over.channels, eps=1e-6),
        lambda: layers.LayerNorm2d(8),
        False,
        {},
    ),
}


def compared() -> dict[str, str]:
    """The layers of timm with which each norm is compared, by norm."""
    found: dict[str, list[str]] = {}
    for name, (config, *_) in PAIRS.items():
        found.setdefault(config.name, []).append(f"`{name.partition(',')[0]}`")
    return {norm: f"timm {', '.join(dict.fromkeys(names))}" for norm, names in found.items()}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Our layer and theirs with equal, moved parameters."""
    config, make, act, names = PAIRS[name]
    ours, theirs = config.build(8, act=act).double(), make().double()
    own, here = ours.state_dict(), {theirs: mine for mine, theirs in names.items()}
    with torch.no_grad():
        for number, parameter in enumerate(ours.parameters()):
            parameter.add_(randn(*parameter.shape, seed=number))
        for key, value in theirs.state_dict().items():
            if here.get(key, key) in own:  # B0's running variance is there without a use, too
                value.copy_(own[here.get(key, key)].view(value.shape))
    return ours, theirs


@pytest.mark.public(**compared())
@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("name", PAIRS)
def test_a_layer_is_timm_s(name: str, mode: str) -> None:
    ours, theirs = pair(name)
    for seed in range(2):  # the second starts from the running averages that the first has left
        x = randn(4, 8, 5, 3, seed=seed) * 2 + 1
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        y1, y2 = ours.train(mode == "training")(x1), theirs.train(mode == "training")(x2)
        close_to(y1, y2, name)
        upstream = randn(*y1.shape, seed=9)
        y1.backward(upstream)
        y2.backward(upstream)
        close_to(x1.grad, x2.grad, f"{name}: the input's gradient")


def close_to(mine: Tensor | None, wanted: Tensor | None, what: str) -> None:
    """Equal as far as timm computes: it takes variances and square means in float32."""
    assert mine is not None
    assert wanted is not None
    torch.testing.assert_close(mine, wanted, rtol=2e-5, atol=2e-5, msg=lambda m: f"{what}: {m}")


def test_the_evonorms_of_timm_have_another_epsilon_in_b0() -> None:
    x = randn(4, 8, 5, 3)
    theirs = layers.EvoNorm2dB0(8).double()
    ours = EvoNormB0Config().build(8)
    assert (ours.eps, theirs.eps) == (1e-5, 1e-3)
    ratio = theirs(x) / ours.double()(x)
    # Of variances of about 1, √(1 + 0.001) where the batch's is taken, less where v·x is added.
    assert 0.999 < float(ratio.detach().min()) < 0.9996
    assert float(ratio.detach().max()) < 1


def convolutions() -> Iterator[tuple[str, nn.Module, nn.Module, nn.Conv2d]]:
    conv = nn.Conv2d(6, 8, 3, padding=1, bias=False).double()
    timm = layers.StdConv2d(6, 8, 3, padding=1).double()
    yield "StdConv2d", StandardizedConv.of(conv, standardization=Standardization.timm), timm, conv
    conv = nn.Conv2d(6, 8, 3, padding=1, bias=False).double()
    scaled = layers.ScaledStdConv2d(6, 8, 3, padding=1).double()
    yield "ScaledStdConv2d", ScaledConv.of(conv, clipping=None), scaled, conv


@pytest.mark.public(
    ws_group="timm `StdConv2d`", ws_batch="timm `StdConv2d`", norm_free="timm `ScaledStdConv2d`"
)
@pytest.mark.parametrize("index", [0, 1])
def test_a_convolution_is_timm_s(index: int) -> None:
    name, ours, theirs, conv = list(convolutions())[index]
    with torch.no_grad():
        theirs.get_parameter("weight").copy_(conv.weight)
        if isinstance(ours, ScaledConv):
            ours.gain.copy_(randn(8, seed=1))
            ours.shift.copy_(randn(8, seed=2))
            theirs.get_parameter("gain").copy_(ours.gain.view(8, 1, 1, 1))
            theirs.get_parameter("bias").copy_(ours.shift)
    x = randn(2, 6, 5, 5)
    y1, y2 = ours(x), theirs(x)
    close(y1, y2, name)
    y1.square().sum().backward()
    y2.square().sum().backward()
    close(conv.weight.grad, theirs.get_parameter("weight").grad, f"{name}: the weights' gradient")


def test_the_official_standardization_divides_by_more_than_timm_s() -> None:
    conv = nn.Conv2d(6, 8, 3, bias=False).double()
    official, timm = (
        StandardizedConv.of(conv, standardization=kind).transform(conv.weight)
        for kind in (Standardization.official, Standardization.timm)
    )
    # σ is 0.08 here, and 54 weights have the unbiased σ² 54/53 times the biased one.
    rows = conv.weight.flatten(1)
    unbiased, biased = rows.std(1), rows.std(1, correction=0)
    ratio = (biased**2 + 1e-6).sqrt() / (unbiased + 1e-5)
    torch.testing.assert_close(official / timm, ratio.view(-1, 1, 1, 1).expand_as(timm))
    assert 0.98 < float(ratio.detach().min()) < float(ratio.detach().max()) < 0.995


@pytest.mark.public(norm_free="timm `adaptive_clip_grad`")
@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (8, 1, 5), (1,), (16,)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_the_clipping_is_timm_s(shape: tuple[int, ...], scale: float) -> None:
    agc = pytest.importorskip("timm.utils.agc")
    ours, theirs = (nn.Parameter(randn(*shape)) for _ in range(2))
    gradient = randn(*shape, seed=1) * scale
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    clip([ours], 0.02, 1)
    agc.adaptive_clip_grad([theirs], clip_factor=0.02, eps=1e-3)
    close(ours.grad, theirs.grad, "the gradient")
    assert torch.equal(ours.grad, gradient) == (scale == 1e-4)


@pytest.mark.public(rms="timm `RmsNorm2d`")
def test_rms_norm_over_one_group_of_one_position_is_timm_s_over_channels() -> None:
    ours, theirs = RMSNormConfig(groups=1).build(8, act=False), layers.RmsNorm2d(8, eps=1e-5)
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.get_parameter("weight").copy_(randn(8, seed=3))
    x = randn(4, 8, 1, 1)
    close_to(ours.double()(x), theirs.double()(x), "RmsNorm2d")


@pytest.mark.public(none="torch `batch_norm` at mean 0, variance 1")
def test_no_norm_is_torch_s_batch_norm_with_nothing_to_normalize() -> None:
    layer = moved(NoNormConfig().build(8, act=False).double())
    x, zeros, ones = randn(4, 8, 3, 2), torch.zeros(8).double(), torch.ones(8).double()
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    almost = 1e-300  # torch 2.11 takes no 0
    theirs = nn.functional.batch_norm(x, zeros, ones, weight, bias, eps=almost)
    close(layer(x), theirs, "the output")
