"""Every registered norm: definition, gradients, batch, stacks, resume, swaps, settings, texts.

Nothing here names a norm: a new one is tested because it is there.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from math import inf, isfinite, nan, nextafter
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, vgg11_bn

from normbench.errors import UsageError
from normbench.models import MODELS
from normbench.models.foreign import ForeignConfig
from normbench.norms import NORMS, Norm, NormConfig, swap_norm
from normbench.norms.parts import BranchEnd, NormConv
from tests.norm_checks import CHECKS, built, default, laid_out, randn, suits, variants

EVERY_NORM = pytest.mark.parametrize("name", sorted(NORMS))
# Those with slots; networks from elsewhere are swapped in tests/models/test_foreign.py.
OWN = sorted(name for name, cls in MODELS.items() if not issubclass(cls, ForeignConfig))
# Every norm in some network, and every network with some norm: not each with each.
PAIRS = [(norm, OWN[i % len(OWN)]) for i, norm in enumerate(sorted(NORMS))]
EVERY_PAIR = pytest.mark.parametrize(("name", "model"), PAIRS)
VARIANTS = [variant for name in sorted(NORMS) for variant in variants(default(name))]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_every_norm_in_every_setting(
    config: NormConfig, check: Callable[[NormConfig], None]
) -> None:
    check(config)


@EVERY_NORM
@pytest.mark.parametrize("layout", ["NCHW", "NCHW channels_last"])
def test_float32_is_precise_where_the_mean_is_ten_times_the_deviation(
    name: str, layout: str
) -> None:
    config = default(name)
    memory_format = torch.channels_last if "last" in layout else torch.contiguous_format
    x = (randn(8, 16, 8, 8) + 10.0).float().contiguous(memory_format=memory_format)
    layer = config.build(16, act=False)
    state = {key: value.double() for key, value in layer.state_dict().items()}
    with torch.no_grad():
        fast, exact = layer(x), config.reference(x.double(), state, act=False)
    # Torch's channels-last kernels for group norm on the CPU take the variance as E[x²] - E[x]²,
    # whose error grows with the square of mean over deviation: 5e-5 here, 5e-3 at a hundred times.
    torch.testing.assert_close(fast.double(), exact, rtol=0, atol=3e-4)


@EVERY_NORM
def test_what_autocast_gives_it_is_normalized_in_float32(name: str) -> None:
    config = default(name)
    x = randn(8, 16, 8, 8).bfloat16()
    layers = [config.build(16, act=True).train(each) for each in (True, False)]
    for layer in layers:
        mine, exact = (each.clone().requires_grad_() for each in (x, x.float()))
        twin = copy.deepcopy(layer)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(mine)
        wanted = twin(exact)
        y.float().sum().backward()
        wanted.sum().backward()
        torch.testing.assert_close(y.float(), wanted, rtol=0.02, atol=0.02)
        for key, value in layer.state_dict().items():
            torch.testing.assert_close(value, twin.state_dict()[key], rtol=1e-3, atol=1e-3)
        assert mine.grad is not None
        assert mine.grad.isfinite().all()


@EVERY_NORM
def test_what_a_norm_says_is_true_of_its_layer(name: str) -> None:
    config, layer = default(name), default(name).build(8)
    assert config.name == name
    assert layer.batch_dependent == config.batch_dependent
    assert layer.axes == config.axes
    for text in (config.title, config.axes, config.formula, config.paper, config.cite):
        assert text
        assert text == text.strip()
    assert layer.suffix == f" + {layer.activation}"
    assert default(name).build(8, act=False).suffix == ""


@EVERY_NORM
def test_what_a_norm_says_of_evaluation_is_true_of_its_layer(name: str) -> None:
    config = default(name)
    layer, x = built(config, act=config.norm_activation), laid_out("NCHW")
    layer(laid_out("NCHW", seed=1))
    trained = layer(x)
    layer.eval()
    y, zero, one = (layer(each) for each in (x, torch.zeros_like(x), torch.ones_like(x)))
    unchanged = torch.allclose(y, trained, rtol=0, atol=1e-12)
    assert unchanged == (config.evaluation == "same as training")
    assert torch.allclose(y, zero + x * (one - zero), rtol=0, atol=1e-9) == config.folds


@EVERY_NORM
def test_what_is_published_of_a_norm_is_its_own_and_has_numbers_where_they_were_seen(
    name: str,
) -> None:
    published = default(name).published
    assert not published or "published" in vars(NORMS[name])
    for each in published:
        assert each.measured
        assert each.source
        assert each.results or each.basis == "claimed"


# ---- In networks ----


@EVERY_PAIR
def test_initial_weights_are_the_same_whatever_the_norm(name: str, model: str) -> None:
    def weights(norm: NormConfig) -> dict[str, torch.Tensor]:
        made = MODELS[model](name=model).build(norm, 10, torch.Generator().manual_seed(5))
        return {
            f"{path}.{key}": value
            for path, module in made.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear))
            for key, value in module.named_parameters()
            if key in ("weight", "bias")
        }

    mine, wanted = weights(default(name)), weights(default("none"))
    assert list(mine) == list(wanted)
    assert all(torch.equal(mine[key], wanted[key]) for key in mine)


@EVERY_PAIR
def test_every_network_learns_with_every_norm(name: str, model: str) -> None:
    network = MODELS[model](name=model).build(default(name), 8, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    x, labels = randn(8, 3, 16, 16, dtype=torch.float32), torch.arange(8)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


@EVERY_PAIR
def test_a_swapped_network_is_the_one_that_would_have_been_built(name: str, model: str) -> None:
    def made(norm: NormConfig) -> nn.Module:
        return MODELS[model](name=model).build(norm, 10, torch.Generator().manual_seed(7))

    x = randn(2, 3, 32, 32, dtype=torch.float32)
    every = sorted(NORMS)
    place = every.index(name)
    wanted = made(default(name))
    expected = {key: value.clone() for key, value in wanted.state_dict().items()}
    y = wanted(x)
    for start in (every * 2)[place : place + 5]:  # itself and the next four: each in, each out
        swapped = swap_norm(made(default(start)), default(name))
        assert str(swapped) == str(wanted)
        state = swapped.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in state)
        assert torch.equal(swapped(x), y)


def vgg11_features() -> nn.Module:
    """VGG's convolutional part; its linear layers are 120 million numbers without a norm."""
    with torch.device("meta"):
        features = vgg11_bn(init_weights=False).features
    features.to_empty(device="cpu")
    for module in features.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    return nn.Sequential(features, nn.Flatten())


TORCHVISION: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: resnet18(weights=None, num_classes=10), 20),
    "vgg11_bn": (vgg11_features, 8),
    "mobilenet_v2": (lambda: mobilenet_v2(weights=None, num_classes=10, dropout=0.0), 52),
}


@cache
def made_once(network: str) -> nn.Module:
    make, _ = TORCHVISION[network]
    return make()


@EVERY_NORM
@pytest.mark.parametrize("network", TORCHVISION)
def test_a_torchvision_network_is_given_every_norm_or_told_what_it_lacks(
    network: str, name: str
) -> None:
    (_, count), config = TORCHVISION[network], default(name)
    pristine = made_once(network)
    model = copy.deepcopy(pristine)
    before = list(model.modules())
    if config.needs:
        with pytest.raises(UsageError, match=f"norm={name} needs {config.needs}"):
            swap_norm(model, config)
        assert all(a is b for a, b in zip(model.modules(), before, strict=True))
        return
    kept = {key: value for key, value in pristine.state_dict().items() if value.dim() == 4}
    assert swap_norm(model, config) is model
    layers = [module for module in model.modules() if isinstance(module, Norm)]
    assert len(layers) == count
    assert not any(layer.act for layer in layers)  # torchvision's ReLUs stay where they are
    assert all(torch.equal(model.state_dict()[key], value) for key, value in kept.items())
    side = 32 if network == "vgg11_bn" else 64
    model(randn(2, 3, side, side, dtype=torch.float32)).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@EVERY_NORM
def test_the_replacement_has_the_network_s_dtype_and_mode(name: str) -> None:
    olds: list[nn.Module] = [nn.BatchNorm2d(8), nn.InstanceNorm2d(8), nn.GroupNorm(2, 8)]
    if default(name).needs:
        olds = [default("none").build(8)]
    for old in olds:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), old).double().eval()
        swap_norm(model, default(name))
        assert all(
            t.dtype == torch.float64 for t in model.state_dict().values() if t.is_floating_point()
        )
        assert model(randn(2, 3, 8, 8)).dtype == torch.float64
        assert not any(module.training for module in model.modules())


@EVERY_NORM
def test_swapping_a_norm_out_leaves_nothing_of_it(name: str) -> None:
    network = MODELS["resnet"](name="resnet").build(default(name), 10, torch.Generator())
    swap_norm(network, default("none"))
    assert {type(m) for m in network.modules() if isinstance(m, BranchEnd)} == {BranchEnd}
    assert not any(isinstance(module, NormConv) for module in network.modules())


@EVERY_NORM
def test_a_copy_computes_the_same(name: str) -> None:
    layer, x = built(default(name), act=True), laid_out("NCHW")
    assert suits(layer, x.shape)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x), rtol=0, atol=0)


# ---- Settings ----


def bad_settings() -> Iterator[tuple[str, str, Any]]:
    """Norm, setting and value, of all values just outside of what is allowed."""
    for name in sorted(NORMS):
        for each in fields(NORMS[name]):
            if each.metadata:
                bounds, whole = each.metadata["bounds"], "int" in str(each.type)
                for key, bound in bounds.items():
                    outward = -inf if key in ("above", "least") else inf
                    if isfinite(bound):
                        closed = key in ("least", "most")
                        step = -1 if outward < 0 else 1
                        beyond = bound + step if whole else nextafter(bound, outward)
                        yield name, each.name, beyond if closed else bound
                        yield name, each.name, bound + 100 * step
                if not whole:
                    yield from ((name, each.name, value) for value in (nan, inf, -inf))
                if each.metadata["words"]:
                    yield name, each.name, "xyzzy"


@pytest.mark.parametrize(("name", "key", "value"), list(bad_settings()))
def test_a_setting_out_of_range_is_one_line_that_names_key_value_and_range(
    name: str, key: str, value: Any
) -> None:
    with pytest.raises(UsageError) as caught:
        replace(default(name), **{key: value})
    assert str(caught.value).startswith(f"norm.{key}={value}: must be ")
    assert "\n" not in str(caught.value)


@EVERY_NORM
def test_every_number_among_the_settings_has_a_range(name: str) -> None:
    for each in fields(NORMS[name]):
        numeric = any(number in str(each.type) for number in ("int", "float"))
        assert bool(each.metadata) == numeric or isinstance(each.default, bool), each.name
