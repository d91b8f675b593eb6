"""What every norm must be, checked for any configuration of one; no norm is named here.

``tests/norms`` runs these for everything in ``NORMS``, and ``scripts/mutate_norms.py`` for layers
that it has broken: then one of them must fail.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from enum import Enum

import pytest
import torch
from torch import Tensor, nn

from normbench.errors import UsageError
from normbench.models.resnet import ResNetConfig
from normbench.norms import NORMS, Norm, NormConfig
from normbench.norms.base import State
from normbench.norms.parts import Convolution, Part, share_hooks
from normbench.training.optim import SGDConfig
from normbench.training.optimizer import Optimizer
from normbench.training.stacking import Stack, stack, unstack

CHANNELS = 6
SHAPES = {
    "NC": (8, CHANNELS),
    "NCL": (4, CHANNELS, 5),
    "NCHW": (4, CHANNELS, 4, 3),
    "NCDHW": (2, CHANNELS, 2, 3, 2),
    "N=1": (1, CHANNELS, 4, 3),
    "H·W=1": (4, CHANNELS, 1, 1),
    "H·W=2": (2, CHANNELS, 2, 1),
    "N=H·W=1": (1, CHANNELS, 1, 1),
}
LAYOUTS = {
    **{name: (shape, torch.contiguous_format) for name, shape in SHAPES.items()},
    "NCHW channels_last": (SHAPES["NCHW"], torch.channels_last),
    "NCDHW channels_last": (SHAPES["NCDHW"], torch.channels_last_3d),
}
OPTIM = SGDConfig(lr=0.2)


def default(name: str) -> NormConfig:
    return NORMS[name](name=name)


def variants(config: NormConfig) -> Iterator[NormConfig]:
    """The configuration, and those others that fit ``CHANNELS`` channels.

    Each switch the other way, every other choice, all decimal numbers halved, each whole number 1
    (or 2) and ``CHANNELS``. Of several that say the same number of groups the first.
    """
    seen = [_meant(config)]
    yield config
    for changed in _changed(config):
        if _builds(changed) and (meant := _meant(changed)) not in seen:
            seen.append(meant)
            yield changed


def _meant(config: NormConfig) -> dict[str, object]:
    """What a configuration says, its groups as their number for ``CHANNELS``."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    if "max_groups" in values:
        layer = config.build(CHANNELS)
        for key in ("groups", "channels_per_group", "max_groups"):
            del values[key]
        values["number of groups"] = layer.num_groups
    return values


def _changed(config: NormConfig) -> Iterator[NormConfig]:
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    for key in (key for key, value in values.items() if isinstance(value, bool)):
        yield type(config)(**values | {key: not values[key]})
    for key in (key for key, value in values.items() if isinstance(value, Enum)):
        others = (member for member in type(values[key]) if member is not values[key])
        yield from (type(config)(**values | {key: member}) for member in others)
    halves = {key: value / 2 for key, value in values.items() if isinstance(value, float)}
    halves = {key: value for key, value in halves.items() if _fits(config, key, value)}
    yield type(config)(**values | halves)
    for key in (f.name for f in fields(config) if "int" in str(f.type)):
        least = 1 if _fits(config, key, 1) else 2
        yield from (_with(config, key, number) for number in (least, CHANNELS))


def _with(config: NormConfig, key: str, value: float) -> NormConfig:
    return replace(config, **{key: value})  # type: ignore[arg-type]


def _fits(config: NormConfig, key: str, value: float) -> bool:
    try:
        _with(config, key, value)
    except UsageError:
        return False
    return True


def _builds(config: NormConfig) -> bool:
    try:
        config.build(CHANNELS)
    except UsageError:
        return False
    return True


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def laid_out(layout: str, seed: int = 0) -> Tensor:
    """Random values, each channel with a mean and a deviation of its own."""
    shape, memory_format = LAYOUTS[layout]
    scale = torch.linspace(0.5, 3.0, shape[1], dtype=torch.float64)
    broadcast = (1, -1) + (1,) * (len(shape) - 2)
    x = randn(*shape, seed=seed) * scale.view(broadcast) + (scale - 1.0).view(broadcast)
    return x.contiguous(memory_format=memory_format)


def moved(layer: nn.Module, seed: int = 1) -> nn.Module:
    """The layer with parameters away from where they start, some of them negative."""
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.add_(randn(*parameter.shape, seed=seed + number, dtype=parameter.dtype))
    return layer


def built(config: NormConfig, *, act: bool = False, norm_batch: int | None = None) -> Norm:
    layer = config.build(CHANNELS, act=act, norm_batch=norm_batch).double()
    moved(layer)
    return layer


def close(mine: Tensor | None, wanted: Tensor | None, what: str, tolerance: float = 1e-10) -> None:
    """Equal to ``tolerance``; a gradient that is missing is 0."""
    if mine is None and wanted is None:
        return
    like = mine if mine is not None else wanted
    assert like is not None
    a, b = (torch.zeros_like(like) if t is None else t.detach() for t in (mine, wanted))
    if a.shape != b.shape or a.dtype != b.dtype or not torch.allclose(a, b, tolerance, tolerance):
        # Fails in words, for which it takes ten times as long.
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance, msg=lambda m: f"{what}: {m}"
        )


def suits(layer: Norm, shape: tuple[int, ...]) -> bool:
    values = layer.values_per_statistic(torch.Size(shape))
    return values is None or values > 1


# ---- The definition ----


def check_definition(config: NormConfig) -> None:
    """Output, gradients and buffers are those of the reference, in training and in evaluation."""
    for number, (layout, (shape, _)) in enumerate(LAYOUTS.items()):
        for act in (True, False):
            _hold_to_reference(config, layout, act, None)
        sizes = _sub_batches(shape[0])
        for place, norm_batch in enumerate(sizes if config.batch_dependent else sizes[-1:], number):
            _hold_to_reference(config, layout, place % 2 == 0, norm_batch)  # in turns


def _sub_batches(n: int) -> list[int]:
    """Sizes of sub-batches for ``n`` examples: smaller ones, and one that is never full."""
    return [*(size for size in (1, 2) if n > size and n % size == 0), 2 * n]


def _hold_to_reference(config: NormConfig, layout: str, act: bool, norm_batch: int | None) -> None:
    layer = built(config, act=act, norm_batch=norm_batch)
    assert layer.act == act
    x = laid_out(layout)
    if _is_lost(config, layer, x, norm_batch):
        assert not suits(layer, x.shape)
        _refuses(layer, x)
        if not layer.batch_dependent:  # in evaluation the batch does not matter
            return
    else:
        for seed in range(2):  # the second starts from what the first has left
            layer.set_share(seed / 2)
            _step(config, layer, laid_out(layout, seed), norm_batch)
    layer.eval()
    _step(config, layer, laid_out(layout, 2), norm_batch)


def _step(config: NormConfig, layer: Norm, x: Tensor, norm_batch: int | None) -> None:
    """One forward and backward pass of the layer and of its reference, on equal values."""
    state = {key: value.detach().clone() for key, value in layer.state_dict().items()}
    learned = {key: state[key].requires_grad_() for key, _ in layer.named_parameters()}
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    before, upstream = x1.detach().clone(), randn(*x.shape, seed=5)
    y1 = layer(x1)
    y2 = config.reference(x2, state, act=layer.act, training=layer.training, norm_batch=norm_batch)
    assert y1.shape == x.shape
    y1.backward(upstream)
    y2.backward(upstream)
    mode = f"{config}, {list(x.shape)}, training={layer.training}"
    assert torch.equal(x1, before), f"{mode}: the input was changed"
    close(y1, y2, f"{mode}: output")
    close(x1.grad, x2.grad, f"{mode}: the input's gradient")
    for key, parameter in layer.named_parameters():
        close(parameter.grad, learned[key].grad, f"{mode}: the gradient of {key}")
        parameter.grad = None
    for key, buffer in layer.named_buffers():
        close(buffer, state[key], f"{mode}: {key}")


def refusal(config: NormConfig, layout: str) -> str | None:
    """How the norm refuses to train on a layout; None where it is held to its reference."""
    layer = built(config, act=config.norm_activation)
    x = laid_out(layout)
    return _refuses(layer, x) if _is_lost(config, layer, x, None) else None


def _refuses(layer: Norm, x: Tensor) -> str:
    with pytest.raises(UsageError, match="single value") as caught:
        layer(x)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _is_lost(config: NormConfig, layer: Norm, x: Tensor, norm_batch: int | None) -> bool:
    """Whether, by the reference, a value is normalized by itself, so that nothing is left of it.

    Where values share a mean, they are as many as the layer says.
    """
    inputs = x.clone().requires_grad_()
    state = {key: value.detach().clone() for key, value in layer.state_dict().items()}
    act = config.norm_activation and layer.act
    y = config.reference(inputs, state, act=act, norm_batch=norm_batch)
    # Of a maximum, such as EvoNorm-B0's, one side moves an output: the first few are tried.
    outputs = y[:, 0].flatten()[: 8 if act else 1]
    gradients = [torch.autograd.grad(o, inputs, retain_graph=True)[0] for o in outputs]
    (every,) = torch.autograd.grad((y * randn(*y.shape, seed=5)).sum(), inputs)
    sharing = max(int((gradient != 0).sum()) for gradient in gradients)
    values = layer.values_per_statistic(x.shape)
    if sharing > 1:
        assert values in (None, sharing)
    return sharing <= 1 and (act or float(every.abs().median()) < 0.01)


def check_gradients(config: NormConfig) -> None:
    """The gradients are the derivatives of the output, by finite differences."""
    for shape in ((3, CHANNELS, 2, 2), (4, CHANNELS)):
        layer = built(config, act=True)
        if config.differentiable and suits(layer, shape):
            names = [name for name, _ in layer.named_parameters()]

            def function(
                x: Tensor, *parameters: Tensor, layer: Norm = layer, names: list[str] = names
            ) -> Tensor:
                given = dict(zip(names, parameters, strict=True))
                buffers = {key: value.clone() for key, value in layer.named_buffers()}
                y: Tensor = torch.func.functional_call(layer, {**given, **buffers}, (x,))
                return y

            x = randn(*shape, seed=3).requires_grad_()
            assert torch.autograd.gradcheck(function, (x, *layer.parameters()), fast_mode=True)


# ---- The batch ----


def check_batch(config: NormConfig) -> None:
    """An example's output depends on its batch mates in training just where that is said."""
    for shape in ((4, CHANNELS, 4, 3), (6, CHANNELS)):
        layer = built(config, act=config.norm_activation)
        if suits(layer, shape):
            x, other = randn(*shape), 10 * randn(*shape, seed=9) + 3
            other[0] = x[0]
            same = torch.allclose(layer(x)[0], layer(other)[0], rtol=0, atol=1e-12)
            assert same != layer.batch_dependent
            layer.eval()
            assert torch.allclose(layer(x)[0], layer(other)[0], rtol=0, atol=1e-12)
            order = torch.tensor([2, 0, 3, 1, *range(4, len(x))])
            close(layer(x[order]), layer(x)[order], "another order of examples")


def check_channels(config: NormConfig) -> None:
    """An input with other channels is refused."""
    with pytest.raises(ValueError, match=str(2 * CHANNELS)):
        built(config)(randn(4, 2 * CHANNELS, 4, 4))


def check_start(config: NormConfig) -> None:
    """Every tensor starts where the configuration says; ``affine`` brings a γ.

    It has channels, groups or, once in a layer, one value first, or is a single number.
    """
    layer = config.build(CHANNELS)
    assert (layer.weight is not None) == config.affine
    conv = nn.Conv2d(4, CHANNELS, 3, bias=False)
    own = config.convolution(conv).state_dict()
    assert torch.equal(own.pop("weight"), conv.weight)
    starts = {"weight": 1.0, "bias": 0.0} | config.starts
    for state in (layer.state_dict(), own, config.branch_end().state_dict()):
        for key, value in state.items():
            assert torch.equal(value, torch.full_like(value, starts[key])), key
            assert value.dim() == 0 or len(value) in (CHANNELS, layer.num_groups, 1), key


# ---- Beside the layer ----


def convolved(config: NormConfig) -> Iterator[tuple[Convolution, nn.Module, Tensor]]:
    """Convolutions as they start, what the configuration makes of them, and an input."""
    one, two = nn.Conv1d(4, CHANNELS, 3), nn.Conv2d(4, CHANNELS, 3, groups=2, bias=False)
    three = nn.Conv3d(4, CHANNELS, 2, bias=False)
    convolutions: list[Convolution] = [one, two, three]
    for conv, space in zip(convolutions, ((5,), (5, 4), (3, 4, 2)), strict=True):
        yield conv.double(), config.convolution(conv).double(), randn(2, 4, *space)


def check_convolution(config: NormConfig) -> None:
    """A convolution computes with the reference's weight and bias, gradients included."""
    for conv, layer, x in convolved(config):
        moved(layer)

        def reference(x: Tensor, state: State, conv: Convolution = conv) -> Tensor:
            y: Tensor = conv._conv_forward(x, *config.reference_convolution(state))
            return y

        _hold(layer, x, reference, f"{config}, {conv}")


def check_branch(config: NormConfig) -> None:
    """The end of a residual branch computes what the reference does, gradients included."""
    layer = moved(config.branch_end().double())
    _hold(layer, randn(2, CHANNELS, 3, 2), config.reference_branch, f"{config}, {layer}")


def _hold(
    layer: nn.Module, x: Tensor, reference: Callable[[Tensor, State], Tensor], what: str
) -> None:
    state = {key: value.detach().clone() for key, value in layer.state_dict().items()}
    learned = {key: state[key].requires_grad_() for key, _ in layer.named_parameters()}
    y1, y2 = layer(x), reference(x, state)
    close(y1, y2, f"{what}: output")
    if learned:
        upstream = randn(*y1.shape, seed=5)
        y1.backward(upstream)
        y2.backward(upstream)
    for key, parameter in layer.named_parameters():
        close(parameter.grad, learned[key].grad, f"{what}: the gradient of {key}")


def check_update(config: NormConfig) -> None:
    """Before an update, gradients become what the reference says, whatever their size."""
    layers = [built(config, act=act) for act in (True, False)]
    layers += [moved(layer) for _, layer, _ in convolved(config)]  # type: ignore[misc]
    layers += [moved(config.branch_end().double())]  # type: ignore[list-item]
    for part in (layer for layer in layers if isinstance(layer, Part)):
        for size in (1e-4, 0.1, 10.0):
            wanted = {}
            for number, (key, parameter) in enumerate(part.named_parameters()):
                parameter.grad = size * randn(*parameter.shape, seed=number)
                wanted[key] = config.reference_gradient(parameter.detach(), parameter.grad.clone())
            with torch.no_grad():
                part.before_update()
            for key, parameter in part.named_parameters():
                close(parameter.grad, wanted[key], f"{config}: the gradient of {key}")


# ---- In a network ----


def network(config: NormConfig, seed: int = 0) -> nn.Module:
    """A small residual network in float64 with parameters away from their start."""
    generator = torch.Generator().manual_seed(seed)
    model = ResNetConfig(width=CHANNELS).build(config, 3, generator).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * randn(*parameter.shape, seed=100 * seed + number))
    return model


def train(model: nn.Module, seeds: list[int], steps: range, *, share: bool = True) -> Optimizer:
    """Trains a network, or a stack, on batches that depend on the seed and the step alone."""
    optimizer = OPTIM.build(model.train(), [])
    optimizer.lr = 0.05
    at_share = share_hooks(model) if share else []
    for step in steps:
        for set_share in at_share:
            set_share(step / 4)
        images = torch.cat([randn(4, 3, 8, 8, seed=10 * seed + step) for seed in seeds], dim=1)
        logits = model(images).view(4, len(seeds), 3)
        # Where statistics are frozen from the start nothing else keeps a network from diverging.
        logits = logits / logits.detach().abs().amax((0, 2), keepdim=True).clamp_min(1)
        wanted = torch.arange(4) % 3
        loss = sum(nn.functional.cross_entropy(logits[:, k], wanted) for k in range(len(seeds)))
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
    return optimizer


def same(first: nn.Module, second: nn.Module, tolerance: float) -> None:
    """Equal tensors, equal names, equal layers with equal counts."""
    assert str(first) == str(second)
    a, b = first.state_dict(), second.state_dict()
    assert list(a) == list(b)
    for key in a:
        assert a[key].isfinite().all(), key
        close(a[key], b[key], key, tolerance)
    for mine, theirs in zip(first.modules(), second.modules(), strict=True):
        counts = {k: v for k, v in vars(mine).items() if type(v) in (int, bool)}
        assert counts == {k: v for k, v in vars(theirs).items() if type(v) in (int, bool)}


def check_stack(config: NormConfig) -> None:
    """Replicas of a stack are trained as alone: every tensor and every count, evaluation too."""
    seeds = [1, 2, 3]
    joint = stack([network(config, seed) for seed in seeds], randn(4, 3, 8, 8))
    assert isinstance(joint, Stack)
    train(joint, seeds, range(3))
    images = randn(4, 3, 8, 8, seed=77)
    together = joint.eval()(images.repeat(1, len(seeds), 1, 1)).view(4, len(seeds), 3)
    for replica, (seed, part) in enumerate(zip(seeds, unstack(joint), strict=True)):
        alone = network(config, seed)
        train(alone, [seed], range(3))
        same(alone.eval(), part, 1e-9)
        close(together[:, replica], alone(images), "evaluation in the stack")


def check_resume(config: NormConfig) -> None:
    """A network goes on from its saved state and the optimizer's as if nothing had happened."""
    whole = network(config)
    optimizer = train(whole, [0], range(2))
    again = network(config, seed=1)
    again.load_state_dict({k: v.clone() for k, v in whole.state_dict().items()})
    del optimizer
    train(whole, [0], range(2, 4))
    train(again, [0], range(2, 4))
    same(whole, again, 0.0)


def check_forgotten(config: NormConfig) -> None:
    """Without any one of a norm's buffers, or the share of the training, the end differs."""
    whole = network(config)
    train(whole, [0], range(2))
    state = {key: value.clone() for key, value in whole.state_dict().items()}
    layer = next(module for module in whole.modules() if isinstance(module, Norm))
    early, late = copy.deepcopy(layer), copy.deepcopy(layer)
    early.set_share(0.0)
    late.set_share(1.0)
    buffers = dict(early.named_buffers())
    kept = [key for key, value in late.named_buffers() if torch.equal(value, buffers[key])]
    wanted = _end(config, state)
    still = [name for name in kept if _equal(_forgotten(config, state, [name]), state)]
    assert not still or still == list(buffers)  # all, where statistics are frozen from the start
    for name in kept:
        ended = _end(config, _forgotten(config, state, [name]))
        assert _equal(ended, wanted) == (name in still), name
    if share_hooks(whole):  # which set the other buffers before each step
        forgotten = _forgotten(config, state, buffers.keys() - kept)
        assert _equal(_end(config, forgotten), wanted)
        assert not _equal(_end(config, forgotten, share=False), wanted)
    assert _equal(_end(config, state), wanted)


def _forgotten(
    config: NormConfig, state: dict[str, Tensor], names: Iterable[str]
) -> dict[str, Tensor]:
    """``state`` with the buffers of these names as they start."""
    starts = {name: config.starts[name] for name in names}
    ends = {key: key.rpartition(".")[2] for key in state}
    return {
        key: torch.full_like(value, starts[ends[key]]) if ends[key] in starts else value
        for key, value in state.items()
    }


def _end(config: NormConfig, state: dict[str, Tensor], *, share: bool = True) -> dict[str, Tensor]:
    model = network(config, seed=1)
    model.load_state_dict(state)
    train(model, [0], range(2, 3), share=share)
    return model.state_dict()


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


CHECKS: list[Callable[[NormConfig], None]] = [
    check_definition,
    check_batch,
    check_channels,
    check_start,
    check_convolution,
    check_branch,
    check_update,
    check_gradients,
    check_resume,
    check_forgotten,
    check_stack,
]
