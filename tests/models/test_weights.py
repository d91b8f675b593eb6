"""Starting from a file of weights."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from normbench.errors import UsageError
from normbench.models import ModelConfig
from normbench.models.foreign import LibraryConfig, TimmConfig, TorchvisionConfig
from normbench.models.python import PythonConfig
from normbench.models.resnet import ResNetConfig
from normbench.norms import Norm, NormConfig
from normbench.norms.batch import BatchNormConfig
from normbench.norms.batch_renorm import BatchRenormConfig
from normbench.norms.group import GroupNormConfig
from normbench.norms.online import OnlineNormConfig
from normbench.norms.switchable import SwitchableNormConfig
from tests.models.test_foreign import OWN, built, cell, own, weights


def trained(model: ModelConfig, classes: int = 3) -> nn.Module:
    """A network with batch norm whose tensors are all away from their start."""
    network = built(model, BatchNormConfig(), seed=9, classes=classes)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(torch.rand(tensor.shape, generator=generator))
    return network.eval()


def narrow(**settings: Any) -> ResNetConfig:
    config = ResNetConfig(width=4, **settings)
    config.pin()
    return config


@pytest.fixture
def file(tmp_path: Path) -> str:
    save_file(trained(narrow()).state_dict(), tmp_path / "w.safetensors")
    return str(tmp_path / "w.safetensors")


def test_carried_weights_of_batch_norm_go_on_as_they_were(file: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    model = built(narrow(weights=file, carry=True), BatchNormConfig()).eval()
    torch.testing.assert_close(model(x), trained(narrow())(x))


def test_before_the_swap_the_network_has_its_own_norms(file: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    start = cell(narrow(weights=file)).start(0)
    assert (start.loaded, start.note) == (True, None)
    torch.testing.assert_close(start.network.eval()(x), trained(narrow())(x))


@pytest.mark.parametrize("carry", [True, False])
def test_scales_are_carried_where_that_is_asked_for(file: str, carry: bool) -> None:
    model = built(narrow(weights=file, carry=carry), GroupNormConfig(groups=2))
    theirs = trained(narrow())
    assert all(torch.equal(a, weights(theirs)[k]) for k, a in weights(model).items())
    for name, module in model.named_modules():
        if isinstance(module, Norm):
            gamma = theirs.get_parameter(f"{name}.weight")
            wanted = gamma if carry else torch.ones_like(gamma)
            assert torch.equal(module.get_parameter("weight"), wanted)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("before", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_what_torch_save_wrote_is_read_as_well(
    tmp_path: Path, wrapper: str | None, before: str
) -> None:
    state = {f"{before}{k}": v for k, v in trained(narrow()).state_dict().items()}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "w.pt")
    model = built(narrow(weights=str(tmp_path / "w.pt")))
    theirs = weights(trained(narrow()))
    assert all(torch.equal(a, theirs[k]) for k, a in weights(model).items())


def test_torch_s_batch_norms_in_a_foreign_network_are_loaded(tmp_path: Path) -> None:
    torch.save(own(tmp_path).network(3).state_dict(), tmp_path / "w.pt")  # num_batches_tracked, too
    model = built(own(tmp_path, weights=str(tmp_path / "w.pt")))
    state = torch.load(tmp_path / "w.pt", weights_only=True)
    assert all(torch.equal(a, state[k]) for k, a in weights(model).items())


def test_the_weights_of_a_network_with_a_compiled_part_are_loaded(tmp_path: Path) -> None:
    state = own(tmp_path).network(3).state_dict()
    torch.save({k.replace("0.", "0._orig_mod."): v for k, v in state.items()}, tmp_path / "w.pt")
    model = built(own(tmp_path, weights=str(tmp_path / "w.pt")))
    assert torch.equal(model.get_parameter("0.weight"), state["0.weight"])


@pytest.mark.parametrize("norm", [BatchRenormConfig(), SwitchableNormConfig(), OnlineNormConfig()])
def test_weights_of_the_same_norm_go_on_as_they_were(tmp_path: Path, norm: NormConfig) -> None:
    before = built(narrow(), norm)
    with torch.no_grad():
        for tensor in before.state_dict().values():
            tensor.add_(0.01)
    save_file(before.state_dict(), tmp_path / "w.safetensors")
    model = narrow(weights=str(tmp_path / "w.safetensors"))
    start = model.start(norm, 3, torch.Generator().manual_seed(0)).network

    for name, tensor in before.state_dict().items():
        assert torch.equal(start.state_dict()[name], tensor), name


def test_a_network_inside_another_is_loaded_under_either_name(tmp_path: Path) -> None:
    wrapped = (
        OWN
        + """

class Net(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)

def wrapped(classes):
    return Net(build(classes))
"""
    )
    state = own(tmp_path).network(3).state_dict()
    for start in ("", "module.", "module.module."):
        torch.save({start + k: v for k, v in state.items()}, tmp_path / "w.pt")
        file = str(tmp_path / "w.pt")
        model = built(own(tmp_path, wrapped, function="wrapped", weights=file))
        assert torch.equal(model.get_parameter("module.0.weight"), state["0.weight"])


@pytest.mark.parametrize(
    "model", [TorchvisionConfig(arch="mobilenet_v3_small"), TimmConfig(arch="regnety_002")]
)
@pytest.mark.parametrize("here", [True, False], ids=["here", "elsewhere"])
def test_carried_weights_of_a_foreign_network_go_on_as_they_were(
    tmp_path: Path, model: LibraryConfig, here: bool
) -> None:
    """With the ε of its own norms, or of those that it was trained with here."""
    pytest.importorskip(model.name, reason=f"{model.name} is not installed")
    network = built(model, BatchNormConfig(), seed=9) if here else model.network(3)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(1e-3)
        elif name.endswith("weight") and tensor.dim() == 1:
            tensor.fill_(0.03)  # so that no activation overflows
    torch.save(network.state_dict(), tmp_path / "w.pt")
    again = replace(model, weights=str(tmp_path / "w.pt"), carry=True)
    again.pin()
    x = torch.randn(2, 3, 32, 32)

    expected = network.eval()(x)
    torch.testing.assert_close(built(again, BatchNormConfig()).eval()(x), expected)
    start = again.start(BatchNormConfig(), 3, torch.Generator()).network
    torch.testing.assert_close(start.eval()(x), expected)


def test_a_network_with_group_norm_of_its_own_goes_on_with_the_batch_norm_it_was_trained_with(
    tmp_path: Path,
) -> None:
    text = OWN.replace("nn.BatchNorm2d(8)", "nn.GroupNorm(2, 8)")
    network = built(own(tmp_path, text), BatchNormConfig(), seed=9)
    network(torch.randn(4, 3, 8, 8) + 1)  # moves the running statistics
    torch.save(network.state_dict(), tmp_path / "w.pt")
    again = own(tmp_path, text, weights=str(tmp_path / "w.pt"), carry=True)
    x = torch.randn(2, 3, 8, 8)

    start = again.start(BatchNormConfig(), 3, torch.Generator()).network
    torch.testing.assert_close(start.eval()(x), network.eval()(x))


def test_another_number_of_classes_starts_the_last_layer_anew_and_is_told(file: str) -> None:
    config = narrow(weights=file)
    start = config.start(BatchNormConfig(), 5, torch.Generator())
    assert start.note == (
        "model.weights: head has 3 outputs in the file and 5 here: it starts anew"
    )
    assert start.network.get_parameter("head.weight").shape[0] == 5
    stem = trained(narrow()).get_parameter("stem.weight")
    assert torch.equal(start.network.get_parameter("stem.weight"), stem)


def test_a_last_layer_with_other_inputs_starts_anew_and_another_layer_does_not(
    tmp_path: Path,
) -> None:
    text = "from torch import nn\ndef build(classes):\n    return nn.Sequential({})\n"
    layers = "nn.Conv2d(3, {}, 3), nn.BatchNorm2d({}), nn.Flatten(), nn.Linear({}, classes)"
    for name, channels, inputs in (("a", 4, 64), ("b", 4, 16), ("c", 8, 32)):
        (tmp_path / f"{name}.py").write_text(
            text.format(layers.format(channels, channels, inputs)), encoding="utf-8"
        )
    first = built(PythonConfig(file=str(tmp_path / "a.py")), BatchNormConfig())
    torch.save(first.state_dict(), tmp_path / "w.pt")
    file = str(tmp_path / "w.pt")

    same = PythonConfig(file=str(tmp_path / "b.py"), weights=file)
    start = same.start(BatchNormConfig(), 3, torch.Generator())
    assert start.note == "model.weights: 3.weight has another shape in the file: 3 starts anew"
    other = PythonConfig(file=str(tmp_path / "c.py"), weights=file)
    with pytest.raises(UsageError, match="another shape of"):
        other.start(BatchNormConfig(), 3, torch.Generator())


def test_the_content_of_the_weights_is_part_of_the_cell_and_not_their_place(
    file: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(file).read_bytes())
    other = tmp_path / "other.pt"
    torch.save(trained(narrow()).state_dict(), other)
    digests = [cell(narrow(weights=str(path))).digest for path in (file, copy, other)]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] != cell(narrow()).digest


def test_weights_of_another_network_are_one_line(file: str) -> None:
    for config, message in (
        (
            ResNetConfig(width=4, depth=14, weights=file),
            r"it has no blocks\.3\.conv1\.weight \(\d+",
        ),
        (ResNetConfig(width=8, weights=file), r"it has another shape of stem\.weight"),
    ):
        config.pin()
        with pytest.raises(UsageError, match=message) as caught:
            built(config)
        assert "\n" not in str(caught.value)


class Attack:
    def __reduce__(self) -> Any:
        return (open, ("attacked", "w"))


@pytest.mark.parametrize(
    "content",
    [b"", b"no weights at all", pickle.dumps({"stem": Attack()}), pickle.dumps(3, 2)],
    ids=["empty", "text", "code", "number"],
)
def test_a_file_without_tensors_is_one_line_and_runs_nothing(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UsageError, match=r"^model\.weights=w\.pt: ") as caught:
        built(narrow(weights="w.pt"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists()
