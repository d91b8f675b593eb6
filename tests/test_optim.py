"""The learning rate's course, the parameter groups, and what the optimizer does with them."""

from collections.abc import Callable
from math import cos, inf, nan, pi, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from normbench.errors import UsageError
from normbench.models.resnet import ResNetConfig
from normbench.norms import Norm
from normbench.norms.group import GroupNormConfig
from normbench.norms.none import NoNormConfig
from normbench.optim import Scaling, Schedule, SGDConfig
from normbench.training import norm_parameters


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
    config = SGDConfig(
        lr=0.3, scaling=Scaling.none, warmup=0.25, schedule=Schedule.constant
    )
    assert rates(config, 8) == pytest.approx([0.1, 0.2] + [0.3] * 6)


def test_without_a_warm_up_the_first_step_has_the_peak_rate() -> None:
    for schedule in Schedule:
        config = SGDConfig(warmup=0.0, schedule=schedule)
        assert config.rate(0, 100, 32) == pytest.approx(0.1)


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


def resnet(affine: bool = True) -> nn.Module:
    norm = GroupNormConfig(affine=affine)
    return ResNetConfig(width=8).build(norm.build, 10, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("decay_norm", [True, False])
def test_decay_norm_decides_whether_scales_and_shifts_are_decayed(decay_norm: bool) -> None:
    model = resnet()
    config = SGDConfig(weight_decay=0.01, decay_norm=decay_norm, momentum=0.0)
    optimizer = config.build(model, norm_parameters(model, [Norm]))
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))  # each once

    # Without gradients, all that moves is what is decayed.
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step()
    norms = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, Norm)}
    assert len(norms) == 9
    for name, parameter in model.named_parameters():
        factor = 1.0 if name in norms and not decay_norm else 1 - 0.5 * 0.01
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_a_network_without_scales_can_be_optimized() -> None:
    model = resnet(affine=False)
    parameters = norm_parameters(model, [Norm])
    assert parameters == []
    optimizer = SGDConfig(decay_norm=False).build(model, parameters)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


def test_a_network_of_scales_alone_can_be_optimized() -> None:
    model = NoNormConfig().build(4)
    optimizer = SGDConfig(warmup=0.0).build(model, list(model.parameters()))
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert model.weight is not None
    assert (model.weight < 1).all()


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_few_steps_equal_the_definition_of_sgd(nesterov: bool) -> None:
    model = nn.Linear(3, 2, bias=False).double()
    config = SGDConfig(momentum=0.8, weight_decay=0.02, nesterov=nesterov, warmup=0.25)
    optimizer = config.build(model, [])
    w = model.weight.detach().clone()
    velocity = torch.zeros_like(w)
    for step in range(8):
        gradient = torch.randn(
            w.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64
        )
        rate = config.rate(step, 8, 16)
        model.weight.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()

        decayed = gradient + 0.02 * w
        velocity = 0.8 * velocity + decayed
        w = w - rate * (decayed + 0.8 * velocity if nesterov else velocity)
    torch.testing.assert_close(model.weight.detach(), w, rtol=1e-12, atol=1e-12)


# What is out of range.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda v=v: SGDConfig(lr=v), rf"optim\.lr={v}: must be above 0$")
            for v in (0.0, -0.1, nan, inf)
        ),
        (lambda: SGDConfig(scaling_batch=0), r"optim\.scaling_batch=0: must be at least 1$"),
        *(
            (lambda v=v: SGDConfig(momentum=v), rf"optim\.momentum={v}: must be from 0 to below 1$")
            for v in (-0.1, 1.0, nan)
        ),
        *(
            (lambda v=v: SGDConfig(weight_decay=v), rf"optim\.weight_decay={v}: must be at least 0$")
            for v in (-1e-4, nan, inf)
        ),
        *(
            (
                lambda v=v: SGDConfig(label_smoothing=v),
                rf"optim\.label_smoothing={v}: must be from 0 to below 1$",
            )
            for v in (-0.1, 1.0, nan)
        ),
        *(
            (lambda v=v: SGDConfig(warmup=v), rf"optim\.warmup={v}: must be from 0 to below 1$")
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
            (lambda v=v: SGDConfig(step_factor=v), rf"optim\.step_factor={v}: must be in \(0, 1\]$")
            for v in (0.0, -0.5, 1.5, nan)
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
