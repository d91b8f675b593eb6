"""A table of networks: each is stacked and then trained exactly, or is refused with a reason."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.googlenet import Inception
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock, Bottleneck

from normbench import NORMS, stack, swap_norm, unstack
from normbench.models import MODELS
from normbench.norms.parts import Part
from normbench.training.stacking import StackError

IMAGES = (4, 3, 8, 8)
VECTORS = (4, 6)

Build = Callable[[], nn.Module]


class Net(nn.Module):
    """Convolution, ``between`` on its output, convolution, mean: what a forward pass can do."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3)
        self.between = between
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.between(self, self.first(x)))
        return y.mean((2, 3))


def net(between: Callable[[Any, Tensor], Tensor], **layers: Build) -> Build:
    return lambda: Net(between, **{name: build() for name, build in layers.items()})


def sequential(*layers: Build) -> Build:
    return lambda: nn.Sequential(*(build() for build in layers))


def conv(*args: Any, **settings: Any) -> Build:
    return lambda: nn.Conv2d(*args, **settings)


def own(model: str, norm: str, norm_batch: int | None = None, **settings: Any) -> Build:
    def build() -> nn.Module:
        generator = torch.Generator().manual_seed(torch.initial_seed())
        config = MODELS[model](name=model, **{"width": 4} | settings)
        return config.build(NORMS[norm](name=norm), 5, generator, norm_batch=norm_batch)

    return build


def changed(build: Build, change: Callable[[Any], object]) -> Build:
    def changed_build() -> nn.Module:
        model = build()
        change(model)
        return model

    return changed_build


PLAIN = sequential(conv(3, 4, 3), lambda: nn.BatchNorm2d(4), nn.ReLU, conv(4, 5, 3))
POOLED = sequential(conv(3, 4, 3), nn.ReLU, lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten)


# Torchvision's networks, small.


def resnet(block: Any = BasicBlock, **settings: Any) -> Any:
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=5, **settings)


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


def convnext() -> Any:
    return torchvision.models.ConvNeXt(
        [CNBlockConfig(8, 8, 1), CNBlockConfig(8, None, 1)], num_classes=5
    )


def densenet() -> Any:
    return torchvision.models.DenseNet(4, (2, 2), 8, num_classes=5)


def vit() -> Any:
    return torchvision.models.VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=5)


def swin() -> Any:
    return torchvision.models.SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=5)


def inception() -> Any:
    return Inception(3, 4, 4, 4, 4, 4, 4)


# Networks that share, freeze or reuse.


def tied_linear() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def tied_convolutions() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 3))
    model[2].weight = model[0].weight
    return model


def tied_buffers() -> nn.Module:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[2].running_mean = model[0].running_mean
    return model


def used_twice() -> nn.Module:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(layer, nn.ReLU(), layer)


def frozen_norm(model: nn.Module) -> None:
    layers = list(model.children())
    setattr(layers[1], "train", layers[1].eval)  # noqa: B010


class FrozenNorm(nn.BatchNorm2d):
    """A subclass of a layer that is known, and thereby unknown."""


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


# What forward passes do to channels. Functions of their own, so that all networks have the same.


class Exact(torch.autograd.Function):
    """The identity with a gradient of its own that treats each value by itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 0.5 * grad


class Flipped(Exact):
    """The identity whose gradient mixes channels."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.flip(1)


class Clipped(Exact):
    """The identity with a gradient that is clipped by its norm over everything."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        shrunk: Tensor = grad * (10.0 / grad.norm().clamp_min(10.0))
        return shrunk


def hooked_in_forward(_: Net, x: Tensor) -> Tensor:
    x.register_hook(lambda grad: grad / grad.norm())
    return x


def mixed_when(condition: Callable[[Any, Tensor], object]) -> Build:
    return net(
        lambda self, x: x.flip(1) if condition(self, x) else x, norm=lambda: nn.BatchNorm2d(4)
    )


def counted(self: Any, x: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    return x.flip(1) if self.calls > 1000 else x


class Listing(nn.Module):
    """Keeps a list of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.sizes = nn.Conv2d(3, 4, 3), [0]

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        y: Tensor = self.conv(x)
        return y


def in_batches_tracked(self: Any, x: Tensor) -> Tensor:
    y: Tensor = self.norm(x)
    return y.flip(1) if self.norm.num_batches_tracked > 2 else y


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


class Gain(Part):
    """A layer that says itself how it stacks: a gain a channel, and one a network."""

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight, self.gain = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        gains = self.gain.repeat_interleave(self.channels // len(self.gain))
        return x * (self.weight * gains).view(1, -1, 1, 1)


class MiscountedGain(Gain):
    """The same without its count, which its forward pass needs."""

    stacked_counts: ClassVar[tuple[str, ...]] = ()


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


@dataclass(frozen=True)
class Row:
    """A network, what input it takes, and what becomes of a stack of it."""

    name: str
    build: Build
    refused: str = ""
    shape: Sequence[int] = IMAGES
    replicas: int = 2
    then: Callable[[list[Any]], object] = field(default=lambda models: None)


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

MIXED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "channels flipped": (lambda _, x: x.flip(1), "Conv2d at last"),
    "channels concatenated": (lambda _, x: torch.cat([x, x], 1)[:, ::2], "Conv2d at last"),
    "channels halved": (lambda _, x: torch.cat(x.chunk(2, 1)[::-1], 1), "Conv2d at last"),
    "channels shuffled": (lambda _, x: F.channel_shuffle(x, 2), "Conv2d at last"),
    "a softmax over channels": (lambda _, x: x.softmax(1), "Conv2d at last"),
    "a mean over everything": (lambda _, x: x - x.mean(), "Conv2d at last"),
    "a norm over everything": (lambda _, x: x / x.norm(), "Conv2d at last"),
    "a norm in groups": (lambda _, x: F.group_norm(x, 2), "Conv2d at last"),
    "channels counted": (lambda _, x: x * x.view(len(x), 4, -1).mean(2)[..., None, None], "Net"),
    "a gradient that mixes": (lambda _, x: Flipped.apply(x), "gradient of"),
    "a gradient clipped when large": (lambda _, x: Clipped.apply(x), "gradient of"),
    "a hook in the forward pass": (hooked_in_forward, "gradient of"),
    "random numbers": (lambda _, x: x * torch.rand(()), "random numbers outside of dropout"),
    "functional dropout": (lambda _, x: F.dropout(x), "random numbers outside of dropout"),
    "a count": (counted, "a forward pass changes calls of Net"),
}


def same_weight_in_first(models: list[Any]) -> None:
    models[0][2].weight = models[0][0].weight


def view_of_another(models: list[Any]) -> None:
    models[0][0].weight = nn.Parameter(models[0][0].weight.data)
    models[1][0].weight = nn.Parameter(models[0][0].weight.data)


def set_first(path: str, value: Any) -> Callable[[list[Any]], None]:
    """Changes one attribute in the first network only."""

    def change(models: list[Any]) -> None:
        owner, _, name = path.rpartition(".")
        setattr(models[0].get_submodule(owner), name, value)

    return change


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

REFUSED = [
    *(Row(name, net(f), reason) for name, (f, reason) in MIXED.items()),
    Row(
        "mixed in evaluation only", mixed_when(lambda self, x: not self.training), "evaluation mode"
    ),
    Row("mixed in training only", mixed_when(lambda self, x: self.training), "training mode"),
    Row("mixed when large", mixed_when(lambda self, x: x.abs().max() > 30), "Conv2d at last"),
    Row("mixed at another size", mixed_when(lambda self, x: x.shape[2] != 8), "Conv2d at last"),
    Row(
        "mixed after some steps",
        net(in_batches_tracked, norm=lambda: nn.BatchNorm2d(4)),
        "Conv2d at last",
    ),
    Row(
        "mixed with many channels",
        mixed_when(lambda self, x: x.shape[1] > 8),
        "Conv2d at last",
        replicas=3,
    ),
    Row(
        "a layer that names too few counts",
        sequential(conv(3, 4, 3), lambda: MiscountedGain(4)),
        "MiscountedGain at 1",
    ),
    Row("a list that grows", Listing, "a forward pass changes sizes of Listing"),
    Row(
        "torchvision densenet",
        densenet,
        r"differs is BatchNorm2d at features\.",
        shape=(2, 3, 32, 32),
    ),
    Row(
        "torchvision shufflenet",
        lambda: torchvision.models.ShuffleNetV2([2, 1, 1], [8, 8, 16, 16, 16], 5),
        r"Conv2d at stage2\.1",
        shape=(2, 3, 32, 32),
    ),
    Row(
        "torchvision squeezenet",
        lambda: torchvision.models.squeezenet1_1(num_classes=5),
        r"Fire at features\.3",
        shape=(2, 3, 32, 32),
    ),
    Row("torchvision googlenet's block", inception, "Inception"),
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
    Row(
        "weights untied in one network",
        tied_convolutions,
        "weight of Conv2d at 2 is used in several places",
        then=lambda m: setattr(m[1][2], "weight", nn.Parameter(torch.ones(3, 3, 3, 3))),
    ),
    Row(
        "weights tied in one network only",
        sequential(conv(3, 3, 1), nn.ReLU, conv(3, 3, 1)),
        "weight of Conv2d at 2 is used in several places in some",
        then=same_weight_in_first,
    ),
    Row(
        "a module shared in one network only",
        sequential(conv(3, 3, 1), nn.ReLU, conv(3, 3, 1)),
        "Conv2d at 2 is used in several places in some",
        then=lambda m: m[0].__setitem__(2, m[0][0]),
    ),
    Row(
        "weights shared among the networks",
        PLAIN,
        "0.weight of network 0 and 0.weight of network 1 share memory",
        then=lambda m: setattr(m[1][0], "weight", m[0][0].weight),
    ),
    Row("a network twice", PLAIN, "share memory", then=lambda m: m.__setitem__(1, m[0])),
    Row("memory shared among the networks", PLAIN, "share memory", then=view_of_another),
    Row("a stack", lambda: stack([nn.Linear(6, 3)]), "a stack cannot be stacked", shape=VECTORS),
    Row(
        "another requires_grad",
        PLAIN,
        "requires_grad of weight of Conv2d at 0 is False in network 0",
        then=lambda m: m[0][0].weight.requires_grad_(False),
    ),
    Row(
        "another mode of one layer",
        PLAIN,
        "training of BatchNorm2d at 1 is False in network 0",
        then=lambda m: m[0][1].eval(),
    ),
    Row(
        "another dtype",
        PLAIN,
        "dtype of weight of Conv2d at 0 is torch.float64",
        then=lambda m: m[0].double(),
    ),
    Row(
        "another count of batches",
        PLAIN,
        "num_batches_tracked of BatchNorm2d at 1 is 1 in network 0",
        then=lambda m: m[0][1](torch.ones(2, 4, 2, 2)),
    ),
    Row(
        "another stride",
        PLAIN,
        r"stride of Conv2d at 0 is \(2, 2\)",
        then=set_first("0.stride", (2, 2)),
    ),
    Row("another epsilon", PLAIN, "eps of BatchNorm2d at 1 is 0.1", then=set_first("1.eps", 0.1)),
    Row(
        "another size",
        PLAIN,
        "kernel_size of Conv2d at 0",
        then=lambda m: m[0].__setitem__(0, nn.Conv2d(3, 4, 1)),
    ),
    Row(
        "another layer",
        PLAIN,
        "class of ReLU at 2 is ReLU in network 0 and Tanh",
        then=lambda m: m[1].__setitem__(2, nn.Tanh()),
    ),
    Row(
        "another number of layers",
        PLAIN,
        "layers below it of Sequential",
        then=lambda m: m[0].append(nn.ReLU()),
    ),
    Row(
        "another function",
        net(lambda _, x: x),
        "between of Net",
        then=set_first("between", torch.tanh),
    ),
]


def built(row: Row) -> list[nn.Module]:
    models = []
    for seed in range(row.replicas):
        torch.manual_seed(seed)
        models.append(row.build())
    row.then(models)
    return models


def example(row: Row, seed: int = 9) -> Tensor:
    return torch.randn(*row.shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_network_that_cannot_be_stacked_is_refused_with_a_reason(row: Row) -> None:
    models = built(row)
    with pytest.raises(StackError, match=row.refused) as caught:
        stack(models, example(row))
    assert row.refused
    assert "\n" not in str(caught.value)


def test_weight_norm_by_hooks_is_refused() -> None:
    with pytest.warns(FutureWarning):
        models = [weight_norm(nn.Linear(6, 3)) for _ in range(2)]
    with pytest.raises(StackError, match="Linear cannot be stacked: it has hooks"):
        stack(models)


def test_the_table_has_sixty_networks_and_more() -> None:
    assert len({row.name for row in (*STACKED, *REFUSED)}) == len(STACKED) + len(REFUSED) >= 60


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
