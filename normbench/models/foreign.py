"""The networks of torchvision and timm, with their norms replaced."""

import difflib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normbench.errors import UsageError
from normbench.models.base import MODELS, ModelConfig, Start
from normbench.norms import Norm, NormConfig
from normbench.norms.foreign import foreign_norm, is_unknown_norm
from normbench.norms.none import NoNormConfig
from normbench.norms.parts import Slot


class Stem(Enum):
    """What a network does to an image first."""

    original = "original"
    cifar = "cifar"


@dataclass(kw_only=True, slots=True)
class ForeignConfig(ModelConfig):
    """A network that was written elsewhere, with norms of its own that are replaced.

    It is built, norms and all, while torch draws from the seed alone: norms draw nothing, so that
    a seed's weights are the same whatever takes their places.
    """

    foreign: ClassVar[bool] = True

    def draw(self, model: nn.Module, generator: torch.Generator) -> None:
        """Nothing: the weights are those the network was built with."""

    def start(self, norm: NormConfig, classes: int, generator: torch.Generator) -> Start:
        """As :meth:`ModelConfig.start`; raises UsageError, too, if there is no norm to replace."""
        start = ModelConfig.start(self, norm, classes, generator)
        self._check_norms(start.network, norm)
        return start

    def _check_norms(self, model: nn.Module, norm: NormConfig) -> None:
        lazy = next((n for n, p in model.named_parameters() if is_lazy(p)), None)
        if lazy is not None:
            raise UsageError(
                f"{self.said}: {lazy} has no size yet, of a lazy layer; give its channels or"
                " features (nn.Linear instead of nn.LazyLinear)"
            )
        unknown = next(
            (
                (n, m)
                for n, m in model.named_modules()
                if is_unknown_norm(m) and not isinstance(m, Norm)
            ),
            None,
        )
        if unknown is not None:
            raise UsageError(
                f"{self.said}: its layer {unknown[0]} is a {type(unknown[1]).__name__}, which is"
                " not known as a norm over the channels of [N, C, ...]; choose another network"
            )
        if not any(_is_norm(m) for m in model.modules()) and not isinstance(norm, NoNormConfig):
            raise UsageError(
                f"{self.said}: it has no norm, so there is nothing to replace by norm={norm.name};"
                " put nn.BatchNorm2d(channels) where norms shall be, or use norm=none"
            )

    @property
    @abstractmethod
    def said(self) -> str:
        """The settings that choose the network, as they are typed."""


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, Slot | Norm) or foreign_norm(module) is not None


@dataclass(kw_only=True, slots=True)
class LibraryConfig(ForeignConfig):
    """A network from a library, by its name there; never with weights from the network."""

    arch: str
    """The network's name in the library."""

    stem: Stem = Stem.original
    """What a ResNet does first: original, or cifar, a 3×3 convolution of stride 1 instead of one of
    7×7 and stride 2 and its max-pooling, for images of 32×32 pixels."""

    @property
    def title(self) -> str:
        return f"{self.name} {self.arch}" + (", CIFAR stem" if self.stem is Stem.cifar else "")

    @property
    def said(self) -> str:
        return f"model={self.name} model.arch={self.arch}"

    def network(self, classes: int) -> nn.Module:
        names = self.names()
        if self.arch not in names:
            close = ", ".join(difflib.get_close_matches(self.arch, names, n=3, cutoff=0.5))
            hint = f"; did you mean {close}?" if close else f"; for example {names[0]}"
            raise UsageError(f"model.arch={self.arch}: {self.name} has no such network{hint}")
        model = self.create(classes)
        if self.stem is Stem.cifar:
            self._take_cifar_stem(model)
        return model

    def _take_cifar_stem(self, model: nn.Module) -> None:
        conv, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (7, 7) or pool is None:
            raise UsageError(
                f"model.stem=cifar: {self.arch} does not begin with a 7×7 convolution and"
                " max-pooling as ResNets do; use model.stem=original"
            )
        model.conv1 = nn.Conv2d(3, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The networks that the library has."""

    @abstractmethod
    def create(self, classes: int) -> nn.Module:
        """Makes the network as the library does, untrained."""


@MODELS.register("torchvision")
@dataclass(kw_only=True, slots=True)
class TorchvisionConfig(LibraryConfig):
    """A classification network of torchvision's."""

    name: str = "torchvision"
    arch: str = "resnet18"
    """Its name in torchvision, such as resnet18, resnet50, mobilenet_v2, vgg11_bn."""

    paper: ClassVar[str] = "torchvision.models; each network's paper is named there"

    def names(self) -> Sequence[str]:
        import torchvision  # takes a while

        found: Sequence[str] = torchvision.models.list_models(module=torchvision.models)
        return found

    def create(self, classes: int) -> nn.Module:
        import torchvision

        # The two that end in several heads in training, unless told otherwise.
        one_head = {"aux_logits": False, "init_weights": True}
        extra = one_head if self.arch in ("googlenet", "inception_v3") else {}
        model: nn.Module = torchvision.models.get_model(
            self.arch, weights=None, num_classes=classes, **extra
        )
        return model


@MODELS.register("timm")
@dataclass(kw_only=True, slots=True)
class TimmConfig(LibraryConfig):
    """A network of timm's (PyTorch Image Models); needs ``pip install normbench[timm]``."""

    name: str = "timm"
    arch: str = "resnet26"
    """Its name in timm, such as resnet26, regnety_002, efficientnet_b0."""

    paper: ClassVar[str] = "Wightman, PyTorch Image Models; each network's paper is named there"

    def names(self) -> Sequence[str]:
        found: Sequence[str] = _timm().list_models()
        return found

    def create(self, classes: int) -> nn.Module:
        model: nn.Module = _timm().create_model(self.arch, pretrained=False, num_classes=classes)
        return model


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UsageError(
            "model=timm: timm is not installed; pip install 'normbench[timm]'"
        ) from None
    return timm
