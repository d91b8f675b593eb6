"""What torch's transformations make of each layer, and how exact the layers are far from 0."""

import shutil
import warnings

import pytest
import torch
from torch import Tensor, nn

from normbench.norms import NORMS, Norm
from normbench.norms.batch import BatchNorm
from tests.norm_checks import CHANNELS, SHAPES, built, default, laid_out, randn, suits

EVERY = pytest.mark.parametrize("name", NORMS)
DIMENSIONS = ("NC", "NCL", "NCHW", "NCDHW")


def layer(name: str, training: bool = False, act: bool = True) -> Norm:
    norm = built(default(name), act=act)
    norm.train(training)
    return norm


def plain(name: str) -> Norm:
    """The layer as it starts."""
    return default(name).build(CHANNELS, act=False).double()


@EVERY
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_an_empty_batch_stays_empty_and_spoils_nothing(
    name: str, training: bool, dimensions: str
) -> None:
    norm, shape = layer(name, training), SHAPES[dimensions]
    if not suits(norm, shape):
        pytest.skip("a mean would run over a single value")
    x = torch.zeros(0, *shape[1:], dtype=torch.float64, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert all(bool(tensor.isfinite().all()) for tensor in norm.state_dict().values())


@EVERY
@pytest.mark.parametrize("layout", ["NC", "NCHW", "NCHW channels_last"])
def test_an_exported_layer_computes_the_same(name: str, layout: str) -> None:
    norm, x = layer(name), laid_out(layout)
    if not suits(norm, tuple(x.shape)):
        pytest.skip("a mean would run over a single value")
    exported = torch.export.export(norm, (x,)).module()
    torch.testing.assert_close(exported(x), norm(x))


@EVERY
def test_a_traced_layer_computes_the_same(name: str) -> None:
    norm, x = layer(name), laid_out("NCHW")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out, and shapes become constant
        traced = torch.jit.trace(norm, x)
    torch.testing.assert_close(traced(x), norm(x))


@EVERY
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own: it is deprecated
def test_torch_jit_script_takes_no_norm(name: str) -> None:
    with pytest.raises((RuntimeError, torch.jit.frontend.FrontendError)):
        torch.jit.script(layer(name))


@EVERY
def test_vmap_is_a_loop_over_batches(name: str) -> None:
    norm = layer(name)
    batches = torch.stack([laid_out("NCHW", seed) for seed in range(3)])
    expected = torch.stack([norm(x) for x in batches])
    torch.testing.assert_close(torch.vmap(norm)(batches), expected)


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_torch_func_gives_the_gradient_that_backward_gives(name: str, training: bool) -> None:
    norm = layer(name, training)
    x = laid_out("NCHW").requires_grad_()

    def loss(z: Tensor) -> Tensor:
        total: Tensor = norm(z).square().sum()
        return total

    averages = any(part.startswith("running") for part, _ in norm.named_buffers())
    refused = training and averages and type(norm) is not BatchNorm
    if refused:
        with pytest.raises(RuntimeError, match="transform"):
            torch.func.grad(loss)(x.detach())
        return
    found = torch.func.grad(loss)(x.detach())
    loss(x).backward()
    assert x.grad is not None
    torch.testing.assert_close(found, x.grad)


def test_vmap_over_running_statistics_that_move_is_torch_s_own_error() -> None:
    batches = torch.stack([laid_out("NCHW", seed) for seed in range(3)])
    with pytest.raises(RuntimeError, match="running_mean"):
        torch.vmap(layer("batch", training=True))(batches)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler here")
@pytest.mark.parametrize("name", ["group", "instance"])
def test_a_compiled_layer_computes_the_same(name: str) -> None:
    norm, x = layer(name), laid_out("NCHW channels_last")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(norm, fullgraph=True)
        torch.testing.assert_close(compiled(x), norm(x))


# Far from 0.


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0, 1000.0])
def test_instance_norm_in_float32_is_as_exact_as_torch_s(
    offset: float, memory_format: torch.memory_format
) -> None:
    exact = randn(4, CHANNELS, 16, 16) + offset
    x = exact.float().contiguous(memory_format=memory_format)
    expected = plain("instance")(x.double())
    theirs = (nn.InstanceNorm2d(CHANNELS)(x) - expected).abs().max()
    y = plain("instance").float()(x)
    assert y.is_contiguous(memory_format=memory_format)
    assert (y - expected).abs().max() <= 4 * theirs


@pytest.mark.parametrize(("offset", "limit"), [(0.0, 2e-6), (10.0, 1e-3), (100.0, 1e-1)])
def test_group_norm_in_float32_is_as_exact_as_its_docstring_says(
    offset: float, limit: float
) -> None:
    x = (randn(4, CHANNELS, 16, 16) + offset).float().contiguous(memory_format=torch.channels_last)
    error = (plain("group").float()(x) - plain("group")(x.double())).abs().max()
    assert error < limit
