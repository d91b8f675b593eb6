"""AdamW: its definition, torch's, replicas of a stack, and going on from a state."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models.resnet import ResNetConfig
from normbench.norms.group import GroupNormConfig
from normbench.training.adamw import AdamWConfig
from normbench.training.loop import norm_parameters
from normbench.training.optim import OPTIMS, Scaling, SGDConfig, build_stacked, stacked_rates
from normbench.training.stacking import stack, unstack


def resnet(seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return ResNetConfig(width=4).build(GroupNormConfig(), 3, generator)


def gradients(step: int, shapes: Sequence[torch.Size], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def steps_on(optimizer: Any, numbers: range) -> None:
    """Steps with gradients that depend on the step's number alone."""
    for step in numbers:
        optimizer.lr = 0.01 / (step + 1)
        own = optimizer.parameters
        above = gradients(step, [p.shape for p in own], own[0].dtype)
        for parameter, gradient in zip(own, above, strict=True):
            parameter.grad = gradient
        optimizer.step()


def test_a_few_steps_equal_the_definition() -> None:
    model = nn.Linear(3, 2).double()
    config = AdamWConfig(weight_decay=0.1, decay_norm=False, beta1=0.8, beta2=0.95, eps=1e-6)
    optimizer = config.build(model, [model.bias])  # as if it were a norm's shift
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for step in range(6):
        optimizer.lr = rate = config.rate(step, 6, 16)
        above = gradients(step, [w.shape for w in weights], torch.float64)
        for parameter, gradient in zip(model.parameters(), above, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        assert all(parameter.grad is None for parameter in model.parameters())
        for i, (gradient, decay) in enumerate(zip(above, (0.1, 0.0), strict=True)):
            means[i] = 0.8 * means[i] + 0.2 * gradient
            squares[i] = 0.95 * squares[i] + 0.05 * gradient**2
            mean = means[i] / (1 - 0.8 ** (step + 1))
            square = squares[i] / (1 - 0.95 ** (step + 1))
            weights[i] = weights[i] - rate * decay * weights[i]
            weights[i] = weights[i] - rate * mean / (square.sqrt() + 1e-6)
    for parameter, expected in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_few_steps_equal_those_of_torch_s_fused_adamw_to_the_bit(
    memory_format: torch.memory_format,
) -> None:
    model, theirs = resnet(), resnet()
    for network in (model, theirs):
        network.to(memory_format=memory_format)
    scales = norm_parameters(theirs)
    others = [p for p in theirs.parameters() if not any(p is scale for scale in scales)]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": scales, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, weight_decay=0.05, fused=True)
    config = AdamWConfig(weight_decay=0.05, decay_norm=False)
    optimizer = config.build(model, norm_parameters(model))
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        images = torch.randn(4, 3, 8, 8, generator=generator)
        images = images.contiguous(memory_format=memory_format)
        optimizer.lr = rate = config.rate(step, 4, 32)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.zero_grad()
        for network in (model, theirs):
            network(images).square().mean().backward()
        optimizer.step()
        reference.step()
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


CONFIGS = [
    AdamWConfig(lr=lr, weight_decay=decay)
    for lr, decay in ((0.01, 0.0), (0.01, 0.1), (0.002, 0.1), (0.03, 0.1))
]


def test_each_replica_takes_the_steps_of_its_own_rate_and_decay_to_the_bit() -> None:
    solo = [nn.Linear(3, 2) for _ in CONFIGS]
    stacked = stack(solo)
    together = build_stacked(CONFIGS, stacked, [])
    alone = [config.build(model, []) for config, model in zip(CONFIGS, solo, strict=True)]
    for step in range(4):
        together.lr = stacked_rates(CONFIGS, step, 4, 32)
        for k, optimizer in enumerate(alone):
            optimizer.lr = CONFIGS[k].rate(step, 4, 32)
            above = gradients(9 * step + k, [p.shape for p in optimizer.parameters], torch.float32)
            for parameter, gradient in zip(optimizer.parameters, above, strict=True):
                parameter.grad = gradient
        for i, parameter in enumerate(stacked.parameters()):
            parameter.grad = torch.cat([each.parameters[i].grad for each in alone])  # type: ignore[misc]
        for optimizer in (together, *alone):
            optimizer.step()
    for part, model in zip(unstack(stacked), solo, strict=True):
        assert all(map(torch.equal, part.parameters(), model.parameters()))


@pytest.mark.parametrize("forgotten", [None, "steps", "mean.0", "square.1"])
def test_training_goes_on_from_a_state_to_the_bit_and_only_from_all_of_it(
    forgotten: str | None,
) -> None:
    through, before, after = (nn.Linear(3, 2) for _ in range(3))
    before.load_state_dict(through.state_dict())
    steps_on(AdamWConfig().build(through, []), range(6))
    first = AdamWConfig().build(before, [])
    steps_on(first, range(3))
    after.load_state_dict(before.state_dict())
    second = AdamWConfig().build(after, [])
    state = {name: value.clone() for name, value in first.state().items()}
    if forgotten is not None:
        state[forgotten].zero_()
    second.restore(state)
    steps_on(second, range(3, 6))
    same = all(map(torch.equal, through.parameters(), after.parameters()))
    assert same == (forgotten is None)


def test_a_state_of_other_parameters_is_refused() -> None:
    optimizer = AdamWConfig().build(nn.Linear(3, 2), [])
    with pytest.raises(ValueError, match="other parameters"):
        optimizer.restore(AdamWConfig().build(nn.Linear(4, 2), []).state())
    with pytest.raises(KeyError):
        optimizer.restore(SGDConfig().build(nn.Linear(3, 2), []).state())


def test_it_is_chosen_by_name_and_has_defaults_of_its_own() -> None:
    assert OPTIMS["adamw"] is AdamWConfig
    assert AdamWConfig().peak(8) == pytest.approx(1e-3 * 0.5)
    assert AdamWConfig(scaling=Scaling.none).peak(8) == 1e-3


def test_a_stack_has_one_optimizer() -> None:
    model = stack([nn.Linear(2, 1), nn.Linear(2, 1)])
    with pytest.raises(UsageError, match=r"optim\.beta1=\[0\.9, 0\.5\]: must be the same"):
        build_stacked([AdamWConfig(), AdamWConfig(beta1=0.5)], model, [])
    with pytest.raises(UsageError, match=r"optim\.name=\['adamw', 'sgd'\]: must be the same"):
        build_stacked([AdamWConfig(), SGDConfig()], model, [])


@pytest.mark.parametrize("values", [{"beta1": 1.0}, {"beta2": -0.1}, {"eps": 0.0}, {"lr": 0.0}])
def test_a_value_out_of_range_is_one_line(values: dict[str, float]) -> None:
    ((key, value),) = values.items()
    with pytest.raises(UsageError, match=rf"^optim\.{key}={value}: must be ") as caught:
        AdamWConfig(**values)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
