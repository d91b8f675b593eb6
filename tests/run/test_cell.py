"""A cell refuses what does not fit before anything is written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from normbench.config import Config
from normbench.data import DATA
from normbench.data.library import Description
from normbench.errors import UsageError
from normbench.launch.compose import load_config
from normbench.models import MODELS, ModelConfig
from normbench.models.convnet import ConvNetConfig
from normbench.norms import NORMS
from normbench.run.cell import Cell
from normbench.training.optim import SGDConfig


def cell(model: ModelConfig, *, norm: str = "group", batch: int = 4, size: int = 8) -> Cell:
    images = Description("tiny", "0" * 64, ("a", "b"), 12, 4, (size, size))
    config = Config(
        norm=NORMS[norm](name=norm),
        model=model,
        data=DATA["synthetic"](source="synthetic"),
        optim=SGDConfig(),
        batch=batch,
    )
    return Cell(config, images, config.digest(images), Path("runs"))


def check(cell: Cell) -> bool:
    """Whether the cell is accepted; what is not raises."""
    cell.check_fit()
    return True


def test_what_fits_is_accepted() -> None:
    assert check(cell(ConvNetConfig(depth=3, width=4)))
    assert check(cell(MODELS["resnet"](name="resnet")))


def test_networks_that_are_built_in_several_threads_are_as_built_alone(tiny: list[str]) -> None:
    """Their layers draw from one generator, and how they want images stored is tried out."""
    network = ["model=torchvision", "model.arch=resnet18", "model.stem=cifar", "norm=group"]
    own = [text for text in tiny if not text.startswith("model")]
    cell = Cell.of(load_config([*own, *network]))
    with ThreadPoolExecutor(4) as pool:
        together = [*pool.map(cell.build_model, range(4))]
    for seed, built in enumerate(together):
        alone = cell.build_model(seed).state_dict()
        assert all(torch.equal(value, alone[name]) for name, value in built.state_dict().items())


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match=r"batch=13: larger than the 12 training images of tiny"):
        check(cell(ConvNetConfig(depth=1, width=4), batch=13))


def test_a_network_that_fails_on_the_images_is_refused_with_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = cell(ConvNetConfig(depth=1, width=4))
    monkeypatch.setattr(Cell, "build_model", lambda *_: torch.nn.Conv2d(3, 4, 9))
    with pytest.raises(UsageError, match=r"model=convnet .* does not take images of 8×8 pixels"):
        check(small)


def test_batch_norm_at_a_batch_of_one_is_refused_where_a_channel_is_a_single_value() -> None:
    network = MODELS["resnet"](name="resnet")  # 4×4, 2×2, 1×1
    with pytest.raises(UsageError, match=r"batch=1: layer blocks\.2\.norm1 .*single value"):
        check(cell(network, norm="batch", batch=1, size=4))
    assert check(cell(network, norm="batch", batch=2, size=4))
    assert check(cell(network, norm="group", batch=1, size=4))


def test_instance_norm_is_refused_where_a_channel_is_a_single_value() -> None:
    with pytest.raises(UsageError, match="single value"):
        check(cell(MODELS["resnet"](name="resnet"), norm="instance", size=4))
