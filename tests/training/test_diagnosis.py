"""What is said of the inside of a network, against a direct computation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.models.convnet import ConvNetConfig
from normbench.norms import NormConfig
from normbench.norms.batch import BatchNorm, BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.training.diagnosis import Diagnosis
from normbench.training.loop import training_step
from normbench.training.optim import SGDConfig
from normbench.training.stacking import stack


def net(norm: NormConfig, seed: int = 0, norm_batch: int | None = None) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = ConvNetConfig(depth=2, width=4).build(norm, 3, generator, norm_batch=norm_batch)
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return model


def images(replicas: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 3 * replicas, 8, 8, generator=generator)
    return x, torch.randint(3, (6, replicas), generator=generator)


def diagnosed(model: nn.Module, replicas: int = 1) -> dict[str, list[float]]:
    optim = SGDConfig()
    optimizer = optim.build(model, [])
    optimizer.lr = 0.1
    diagnosis = Diagnosis(model, replicas)
    with diagnosis.watching() as after_backward:
        training_step(model.train(), optimizer, *images(replicas), after_backward)
    return diagnosis.values


def test_the_gradient_norm_is_that_of_all_gradients() -> None:
    model = net(GroupNormConfig())
    x, labels = images()
    loss = F.cross_entropy(model(x), labels[:, 0])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = torch.cat([g.flatten() for g in gradients]).norm().item()

    assert diagnosed(model) == {"gradient/norm": [pytest.approx(expected, rel=1e-4)]}


@pytest.mark.parametrize("norm_batch", [None, 2, 3])
def test_a_batch_strays_from_the_running_statistics_it_finds(norm_batch: int | None) -> None:
    model = net(BatchNormConfig(), norm_batch=norm_batch)
    (name, layer), *_ = [(n, m) for n, m in model.named_modules() if isinstance(m, BatchNorm)]
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    found = diagnosed(model)
    hook.remove()
    x = seen[0].double()
    parts = x.split(norm_batch or len(x))
    means = [((part.mean((0, 2, 3)) - mean).abs() / (var + layer.eps).sqrt()) for part in parts]
    variances = [
        ((part.var((0, 2, 3), correction=0) + layer.eps) / (var + layer.eps)).log().abs()
        for part in parts
    ]
    by_mean = torch.stack(means).mean().item()
    by_variance = torch.stack(variances).mean().item()

    assert found[f"stray_mean/{name}"] == [pytest.approx(by_mean, rel=1e-4)]
    assert found[f"stray_variance/{name}"] == [pytest.approx(by_variance, rel=1e-4)]
    assert len(found) == 2 * 2 + 1


def test_a_batch_with_the_running_statistics_does_not_stray() -> None:
    model = net(BatchNormConfig())
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.momentum = 1.0
    model.train()(images()[0])  # now the running statistics are this batch's
    found = diagnosed(model)

    assert all(each[0] < 0.01 for name, each in found.items() if name.startswith("stray_mean"))
    assert all(each[0] < 0.05 for name, each in found.items() if name.startswith("stray_var"))


def test_a_stack_is_diagnosed_replica_by_replica() -> None:
    models = [net(BatchNormConfig(), seed) for seed in range(2)]
    x, labels = images(2)
    together = diagnosed(stack(models), 2)
    for replica, model in enumerate(models):
        diagnosis = Diagnosis(model, 1)
        optimizer = SGDConfig().build(model, [])
        with diagnosis.watching() as after_backward:
            part = slice(3 * replica, 3 * replica + 3)
            mine = labels[:, replica : replica + 1]
            training_step(model.train(), optimizer, x[:, part], mine, after_backward)
        assert diagnosis.values.keys() == together.keys()
        for name, (alone,) in diagnosis.values.items():
            assert together[name][replica] == pytest.approx(alone, rel=1e-3), name


def test_diagnosing_changes_nothing() -> None:
    one, other = net(BatchNormConfig()), net(BatchNormConfig())
    diagnosed(one)
    optimizer = SGDConfig().build(other, [])
    optimizer.lr = 0.1
    training_step(other.train(), optimizer, *images())

    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert all(not module._forward_pre_hooks for module in one.modules())
