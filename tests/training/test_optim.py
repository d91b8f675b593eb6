"""The learning rate's course, the parameter groups, and what the optimizer does with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, inf, nan, pi, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models.resnet import ResNetConfig
from normbench.norms import Norm
from normbench.norms.group import GroupNormConfig
from normbench.norms.none import NoNormConfig
from normbench.training.adamw import AdamWConfig
from normbench.training.loop import norm_parameters
from normbench.training.optim import (
    OPTIMS,
    OptimConfig,
    Scaling,
    Schedule,
    SGDConfig,
    build_stacked,
    stacked_rates,
)
from normbench.training.stacking import stack, unstack


def rates(config: SGDConfig, steps: int, batch: int = 32) -> list[float]:
    return [config.rate(step, steps, batch) for step in range(steps)]


# How the rate follows the batch.


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32, 128])
def test_the_default_rate_is_the_paper_s(batch: int) -> None:
    assert SGDConfig().peak(batch) == pytest.approx(0.1 * batch / 32, rel=1e-12)


def test_the_rate_follows_the_batch_linearly_by_the_root_or_not_at_all() -> None:
    def peaks(scaling: Scaling) -> list[float]:
        config = SGDConfig(lr=0.4, scaling=scaling, scaling_batch=64)
        return [config.peak(batch) for batch in (4, 16, 64, 256)]

    assert peaks(Scaling.linear) == pytest.approx([0.025, 0.1, 0.4, 1.6])
    assert peaks(Scaling.sqrt) == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert peaks(Scaling.none) == [0.4] * 4


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("scaling", list(Scaling))
def test_the_whole_course_scales_with_the_peak(scaling: Scaling, schedule: Schedule) -> None:
    config = SGDConfig(scaling=scaling, schedule=schedule)
    factor = config.peak(2) / config.peak(32)
    expected = [rate * factor for rate in rates(config, 50, 32)]
    assert rates(config, 50, 2) == pytest.approx(expected, rel=1e-12)


# How it rises and falls.


def test_linear_decay_after_a_linear_warm_up() -> None:
    config = SGDConfig(lr=1.0, scaling=Scaling.none, warmup=0.2, schedule=Schedule.linear)
    up = [1 / 5, 2 / 5, 3 / 5, 4 / 5]
    down = [1 - step / 16 for step in range(16)]
    assert rates(config, 20) == pytest.approx(up + down)


def test_cosine_decay_after_a_linear_warm_up() -> None:
    config = SGDConfig(lr=1.0, scaling=Scaling.none, warmup=0.2, schedule=Schedule.cosine)
    up = [1 / 5, 2 / 5, 3 / 5, 4 / 5]
    down = [0.5 + 0.5 * cos(pi * step / 16) for step in range(16)]
    assert rates(config, 20) == pytest.approx(up + down)


def test_step_decay_multiplies_at_the_shares_of_all_steps() -> None:
    config = SGDConfig(
        lr=1.0,
        scaling=Scaling.none,
        warmup=0.0,
        schedule=Schedule.step,
        steps_at=[0.3, 0.6, 0.9],
        step_factor=0.5,
    )
    expected = [1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125]
    assert rates(config, 10) == expected


def test_a_step_inside_the_warm_up_takes_effect_after_it() -> None:
    config = SGDConfig(
        lr=1.0, scaling=Scaling.none, warmup=0.4, schedule=Schedule.step, steps_at=[0.2, 0.8]
    )
    assert rates(config, 10) == pytest.approx([0.2, 0.4, 0.6, 0.8] + [0.1] * 4 + [0.01] * 2)


def test_a_constant_rate_is_constant_after_the_warm_up() -> None:
    config = SGDConfig(lr=0.3, scaling=Scaling.none, warmup=0.25, schedule=Schedule.constant)
    assert rates(config, 8) == pytest.approx([0.1, 0.2] + [0.3] * 6)


def test_without_a_warm_up_the_first_step_has_the_peak_rate() -> None:
    for schedule in Schedule:
        config = SGDConfig(warmup=0.0, schedule=schedule)
        assert config.rate(0, 100, 32) == pytest.approx(0.1)


@settings(deadline=None)
@given(
    schedule=st.sampled_from(list(Schedule)),
    warmup=st.floats(0.0, 0.99),
    steps=st.integers(1, 300),
    batch=st.integers(1, 512),
)
def test_every_step_has_a_rate_above_zero_and_at_most_the_peak(
    schedule: Schedule, warmup: float, steps: int, batch: int
) -> None:
    config = SGDConfig(schedule=schedule, warmup=warmup)
    course = rates(config, steps, batch)
    assert all(0 < rate <= config.peak(batch) for rate in course)
    rise = round(warmup * steps)
    assert course[:rise] == sorted(course[:rise])
    assert course[rise:] == sorted(course[rise:], reverse=True)


# What the optimizer does.

MOMENTA = pytest.mark.parametrize(
    ("momentum", "nesterov"),
    [
        (0.8, False),
        (0.8, True),
        (0.0, False),
    ],
)


def resnet(affine: bool = True) -> nn.Module:
    norm = GroupNormConfig(affine=affine)
    return ResNetConfig(width=8).build(norm, 10, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("decay_norm", [True, False])
def test_decay_norm_decides_whether_scales_and_shifts_are_decayed(decay_norm: bool) -> None:
    model = resnet()
    config = SGDConfig(weight_decay=0.01, decay_norm=decay_norm)
    optimizer = config.build(model, norm_parameters(model))

    # Without gradients, all that moves is what is decayed.
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.lr = 0.5
    optimizer.step()
    norms = [n for n, module in model.named_modules() if isinstance(module, Norm)]
    undecayed = {f"{n}.{key}" for n in norms for key in ("weight", "bias")}
    assert len(undecayed) == 18
    for name, parameter in model.named_parameters():
        kept = name in undecayed and not decay_norm
        expected = before[name] * (1.0 if kept else 1 - 0.5 * 0.01)
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_every_parameter_is_trained_once(affine: bool) -> None:
    model = resnet(affine)
    optimizer = SGDConfig(decay_norm=False).build(model, norm_parameters(model))
    assert list(map(id, optimizer.parameters)) == list(map(id, model.parameters()))
    optimizer.lr = 0.1
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    optimizer.step()
    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        assert gradient is not None
        decayed = gradient + (5e-4 * old if parameter.dim() > 1 or old.numel() == 10 else 0.0)
        torch.testing.assert_close(parameter.detach(), old - 0.1 * decayed)


def test_a_network_of_scales_alone_can_be_optimized() -> None:
    model = NoNormConfig().build(4)
    optimizer = SGDConfig(decay_norm=False).build(model, list(model.parameters()))
    model(torch.ones(2, 4)).sum().backward()
    optimizer.lr = 0.25
    optimizer.step()
    assert model.weight is not None
    assert torch.equal(model.weight.detach(), torch.full((4,), 0.5))


def gradients(step: int, shapes: Sequence[torch.Size], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@MOMENTA
def test_a_few_steps_equal_the_definition_of_sgd(
    momentum: float, nesterov: bool, weight_decay: float
) -> None:
    model = nn.Linear(3, 2).double()
    config = SGDConfig(
        momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, decay_norm=False
    )
    optimizer = config.build(model, [model.bias])  # as if it were a norm's shift
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    velocities = [torch.zeros_like(w) for w in weights]
    decays = [weight_decay, 0.0]
    for step in range(8):
        optimizer.lr = rate = config.rate(step, 8, 16)
        above = gradients(step, [w.shape for w in weights], torch.float64)
        for parameter, gradient in zip(model.parameters(), above, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        assert all(parameter.grad is None for parameter in model.parameters())
        for i, gradient in enumerate(above):
            decayed = gradient + decays[i] * weights[i]
            velocities[i] = momentum * velocities[i] + decayed
            move = decayed + momentum * velocities[i] if nesterov else velocities[i]
            weights[i] = weights[i] - rate * move
    for parameter, expected in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)


@MOMENTA
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_few_steps_equal_those_of_torch_s_fused_sgd_to_the_bit(
    memory_format: torch.memory_format, momentum: float, nesterov: bool
) -> None:
    model, theirs = resnet(), resnet()
    for network in (model, theirs):
        network.to(memory_format=memory_format)
    scales = norm_parameters(theirs)
    others = [p for p in theirs.parameters() if not any(p is scale for scale in scales)]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": scales, "weight_decay": 0.0}]
    reference = torch.optim.SGD(
        groups,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=0.01,
        fused=True,
    )
    config = SGDConfig(momentum=momentum, nesterov=nesterov, weight_decay=0.01, decay_norm=False)
    optimizer = config.build(model, norm_parameters(model))
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        images = torch.randn(4, 3, 8, 8, generator=generator).contiguous(
            memory_format=memory_format
        )
        optimizer.lr = rate = config.rate(step, 5, 32)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.zero_grad()
        for network in (model, theirs):
            network(images).square().mean().backward()
        optimizer.step()
        reference.step()
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    model = resnet()
    model.get_submodule("stem").requires_grad_(False)
    before = model.get_parameter("stem.weight").clone()
    optimizer = SGDConfig().build(model, norm_parameters(model))
    optimizer.lr = 0.1
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(model.get_parameter("stem.weight"), before)


def test_a_network_that_changes_its_memory_format_afterwards_is_still_trained() -> None:
    model = resnet().to(memory_format=torch.channels_last)
    optimizer = SGDConfig().build(model, norm_parameters(model))
    model.to(memory_format=torch.contiguous_format)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.lr = 0.1
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert not torch.equal(parameter, old)


# How it is told to others.


@dataclass(kw_only=True, slots=True)
class RMSpropConfig(OptimConfig):
    """Stands for an optimizer that somebody adds."""

    name: str = "rmsprop"
    alpha: float = 0.99
    momentum: float = 0.0
    centered: bool = False

    def optimizer(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


TOLD: list[tuple[OptimConfig, str, str]] = [
    (SGDConfig(), "SGD, momentum 0.9", "lr=0.0125, momentum=0.9, weight_decay=0.0005"),
    (
        SGDConfig(nesterov=True, momentum=0.85, weight_decay=0.0),
        "SGD, momentum 0.85, Nesterov",
        "lr=0.0125, momentum=0.85, nesterov=True, weight_decay=0.0",
    ),
    (
        AdamWConfig(scaling=Scaling.none),
        "AdamW, β₁ 0.9, β₂ 0.999",
        "lr=0.001, betas=(0.9, 0.999), weight_decay=0.01",
    ),
    (
        AdamWConfig(scaling=Scaling.none, beta2=0.9999999, eps=1e-5),
        "AdamW, β₁ 0.9, β₂ 0.9999999, ε 1e-05",
        "lr=0.001, betas=(0.9, 0.9999999), eps=1e-05, weight_decay=0.01",
    ),
    (
        RMSpropConfig(centered=True),
        "RMSprop, momentum 0.0, centered",
        "lr=0.0125, momentum=0.0, centered=True, weight_decay=0.0005",
    ),
]


@pytest.mark.parametrize(("config", "title", "arguments"), TOLD)
def test_an_optimizer_says_what_it_is_to_people_and_to_python(
    config: OptimConfig, title: str, arguments: str
) -> None:
    called, given = config.in_torch(batch=4)

    assert config.title == title
    assert called == f"torch.optim.{title.partition(',')[0]}"
    assert ", ".join(given) == f"model.parameters(), {arguments}"


@pytest.mark.parametrize(
    "config",
    [
        *(OPTIMS[name](name=name) for name in OPTIMS),
        SGDConfig(lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.02),
        SGDConfig(lr=0.3, momentum=0.0),
        AdamWConfig(lr=0.3, beta1=0.8, beta2=0.7, eps=0.01, weight_decay=0.2),
    ],
)
def test_what_it_says_to_python_takes_the_same_steps(config: OptimConfig) -> None:
    mine, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(mine.state_dict())
    called, given = config.in_torch(batch=16)
    reference = eval(f"{called}({', '.join(given)})", {"torch": torch, "model": theirs})
    optimizer = config.build(mine, [])
    optimizer.lr = config.peak(16)
    for step in range(4):
        reference.zero_grad()
        for network in (mine, theirs):
            network(torch.full((2, 3), step + 0.5)).square().mean().backward()
        optimizer.step()
        reference.step()

    for parameter, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-6)


# Replicas with rates and decays of their own.

LRS, DECAYS = (0.3, 0.3, 0.05, 0.2), (0.0, 0.01, 0.01, 0.01)


def stacked_configs(momentum: float = 0.8, nesterov: bool = False) -> list[SGDConfig]:
    return [
        SGDConfig(lr=lr, weight_decay=decay, decay_norm=False, momentum=momentum, nesterov=nesterov)
        for lr, decay in zip(LRS, DECAYS, strict=True)
    ]


@MOMENTA
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_each_replica_takes_the_steps_of_its_own_rate_and_decay_to_the_bit(
    memory_format: torch.memory_format, momentum: float, nesterov: bool
) -> None:
    configs = stacked_configs(momentum, nesterov)
    models = [resnet() for _ in configs]
    for k, model in enumerate(models):
        torch.nn.init.normal_(model.get_parameter("stem.weight"), std=1.0 + k)
    stacked = stack(models).to(memory_format=memory_format)
    solo = [model.to(memory_format=memory_format) for model in models]
    together = build_stacked(configs, stacked, norm_parameters(stacked))
    alone = [c.build(m, norm_parameters(m)) for c, m in zip(configs, solo, strict=True)]
    for step in range(4):
        together.lr = stacked_rates(configs, step, 4, 32)
        for k, model in enumerate(solo):
            alone[k].lr = configs[k].rate(step, 4, 32)
            above = gradients(9 * step + k, [p.shape for p in model.parameters()], torch.float32)
            for parameter, gradient in zip(model.parameters(), above, strict=True):
                parameter.grad = gradient.contiguous(memory_format=_format(parameter))
        for i, parameter in enumerate(stacked.parameters()):
            rows = torch.cat([alone[k].parameters[i].grad for k in range(4)])  # type: ignore[misc]
            parameter.grad = rows.contiguous(memory_format=_format(parameter))
        together.step()
        for optimizer in alone:
            optimizer.step()
    for k, part in enumerate(unstack(stacked)):
        for mine, expected in zip(part.parameters(), solo[k].parameters(), strict=True):
            assert torch.equal(mine, expected)


def _format(tensor: Tensor) -> torch.memory_format:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def test_equal_rates_given_one_a_replica_are_the_step_of_one_rate_to_the_bit() -> None:
    stacks = [stack([resnet(), resnet()]) for _ in range(2)]
    for model, rates in zip(stacks, ([0.1], [0.1, 0.1]), strict=True):
        optimizer = SGDConfig().build(model, norm_parameters(model))
        optimizer.lr = rates if len(rates) > 1 else rates[0]
        model(torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(1))).sum().backward()
        optimizer.step()
    pairs = zip(stacks[0].parameters(), stacks[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_rates_that_become_equal_and_part_again_are_each_replica_s_own() -> None:
    model = stack([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
    optimizer = SGDConfig(momentum=0.5, weight_decay=0.0).build(model, [])
    (weight,) = model.parameters()
    before = weight.detach().clone()
    rates: list[float | list[float]] = [[0.1, 0.2], 0.1, [0.3, 0.0], [0.1, 0.1]]
    velocity, moved = 0.0, torch.zeros(2, 1)
    for rate in rates:
        optimizer.lr = rate
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        velocity = 0.5 * velocity + 1.0
        moved -= torch.tensor(rate).expand(2)[:, None] * velocity
    torch.testing.assert_close(weight.detach(), before + moved)


def test_a_number_of_rates_that_is_not_that_of_the_replicas_is_an_error() -> None:
    model = stack([nn.Linear(2, 1), nn.Linear(2, 1)])
    optimizer = SGDConfig().build(model, [])
    with pytest.raises(ValueError, match="3 learning rates for 2 replicas"):
        optimizer.lr = [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("key", "values"), [("momentum", (0.9, 0.8)), ("label_smoothing", (0.0, 0.1))]
)
def test_replicas_that_differ_in_what_a_stack_has_one_of_are_refused(
    key: str, values: tuple[float, float]
) -> None:
    configs = [SGDConfig(**{key: value}) for value in values]  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"optim\.{key}=\[.*\]: must be the same for all"):
        build_stacked(configs, stack([nn.Linear(2, 1), nn.Linear(2, 1)]), [])


# What is out of range.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda v=v: SGDConfig(lr=v), rf"optim\.lr={v}: must be (a finite number )?above 0$")
            for v in (0.0, -0.1, nan, inf)
        ),
        (lambda: SGDConfig(scaling_batch=0), r"optim\.scaling_batch=0: must be at least 1$"),
        *(
            (
                lambda v=v: SGDConfig(momentum=v),
                rf"optim\.momentum={v}: must be (a finite number )?from 0 to below 1$",
            )
            for v in (-0.1, 1.0, nan)
        ),
        *(
            (
                lambda v=v: SGDConfig(weight_decay=v),
                rf"optim\.weight_decay={v}: must be (a finite number )?at least 0$",
            )
            for v in (-1e-4, nan, inf)
        ),
        *(
            (
                lambda v=v: SGDConfig(label_smoothing=v),
                rf"optim\.label_smoothing={v}: must be (a finite number )?from 0 to below 1$",
            )
            for v in (-0.1, 1.0, nan)
        ),
        *(
            (
                lambda v=v: SGDConfig(warmup=v),
                rf"optim\.warmup={v}: must be (a finite number )?from 0 to below 1$",
            )
            for v in (-0.1, 1.0, nan)
        ),
        *(
            (
                lambda v=v: SGDConfig(steps_at=v),
                r"optim\.steps_at=\[.*\]: must rise between 0 and 1$",
            )
            for v in ([0.6, 0.3], [0.0, 0.5], [0.5, 1.0], [-0.1], [nan])
        ),
        *(
            (
                lambda v=v: SGDConfig(step_factor=v),
                rf"optim\.step_factor={v}: must be (a finite number )?in \(0, 1\]$",
            )
            for v in (0.0, -0.5, 1.5, nan)
        ),
        (
            lambda: SGDConfig(lr=inf),
            r"optim\.lr=inf: must be a finite number above 0$",
        ),
        (
            lambda: SGDConfig(nesterov=True, momentum=0.0),
            r"optim\.nesterov=true needs optim\.momentum above 0; received 0$",
        ),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_key_value_and_range(
    make: Callable[[], SGDConfig], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_edges_of_the_ranges_are_allowed() -> None:
    config = SGDConfig(
        momentum=0.0, weight_decay=0.0, label_smoothing=0.0, warmup=0.0, step_factor=1.0
    )
    assert SGDConfig(steps_at=[]).steps_at == []
    assert config.rate(0, 1, 1) == pytest.approx(0.1 / 32)
    assert SGDConfig(scaling=Scaling.sqrt).peak(8) == pytest.approx(0.1 * sqrt(1 / 4))
