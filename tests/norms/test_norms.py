"""The norms against their definitions, written once more in plain numpy, and against torch."""

from collections.abc import Callable
from importlib import resources
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normbench.norms import NORMS
from normbench.norms.group import GroupNorm, GroupNormConfig
from tests.norm_helpers import (
    CHANNELS,
    CONFIGS,
    EPS,
    GROUPS,
    INDEPENDENT,
    LAYOUTS,
    SHAPES,
    Definition,
    assert_equal,
    build,
    laid_out,
    randn,
    randomize,
    sharing,
)

# Instance norm of N×C has one value a mean, and is refused (test_norms_batch.py).
NORMS_AND_SHAPES = [(n, s) for n in CONFIGS for s in SHAPES if (n, s) != ("instance", "NC")]
NORMS_AND_LAYOUTS = [(n, k) for n in CONFIGS for k in LAYOUTS if (n, k) != ("instance", "NC")]

few_examples = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)
spaces = st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: prod(s) > 1)


def torch_module(name: str, shape: tuple[int, ...], *, affine: bool) -> nn.Module:
    c, dimension = shape[1], max(1, len(shape) - 2)
    batch = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimension]
    instance = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimension]
    modules: dict[str, Callable[[], nn.Module]] = {
        "batch": lambda: batch(c, eps=EPS, affine=affine),
        "instance": lambda: instance(c, eps=EPS, affine=affine),
        "group": lambda: nn.GroupNorm(GROUPS, c, eps=EPS, affine=affine),
        "layer": lambda: nn.LayerNorm(shape[1:], eps=EPS, elementwise_affine=False),
        "none": nn.Identity,
    }
    return modules[name]().double()


def test_the_registry_holds_the_five_norms_of_the_comparison() -> None:
    assert set(CONFIGS) <= set(NORMS)
    for name, config in CONFIGS.items():
        assert config().name == name
        assert NORMS[name] is config


def test_every_norm_has_a_configuration_file_and_every_file_a_norm() -> None:
    files = Path(str(resources.files("normbench.configs"))).joinpath("norm").glob("*.yaml")
    assert {file.stem for file in files} == set(NORMS)


@pytest.mark.parametrize("name", sorted(NORMS))
def test_every_norm_explains_itself(name: str) -> None:
    config = NORMS[name]
    for text in (config.title, config.axes, config.formula, config.paper):
        assert text
        assert text == text.strip()


@pytest.mark.parametrize("name", sorted(NORMS))
def test_every_registered_norm_equals_its_reference_in_values_and_gradients(name: str) -> None:
    # The five of the comparison are held against numpy below; this one finds a new norm too.
    config = NORMS[name](name=name)
    layer = randomize(config.build(CHANNELS, act=False).double())
    assert layer.weight is not None
    assert layer.bias is not None
    weight = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    x, x2 = laid_out("NCHW").requires_grad_(), laid_out("NCHW").requires_grad_()
    upstream = randn(*x.shape, seed=5)
    y, y2 = layer(x), config.reference(x2, weight, bias)
    y.backward(upstream)
    y2.backward(upstream)

    assert_equal(y, y2)
    for mine, wanted in ((x, x2), (layer.weight, weight), (layer.bias, bias)):
        assert wanted.grad is not None
        assert_equal(mine.grad, wanted.grad)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("act", [True, False], ids=["act", "linear"])
@pytest.mark.parametrize(("name", "layout"), NORMS_AND_LAYOUTS)
def test_values_and_gradients_equal_the_definition(
    name: str, layout: str, act: bool, affine: bool
) -> None:
    layer = randomize(build(name, act=act, affine=affine))
    x = laid_out(layout).requires_grad_()
    upstream = randn(*x.shape, seed=5)
    y = layer(x)
    y.backward(upstream)

    definition = Definition(x, layer.weight, layer.bias, name, act=act)
    dx, dweight, dbias = definition.gradients(upstream)
    assert_equal(y, definition.output)
    assert_equal(x.grad, dx)
    if affine:
        assert layer.weight is not None
        assert layer.bias is not None
        assert_equal(layer.weight.grad, dweight)
        assert_equal(layer.bias.grad, dbias)
    else:
        assert layer.weight is None
        assert layer.bias is None


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize(("name", "layout"), NORMS_AND_LAYOUTS)
def test_the_reference_equals_the_definition_in_values_and_gradients(
    name: str, layout: str, affine: bool
) -> None:
    weight = randn(CHANNELS, seed=1).requires_grad_() if affine else None
    bias = randn(CHANNELS, seed=2).requires_grad_() if affine else None
    x = laid_out(layout).requires_grad_()
    upstream = randn(*x.shape, seed=5)
    y = CONFIGS[name](affine=affine).reference(x, weight, bias)
    y.backward(upstream)

    definition = Definition(x, weight, bias, name, act=False)
    dx, dweight, dbias = definition.gradients(upstream)
    assert_equal(y, definition.output)
    assert_equal(x.grad, dx)
    if weight is not None and bias is not None:
        assert_equal(weight.grad, dweight)
        assert_equal(bias.grad, dbias)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("act", [True, False], ids=["act", "linear"])
@pytest.mark.parametrize(("name", "layout"), NORMS_AND_LAYOUTS)
def test_values_and_gradients_equal_those_of_torch_s_own_module(
    name: str, layout: str, act: bool, affine: bool
) -> None:
    layer = randomize(build(name, act=act, affine=affine))
    x = laid_out(layout).requires_grad_()
    upstream = randn(*x.shape, seed=5)
    y = layer(x)
    y.backward(upstream)

    theirs = torch_module(name, tuple(x.shape), affine=affine)
    x2 = laid_out(layout).requires_grad_()
    weight, bias = getattr(theirs, "weight", None), getattr(theirs, "bias", None)
    if affine and weight is not None and bias is not None:
        theirs.load_state_dict(layer.state_dict(), strict=False)
        y2 = theirs(x2)
    elif affine:  # torch's LayerNorm has a γ for each pixel, Identity none: they are added here
        assert layer.weight is not None
        assert layer.bias is not None
        weight = layer.weight.detach().clone().requires_grad_()
        bias = layer.bias.detach().clone().requires_grad_()
        shape = (1, -1) + (1,) * (x.dim() - 2)
        y2 = theirs(x2) * weight.view(shape) + bias.view(shape)
    else:
        y2 = theirs(x2)
    if act:
        y2 = F.relu(y2)
    y2.backward(upstream)

    assert_equal(y, y2)
    assert x2.grad is not None
    assert_equal(x.grad, x2.grad)
    if affine:
        assert layer.weight is not None
        assert layer.bias is not None
        assert weight is not None
        assert bias is not None
        assert_equal(layer.weight.grad, weight.grad)
        assert_equal(layer.bias.grad, bias.grad)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize(("name", "dimension"), NORMS_AND_SHAPES)
def test_gradients_pass_gradcheck(name: str, dimension: str, affine: bool) -> None:
    layer = randomize(build(name, 4, groups=2) if name == "group" else build(name, 4))
    if not affine:
        layer.weight = layer.bias = None
    x = randn(3, 4, *SHAPES[dimension][2:], seed=3).requires_grad_()
    names, tensors = zip(*layer.named_parameters(), strict=True) if affine else ((), ())

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        y: Tensor = torch.func.functional_call(layer, given, (x,))
        return y

    assert torch.autograd.gradcheck(function, (x, *tensors), fast_mode=dimension == "NCDHW")


@pytest.mark.parametrize("norm_batch", [2, 3])
def test_ghost_batch_norm_passes_gradcheck(norm_batch: int) -> None:
    layer = randomize(build("batch", 2, norm_batch=norm_batch))
    x = randn(6, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "dimension"), NORMS_AND_SHAPES)
def test_the_input_is_left_as_it_was_although_the_activation_works_in_place(
    name: str, dimension: str, training: bool, affine: bool
) -> None:
    layer = build(name, act=True, affine=affine).train(training)
    x = randn(*SHAPES[dimension])
    before = x.clone()
    y = layer(x)
    assert torch.equal(x, before)
    assert y.shape == x.shape
    assert y.min() == 0  # the activation did something


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gamma_starts_at_one_and_beta_at_zero(name: str, affine: bool) -> None:
    parameters = dict(build(name, affine=affine).named_parameters())
    if affine:
        assert set(parameters) == {"weight", "bias"}
        assert torch.equal(parameters["weight"], torch.ones(CHANNELS, dtype=torch.float64))
        assert torch.equal(parameters["bias"], torch.zeros(CHANNELS, dtype=torch.float64))
    else:
        assert parameters == {}


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("name", CONFIGS)
def test_an_input_with_other_channels_is_refused(name: str, affine: bool) -> None:
    layer = build(name, affine=affine)
    with pytest.raises(ValueError, match="16"):
        layer(randn(4, 16, 4, 4))


@pytest.mark.parametrize(("name", "dimension"), NORMS_AND_SHAPES)
def test_an_example_s_output_does_not_depend_on_its_batch_mates_except_in_batch_norm(
    name: str, dimension: str
) -> None:
    layer = randomize(build(name))
    x = randn(*SHAPES[dimension])
    other = 10 * randn(*SHAPES[dimension], seed=9) + 3
    other[0] = x[0]
    same = torch.allclose(layer(x)[0], layer(other)[0], rtol=0, atol=1e-12)
    assert same == (name != "batch")
    assert layer.batch_dependent == CONFIGS[name]().batch_dependent == (name == "batch")


@few_examples
@given(name=st.sampled_from(INDEPENDENT), n=st.integers(2, 5), space=spaces, seed=seeds)
def test_a_batch_independent_norm_gives_each_example_what_it_gets_alone(
    name: str, n: int, space: list[int], seed: int
) -> None:
    layer = randomize(build(name, act=True), seed % 1000)
    x = randn(n, CHANNELS, *space, seed=seed)
    alone = torch.cat([layer(example[None]) for example in x])
    torch.testing.assert_close(layer(x), alone, rtol=0, atol=1e-12)


@few_examples
@given(name=st.sampled_from(list(CONFIGS)), n=st.integers(2, 6), space=spaces, seed=seeds)
def test_permuting_the_batch_permutes_the_output(
    name: str, n: int, space: list[int], seed: int
) -> None:
    layer = randomize(build(name))
    x = randn(n, CHANNELS, *space, seed=seed)
    permutation = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(layer(x[permutation]), layer(x)[permutation], rtol=0, atol=1e-10)


@few_examples
@given(
    group_size=st.integers(2, 5),
    groups=st.integers(1, 4),
    n=st.integers(2, 4),
    space=st.lists(st.integers(1, 4), max_size=3),
    seed=seeds,
)
def test_group_norm_has_layer_and_instance_norm_as_its_extremes(
    group_size: int, groups: int, n: int, space: list[int], seed: int
) -> None:
    c = groups * group_size
    x = randn(n, c, *space, seed=seed)
    one = GroupNormConfig(groups=1).build(c, act=False).double()
    assert_equal(one(x), F.layer_norm(x, x.shape[1:]))
    assert_equal(one(x), build("layer", c)(x))
    if prod(space) > 1:
        all_groups = GroupNormConfig(groups=c).build(c, act=False).double()
        assert_equal(all_groups(x), F.instance_norm(x))
        assert_equal(all_groups(x), build("instance", c)(x))


@few_examples
@given(
    name=st.sampled_from(["batch", "layer", "instance", "group"]),
    n=st.integers(2, 5),
    space=spaces,
    seed=seeds,
    spread=st.floats(0.01, 100.0),
    offset=st.floats(-100.0, 100.0),
)
def test_what_shares_a_mean_comes_out_with_mean_zero_and_variance_one(
    name: str, n: int, space: list[int], seed: int, spread: float, offset: float
) -> None:
    x = randn(n, CHANNELS, *space, seed=seed) * spread + offset
    y = build(name, affine=False)(x).reshape(n, CHANNELS, -1).numpy()
    shared = sharing(name, n, CHANNELS)
    for label in np.unique(shared):
        before = x.reshape(n, CHANNELS, -1).numpy()[shared == label]
        after = y[shared == label]
        # ε keeps the variance a little below one: σ²/(σ²+ε).
        assert after.mean() == pytest.approx(0.0, abs=1e-9)
        assert after.var() == pytest.approx(before.var() / (before.var() + EPS), abs=1e-9)


@pytest.mark.parametrize("dimension", SHAPES)
@pytest.mark.parametrize("name", ["batch", "layer", "instance", "group"])
def test_the_number_of_values_a_mean_runs_over_is_that_of_the_definition(
    name: str, dimension: str
) -> None:
    n, c, *space = shape = SHAPES[dimension]
    counts = np.unique(sharing(name, n, c), return_counts=True)[1] * prod(space)
    assert {build(name).values_per_statistic(torch.Size(shape))} == set(counts.tolist())


def test_the_axes_are_named_after_what_group_norm_has_become() -> None:
    assert build("batch").axes == "N·H·W"
    assert build("layer").axes == GroupNorm(8, 1).axes == "C·H·W"
    assert build("instance").axes == GroupNorm(8, 8).axes == "H·W"
    assert build("group").axes == "(C/G)·H·W"
    groups = {name: build(name).num_groups for name in CONFIGS}
    assert groups == {"batch": None, "layer": 1, "instance": 8, "group": 4, "none": None}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["batch", "layer", "instance", "group"])
def test_float32_is_precise_where_the_mean_is_ten_times_the_deviation(
    name: str, memory_format: torch.memory_format
) -> None:
    x = (randn(8, 16, 8, 8) + 10.0).float().contiguous(memory_format=memory_format)
    layer = CONFIGS[name]().build(16, act=False)
    with torch.no_grad():
        fast, exact = layer(x), CONFIGS[name]().reference(x.double(), None, None)
    # Torch's channels-last kernels for group norm on the CPU take the variance as E[x²] - E[x]²,
    # whose error grows with the square of mean over deviation: 5e-5 here, 5e-3 at a hundred times.
    torch.testing.assert_close(fast.double(), exact, rtol=0, atol=3e-4)
