"""What a network without normalization has instead; as a norm it is tested with every norm."""

from math import pi, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from normbench.errors import UsageError
from normbench.models.preact_resnet import PreActResNetConfig
from normbench.norms import swap_norm
from normbench.norms.norm_free import GAIN, NormFreeConfig, ScaledConv, SkipInit, clip
from normbench.training.loop import norm_parameters
from normbench.training.optim import SGDConfig
from normbench.training.stacking import stack, unstack
from tests.norm_checks import close, randn


def network(config: NormFreeConfig | None = None, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return PreActResNetConfig(width=8).build(config or NormFreeConfig(), 10, generator)


def test_a_convolution_uses_scaled_standardized_weights_with_gain_and_bias() -> None:
    layer = ScaledConv.of(nn.Conv2d(4, 6, 3, groups=2, bias=False).double(), clipping=None)
    with torch.no_grad():
        layer.gain.copy_(randn(6, seed=1))
        layer.shift.copy_(randn(6, seed=2))
    rows = layer.weight.flatten(1)
    mean = rows.mean(1, keepdim=True)
    variance = ((rows - mean) ** 2).mean(1, keepdim=True)
    scaled = layer.gain[:, None] * (rows - mean) / (18 * (variance + 1e-6)).sqrt()
    x = randn(2, 4, 5, 5)
    wanted = F.conv2d(x, scaled.view(6, 2, 3, 3), layer.shift, groups=2)
    close(layer(x), wanted, "the output")
    for parameter in (layer.weight, layer.gain, layer.shift):
        mine, theirs = (
            torch.autograd.grad(y.square().sum(), parameter)[0] for y in (layer(x), wanted)
        )
        close(mine, theirs, "a gradient")
        wanted = F.conv2d(x, layer.transform(layer.weight), layer.shift, groups=2)


def test_a_bias_that_a_convolution_has_stays_its_bias() -> None:
    conv = nn.Conv2d(4, 6, 3)
    layer = ScaledConv.of(conv, clipping=None)
    assert layer.bias is conv.bias
    assert layer.shift.tolist() == [0.0] * 6


def test_the_activation_s_gain_keeps_the_variance_at_one() -> None:
    assert pytest.approx(1.7139588594436646, rel=7e-4) == GAIN  # the authors' estimate
    assert pytest.approx(sqrt(2 / (1 - 1 / pi))) == GAIN
    x = randn(1, 8, 500, 100)
    assert float(NormFreeConfig().build(8)(x).var()) == pytest.approx(1, abs=0.02)
    conv = ScaledConv.of(nn.Conv2d(8, 64, 3).double(), clipping=None)
    assert float(conv(NormFreeConfig().build(8)(x[..., :50, :])).detach().var()) == pytest.approx(
        1, abs=0.1
    )


def test_residual_branches_start_at_zero_and_are_scaled_by_alpha_and_what_is_learned() -> None:
    model = network().double()
    ends = [module for module in model.modules() if isinstance(module, SkipInit)]
    assert len(ends) == 3
    x = randn(2, 8, 4, 4)
    for end in ends:
        assert float(end(x).detach().abs().max()) == 0
        with torch.no_grad():
            end.scale.fill_(3)
        close(end(x), 0.2 * 3 * x, "a branch")


def test_gradients_are_clipped_by_unit_and_short_ones_stay() -> None:
    weight = nn.Parameter(torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[6.0, 8.0]]]))
    gradient = torch.tensor([[[5.0, 0.0]], [[0.0, 7.0]], [[0.03, 0.04]]])
    weight.grad = gradient.clone()
    clip([weight], 0.1, 1)
    # Lengths of weights 5, 0 and 10, so bounds 0.5, 0.1·0.001 and 1.
    wanted = torch.tensor([[[0.5, 0.0]], [[0.0, 1e-4]], [[0.03, 0.04]]])
    torch.testing.assert_close(weight.grad, wanted)
    clip([weight], None, 1)
    torch.testing.assert_close(weight.grad, wanted)


def test_a_gain_is_one_unit_for_each_replica() -> None:
    alone = [
        nn.Parameter(values) for values in (torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]))
    ]
    joint = nn.Parameter(torch.cat([values.detach() for values in alone]))
    for values in alone:
        values.grad = torch.tensor([1.0, 1.0])
        clip([values], 0.01, 1)
    joint.grad = torch.ones(4)
    clip([joint], 0.01, 2)
    gradients = [values.grad for values in alone if values.grad is not None]
    torch.testing.assert_close(joint.grad, torch.cat(gradients))
    assert len(gradients) == 2


def test_training_clips_everything_but_the_last_linear_layer() -> None:
    def gradients(clipping: float | None) -> dict[str, torch.Tensor]:
        model = network(NormFreeConfig(clipping=clipping)).double()
        with torch.no_grad():
            for end in (module for module in model.modules() if isinstance(module, SkipInit)):
                end.scale.fill_(1)
        optimizer = SGDConfig(momentum=0, weight_decay=0).build(model, [])
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        F.cross_entropy(model(randn(4, 3, 8, 8)), torch.arange(4)).backward()
        optimizer.lr = 1.0
        optimizer.step()
        return {name: before[name] - p.detach() for name, p in model.named_parameters()}

    free, clipped = gradients(None), gradients(1e-4)
    for name in free:
        if name.startswith("head"):
            close(clipped[name], free[name], name)
        else:
            assert float(clipped[name].norm()) < 0.5 * float(free[name].norm()), name


def test_weight_decay_can_leave_gains_biases_and_skip_init_alone() -> None:
    model = network()
    own = {id(parameter) for parameter in norm_parameters(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    assert {name.rsplit(".", 1)[1] for name in names} == {"gain", "shift", "scale"}


def test_a_stack_has_each_replica_s_gains() -> None:
    models = [network(seed=seed).double() for seed in range(2)]
    parts = unstack(stack(models, randn(2, 3, 8, 8)))
    for model, part in zip(models, parts, strict=True):
        assert str(model) == str(part)
        for (name, a), (_, b) in zip(
            model.named_parameters(), part.named_parameters(), strict=True
        ):
            assert torch.equal(a, b), name


def test_a_network_that_does_not_tell_its_branches_is_refused() -> None:
    with pytest.raises(UsageError, match="needs the ends of residual branches"):
        swap_norm(resnet18(weights=None), NormFreeConfig())
