"""Running statistics that are spoiled are found and mended; those that are sound are left alone."""

from collections.abc import Callable
from math import isnan, nan

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench import diagnose
from normbench.data.batches import Splits, split
from normbench.data.library import ImageSet
from normbench.data.sources import SyntheticConfig
from normbench.errors import UsageError
from normbench.models.convnet import ConvNetConfig
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.training.loop import evaluate
from normbench.training.precise_bn import batch_norms

CLASSES = 3


def toy() -> Splits:
    """Colours that tell the class, under noise."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.tensor([[60, 120, 180], [180, 120, 60], [120, 180, 60]])

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(CLASSES).repeat_interleave(count // CLASSES)
        noise = torch.randint(-60, 61, (len(labels), 3, 8, 8), generator=generator)
        return (colours[labels][:, :, None, None] + noise).to(torch.uint8), labels

    images = ImageSet("toy", "0" * 64, ("a", "b", "c"), *draw(240), *draw(150))
    return split(images, SyntheticConfig(pad=0, flip=False), torch.device("cpu"))


SPLITS = toy()


def trained(network: nn.Module, batch: int = 24) -> nn.Module:
    """Learns the colours with a loop of its own."""
    train = SPLITS.train
    images = train.normalized(train.pixels, torch.float32).permute(0, 3, 1, 2)
    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        order = torch.randperm(len(images), generator=generator)[:batch]
        optimizer.zero_grad()
        F.cross_entropy(network(images[order]), train.labels[order]).backward()
        optimizer.step()
    return network


def own() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return ConvNetConfig(depth=2, width=4).build(BatchNormConfig(), CLASSES, generator)


def torchs() -> nn.Module:
    """A network that knows nothing of this package."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, CLASSES),
        )  # fmt: skip


def spoil(network: nn.Module, value: float) -> None:
    """Running statistics that are not those of the images."""
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.fill_(value)


def accuracy(network: nn.Module) -> float:
    return evaluate([network], SPLITS.test).accuracy[0]


class View(nn.Module):
    """Flattens in the one way that images stored position by position do not allow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


def test_a_network_that_flattens_with_view_is_diagnosed() -> None:
    by_view, usual = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), flat, nn.Linear(4 * 36, CLASSES))
        for flat in (View(), nn.Flatten())
    )
    by_view.load_state_dict(usual.state_dict())

    found, expected = (diagnose(each, SPLITS.train, SPLITS.test) for each in (by_view, usual))
    assert [a.accuracy for a in found.accuracies] == [a.accuracy for a in expected.accuracies]
    assert not by_view._forward_pre_hooks


class BNReLU(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


def test_a_layer_that_computes_more_than_batch_norm_is_refused() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), BNReLU(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
    )
    with pytest.raises(UsageError, match=r"^1 is a BNReLU, which computes more than a norm"):
        diagnose(network, SPLITS.train, SPLITS.test)


class Auxiliary(nn.Module):
    """Has a head that training alone comes to."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = torchs(), nn.BatchNorm1d(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y + self.head(y) if self.training else y


def test_statistics_that_evaluation_does_not_come_to_stay_what_they_were() -> None:
    network = Auxiliary().eval()
    spoil(network.head, 7.0)
    found = diagnose(network, SPLITS.train, SPLITS.test)

    assert found.statistics["head.running_mean"].tolist() == [7.0] * CLASSES
    assert found.statistics["head.running_var"].tolist() == [7.0] * CLASSES


@pytest.mark.parametrize("build", [own, torchs])
def test_a_sound_network_gets_no_advice(build: Callable[[], nn.Module]) -> None:
    network = trained(build())
    before = accuracy(network)
    found = diagnose(network, SPLITS.train, SPLITS.test, batch=24)

    assert before > 0.9
    assert found.advice == []
    assert found.accuracies[0].accuracy == before
    assert not found.change.clear
    assert all(layer.mean < 0.2 and layer.variance < 0.3 for layer in found.layers)


@pytest.mark.parametrize("value", [7.0, nan])
@pytest.mark.parametrize("build", [own, torchs])
def test_spoiled_statistics_are_found_and_what_is_given_back_mends_them(
    build: Callable[[], nn.Module], value: float
) -> None:
    network = trained(build()).eval()
    sound = accuracy(network)
    spoil(network, value)
    spoiled = accuracy(network)
    found = diagnose(network, SPLITS.train, SPLITS.test, batch=24)

    assert spoiled < 0.5 < 0.9 < sound
    assert found.accuracies[0].accuracy == spoiled
    assert found.advice[0].startswith("re-estimate the running statistics: +")
    assert all(isnan(layer.mean) if isnan(value) else layer.mean > 1 for layer in found.layers)
    network.load_state_dict(found.statistics, strict=False)
    assert accuracy(network) == found.accuracies[1].accuracy
    assert accuracy(network) == pytest.approx(sound, abs=0.03)
    assert diagnose(network, SPLITS.train, SPLITS.test, batch=24).advice == []


def test_a_layer_used_twice_stays_one_layer() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(4)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1), norm), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES),
        )  # fmt: skip
    found = diagnose(trained(network), SPLITS.train, SPLITS.test, batch=24)

    assert [layer.layer for layer in found.layers] == ["1"]
    for statistic in ("running_mean", "running_var"):
        one, other = (found.statistics[f"{place}.{statistic}"] for place in ("1", "3.1"))
        assert torch.equal(one, other)
        assert not torch.equal(one, network.state_dict()[f"1.{statistic}"])
    network.load_state_dict(found.statistics, strict=False)
    assert accuracy(network) == found.accuracies[1].accuracy


class Silent(nn.BatchNorm2d):
    """What timm's BatchNormAct2d is, with dropout that would leave nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop: nn.Module = nn.Dropout(1.0)
        self.act = nn.PReLU(init=-1.0)  # |x|

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(input)))
        return y


def test_what_a_norm_applies_to_its_output_is_kept_and_drops_nothing() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        silent = Silent(4)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), silent, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, CLASSES),
        )  # fmt: skip
    drop, silent.drop = silent.drop, nn.Identity()
    sound = accuracy(trained(network))
    silent.drop = drop
    found = diagnose(network, SPLITS.train, SPLITS.test, batch=24)

    assert sound > 0.9
    assert found.accuracies[0].accuracy == sound
    assert min(each.accuracy for each in found.accuracies[-2:]) > 0.9, "of batches of 32 and 128"
    assert [layer.layer for layer in found.layers] == ["1"]
    assert found.statistics.keys() == {"1.running_mean", "1.running_var"}


def test_the_network_is_left_as_it_was() -> None:
    for network in (own(), torchs()):
        spoil(network, 2.0)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        kinds = [type(module) for module in network.modules()]
        diagnose(network, SPLITS.train, SPLITS.test)

        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
        assert [type(module) for module in network.modules()] == kinds
        assert network.training


def test_each_batch_size_that_the_images_allow_is_tried_and_the_one_of_training() -> None:
    found = diagnose(own(), SPLITS.train, SPLITS.test, batch=5)
    tried = [(each.statistics, each.size, each.images) for each in found.accuracies]

    assert tried == [
        ("running", None, 150),
        ("re-estimated", None, 150),
        ("slow", 5, 150),
        *(("batch", size, 150 // size * size) for size in (2, 5, 8, 32, 128)),
    ]
    assert [row["accuracy"] for row in found.to_records()] == [
        each.accuracy for each in found.accuracies
    ]
    assert found.to_records()[2].keys() == {"statistics", "size", "accuracy", "images", "ci95"}


@pytest.mark.parametrize("batch", [240, 300])
def test_slow_averages_over_one_batch_are_none(batch: int) -> None:
    found = diagnose(own(), SPLITS.train, SPLITS.test, batch=batch)

    assert "slow" not in [each.statistics for each in found.accuracies]


def test_layers_stray_as_the_formula_says() -> None:
    network = own()
    first = batch_norms(network)[0]
    network.load_state_dict(diagnose(network, SPLITS.train, SPLITS.test).statistics, strict=False)
    first.running_mean += 3 * (first.running_var + first.eps).sqrt()
    first.running_var.copy_(4 * (first.running_var + first.eps) - first.eps)
    found = diagnose(network, SPLITS.train, SPLITS.test)

    strayed, other = found.layers
    assert (strayed.layer, strayed.channels) == ("blocks.1", 4)
    assert strayed.mean == pytest.approx(3, rel=1e-4)
    assert strayed.variance == pytest.approx(torch.tensor(4.0).log().item(), rel=1e-4)
    assert (other.mean, other.variance) == pytest.approx((0, 0), abs=1e-4)


def test_the_images_share_the_work_that_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    diagnose(own(), SPLITS.train, SPLITS.test, told=lambda *step: told.append(step))

    assert [done for _, done, _ in told] == list(range(6))
    assert {total for _, _, total in told} == {6}
    assert told[2][0] == "batches of 2"


@pytest.mark.parametrize(
    "network",
    [
        ConvNetConfig(depth=2, width=4).build(GroupNormConfig(), CLASSES, torch.Generator()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
    ],
    ids=["group", "untracked"],
)
def test_a_network_without_running_statistics_is_refused(network: nn.Module) -> None:
    with pytest.raises(UsageError, match="no batch norm with running statistics"):
        diagnose(network, SPLITS.train, SPLITS.test)


def test_a_network_in_double_precision_is_diagnosed() -> None:
    found = diagnose(trained(own()).double(), SPLITS.train, SPLITS.test, batch=24)
    single = diagnose(trained(own()), SPLITS.train, SPLITS.test, batch=24)

    assert {each.dtype for each in found.statistics.values()} == {torch.float64}
    for one, other in zip(found.accuracies, single.accuracies, strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.02)
