"""A table of networks that are stacked: each is then trained exactly as it would be alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import Bottleneck

from normbench import NORMS, stack, swap_norm, unstack
from normbench.models import MODELS
from tests.training.networks import (
    PLAIN,
    VECTORS,
    Build,
    Exact,
    Gain,
    Row,
    built,
    changed,
    conv,
    example,
    net,
    resnet,
    sequential,
    tied_convolutions,
)
from tests.training.test_differing_networks import DIFFERING
from tests.training.test_mixing_networks import MIXING
from tests.training.test_refused_networks import REFUSED

POOLED = sequential(conv(3, 4, 3), nn.ReLU, lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten)


def own(model: str, norm: str, norm_batch: int | None = None, **settings: Any) -> Build:
    def build() -> nn.Module:
        generator = torch.Generator().manual_seed(torch.initial_seed())
        config = MODELS[model](name=model, **{"width": 4} | settings)
        return config.build(NORMS[norm](name=norm), 5, generator, norm_batch=norm_batch)

    return build


# Torchvision's networks, small.


def mobilenet_v3() -> Any:
    def row(*args: Any) -> InvertedResidualConfig:
        return InvertedResidualConfig(*args, dilation=1, width_mult=1.0)

    rows = [row(8, 3, 8, 8, True, "RE", 2), row(8, 5, 16, 8, True, "HS", 1)]
    return torchvision.models.MobileNetV3(rows, last_channel=16, num_classes=5)


def vgg_bn() -> Any:
    features = torchvision.models.vgg.make_layers([4, "M", 8, "M"], batch_norm=True)
    model = torchvision.models.VGG(features, num_classes=5, init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(nn.Linear(32, 8), nn.ReLU(True), nn.Linear(8, 5))
    return model


def regnet() -> Any:
    params = BlockParams.from_init_params(
        depth=4, w_0=8, w_a=8.0, w_m=2.0, group_width=4, se_ratio=0.25
    )
    return torchvision.models.RegNet(params, num_classes=5, stem_width=8)


# Networks that share, freeze or reuse.


def tied_linear() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def tied_buffers() -> nn.Module:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[2].running_mean = model[0].running_mean
    return model


def used_twice() -> nn.Module:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(layer, nn.ReLU(), layer)


class Twin(nn.Module):
    """One layer registered under two names, and a name with nothing behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.other = nn.Conv2d(3, 3, 1)
        self.nothing = None
        self.register_module("empty", None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.other(self.one(x).tanh())
        return y


class FrozenInTraining(nn.Module):
    """Its norm stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def train(self, mode: bool = True) -> "FrozenInTraining":
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


ELEMENTWISE = {
    "a gate": lambda _, x: x * torch.sigmoid(x),
    "squeeze and excite": lambda _, x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "an input changed in place": lambda _, x: x.mul_(2).relu_(),
    "an exact gradient of its own": lambda _, x: Exact.apply(x),
    "a checkpoint": lambda self, x: checkpoint(self.inner, x, use_reentrant=False),
    "a size of its own": lambda _, x: F.interpolate(x, scale_factor=2.0),
    "a detached branch": lambda _, x: x + x.detach().tanh(),
    "a batch statistic a channel": lambda _, x: x - x.mean((0, 2, 3), keepdim=True),
    "a call to a shift in space": lambda _, x: x.roll(1, 2),
}

STACKED = [
    Row("linear", lambda: nn.Linear(6, 3), shape=VECTORS),
    Row("linear without bias", lambda: nn.Linear(6, 3, bias=False), shape=VECTORS),
    Row(
        "perceptron",
        sequential(lambda: nn.Linear(6, 5), nn.Tanh, lambda: nn.Linear(5, 3)),
        shape=VECTORS,
    ),
    Row(
        "convolution in 1d",
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)),
        shape=(4, 3, 9),
    ),
    Row(
        "convolution in 3d",
        lambda: nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)),
        shape=(2, 3, 4, 4, 4),
    ),
    Row("batch norm", PLAIN),
    Row(
        "batch norm, cumulative",
        sequential(conv(3, 4, 3), lambda: nn.BatchNorm2d(4, momentum=None)),
    ),
    Row(
        "batch norm without running statistics",
        sequential(conv(3, 4, 3), lambda: nn.BatchNorm2d(4, track_running_stats=False)),
    ),
    Row("batch norm frozen in training", FrozenInTraining),
    Row("group norm", sequential(conv(3, 4, 3), lambda: nn.GroupNorm(2, 4), nn.SiLU)),
    Row("instance norm", sequential(conv(3, 4, 3), lambda: nn.InstanceNorm2d(4, affine=True))),
    Row(
        "instance norm with running statistics",
        sequential(conv(3, 4, 3), lambda: nn.InstanceNorm2d(4, track_running_stats=True)),
    ),
    Row("depthwise", sequential(conv(3, 6, 3, groups=3), nn.ReLU6, conv(6, 6, 3, groups=6))),
    Row(
        "strided, dilated, reflected",
        sequential(
            conv(3, 4, 3, stride=2, padding=2, padding_mode="reflect"),
            conv(4, 4, 3, dilation=2, padding=2),
        ),
    ),
    Row(
        "pooling and upsampling",
        sequential(
            conv(3, 4, 3),
            lambda: nn.MaxPool2d(2),
            lambda: nn.Upsample(scale_factor=2),
            lambda: nn.AvgPool2d(2),
        ),
    ),
    Row(
        "a head of a fixed size",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)),
    ),
    Row("a head after a mean", sequential(POOLED, lambda: nn.Linear(4, 5))),
    Row("a layer that names its counts", sequential(conv(3, 4, 3), lambda: Gain(4))),
    Row("five replicas", PLAIN, replicas=5),
    Row("one replica", PLAIN, replicas=1),
    # ResNet-8 with every norm in every setting: check_stack in tests/norm_checks.py.
    Row("convnet", own("convnet", "batch")),
    Row("sub-batch statistics", own("resnet", "batch", norm_batch=2)),
    *(Row(name, net(f, inner=nn.Tanh)) for name, f in ELEMENTWISE.items()),
    Row("tied linear layers", tied_linear, shape=VECTORS),
    Row("tied convolutions", tied_convolutions),
    Row("tied running statistics", tied_buffers),
    Row("a layer used twice", used_twice),
    Row("a layer registered twice under one parent", Twin),
    Row("frozen weights", changed(PLAIN, lambda model: model[0].requires_grad_(False))),
    Row("frozen as a whole", changed(PLAIN, lambda model: model.requires_grad_(False))),
    Row("torchvision resnet", resnet, shape=(2, 3, 32, 32)),
    Row(
        "torchvision resnet with group norm",
        lambda: swap_norm(resnet(), NORMS["group"](name="group")),
        shape=(2, 3, 32, 32),
    ),
    Row(
        "torchvision resnext",
        lambda: resnet(Bottleneck, groups=8, width_per_group=1),
        shape=(2, 3, 32, 32),
    ),
    Row(
        "torchvision mobilenet_v2",
        lambda: torchvision.models.MobileNetV2(5, 0.1, dropout=0.0),
        shape=(2, 3, 32, 32),
    ),
    Row(
        "torchvision mobilenet_v3",
        changed(mobilenet_v3, lambda m: setattr(m.classifier[2], "p", 0.0)),
        shape=(2, 3, 16, 16),
    ),
    Row("torchvision vgg_bn", vgg_bn),
    Row("torchvision regnet", regnet, shape=(2, 3, 32, 32)),
]


def trained(model: nn.Module, steps: list[Tensor], replicas: int) -> dict[str, list[Tensor]]:
    """Outputs and last gradients of some steps of SGD, each replica's in turn."""
    outputs = []
    for x in steps:
        y = model.train()(x)
        outputs.append(y.detach())
        for parameter in model.parameters():
            parameter.grad = None
        if y.requires_grad:
            # Each replica's mean of squares: the sum is what a stack is trained on.
            (y.square().sum() * replicas / y.numel()).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.05)
    outputs.append(model.eval()(steps[0]).detach())
    return {
        "outputs": [part for y in outputs for part in y.chunk(replicas, 1)],
        "gradients": [
            part
            for p in model.parameters()
            if p.grad is not None
            for part in p.grad.chunk(replicas)
        ],
    }


@pytest.mark.parametrize("row", STACKED, ids=lambda row: row.name)
def test_a_network_that_is_stacked_is_trained_as_it_would_be_alone(row: Row) -> None:
    models = built(row)
    stacked = stack(models, example(row)).double()
    solo = [model.double() for model in models]
    k = row.replicas
    steps = [[example(row, 10 * step + i).double() for i in range(k)] for step in range(3)]
    together = trained(stacked, [torch.cat(parts, 1) for parts in steps], k)
    alone = [trained(model, [x[i] for x in steps], 1) for i, model in enumerate(solo)]
    for kind, values in together.items():
        for i in range(k):
            for mine, expected in zip(values[i::k], alone[i][kind], strict=True):
                torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
    for part, model in zip(unstack(stacked), solo, strict=True):
        assert str(part) == str(model)
        ours, theirs = part.state_dict(), model.state_dict()
        assert list(ours) == list(theirs)
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-10, atol=1e-10)
        assert [n for n, _ in part.named_parameters()] == [n for n, _ in model.named_parameters()]


def test_the_tables_have_sixty_networks_and_more() -> None:
    rows = [*STACKED, *MIXING, *REFUSED, *DIFFERING]
    assert len({row.name for row in rows}) == len(rows) >= 60


def test_the_proof_leaves_networks_and_random_numbers_as_they_are() -> None:
    models = built(Row("", sequential(PLAIN, nn.Dropout)))
    before = [tensor.clone() for model in models for tensor in model.state_dict().values()]
    torch.manual_seed(3)
    stack(models)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))
    after = [tensor for model in models for tensor in model.state_dict().values()]
    assert all(map(torch.equal, before, after))
    assert all(model.training for model in models)
