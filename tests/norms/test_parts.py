"""What a norm may do beside its layer: to convolutions, branches, gradients, and over time."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from normbench.errors import UsageError
from normbench.models.convnet import ConvNetConfig
from normbench.models.inspection import layers
from normbench.models.resnet import ResNetConfig
from normbench.norms import Norm, NormConfig, swap_norm
from normbench.norms.base import State
from normbench.norms.none import NoNormConfig
from normbench.norms.parts import BranchEnd, Convolution, NormConv, Slot, share_hooks, spread
from normbench.training.loop import norm_parameters
from normbench.training.optim import SGDConfig
from tests.norm_checks import CHECKS, randn


class Fading(Norm):
    """x times one number a layer that follows the share of training done."""

    stacked_counts: ClassVar[tuple[str, ...]] = ("channels", "replicas")
    factor: Tensor

    def __init__(self, channels: int, *, eps: float, affine: bool, act: bool) -> None:
        super().__init__(channels, eps=eps, affine=affine, act=act)
        self.replicas = 1
        self.register_buffer("factor", torch.ones(1))

    @property
    def axes(self) -> str:
        return "-"

    def normalize(self, x: Tensor) -> Tensor:
        y = x * spread(self.factor, x)
        return y if self.weight is None else y * spread(self.weight, x)

    def set_share(self, share: float) -> None:
        self.factor.fill_(1 - share / 2)


class CentredConv(NormConv):
    """A convolution of weights without their mean, whose gradients are at most 0.01 a row."""

    def prepare(self, gain: float) -> None:
        self.gain = nn.Parameter(torch.full_like(self.weight.flatten(1)[:, 0], gain))

    def transform(self, weight: Tensor) -> Tensor:
        flat = weight.flatten(1)
        return ((flat - flat.mean(1, keepdim=True)) * self.gain[:, None]).view_as(weight)

    def before_update(self) -> None:
        gradient = self.weight.grad
        assert gradient is not None
        norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
        factor = (0.01 / norms).clamp_max(1.0)
        gradient.mul_(factor.view(-1, *(1,) * (gradient.dim() - 1)))

    @property
    def suffix(self) -> str:
        return " (centred)"


class Scaled(BranchEnd):
    """A branch times one learned number."""

    stacked_counts: ClassVar[tuple[str, ...]] = ("replicas",)

    def __init__(self) -> None:
        super().__init__()
        self.replicas = 1
        self.scale = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * spread(self.scale, x)


@dataclass(kw_only=True, slots=True)
class EverythingConfig(NormConfig):
    """A norm that does all that a norm may do."""

    name: str = "everything"

    axes: ClassVar[str] = "-"
    needs: ClassVar[str] = "the ends of residual branches"
    starts: ClassVar[dict[str, float]] = {"factor": 1.0, "gain": 1.5, "scale": 0.5}

    def build(self, channels: int, *, act: bool = True, norm_batch: int | None = None) -> Norm:
        layer = Fading(channels, eps=self.eps, affine=self.affine, act=act)
        layer.bias = None
        return layer

    def reference(
        self,
        x: Tensor,
        state: State,
        *,
        act: bool = True,
        training: bool = True,
        norm_batch: int | None = None,
    ) -> Tensor:
        y = x * state["factor"]
        y = y * spread(state["weight"], x) if "weight" in state else y
        return y.relu() if act else y

    def convolution(self, conv: Convolution) -> nn.Module:
        return CentredConv.of(conv, gain=1.5)

    def reference_convolution(self, state: State) -> tuple[Tensor, Tensor | None]:
        rows = state["weight"].flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) * state["gain"][:, None]
        return rows.view(state["weight"].shape), state.get("bias")

    def branch_end(self) -> BranchEnd:
        return Scaled()

    def reference_branch(self, x: Tensor, state: State) -> Tensor:
        return x * state["scale"]

    def reference_gradient(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        if parameter.dim() == 1:
            return gradient
        lengths = gradient.flatten(1).norm(dim=1).view(-1, *(1,) * (gradient.dim() - 1))
        return gradient.mul((0.01 / lengths).clamp_max(1.0))


EVERYTHING = EverythingConfig()


def build(norm: NormConfig) -> nn.Module:
    return ResNetConfig(width=4).build(norm, 5, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_norm_that_does_all_it_may_passes_the_checks_of_every_norm(check: object) -> None:
    assert callable(check)
    check(EVERYTHING)


def test_convolutions_and_branch_ends_become_the_norm_s_with_the_same_weights() -> None:
    model, plain = build(EVERYTHING), build(NoNormConfig())
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert {type(conv).__name__ for conv in convs} == {"CentredConv2d"}
    assert sum(isinstance(module, Scaled) for module in model.modules()) == 3
    state = model.state_dict()
    weights = {key: value for key, value in plain.state_dict().items() if value.dim() == 4}
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    x = randn(2, 3, 8, 8, dtype=torch.float32)
    stem = model.get_submodule("stem")
    weight = state["stem.weight"] - state["stem.weight"].mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(stem(x), nn.functional.conv2d(x, 1.5 * weight, padding=1))


def test_out_and_back_in_nothing_is_left_and_nothing_lost() -> None:
    model, plain = build(EVERYTHING), build(NoNormConfig())
    swap_norm(model, NoNormConfig())
    assert str(model) == str(plain)
    state = plain.state_dict()
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    swap_norm(model, EVERYTHING)
    assert str(model) == str(build(EVERYTHING))


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_convolutions_of_every_dimension_are_changed_and_given_back(dimension: int) -> None:
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimension]
    conv: Convolution = kind(4, 6, 3, groups=2, padding=1)  # type: ignore[assignment]
    x = torch.randn(2, 4, *(5,) * dimension)
    made = CentredConv.of(conv, gain=1.0)
    assert made.weight is conv.weight
    assert not torch.allclose(made(x), conv(x))
    plain = made.plain()
    assert type(plain) is kind
    assert dict(plain.named_parameters()).keys() == {"weight", "bias"}
    assert torch.equal(plain(x), conv(x))


def test_the_norm_s_layers_change_their_gradients_between_backward_pass_and_update() -> None:
    model = build(EVERYTHING)
    optimizer = SGDConfig(momentum=0.0, weight_decay=0.0).build(model, [])
    optimizer.lr = 1.0
    stem = model.get_parameter("stem.weight")
    before = stem.detach().clone()
    (100 * model(randn(4, 3, 8, 8, dtype=torch.float32)).square().sum()).backward()
    optimizer.step()
    moved = (stem.detach() - before).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0)


def test_what_a_norm_learns_is_told_from_the_weights_of_its_convolutions() -> None:
    model = build(EVERYTHING)
    own = {id(parameter) for parameter in norm_parameters(model)}
    names = {name.rpartition(".")[2] for name, p in model.named_parameters() if id(p) in own}
    others = {name for name, p in model.named_parameters() if id(p) not in own}
    assert names == {"weight", "gain", "scale"}
    convs = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert others == {f"{name}.weight" for name in convs} | {"head.weight", "head.bias"}


def test_a_norm_that_wants_neither_hook_costs_the_loop_nothing() -> None:
    model = build(NoNormConfig())
    assert share_hooks(model) == []
    assert SGDConfig().build(model, [])._before_step == []


def test_what_a_convolution_has_become_is_said() -> None:
    infos = {info.name: info.suffix for info in layers(build(EVERYTHING), (8, 8))}
    assert infos["stem"] == " (centred)"
    assert infos["blocks.0.norm1"] == " + ReLU"
    assert infos["blocks.0.norm2"] == ""


def test_a_foreign_network_that_lacks_a_place_is_refused_in_one_line_and_left_as_it_was() -> None:
    model = resnet18(weights=None)
    before = list(model.modules())
    for _ in range(2):
        with pytest.raises(UsageError, match="norm=everything needs the ends of residual") as error:
            swap_norm(model, EVERYTHING)
        assert "ResNet does not" in str(error.value)
        assert "\n" not in str(error.value)
        assert all(a is b for a, b in zip(model.modules(), before, strict=True))
        swap_norm(model, NoNormConfig())  # it stays a foreign network
        before = list(model.modules())


def test_a_network_of_our_own_without_branches_lacks_nothing() -> None:
    model = ConvNetConfig(depth=2, width=4).build(EVERYTHING, 5, torch.Generator())
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_an_empty_slot_says_so() -> None:
    with pytest.raises(RuntimeError, match="a slot is empty"):
        Slot(4)(torch.zeros(2, 4))
