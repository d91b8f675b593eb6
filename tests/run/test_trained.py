"""A file of weights is diagnosed with the network it fits, and written with better statistics."""

import io
import os
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from normbench.config import Config
from normbench.errors import UsageError
from normbench.launch.compose import load_config
from normbench.run import diagnose as diagnosing
from normbench.run.cell import Cell
from normbench.run.diagnose import Findings
from normbench.run.remedies import advice
from normbench.run.trained import diagnose_file
from normbench.store.weights import write_weights
from normbench.terminal.screen import Screen
from normbench.training.loop import evaluate
from normbench.training.precise_bn import estimation, reestimate
from normbench.training.progress import Evaluation


@pytest.fixture
def config(tiny: list[str]) -> Config:
    return load_config([*tiny, "norm=batch"])


@pytest.fixture
def state(config: Config) -> dict[str, Tensor]:
    """Weights whose running statistics are those of the images."""
    cell = Cell.of(config)
    network = cell.build_model(0)
    reestimate(network, estimation(cell.splits(torch.device("cpu")).train, seed=0, flip=False), 0)
    return network.state_dict()


def diagnosed(config: Config, weights: Path, fix: Path | None = None, replace: bool = False) -> str:
    """What is printed."""
    console = Console(file=io.StringIO(), width=120, _environ={})
    diagnose_file(config, weights, Screen(console), fix=fix, replace=replace)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def findings(config: Config, weights: Path) -> Findings:
    return diagnose_file(config, weights, Screen(Console(file=io.StringIO())))


def spoiled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v + 5 if k.endswith("running_mean") else v.clone() for k, v in state.items()}


def test_accuracies_layers_and_what_follows_are_printed(
    config: Config, state: dict[str, Tensor], tmp_path: Path
) -> None:
    write_weights(tmp_path / "x.safetensors", state)
    said = diagnosed(config, tmp_path / "x.safetensors")

    assert "x.safetensors: ConvNet-2" in " ".join(said.split())
    for name in ("running averages", "re-estimated", "batches of 2", "batches of 8"):
        assert name in said
    assert "batches of 32" not in said, "there are 12 images"
    assert "blocks.1 " in said
    assert ("re-estimated from training images" in said) == bool(
        config.data.pad or config.data.flip
    )
    assert "nothing to do about the statistics" in said


def test_what_is_written_has_the_statistics_of_the_images_and_all_else_as_it_was(
    config: Config, state: dict[str, Tensor], tmp_path: Path
) -> None:
    write_weights(tmp_path / "bad.safetensors", spoiled(state))
    said = diagnosed(config, tmp_path / "bad.safetensors", tmp_path / "good.safetensors")
    good = load_file(tmp_path / "good.safetensors")

    assert f"written with re-estimated statistics: {tmp_path / 'good.safetensors'}" in said
    assert good.keys() == state.keys()
    for name, value in good.items():
        if "running" not in name:
            assert torch.equal(value, state[name])
    before, after = (findings(config, tmp_path / f"{x}.safetensors") for x in ("bad", "good"))
    assert min(layer.mean for layer in before.layers) > 1
    assert max(layer.mean for layer in after.layers) < 1e-5
    assert after.accuracies[0].accuracy == before.accuracies[1].accuracy


def test_a_file_of_torch_keeps_its_names_its_counters_and_its_types(
    config: Config, state: dict[str, Tensor], tmp_path: Path
) -> None:
    counter = torch.tensor(7)
    theirs = {f"module.{k}": v.half() for k, v in spoiled(state).items()}
    torch.save(
        {"model_state_dict": {**theirs, "module.blocks.1.num_batches_tracked": counter}},
        tmp_path / "x.pt",
    )
    diagnosed(config, tmp_path / "x.pt", tmp_path / "y.safetensors")
    good = load_file(tmp_path / "y.safetensors")

    assert good.keys() == {*theirs, "module.blocks.1.num_batches_tracked"}
    assert good.pop("module.blocks.1.num_batches_tracked") == counter
    assert {value.dtype for value in good.values()} == {torch.float16}
    mean = good["module.blocks.1.running_mean"].float()
    torch.testing.assert_close(mean, state["blocks.1.running_mean"], rtol=0.1, atol=0.2)


def test_a_file_that_is_there_is_replaced_only_where_that_is_said(
    config: Config, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    write_weights(path, spoiled(state))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is there already; --replace"):
        diagnosed(config, path, path)
    assert path.read_bytes() == before

    diagnosed(config, path, path, replace=True)
    assert path.read_bytes() != before
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (".", "is a folder"),
        ("no/x.pt", "is no folder that"),
        ("x", "must end in one of .safetensors, .pt, .pth"),
        ("x.bin", "must end in"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    config: Config, tmp_path: Path, place: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        diagnosed(config, tmp_path / "not looked at", tmp_path / place)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
def test_what_is_written_is_of_the_format_that_its_name_says(
    config: Config, state: dict[str, Tensor], tmp_path: Path, ending: str
) -> None:
    torch.save({"model": spoiled(state)}, tmp_path / "bad.pt")
    diagnosed(config, tmp_path / "bad.pt", tmp_path / f"good{ending}")
    read = load_file if ending == ".safetensors" else partial(torch.load, weights_only=True)
    good = read(tmp_path / f"good{ending}")

    assert list(good) == list(state) if ending != ".safetensors" else good.keys() == state.keys()
    mean = good["blocks.1.running_mean"]
    torch.testing.assert_close(mean, state["blocks.1.running_mean"], rtol=0.1, atol=0.2)


def test_the_folder_of_a_cell_is_told_with_a_seed_that_there_is(
    config: Config, state: dict[str, Tensor], tmp_path: Path
) -> None:
    for seed in (1, 3):
        (tmp_path / f"cell/seed-{seed}").mkdir(parents=True)
    with pytest.raises(UsageError, match="is a cell, none of whose seeds has been trained to"):
        diagnosed(config, tmp_path / "cell")
    write_weights(tmp_path / "cell/seed-3/model.safetensors", state)
    with pytest.raises(
        UsageError, match="is a cell; name the folder of one of its seeds, such as"
    ) as e:
        diagnosed(config, tmp_path / "cell")
    example = str(e.value).split()[-1]
    assert "running averages" in diagnosed(config, Path(example))


def test_held_out_images_are_looked_at_before_the_test_images(
    tiny: list[str], state: dict[str, Tensor], tmp_path: Path
) -> None:
    config = load_config([*tiny, "norm=batch", "data.val_fraction=0.25"])
    write_weights(tmp_path / "x.safetensors", state)

    assert findings(config, tmp_path / "x.safetensors").accuracies[0].images == 6


def misfit(config: Config, path: Path, **changes: Tensor | None) -> str:
    """The error for weights that are changed so."""
    tensors = {**Cell.of(config).build_model(0).state_dict()}
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            tensors.pop(key)
        else:
            tensors[key] = value
    write_weights(path, tensors)
    with pytest.raises(UsageError) as error:
        diagnosed(config, path, path.with_name("out.safetensors"))
    assert not path.with_name("out.safetensors").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_first_tensor_that_does_not_fit_is_named(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    several = {"blocks__1__weight": torch.zeros(5), "blocks__1__running_var": torch.zeros(5)}

    said = misfit(config, path, **several)
    assert said.startswith(f"{path}: blocks.1.weight has shape [5], not [4] as in model=convnet")
    assert "has no blocks.1.bias," in misfit(config, path, blocks__1__bias=None)
    assert "has blocks.9.weight," in misfit(config, path, blocks__9__weight=torch.zeros(1))


def test_weights_without_running_statistics_are_one_line(tiny: list[str], tmp_path: Path) -> None:
    group = load_config([*tiny, "norm=group"])

    assert "computes the same in training" in misfit(group, tmp_path / "x.safetensors")


@pytest.mark.parametrize("norm", ["evonorm_b0", "moving_batch", "online"])
def test_other_running_statistics_than_batch_norm_s_are_not_said_to_be_none(
    norm: str, tiny: list[str], tmp_path: Path
) -> None:
    said = misfit(load_config([*tiny, f"norm={norm}"]), tmp_path / "x.safetensors")

    assert "nothing to diagnose" in said
    assert "computes the same" not in said


def test_what_is_no_file_of_weights_is_one_line(config: Config, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("weights")
    os.mkfifo(tmp_path / "pipe")

    for name in ("x", "pipe", "missing", "."):
        with pytest.raises(UsageError, match=r"^/\S+: (is n|there is no)"):
            diagnosed(config, tmp_path / name)


# Networks that were written elsewhere.


LIBRARIES = {
    "torchvision": ("mobilenet_v3_small", 0.01),
    "timm": ("regnety_002", 0.1),
}
"""An architecture of each, and its momentum. The first has an ε of its own, the other layers with
an activation."""


@dataclass(frozen=True)
class Theirs:
    """A network of a library that knows nothing of this package, in a file."""

    library: str
    network: nn.Module
    file: Path

    @property
    def settings(self) -> list[str]:
        return [f"model={self.library}", f"model.arch={LIBRARIES[self.library][0]}"]


@pytest.fixture(params=LIBRARIES)
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Theirs:
    """Its weights are random, its variances so small that ε counts."""
    library: str = request.param
    network = made(library)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(1e-3 * (0.5 + torch.rand(tensor.shape, generator=generator)))
        if name.endswith("running_mean"):
            tensor.copy_(0.01 * torch.randn(tensor.shape, generator=generator))
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    return Theirs(library, network.eval(), tmp_path / "theirs.pt")


def made(library: str) -> nn.Module:
    pytest.importorskip(library, reason=f"{library} is not installed")
    arch, _ = LIBRARIES[library]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if library == "torchvision":
            network = torchvision.models.get_model(arch, weights=None, num_classes=3)
        else:
            network = import_module("timm").create_model(arch, num_classes=3)
    assert isinstance(network, nn.Module)
    return network


def foreign(tiny: list[str], *settings: str) -> Config:
    """Batch norm in a network that was written elsewhere."""
    images = [each for each in tiny if not each.startswith("model")]
    return load_config([*images, "norm=batch", *settings])


class Watched:
    """Networks that are evaluated, and momentums that are advised on, in ``diagnose``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.networks: list[nn.Module] = []
        self.momentums: list[float] = []
        monkeypatch.setattr(diagnosing, "evaluate", self._evaluated)
        monkeypatch.setattr(diagnosing, "advice", self._advised)

    def _evaluated(self, networks: list[nn.Module], *args: Any, **others: Any) -> Evaluation:
        self.networks += [deepcopy(network) for network in networks]
        return evaluate(networks, *args, **others)

    def _advised(
        self, accuracies: Any, batch: int | None, momentum: float, **others: Any
    ) -> list[str]:
        self.momentums.append(momentum)
        return advice(accuracies, batch, momentum, **others)


def test_a_library_s_network_is_diagnosed_as_its_own_code_builds_it(
    tiny: list[str], theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    config = foreign(tiny, *theirs.settings)
    found = findings(config, theirs.file)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    running = watched.networks[0].eval()
    torch.testing.assert_close(running(x), theirs.network(x), rtol=1e-5, atol=1e-5)
    assert watched.momentums == [LIBRARIES[theirs.library][1]]
    layers = {n for n, m in theirs.network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {layer.layer for layer in found.layers} == layers


def test_what_is_written_for_a_library_s_network_is_loaded_by_it(
    tiny: list[str], theirs: Theirs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watched = Watched(monkeypatch)
    config = foreign(tiny, *theirs.settings)
    diagnosed(config, theirs.file, tmp_path / "fixed.safetensors")
    mended = made(theirs.library).eval()
    mended.load_state_dict(load_file(tmp_path / "fixed.safetensors"), strict=True)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    torch.testing.assert_close(mended(x), watched.networks[1].eval()(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mended(x), theirs.network(x), rtol=1e-2)
    again = findings(config, tmp_path / "fixed.safetensors")
    assert max(layer.mean for layer in again.layers) < 1e-3


def test_a_library_s_network_that_was_trained_here_has_the_norms_it_was_given(
    tiny: list[str], theirs: Theirs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watched = Watched(monkeypatch)
    config = foreign(tiny, *theirs.settings, "norm.momentum=0.3")
    trained = Cell.of(config).build_model(0).eval()
    write_weights(tmp_path / "ours.safetensors", trained.state_dict())
    findings(config, tmp_path / "ours.safetensors")
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    torch.testing.assert_close(watched.networks[0].eval()(x), trained(x), rtol=1e-5, atol=1e-5)
    assert watched.momentums == [0.3]


def test_a_library_s_network_whose_counters_are_lost_is_still_found(
    tiny: list[str], tmp_path: Path
) -> None:
    state = made("timm").state_dict()
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    write_weights(tmp_path / "x.safetensors", kept)
    found = findings(
        foreign(tiny, "model=timm", "model.arch=regnety_002"), tmp_path / "x.safetensors"
    )

    assert "stem.bn" in {layer.layer for layer in found.layers}


def test_weights_of_another_library_s_network_are_one_line(tiny: list[str], tmp_path: Path) -> None:
    torch.save(made("timm").state_dict(), tmp_path / "x.pt")

    with pytest.raises(UsageError, match=r"has no conv1\.weight, .* in model=torchvision on"):
        findings(foreign(tiny, "model=torchvision"), tmp_path / "x.pt")
