"""Dropout follows from a replica's seed and the step, alone and in a stack."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from normbench import stack, unstack
from normbench.training.dropout import SeededDropout, seed_dropout
from normbench.training.stacking import StackError


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    twice = nn.Dropout(0.25)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.Dropout2d(0.5), nn.ReLU(), twice),
        *(nn.Conv2d(6, 4, 3), twice, nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.5)),
    ).double()


def outputs(model: nn.Module, seeds: Sequence[int], x: Tensor, steps: Sequence[int]) -> Tensor:
    """What a network or stack computes in training in some steps, each seed of the same images."""
    draw_for = seed_dropout(model.train(), seeds)
    found = []
    for step in steps:
        draw_for(step)
        found.append(model(x.repeat(1, len(seeds), 1, 1)))
    return torch.stack(found)


def test_each_replica_draws_what_it_draws_alone_in_any_company_and_after_any_step() -> None:
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    seeds = [7, 0, 2**31]
    together = outputs(stack([network(s) for s in seeds], x.float()), seeds, x, [0, 1, 2])
    for place, seed in enumerate(seeds):
        alone = outputs(network(seed), [seed], x, [0, 1, 2])
        torch.testing.assert_close(together.chunk(3, -1)[place], alone)
        torch.testing.assert_close(outputs(network(seed), [seed], x, [2])[0], alone[2])
        assert not torch.allclose(alone[0], alone[1]), "each step draws anew"
    same = stack([network(0), network(0)], x.float())
    one, other = outputs(same, [0, 1], x, [0]).chunk(2, -1)
    assert not torch.allclose(one, other), "each seed draws its own"


def test_it_is_dropout() -> None:
    x = torch.ones(64, 32, 5, 5)
    for kind in (nn.Dropout, nn.Dropout2d):
        model = nn.Sequential(nn.Identity(), kind(0.25))
        y = outputs(model, [3], x, [0])[0]
        assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
        assert y.mean().item() == pytest.approx(1, abs=0.05)
        whole = torch.equal(y, y[:, :, :1, :1].expand_as(y))
        assert whole == (kind is nn.Dropout2d)
        assert torch.equal(model.eval()(x), x)
    assert not outputs(nn.Sequential(nn.Identity(), nn.Dropout(1.0)), [3], x, [0]).any()


def test_what_derives_from_dropout_computes_in_its_own_way() -> None:
    class Always(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, self.p, training=True)

    model = nn.Sequential(Always(0.5), nn.Dropout(0.5))
    seed_dropout(model, [0])
    assert [type(layer) for layer in model] == [Always, SeededDropout]


def test_networks_without_dropout_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    before = [*model.modules()]
    seed_dropout(model, [0])(5)
    assert [*model.modules()] == before


def test_a_network_from_a_stack_can_be_seeded_again() -> None:
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    together = stack([network(s) for s in (0, 1)], x.float())
    outputs(together, [0, 1], x, [0])
    (_, second) = unstack(together)
    assert any(isinstance(layer, SeededDropout) for layer in second.modules())
    torch.testing.assert_close(outputs(second, [1], x, [5]), outputs(network(1), [1], x, [5]))


def test_an_activation_checkpoint_computes_again_with_the_same_mask() -> None:
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    gradients = []
    for kept in (True, False):
        model = network(1)
        draw_for = seed_dropout(model, [5])
        for step in range(2):
            draw_for(step)
            y = model(x) if kept else checkpoint(model[:3], x, use_reentrant=False)
            y = y if kept else model[3:](y)
            y.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_an_activation_checkpoint_with_one_dropout_twice_is_an_error() -> None:
    model = network(1)
    seed_dropout(model, [5])(0)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    y = checkpoint(model, x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="can be used once a step, not 2 times"):
        y.sum().backward()


class Tokens(nn.Module):
    """Dropout over [N, L, C], or over [N, C, L]."""

    def __init__(self, p: float, *, last: bool) -> None:
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv1d(3, 4, 3), nn.Dropout(p), nn.Linear(4, 2)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = self.drop(y.transpose(1, 2)).transpose(1, 2) if self.last else self.drop(y)
        found: Tensor = self.head(y.mean(2))
        return found


def test_replicas_that_are_not_side_by_side_for_dropout_are_not_stacked() -> None:
    x = torch.randn(4, 3, 9)
    with pytest.raises(StackError, match="Dropout at drop is not given the replicas side by side"):
        stack([Tokens(0.5, last=True) for _ in range(2)], x)
    stack([Tokens(0.0, last=True) for _ in range(2)], x)  # it draws nothing


def test_replicas_of_sequences_draw_what_they_draw_alone() -> None:
    x, seeds = torch.randn(4, 3, 9, dtype=torch.float64), [3, 4]
    models = [Tokens(0.5, last=False).double() for _ in seeds]
    together = stack(models, x.float())
    seed_dropout(together.train(), seeds)(7)
    found = together(x.repeat(1, 2, 1)).chunk(2, 1)
    for model, seed, mine in zip(models, seeds, found, strict=True):
        seed_dropout(model.train(), [seed])(7)
        torch.testing.assert_close(model(x), mine)
