"""What every network has in common: its configuration and its initialization."""

from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass, field, fields
from math import sqrt
from typing import ClassVar

import torch
from torch import nn

from normbench.errors import UsageError
from normbench.models.drawing import drawing
from normbench.models.files import (
    COUNTER,
    State,
    load_weights,
    plain_name,
    read_weights,
    sha256_of,
    without_counters,
)
from normbench.norms import NormConfig, swap_norm
from normbench.norms.batch import BatchNormConfig
from normbench.norms.parts import Slot
from normbench.registry import Registry


def pinned(key: str) -> dict[str, str]:
    """Metadata of a setting that names a file: what counts is its SHA-256, in the setting ``key``.

    Where the file lies is no part of a cell's identity.
    """
    return {"pinned": key}


@dataclass(frozen=True, slots=True)
class Start:
    """A network at its start, before its norms are swapped.

    Attributes:
        network: with norms of its own, or with empty slots.
        loaded: whether it has weights from a file, and so an accuracy already.
        note: what is to be said of these weights, or None.
    """

    network: nn.Module
    loaded: bool = False
    note: str | None = None


@dataclass(kw_only=True, slots=True)
class ModelConfig(ABC):
    """A network as the configuration describes it; builds the network."""

    name: str
    """The network's name in the registry; chosen with ``model=NAME``, not set by hand."""

    weights: str | None = field(default=None, metadata=pinned("weights_sha256"))
    """A file of weights to start from (safetensors, or a state_dict saved by torch.save); null: the
    weights are drawn. Those with running statistics are taken for a network's with batch norm."""

    weights_sha256: str | None = None
    """The SHA-256 of that file's content; filled in, or what it has to be."""

    carry: bool = False
    """Whether γ, β and running statistics of the network's own norms are taken over; these bring
    their ε along where norm.eps is left at its default."""

    foreign: ClassVar[bool] = False
    """Whether the network comes with norms of its own."""

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

    def pin(self) -> None:
        """Fills in the SHA-256 of each file that a setting names.

        Raises:
            UsageError: there is no such file, or it is another than the one with the given SHA-256.
        """
        for each in fields(self):
            key, file = each.metadata.get("pinned"), getattr(self, each.name) or None
            if key is None:
                continue
            setattr(self, each.name, file)
            digest = getattr(self, key)
            if file is None and digest is not None:
                raise UsageError(f"model.{key}={digest} goes with model.{each.name}=FILE")
            if file is None:
                continue
            found, wanted = sha256_of(f"model.{each.name}", file), getattr(self, key)
            if wanted not in (None, found):
                raise UsageError(
                    f"model.{each.name}={file}: its SHA-256 is {found}, not model.{key}={wanted}"
                )
            setattr(self, key, found)

    def draw(self, model: nn.Module, generator: torch.Generator) -> None:
        """Draws the weights of the bare network, from ``generator`` alone."""
        initialize(model, generator)

    def misfit(self, error: Exception, size: tuple[int, int], taken: int | None) -> UsageError:
        """What to say of an ``error`` that images led to.

        Args:
            error: what the network raised.
            size: height and width of the images.
            taken: the side of square images that it takes, or None.
        """
        reason = str(error).strip().partition("\n")[0]
        other = "" if taken is None else f"; it takes {taken}×{taken}: import with --size {taken}"
        return UsageError(
            f"model={self.name} ({self.title}) does not take images of"
            f" {size[0]}×{size[1]} pixels: {reason}{other}"
        )

    def start(self, norm: NormConfig, classes: int, generator: torch.Generator) -> Start:
        """Makes the network with its weights and, where it has some, its own norms.

        A network of this package has empty slots or, with weights from a file, the norms of these
        weights: batch norm where they have running statistics, unless their names are those of
        ``norm``; else ``norm``. Those of a foreign network that was trained here likewise.

        Raises:
            UsageError: the settings or the file of weights do not fit.
        """
        with drawing(generator.initial_seed()):
            model = self.network(classes)
            self.draw(model, generator)
            if not self.weights:
                return Start(model)
            if self.weights_sha256 is None:
                self.pin()
            assert self.weights_sha256 is not None
            state = read_weights(self.weights, self.weights_sha256)
            slots = any(isinstance(module, Slot) for module in model.modules())
            if slots or trained_here(model, state):
                averaged = any(name.endswith("running_mean") for name in state)
                own = [BatchNormConfig(), norm] if averaged else [norm]
                swap_norm(model, next((n for n in own if _of(n, model, state)), own[0]))
            return Start(model, True, load_weights(model, state, self.weights))

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
            norm: what fills the slots and takes the places of other norms.
            classes: the number of classes.
            generator: the source of the initial weights, which depend on nothing else: they are
                the same whatever the norm. The global random state is left as it was.
            norm_batch: how many examples share batch statistics; None: the whole batch.

        Raises:
            UsageError: the settings do not fit one another, or the norm does not fit a layer.
        """
        model = self.start(norm, classes, generator).network
        with drawing(generator.initial_seed()):
            return swap_norm(model, norm, norm_batch=norm_batch, carry=self.carry)


def trained_here(model: nn.Module, state: State) -> bool:
    """Whether weights of ``model`` are those after its norms were swapped for batch norm.

    torch's batch norm counts its batches and this package's does not. Where a file has lost its
    counters, the name of a layer with an activation may still tell.

    Args:
        model: the network with norms of its own.
        state: the weights, named as :func:`normbench.models.files.plain_name` says.
    """
    averaged, own = _named("running_mean", state), model.state_dict()
    if not averaged or _named(COUNTER, state):
        return False
    if not _named(COUNTER, own) and _named("running_mean", own) == averaged:
        return False
    swapped = swap_norm(deepcopy(model), BatchNormConfig()).state_dict()
    return _named("running_mean", swapped) == averaged


def _of(norm: NormConfig, model: nn.Module, state: State) -> bool:
    """Whether weights are those of ``model`` with ``norm``, by the names of their tensors."""
    try:
        swapped = swap_norm(deepcopy(model), norm).state_dict()
    except UsageError:  # the norm does not fit; that is said where it is swapped in
        return False
    names = {plain_name(name) for name in without_counters(swapped)}
    return names == without_counters(state).keys()


def _named(end: str, state: State) -> set[str]:
    return {plain_name(name) for name in state if name.endswith(end)}


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
