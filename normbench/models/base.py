"""What every network has in common: its configuration and its initialization."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import nn

from normbench.norms import NormConfig, swap_norm
from normbench.registry import Registry


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
    def network(self, classes: int) -> nn.Module:
        """The bare network: images [N, 3, H, W] to logits [N, classes].

        It has a ``Slot`` for each norm with its activation and a ``BranchEnd`` at the end of each
        residual branch; its first weights do not matter.
        """

    def build(
        self,
        norm: NormConfig,
        classes: int,
        generator: torch.Generator,
        *,
        norm_batch: int | None = None,
    ) -> nn.Module:
        """Makes the network with ``norm``: images [N, 3, H, W] to logits [N, classes].

        Args:
            norm: what fills the slots.
            classes: the number of classes.
            generator: the source of the initial weights, which depend on nothing else: they are
                the same whatever the norm. The global random state is left as it was.
            norm_batch: how many examples share batch statistics; None: the whole batch.

        Raises:
            UsageError: the settings do not fit one another, or the norm does not fit a layer.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())  # for what is not drawn again below
            model = self.network(classes)
            initialize(model, generator)
            return swap_norm(model, norm, norm_batch=norm_batch)


MODELS: Registry[ModelConfig] = Registry("model")
"""Every network by name."""


def initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Draws the weights of a network from ``generator`` alone, in the order of its layers.

    Convolutions follow He et al. 2015 (arXiv 1502.01852, equation 10, fan-out), linear layers are
    uniform in ±1/√fan-in, biases are zero.
    """
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
