"""Every norm that says so folds into the convolutions before it; the others are left alone."""

import copy

import pytest
import torch
from torch import nn

from normbench.models import MODELS
from normbench.norms import NORMS, Norm
from normbench.norms.folding import fold_norms
from tests.norm_checks import close, default, moved, randn


def evaluated(name: str, model: str) -> nn.Module:
    """A network away from its start, whose running statistics have moved."""
    network = MODELS[model](name=model).build(default(name), 10, torch.Generator()).double()
    moved(network.train())
    with torch.no_grad():
        network(randn(4, 3, 16, 16))
    return network.eval()


@pytest.mark.parametrize("model", ["resnet", "preact_resnet"])
@pytest.mark.parametrize("name", sorted(NORMS))
def test_a_folded_network_computes_the_same(name: str, model: str) -> None:
    network, images = evaluated(name, model), randn(2, 3, 16, 16, seed=1)
    folded = fold_norms(copy.deepcopy(network), default(name))
    before, left = (
        sum(isinstance(m, Norm) and type(p).__name__ != "Activation" for m, p in _with_parents(n))
        for n in (network, folded)
    )
    wanted = network(images)
    scale = wanted.detach().abs().max()
    close(folded(images) / scale, wanted / scale, name)
    if not default(name).folds:
        assert left == before
    else:  # of a pre-activation network's, some norms stand behind an addition
        assert left == 0 if model == "resnet" else 0 < left < before


class Shared(nn.Module):
    """A convolution behind two norms, and a norm and its convolution that are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two, self.norm = (default("batch").build(3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.one(self.conv(x)) + self.two(self.conv(x + 1))
        return self.norm(self.again(y)) + self.norm(self.again(y - 1))  # type: ignore[no-any-return]


def test_what_is_used_twice_is_not_folded() -> None:
    network, images = Shared().double(), randn(2, 3, 8, 8)
    moved(network.train())
    network(images)
    wanted = network.eval()(images)
    close(fold_norms(network, default("batch"))(images), wanted, "batch")


def _with_parents(network: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    return [(child, parent) for parent in network.modules() for child in parent.children()]
