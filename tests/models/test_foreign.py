"""Networks of torchvision, of timm and of one's own, with their norms replaced."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.config import Config
from normbench.data.library import Description
from normbench.data.sources import SyntheticConfig
from normbench.errors import UsageError
from normbench.models.foreign import Stem, TimmConfig, TorchvisionConfig
from normbench.models.layout import layout_of
from normbench.models.python import PythonConfig
from normbench.models.resnet import ResNetConfig
from normbench.norms import NORMS, Norm, NormConfig
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.norms.layer import LayerNormConfig
from normbench.norms.none import NoNormConfig
from normbench.run.cell import Cell
from normbench.training.optim import SGDConfig
from normbench.training.stacking import stack, unstack

OWN = """
from torch import nn

def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, classes),
    )
"""


def built(model: Any, norm: NormConfig | None = None, seed: int = 0, classes: int = 3) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    network: nn.Module = model.build(norm or GroupNormConfig(), classes, generator)
    return network


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of all layers but norms, in order."""
    norms = [name for name, m in model.named_modules() if isinstance(m, Norm)]
    state = model.state_dict().items()
    return {k: v for k, v in state if k.rpartition(".")[0] not in norms}


def norms_of(model: nn.Module) -> list[Norm]:
    return [m for m in model.modules() if isinstance(m, Norm)]


def own(folder: Path, text: str = OWN, **settings: Any) -> PythonConfig:
    path = folder / "net.py"
    path.write_text(text)
    config = PythonConfig(file=str(path), **settings)
    config.pin()
    return config


def cell(model: Any, norm: NormConfig | None = None, size: int = 16) -> Cell:
    config = Config(
        norm=norm or GroupNormConfig(),
        model=model,
        data=SyntheticConfig(),
        optim=SGDConfig(),
        batch=4,
    )
    images = Description("toy", "a" * 64, ("cat", "dog", "cow"), 8, 4, (size, size))
    return Cell(config, images, config.digest(images), Path("nowhere"))


def mobile() -> TorchvisionConfig:
    return TorchvisionConfig(arch="shufflenet_v2_x0_5")


def test_a_torchvision_network_has_our_norms_only_and_gives_logits() -> None:
    model = built(mobile())
    assert len(norms_of(model)) > 10
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_the_weights_of_a_seed_are_the_same_whatever_the_norm(tmp_path: Path) -> None:
    for config in (mobile(), own(tmp_path)):
        first = weights(built(config, BatchNormConfig()))
        assert first
        for norm in (GroupNormConfig(groups="gcd32"), LayerNormConfig(), NoNormConfig()):
            torch.manual_seed(5)  # the global state must not matter
            other = weights(built(config, norm))
            assert all(torch.equal(first[key], other[key]) for key in first)
        another = weights(built(config, seed=1))
        assert any(not torch.equal(first[key], another[key]) for key in first)


def test_building_leaves_the_global_random_state_as_it_was(tmp_path: Path) -> None:
    config = own(tmp_path)
    before = torch.get_rng_state()
    built(config)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cifar_stem_keeps_the_resolution() -> None:
    model = built(TorchvisionConfig(arch="resnet18", stem=Stem.cifar))
    first: list[torch.Size] = []
    layer1 = model.get_submodule("layer1")
    layer1.register_forward_pre_hook(lambda _, inputs: first.append(inputs[0].shape))
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert first == [torch.Size((1, 64, 32, 32))]


def test_timm_s_networks_keep_their_activations() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    model = built(TimmConfig(arch="regnetx_002"), GroupNormConfig(groups="gcd32"))
    kinds = {type(m).__name__ for m in model.modules()}
    assert "ReLU" in kinds
    assert not any("BatchNorm" in kind for kind in kinds)
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_without_timm_its_networks_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UsageError, match=r"timm is not installed; pip install 'normbench\[timm\]'"):
        built(TimmConfig())


# A file of one's own.


def test_the_content_of_a_file_tells_cells_apart_and_not_its_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    digests = [
        cell(own(folder, text)).digest
        for folder, text in zip(folders, (OWN, OWN, OWN + "# other"), strict=True)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_file_that_has_changed_since_is_not_run(tmp_path: Path) -> None:
    config = own(tmp_path)
    Path(config.file).write_text("raise SystemExit('run')")
    with pytest.raises(
        UsageError, match=r"^model\.file=.*: its SHA-256 is .*, not model\.file_sha256="
    ):
        built(config)
    with pytest.raises(UsageError, match=r"not model\.file_sha256="):
        config.pin()


def test_naming_a_file_does_not_run_it(tmp_path: Path) -> None:
    config = own(
        tmp_path, f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n" + OWN
    )
    assert cell(config).digest
    assert not (tmp_path / "ran").exists()
    built(config)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "def f(n):\n  return [][n]\n\ndef build(classes):\n  return f(classes)",
            "build(3) raised IndexError: list index out of range;"
            " line 5, in build, line 2, in f: return [][n]",
        ),
        (
            "def build(classes):\n    return build(classes)",
            "build(3) raised RecursionError: maximum recursion depth exceeded;"
            " line 2, in build, line 2, in build, line 2, in build: return build(classes)",
        ),
        (
            "import sys\ndef build(classes):\n    sys.exit(3)\n",
            "build(3) raised SystemExit: 3; line 3, in build: sys.exit(3)",
        ),
        (
            "import no_such_module\n",
            "it raised ModuleNotFoundError: No module named 'no_such_module';"
            " line 1, in <module>: import no_such_module",
        ),
        ("x = 1\ny = (", "it raised SyntaxError: '(' was never closed; line 2: y = ("),
        ("\0", "it raised SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_what_the_file_raises_is_told_in_a_line_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    config = own(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        built(config)

    assert str(caught.value) == f"model.file={config.file}: {said}"


def test_a_forward_pass_that_raises_is_told_with_its_place(tmp_path: Path) -> None:
    text = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return 1 / 0

def build(classes):
    return Net()
"""
    with pytest.raises(UsageError) as caught:
        cell(own(tmp_path, text)).layers()
    assert str(caught.value).endswith(
        "images of 16×16 pixels, raised ZeroDivisionError: division by zero;"
        " line 10, in forward: return 1 / 0"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"it has no function build; model\.function=NAME"),
        ("def make(n): ...\n", r"no function build; it has make; model\.function=NAME"),
        ("def build(): ...\n", r"build must take the number of classes, as def build\(classes\)"),
        ("def build(classes):\n    return 3\n", r"must give an nn\.Module; it gave a int"),
        (OWN.replace("nn.BatchNorm2d(8)", "nn.Identity()"), "it has no norm, so there is nothing"),
        (
            OWN.replace("nn.BatchNorm2d(8)", "nn.LayerNorm(14)"),
            "its layer 1 is a LayerNorm, which is not known",
        ),
        (
            OWN.replace("nn.Linear(8, classes)", "nn.LazyLinear(classes)"),
            r"5\.weight has no size yet, of a lazy layer",
        ),
        (OWN.replace("8, classes", "8, 7"), r"must give logits \[4, 3\].*it gave \[4, 7\]"),
    ],
)
def test_a_network_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        cell(own(tmp_path, text)).layers()
    assert "\n" not in str(caught.value)


def test_a_file_imports_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(OWN)
    path = list(sys.path)

    network = own(tmp_path, "from beside import build\n")

    assert len(cell(network).layers()) == 3
    assert sys.path == path


@pytest.mark.parametrize("late", [False, True], ids=["at once", "when it builds"])
def test_files_in_two_folders_import_each_what_lies_beside_it(tmp_path: Path, late: bool) -> None:
    text = OWN.replace("8", "width")
    text = (
        text.replace("    return", "    from blocks.size import width\n    return")
        if late
        else "from blocks.size import width\n" + text
    )
    networks = []
    for number, width in enumerate((4, 16)):
        folder = tmp_path / f"{number}"
        (folder / "blocks").mkdir(parents=True)
        (folder / "blocks" / "size.py").write_text(f"width = {width}\n")
        networks.append(own(folder, f"# {number}\n{text}"))

    for _ in range(2):
        found = [built(network).get_submodule("0") for network in networks]
        assert [conv.out_channels for conv in found] == [4, 16]


def test_a_norm_that_is_hidden_in_a_list_is_refused(tmp_path: Path) -> None:
    text = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, classes)
        self.norms = [self.norm]

    def forward(self, x):
        return self.head(self.norms[0](self.conv(x)).mean((2, 3)))

def build(classes):
    return Net(classes)
"""
    with pytest.raises(UsageError, match=r"it computes with a BatchNorm2d that is none of its"):
        cell(own(tmp_path, text)).layers()
    assert len(cell(own(tmp_path, text.replace("s[0]", "")), GroupNormConfig()).layers()) == 3


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("F.group_norm(y, 2)", "F.group_norm"),
        ("F.layer_norm(y, y.shape[1:])", "F.layer_norm"),
        ("F.batch_norm(y, None, None, training=True)", "F.batch_norm"),
        ("torch.instance_norm(y, *[None] * 4, True, 0.1, 1e-5, False)", "F.instance_norm"),
    ],
)
def test_a_norm_that_is_a_function_is_refused(tmp_path: Path, function: str, said: str) -> None:
    text = f"""
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        y = self.norm(self.conv(x))
        y = {function}
        return self.head(y.mean((2, 3)))

def build(classes):
    return Net(classes)
"""
    with pytest.raises(UsageError, match=rf"it computes with {said}, which is a norm and no layer"):
        cell(own(tmp_path, text), GroupNormConfig()).layers()
    assert cell(own(tmp_path, text.replace(function, "F.normalize(y)")), GroupNormConfig()).layers()


def test_convolutions_that_standardize_their_weights_by_a_norm_are_no_hidden_norm(
    tmp_path: Path,
) -> None:
    text = """
from torch import nn
from torch.nn import functional as F

class Standardized(nn.Conv2d):
    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)

def build(classes):
    body = [Standardized(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""
    assert cell(own(tmp_path, text), GroupNormConfig()).layers()


def test_a_network_that_flattens_with_view_gets_its_images_channel_by_channel(
    tmp_path: Path,
) -> None:
    text = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.head = nn.Linear(8 * 196, classes)

    def forward(self, x):
        y = self.body(x)
        return self.head(y.view(len(x), -1))

def build(classes):
    return Net(classes)
"""
    (tmp_path / "usual").mkdir()
    by_view = cell(own(tmp_path, text))
    usual = cell(own(tmp_path / "usual", text.replace("y.view(len(x), -1)", "y.flatten(1)")))
    images = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)

    assert len(by_view.layers()) == 3
    model = by_view.build_model(0)
    assert layout_of(model) == torch.contiguous_format
    model.to(memory_format=layout_of(model))
    assert layout_of(usual.build_model(0)) == torch.channels_last
    torch.testing.assert_close(model(images), usual.build_model(0)(images))
    both = stack([by_view.build_model(seed) for seed in (0, 1)], images)
    assert layout_of(both) == torch.contiguous_format
    pair = both.to(memory_format=layout_of(both))(torch.cat([images, images], 1))
    torch.testing.assert_close(pair[:, :3], model(images))
    second = unstack(both)[1]
    assert layout_of(second) == torch.contiguous_format
    torch.testing.assert_close(pair[:, 3:], second(images))


def test_how_a_network_computes_in_training_counts_too(tmp_path: Path) -> None:
    text = """
from torch import nn

class Flat(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1) if self.training else x.flatten(1)

def build(classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Flat(), nn.Linear(8 * 196, classes))
"""
    model = cell(own(tmp_path, text)).build_model(0)
    assert layout_of(model) == torch.contiguous_format
    model(torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last))


def test_what_calls_itself_a_norm_and_is_none_stays(tmp_path: Path) -> None:
    text = """
from torch import nn
from torchvision.transforms import Normalize

def build(classes):
    return nn.Sequential(
        Normalize([0.5] * 3, [0.2] * 3), nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(2),
        nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )
"""
    model = cell(own(tmp_path, text)).build_model(0)
    names = [type(module).__name__ for module in model.children()]
    assert names[:4] == ["Normalize", "Conv2d", "LocalResponseNorm", "GroupNorm"]
    assert len(norms_of(model)) == 1


def test_a_network_that_is_built_with_our_norms_is_taken(tmp_path: Path) -> None:
    text = """
from torchvision.models import resnet18
from normbench import NORMS, swap_norm

def build(classes):
    return swap_norm(resnet18(num_classes=classes), NORMS["frn"]())
"""
    model = cell(own(tmp_path, text), size=32).build_model(0)
    assert {type(norm).__name__ for norm in norms_of(model)} == {"GroupNorm"}


def test_without_a_norm_there_is_still_norm_none(tmp_path: Path) -> None:
    plain = own(tmp_path, OWN.replace("nn.BatchNorm2d(8)", "nn.Identity()"))
    assert len(cell(plain, NoNormConfig()).layers()) == 2


def test_another_image_size_is_one_line_with_the_size_that_is_taken() -> None:
    with pytest.raises(UsageError, match=r"does not take images of 8×8 pixels: .*; it takes 32×32"):
        cell(TorchvisionConfig(arch="densenet121"), size=8).layers()


def test_what_became_of_each_norm_is_told(tmp_path: Path) -> None:
    (told,) = cell(own(tmp_path)).swaps()
    assert told.name == "1"
    assert told.old.startswith("BatchNorm2d(8")
    assert cell(ResNetConfig()).swaps() == []


@pytest.mark.parametrize("name", sorted(NORMS))
def test_every_norm_fits_a_network_of_one_s_own_or_says_what_it_needs(
    tmp_path: Path, name: str
) -> None:
    config = NORMS[name](name=name)
    if config.needs:
        with pytest.raises(UsageError, match=config.needs):
            built(own(tmp_path), config)
    else:
        assert len(norms_of(built(own(tmp_path), config))) == 1
