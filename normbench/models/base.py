"""What every network has in common: its configuration and its initialization."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Protocol

import torch
from torch import nn

from normbench.norms import Norm
from normbench.registry import Registry


class NormBuilder(Protocol):
    """Makes the norm for a slot; ``NormConfig.build`` is one."""

    def __call__(self, channels: int, *, act: bool = True) -> Norm: ...


@dataclass(kw_only=True, slots=True)
class ModelConfig(ABC):
    """A network as the configuration describes it; builds the network."""

    name: str
    """The network's name in the registry; chosen with ``model=NAME``, not set by hand."""

    paper: ClassVar[str]
    """Where the network comes from."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The network's name with its depth, as papers write it: ``ResNet-20``."""

    @property
    def norm_channels(self) -> tuple[int, ...]:
        """The numbers of channels that norms of this network have, each once, in the order of the
        layers; empty where it is not said."""
        return ()

    @abstractmethod
    def build(self, norm: NormBuilder, classes: int, generator: torch.Generator) -> nn.Module:
        """Makes the network: images [N, 3, H, W] to logits [N, classes].

        Args:
            norm: fills each slot, normalization and activation.
            classes: the number of classes.
            generator: the source of the initial weights, which depend on nothing else: they are
                the same whatever the norm.

        Raises:
            UsageError: the settings do not fit one another, or the norm does not fit a layer.
        """


MODELS: Registry[ModelConfig] = Registry("model")
"""Every network by name."""


def build_quietly(make: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """Makes a network and initializes it from ``generator`` alone, in the order of its layers.

    Convolutions follow He et al. 2015 (arXiv 1502.01852, equation 10, fan-out), linear layers are
    uniform in ±1/√fan-in, biases are zero. The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())  # for what is not drawn again below
        model = make()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        elif isinstance(module, nn.Linear):
            bound = 1 / sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
