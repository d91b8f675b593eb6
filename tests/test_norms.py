"""The norms against their definitions, written here once more in plain numpy, and against torch."""

from collections.abc import Callable
from importlib import resources
from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.norms import NORMS, Norm, NormConfig
from normbench.norms.batch import BatchNorm, BatchNormConfig
from normbench.norms.group import (
    GroupNorm,
    GroupNormConfig,
    InstanceNormConfig,
    LayerNormConfig,
)
from normbench.norms.none import NoNormConfig

Array = NDArray[np.float64]

EPS = 1e-5
CHANNELS = 8
GROUPS = 4  # what groups=auto chooses for eight channels
CONFIGS: dict[str, Callable[..., NormConfig]] = {
    "batch": BatchNormConfig,
    "layer": LayerNormConfig,
    "instance": InstanceNormConfig,
    "group": GroupNormConfig,
    "none": NoNormConfig,
}
SHAPES = {
    "NC": (6, CHANNELS),
    "NCL": (4, CHANNELS, 5),
    "NCHW": (3, CHANNELS, 4, 3),
    "NCDHW": (2, CHANNELS, 2, 3, 2),
}
LAYOUTS = {
    **{name: (shape, torch.contiguous_format) for name, shape in SHAPES.items()},
    "NCHW channels_last": (SHAPES["NCHW"], torch.channels_last),
    "NCDHW channels_last": (SHAPES["NCDHW"], torch.channels_last_3d),
}
# Instance norm of N×C has one value a mean, and is refused (below).
NORMS_AND_SHAPES = [(n, s) for n in CONFIGS for s in SHAPES if (n, s) != ("instance", "NC")]
NORMS_AND_LAYOUTS = [(n, k) for n in CONFIGS for k in LAYOUTS if (n, k) != ("instance", "NC")]
INDEPENDENT = [name for name in CONFIGS if name != "batch"]

few_examples = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)
spaces = st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: prod(s) > 1)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def laid_out(layout: str, seed: int = 0) -> Tensor:
    shape, memory_format = LAYOUTS[layout]
    scale = torch.linspace(0.5, 3.0, CHANNELS, dtype=torch.float64)
    broadcast = (1, -1) + (1,) * (len(shape) - 2)
    x = randn(*shape, seed=seed) * scale.view(broadcast) + (scale - 1.0).view(broadcast)
    return x.contiguous(memory_format=memory_format)


def build(name: str, channels: int = CHANNELS, *, act: bool = False, **settings: object) -> Norm:
    norm_batch = settings.pop("norm_batch", None)
    assert norm_batch is None or isinstance(norm_batch, int)
    layer = CONFIGS[name](**settings).build(channels, act=act, norm_batch=norm_batch)
    return layer.double()


def randomize(layer: Norm, seed: int = 1) -> Norm:
    """Gives γ and β values of which some are negative."""
    if layer.weight is not None and layer.bias is not None:
        with torch.no_grad():
            layer.weight.copy_(randn(layer.channels, seed=seed) + 0.5)
            layer.bias.copy_(randn(layer.channels, seed=seed + 1))
    return layer


def sharing(name: str, n: int, c: int, groups: int = GROUPS) -> NDArray[np.int64]:
    """Which mean each example and channel shares, [N, C]: equal numbers, equal mean."""
    example, channel = np.indices((n, c))
    shared: dict[str, NDArray[np.int64]] = {
        "batch": channel,
        "layer": example,
        "instance": example * c + channel,
        "group": example * groups + channel // (c // groups),
    }
    return shared[name]


class Definition:
    """A norm's values and gradients over explicit sets of values, in numpy's float64."""

    def __init__(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, name: str, *, act: bool
    ) -> None:
        values = x.detach().numpy()
        self.x = values.reshape(*values.shape[:2], -1)
        self.shape = values.shape
        n, c, _ = self.x.shape
        ones, zeros = np.ones(c), np.zeros(c)
        self.gamma: Array = ones if weight is None else weight.detach().numpy()
        self.beta: Array = zeros if bias is None else bias.detach().numpy()
        self.normalized = self.x.copy()
        self.scale = np.ones_like(self.x)
        self.sets: list[NDArray[np.bool_]] = []
        if name != "none":
            shared = sharing(name, n, c)
            self.sets = [shared == label for label in np.unique(shared)]
        for members in self.sets:
            mine = self.x[members]
            variance = np.sum((mine - np.sum(mine) / mine.size) ** 2) / mine.size
            self.scale[members] = 1.0 / np.sqrt(variance + EPS)
            self.normalized[members] = (mine - np.sum(mine) / mine.size) * self.scale[members]
        linear = self.gamma[:, None] * self.normalized + self.beta[:, None]
        self.passes = linear > 0 if act else np.ones_like(linear, dtype=np.bool_)
        self.output = np.where(self.passes, linear, 0.0).reshape(self.shape)

    def gradients(self, upstream: Tensor) -> tuple[Array, Array, Array]:
        """With respect to input, γ and β, by the textbook's formulas."""
        above = upstream.numpy().reshape(self.x.shape) * self.passes
        inner = above * self.gamma[:, None]
        down = inner.copy()
        for members in self.sets:
            g, z = inner[members], self.normalized[members]
            down[members] = self.scale[members] * (g - g.mean() - z * (g * z).mean())
        weight = (above * self.normalized).sum((0, 2))
        return down.reshape(self.shape), weight, above.sum((0, 2))


def assert_equal(actual: Tensor | None, expected: Array | Tensor) -> None:
    assert actual is not None
    wanted = expected if isinstance(expected, Tensor) else torch.from_numpy(np.asarray(expected))
    torch.testing.assert_close(actual.detach(), wanted.detach(), rtol=0, atol=1e-10)


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


# How the groups are chosen.

AUTO_GROUPS = {
    **{4: 2, 6: 3, 8: 4, 9: 3, 10: 5, 12: 6, 14: 7, 15: 5, 16: 8, 20: 10, 21: 7, 24: 12, 25: 5},
    **{32: 16, 48: 24, 49: 7, 62: 31, 64: 32, 66: 22, 68: 17, 74: 2, 96: 32, 128: 32, 160: 32},
    **{192: 32, 256: 32, 384: 32, 512: 32, 576: 32, 960: 32, 1280: 32, 2048: 32},
}


def test_auto_takes_the_largest_number_of_groups_that_leaves_two_channels_in_each() -> None:
    assert {c: GroupNormConfig().num_groups(c) for c in AUTO_GROUPS} == AUTO_GROUPS


@settings(max_examples=200, deadline=None)
@given(channels=st.integers(1, 600), max_groups=st.integers(2, 64))
def test_auto_never_becomes_layer_or_instance_norm(channels: int, max_groups: int) -> None:
    proper = [g for g in range(2, channels) if channels % g == 0 and g <= max_groups]
    config = GroupNormConfig(max_groups=max_groups)
    if proper:
        assert config.num_groups(channels) == max(proper)
        assert config.build(channels).axes == "(C/G)·H·W"
    else:
        with pytest.raises(UsageError, match=r"norm\.groups=auto"):
            config.build(channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 13, 31, 127])
def test_auto_is_an_error_where_nothing_but_the_extremes_divides(channels: int) -> None:
    with pytest.raises(UsageError) as caught:
        GroupNormConfig().build(channels)
    message = str(caught.value)
    assert f"{channels} channels" in message
    assert "norm.groups=1 (layer norm)" in message
    assert f"norm.groups={channels} (instance norm)" in message
    assert "\n" not in message


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_groups_by_hand_are_taken_as_they_are(groups: int) -> None:
    layer = GroupNormConfig(groups=groups).build(12)
    assert layer.num_groups == groups
    same = GroupNormConfig(channels_per_group=12 // groups).build(12)
    assert same.num_groups == groups


def test_groups_that_do_not_divide_are_an_error_that_names_those_that_do() -> None:
    with pytest.raises(UsageError, match=r"^norm\.groups=5 does not divide 12 channels;") as caught:
        GroupNormConfig(groups=5).build(12)
    assert str(caught.value).endswith("allowed: 1, 2, 3, 4, 6, 12")
    with pytest.raises(
        UsageError, match=r"^norm\.channels_per_group=8 does not divide 12"
    ) as caught:
        GroupNormConfig(channels_per_group=8).build(12)
    assert str(caught.value).endswith("allowed: 1, 2, 3, 4, 6, 12")
    with pytest.raises(UsageError, match="num_groups=5 does not divide 12"):
        GroupNorm(12, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupNormConfig(groups=0), r"norm\.groups=0: must be at least 1"),
        (lambda: GroupNormConfig(groups=-4), r"norm\.groups=-4: must be at least 1"),
        (lambda: GroupNormConfig(groups="most"), r"norm\.groups=most: must be auto or a whole"),
        (lambda: GroupNormConfig(channels_per_group=0), r"norm\.channels_per_group=0: must be"),
        (lambda: GroupNormConfig(max_groups=0), r"norm\.max_groups=0: must be at least 1"),
        (
            lambda: GroupNormConfig(groups=2, channels_per_group=4),
            r"norm\.groups=2 and norm\.channels_per_group=4: give one of the two",
        ),
        (lambda: BatchNormConfig(momentum=0.0), r"norm\.momentum=0\.0: must be above 0"),
        (lambda: BatchNormConfig(momentum=1.5), r"norm\.momentum=1\.5: must be above 0"),
        (lambda: BatchNormConfig(momentum=float("nan")), r"norm\.momentum=nan: must be"),
        *(
            (lambda c=config, e=eps: c(eps=e), rf"norm\.eps={eps}: must be above 0 and below 1")
            for config in CONFIGS.values()
            for eps in (0.0, -1.0, 1.0, float("nan"))
        ),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_key_value_and_range(
    make: Callable[[], NormConfig], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_eps_is_what_is_added_to_the_variance() -> None:
    x = randn(4, CHANNELS, 3, 3)
    for name in ("batch", "layer", "instance", "group"):
        y = build(name, eps=0.5, affine=False)(x).numpy().reshape(4, CHANNELS, -1)
        shared = sharing(name, 4, CHANNELS)
        first = x.numpy().reshape(4, CHANNELS, -1)[shared == shared[0, 0]]
        expected = (first - first.mean()) / np.sqrt(first.var() + 0.5)
        np.testing.assert_allclose(y[shared == shared[0, 0]], expected, rtol=0, atol=1e-10)


# The article's examples.


class ArticleGroupNorm(nn.Module):
    """Group norm from scratch as the article writes it, with the unbiased variance of `var`."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, num_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, num_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, self.num_groups, c // self.num_groups, h, w)
        mean = x.mean(dim=(2, 3, 4), keepdim=True)
        var = x.var(dim=(2, 3, 4), keepdim=True)
        x = (x - mean) / torch.sqrt(var + self.eps)
        return x.reshape(n, c, h, w) * self.weight + self.bias


@pytest.mark.parametrize(
    ("channels_per_group", "side"),
    [(2, 1), (3, 1), (4, 1), (2, 2), (4, 2), (2, 8), (16, 4), (2, 16), (16, 8), (4, 32)],
)
def test_the_article_s_unbiased_variance_shrinks_the_output_by_the_group_s_size(
    channels_per_group: int, side: int
) -> None:
    m = channels_per_group * side * side
    c = 4 * channels_per_group
    x = randn(2, c, side, side)
    with torch.no_grad():
        ours = GroupNormConfig(groups=4, eps=1e-30).build(c, act=False).double()(x)
        article = ArticleGroupNorm(4, c, eps=1e-30).double()(x)
    expected = sqrt((m - 1) / m)
    torch.testing.assert_close(article, expected * ours, rtol=1e-10, atol=1e-12)
    difference = float((article - ours).norm() / ours.norm())
    assert difference == pytest.approx(1 - expected, rel=1e-6)
    # About 1/(2m): 29 % for pairs of numbers, 0.4 % for the last layers of the default network
    # (m = 2·8·8), 3 in 100,000 for the article's example.
    assert abs(difference * 2 * m - 1) <= 1 / m


def test_the_article_s_group_norm_example_differs_by_three_in_a_hundred_thousand() -> None:
    x = randn(32, 64, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        ours = GroupNormConfig(groups=4).build(64, act=False)(x)
        article = ArticleGroupNorm(4, 64)(x)
    assert ours.shape == (32, 64, 32, 32)
    difference = float((article - ours).norm() / ours.norm())
    assert difference == pytest.approx(1 / (2 * 16 * 32 * 32), rel=0.05)


def test_the_article_s_batch_norm_example_equals_ours() -> None:
    x = randn(32, 64)
    theirs = nn.BatchNorm1d(64).double()
    ours = build("batch", 64)
    assert isinstance(ours, BatchNorm)
    assert_equal(ours(x), theirs(x))
    assert theirs.running_var is not None
    assert_equal(ours.running_var, theirs.running_var)
    assert_equal(ours.eval()(x), theirs.eval()(x))


def test_the_article_s_layer_norm_example_over_the_last_dimension_equals_ours() -> None:
    theirs = nn.LayerNorm(64).double()
    ours = randomize(build("layer", 64))
    theirs.load_state_dict(ours.state_dict())
    x, x2 = randn(32, 64).requires_grad_(), randn(32, 64).requires_grad_()
    upstream = randn(32, 64, seed=5)
    y, y2 = ours(x), theirs(x2)
    y.backward(upstream)
    y2.backward(upstream)
    assert_equal(y, y2)
    assert x2.grad is not None
    assert_equal(x.grad, x2.grad)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert other.grad is not None
        assert_equal(mine.grad, other.grad)
