"""A table of networks that are refused, for layers, hooks or outputs that a stack cannot hold."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torchvision.models.convnext import CNBlockConfig

from normbench import stack
from normbench.training.stacking import StackError
from tests.training.networks import (
    IMAGES,
    PLAIN,
    VECTORS,
    Row,
    assert_refused,
    changed,
    conv,
    sequential,
)


def convnext() -> Any:
    return torchvision.models.ConvNeXt(
        [CNBlockConfig(8, 8, 1), CNBlockConfig(8, None, 1)], num_classes=5
    )


def vit() -> Any:
    return torchvision.models.VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=5)


def swin() -> Any:
    return torchvision.models.SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=5)


def frozen_norm(model: nn.Module) -> None:
    layers = list(model.children())
    setattr(layers[1], "train", layers[1].eval)  # noqa: B010


class FrozenNorm(nn.BatchNorm2d):
    """A subclass of a layer that is known, and thereby unknown."""


class TwoInputs(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = self.conv(x + y)
        return z


class Returning(nn.Module):
    """Returns what is asked for."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.wrap = nn.Conv2d(3, 4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.conv(x))


class Weighted(nn.Module):
    """A parameter beside its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) * self.scale
        return y


class Listed(nn.Module):
    """Layers in a plain list, beside their registration."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.layers = [self.conv]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def replaced_forward(model: Any) -> None:
    model.forward = nn.Sequential.forward.__get__(model)


def hook(model: Any, kind: str) -> None:
    getattr(model[0], kind)(lambda *_: None)


def parameter_hook(model: Any, kind: str) -> None:
    getattr(model[0].weight, kind)(lambda *_: None)


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is on its way out
        return torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(IMAGES))


REFUSED = [
    Row(
        "torchvision efficientnet",
        lambda: torchvision.models.efficientnet_b0(num_classes=5),
        "StochasticDepth at features",
        shape=(2, 3, 32, 32),
    ),
    Row("torchvision convnext", convnext, "LayerNorm", shape=(2, 3, 32, 32)),
    Row("torchvision vision transformer", vit, "does not know the layer VisionTransformer"),
    Row("torchvision swin transformer", swin, "does not know the layer", shape=(2, 3, 16, 16)),
    Row("an unknown layer", sequential(conv(3, 4, 3), lambda: nn.PReLU(4)), "PReLU at 1"),
    Row("a recurrent layer", lambda: nn.LSTM(6, 3), "of LSTM", shape=VECTORS),
    Row("a layer norm", sequential(conv(3, 4, 3), lambda: nn.LayerNorm(6)), "LayerNorm at 1"),
    Row(
        "a subclass of a known layer",
        sequential(conv(3, 4, 3), lambda: FrozenNorm(4)),
        "FrozenNorm at 1",
    ),
    Row("a parameter beside the layers", Weighted, "the layer Weighted"),
    Row(
        "layers in a plain list",
        Listed,
        "Listed cannot be stacked: it keeps layers.*attribute layers",
    ),
    Row(
        "a forward pass replaced",
        changed(PLAIN, replaced_forward),
        "Sequential cannot be stacked: .*attribute forward",
    ),
    Row("a method replaced", changed(PLAIN, frozen_norm), "BatchNorm2d at 1.*attribute train"),
    *(
        Row(
            f"with {kind}",
            changed(PLAIN, partial(hook, kind=kind)),
            r"Conv2d at 0 cannot be stacked: it has hooks \(",
        )
        for kind in (
            "register_forward_hook",
            "register_forward_pre_hook",
            "register_full_backward_hook",
            "register_full_backward_pre_hook",
        )
    ),
    *(
        Row(
            f"a tensor with {kind}",
            changed(PLAIN, partial(parameter_hook, kind=kind)),
            r"it has hooks \(weight\.",
        )
        for kind in ("register_hook", "register_post_accumulate_grad_hook")
    ),
    Row(
        "weight norm",
        sequential(lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
        "ParametrizedConv2d at 0.*parametrize",
    ),
    Row(
        "spectral norm",
        sequential(lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))),
        "ParametrizedConv2d at 0.*parametrize",
    ),
    Row(
        "orthogonal weights",
        sequential(lambda: parametrizations.orthogonal(nn.Linear(6, 6))),
        "ParametrizedLinear at 0",
        shape=VECTORS,
    ),
    Row(
        "spectral norm by hooks",
        sequential(lambda: spectral_norm(nn.Conv2d(3, 4, 3))),
        "Conv2d at 0.*hooks",
    ),
    Row("traced", sequential(scripted), "at 0 cannot be stacked: it is compiled by TorchScript"),
    Row("compiled", lambda: torch.compile(nn.Conv2d(3, 4, 3)), "OptimizedModule"),  # type: ignore[arg-type, return-value]
    Row("a tuple returned", lambda: Returning(lambda y: (y, y)), "returns a tuple, not one tensor"),
    Row(
        "a dictionary returned",
        lambda: Returning(lambda y: {"out": y}),
        "returns a dict, not one tensor",
    ),
    Row(
        "a single number returned",
        lambda: Returning(lambda y: y.mean()),
        r"its output for .* is \[\], not",
    ),
    Row(
        "no examples returned",
        lambda: Returning(lambda y: y.mean(0)),
        r"is \[4, 6, 6\], not",
        shape=(3, 3, 8, 8),
    ),
    Row("two inputs", TwoInputs, "does not take one input .*missing 1 required"),
    Row("another input", PLAIN, r"does not take one input of \[4, 6\] \(", shape=VECTORS),
    Row(
        "a weight that is not finite",
        changed(PLAIN, lambda m: nn.init.constant_(m[0].weight, float("nan"))),
        "not finite",
    ),
    Row("a stack", lambda: stack([nn.Linear(6, 3)]), "a stack cannot be stacked", shape=VECTORS),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_network_that_cannot_be_stacked_is_refused_with_a_reason(row: Row) -> None:
    assert_refused(row)


def test_weight_norm_by_hooks_is_refused() -> None:
    with pytest.warns(FutureWarning):
        models = [weight_norm(nn.Linear(6, 3)) for _ in range(2)]
    with pytest.raises(StackError, match="Linear cannot be stacked: it has hooks"):
        stack(models)
