"""What weight standardization makes of convolutions; its norms are tested with every norm."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normbench.errors import UsageError
from normbench.models.resnet import ResNetConfig
from normbench.norms import NormConfig, swap_norm
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.norms.parts import Convolution
from normbench.norms.weight_standardization import (
    Standardization,
    StandardizedBatchNormConfig,
    StandardizedConv,
    StandardizedGroupNormConfig,
)
from tests.norm_checks import close, randn

KINDS = pytest.mark.parametrize("kind", list(Standardization))
CONVOLUTIONS: dict[str, tuple[Convolution, tuple[int, ...]]] = {
    "1-D": (nn.Conv1d(4, 6, 3, bias=True), (2, 4, 9)),
    "2-D, grouped": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (2, 4, 9, 9)),
    "2-D, reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 5, 5)),
    "3-D": (nn.Conv3d(4, 6, 2, bias=False), (2, 4, 3, 4, 5)),
}


def standardized(weight: torch.Tensor, kind: Standardization) -> torch.Tensor:
    rows = []
    for w in weight.flatten(1):
        square = ((w - w.mean()) ** 2).sum()
        if kind == Standardization.official:
            rows.append((w - w.mean()) / ((square / (len(w) - 1)).sqrt() + 1e-5))
        else:
            rows.append((w - w.mean()) / (square / len(w) + 1e-6).sqrt())
    return torch.stack(rows).view(weight.shape)


@KINDS
@pytest.mark.parametrize("dimension", CONVOLUTIONS)
def test_a_convolution_standardizes_its_weights_by_the_definition(
    dimension: str, kind: Standardization
) -> None:
    conv, shape = CONVOLUTIONS[dimension]
    conv = conv.double()
    with torch.no_grad():
        conv.weight.add_(0.3)
    layer = StandardizedConv.of(conv, standardization=kind)
    assert layer.weight is conv.weight
    x = randn(*shape)
    plain = standardized(conv.weight, kind)
    wanted = conv._conv_forward(x, plain, conv.bias)
    close(layer(x), wanted, dimension)
    (mine,) = torch.autograd.grad((layer(x) * wanted.detach()).sum(), conv.weight)
    (theirs,) = torch.autograd.grad((wanted * wanted.detach()).sum(), conv.weight)
    close(mine, theirs, "the weights' gradient")


@KINDS
def test_the_gradient_is_that_of_finite_differences(kind: Standardization) -> None:
    layer = StandardizedConv.of(nn.Conv2d(2, 3, 2).double(), standardization=kind)
    weight = randn(3, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(layer.transform, (weight,))


@pytest.mark.parametrize(
    ("config", "norm"),
    [
        (StandardizedGroupNormConfig(), GroupNormConfig()),
        (StandardizedBatchNormConfig(), BatchNormConfig()),
    ],
)
def test_every_convolution_of_a_network_is_standardized_before_the_norm_of_that_name(
    config: NormConfig, norm: NormConfig
) -> None:
    model = ResNetConfig(width=4).build(config, 10, torch.Generator().manual_seed(0))
    wanted = ResNetConfig(width=4).build(norm, 10, torch.Generator().manual_seed(0))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 9
    assert all(isinstance(module, StandardizedConv) for module in convolutions)
    with torch.no_grad():
        for conv in (module for module in wanted.modules() if isinstance(module, nn.Conv2d)):
            conv.weight.copy_(standardized(conv.weight, Standardization.official))
    x = randn(2, 3, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(model(x), wanted(x), rtol=1e-4, atol=1e-4)


def test_scaling_the_weights_changes_nothing_but_what_epsilon_does() -> None:
    conv = nn.Conv2d(8, 8, 3).double()
    layer, x = StandardizedConv.of(conv, standardization=Standardization.timm), randn(1, 8, 4, 4)
    before = layer(x)
    with torch.no_grad():
        conv.weight.mul_(1000).add_(5)
    torch.testing.assert_close(layer(x), before, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(F.conv2d(x, conv.weight), before)


@KINDS
def test_weights_that_are_all_the_same_become_0_with_finite_gradients(
    kind: Standardization,
) -> None:
    conv = nn.Conv2d(2, 3, 2)
    nn.init.constant_(conv.weight, 0.5)
    layer = StandardizedConv.of(conv, standardization=kind)
    made = layer.transform(conv.weight)
    assert float(made.detach().abs().max()) == 0
    made.square().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.isfinite().all()


def test_one_weight_an_output_is_refused() -> None:
    with pytest.raises(UsageError, match="8 outputs has one weight each") as caught:
        swap_norm(
            nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8)), StandardizedBatchNormConfig()
        )
    assert "\n" not in str(caught.value)
