"""What commands print: the network layer by layer, the zoo of norms, pictures."""

import io
import re
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from normbench.errors import UsageError
from normbench.files import write_json
from normbench.launch.compose import load_config
from normbench.norms import NORMS
from normbench.run.views import check_curves, show_layers
from normbench.store.results import failure, write_result
from normbench.terminal.catalog import shared_with_first, show_norms
from normbench.terminal.screen import Screen
from tests.conftest import files_below
from tests.report_helpers import write_cell


def screen() -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    return Screen(Console(file=file, width=120, highlight=False, _environ={})), file


def layers(*overrides: str) -> list[list[str]]:
    """The lines of the layer table and what follows, each split at the gaps between columns."""
    shown, file = screen()
    show_layers(shown, load_config(overrides))
    return [re.split(r" {2,}", line.strip()) for line in file.getvalue().splitlines()]


def row(table: list[list[str]], name: str) -> list[str]:
    (found,) = (line for line in table if line[0] == name)
    return found


def notes(table: list[list[str]]) -> list[str]:
    return [line[0] for line in table if line[0].startswith("note: ")]


@pytest.fixture
def small(tiny: list[str]) -> list[str]:
    """Three blocks of 4, 8 and 16 channels on 8×8 images of three classes."""
    return [*tiny, "model.depth=3"]


# ---- normbench show ----


def test_the_layer_table_has_shapes_axes_groups_parameters_and_flops(small: list[str]) -> None:
    table = layers(*small, "norm=group", "norm.groups=2")

    header = ["layer", "output", "averages over", "G", "C/G", "params", "MFLOPs", "batch-dependent"]
    assert header in table
    # 3·4·3·3 weights, each used at 8·8 places, a multiplication and an addition counted as two
    assert row(table, "blocks.0") == ["blocks.0", "4×8×8", "108", "0.01"]
    assert row(table, "blocks.1 + ReLU") == [
        *("blocks.1 + ReLU", "4×8×8", "(C/G)·H·W", "2", "2", "8", "no")
    ]
    assert row(table, "blocks.7 + ReLU")[1:5] == ["16×2×2", "(C/G)·H·W", "2", "8"]
    assert row(table, "head")[:3] == ["head", "3", "51"]
    parameters = 3 * 4 * 9 + 4 * 8 * 9 + 8 * 16 * 9 + 2 * (4 + 8 + 16) + 16 * 3 + 3
    assert row(table, "total")[1] == f"{parameters:,}"


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_every_norm_says_its_activation_its_axes_and_whether_it_depends_on_the_batch(
    small: list[str], norm: str
) -> None:
    config = NORMS[norm](name=norm)
    line = row(layers(*small, f"norm={norm}"), f"blocks.1 + {config.build(4).activation}")

    assert line[2] == config.axes
    assert line[-1] == ("yes" if config.batch_dependent else "no")


def test_ghost_batch_norm_says_how_many_share_statistics(small: list[str]) -> None:
    assert row(layers(*small, "norm=batch", "norm_batch=2"), "blocks.1 + ReLU")[2] == "2 of N·H·W"


def test_layer_and_instance_norm_are_shown_as_one_group_and_as_c_groups(small: list[str]) -> None:
    assert row(layers(*small, "norm=layer"), "blocks.4 + ReLU")[3:5] == ["1", "8"]
    assert row(layers(*small, "norm=instance"), "blocks.4 + ReLU")[3:5] == ["8", "1"]


def test_where_group_norm_has_become_layer_norm_is_said(small: list[str]) -> None:
    said = notes(layers(*small, "norm=group", "norm.groups=1"))

    assert len(said) == 3
    assert all("layer norm" in note for note in said)


def test_where_group_norm_has_become_instance_norm_is_said(small: list[str]) -> None:
    said = notes(layers(*small, "norm=group", "norm.groups=4"))

    assert len(said) == 1
    assert "4 channels" in said[0]
    assert "instance norm" in said[0]


def test_automatic_groups_become_neither(small: list[str]) -> None:
    table = layers(*small, "norm=group", "norm.groups=auto")

    assert notes(table) == []
    assert [row(table, f"blocks.{i} + ReLU")[3:5] for i in (1, 4, 7)] == [
        ["2", "2"],
        ["4", "2"],
        ["8", "2"],
    ]


def test_layer_norm_by_its_own_name_needs_no_note(small: list[str]) -> None:
    assert notes(layers(*small, "norm=layer")) == []
    assert notes(layers(*small, "norm=instance")) == []


def test_a_network_that_leaves_one_place_of_an_image_is_said_to(small: list[str]) -> None:
    network = ["model=torchvision", "model.arch=resnet18", "norm=group"]
    settings = [text for text in small if not text.startswith("model")]
    (said,) = notes(layers(*settings, *network))

    assert said.startswith("note: 15 of 20 norms, from layer2.0.bn1 on, see one value a channel")
    assert "8×8 pixels" in said
    assert said.endswith("try model.stem=cifar or larger images")
    assert "model.stem" not in "".join(notes(layers(*settings, *network, "model.stem=cifar")))


def test_notes_come_in_the_order_of_the_layers() -> None:
    said = notes(layers("data=synthetic", "norm=group", "norm.groups=1", "model.width=6"))

    assert [int(re.search(r"(\d+) channels", note)[1]) for note in said] == [6, 12, 24]  # type: ignore[index]


def test_cardinality_divides_the_cost_of_a_3x3_convolution() -> None:
    plain = row(layers("data=synthetic"), "blocks.0.conv2")
    grouped = row(layers("data=synthetic", "model.cardinality=4"), "blocks.0.conv2")

    assert int(plain[2].replace(",", "")) == 4 * int(grouped[2].replace(",", ""))
    assert float(plain[3]) == pytest.approx(4 * float(grouped[3]), rel=0.01)


# ---- normbench tensorboard ----


@pytest.mark.parametrize("rebuild", [False, True])
def test_the_curves_of_a_failed_seed_which_may_be_training_again_are_left_alone(
    tmp_path: Path, rebuild: bool
) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.6])
    for seed in (0, 1):
        write_json(cell / f"seed-{seed}" / "hparams.json", {"time": 1000.0, "values": {}})
    write_result(cell / "seed-1", failure(1, RuntimeError("no memory")))
    write_result(cell / "seed-2", failure(2, RuntimeError("no memory")))
    before = files_below(cell / "seed-1")
    shown, file = screen()
    check_curves(shown, tmp_path, rebuild=rebuild)

    assert files_below(cell / "seed-1") == before
    assert bool(list((cell / "seed-0").glob("events*"))) is rebuild
    assert ("seed-0" in file.getvalue()) is not rebuild
    assert "seed-1" not in file.getvalue()
    assert "seed-2" not in file.getvalue()


def test_records_that_were_kept_without_curves_are_counted_in_a_line(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5, 0.6])
    shown, file = screen()
    check_curves(shown, tmp_path, rebuild=False)

    said = " ".join(file.getvalue().split())
    assert "2 seeds without hparams.json, as in records that were kept without curves" in said
    assert "--rebuild" not in said


# ---- normbench norms ----


def norms(name: str | None = None, figure: Path | None = None) -> str:
    shown, file = screen()
    show_norms(shown, name, figure)
    return file.getvalue()


def test_the_zoo_has_a_line_for_each_norm() -> None:
    said = norms()

    for name, cls in NORMS.items():
        line = next(line for line in said.splitlines() if line.strip().startswith(f"{name} "))
        assert cls.axes in line
        assert (" yes " if cls.batch_dependent else " no ") in line


@pytest.mark.parametrize("name", list(NORMS))
def test_a_norm_is_shown_with_formula_picture_defaults_and_paper(name: str) -> None:
    cls, said = NORMS[name], norms(name)

    for line in cls.formula.splitlines():
        assert line in said
    assert cls.paper.partition(",")[0] in said
    defaults = {f"norm.{f.name}={f.default}".lower() for f in fields(cls) if f.default is not None}
    assert {text for text in defaults if not text.startswith("norm.name")} <= set(said.split())
    assert "norm.name" not in said
    assert "None" not in said
    if name == "group":
        assert "norm.groups=auto" in said
        assert "norm.channels_per_group=null" in said
    picture = said.partition(cls.formula.splitlines()[-1])[2].partition("one mean runs over")[0]
    assert len([line for line in picture.splitlines() if line.strip()]) > 5


def test_what_is_averaged_is_read_off_the_definition() -> None:
    n, c, _ = np.indices((6, 6, 4))

    assert (shared_with_first("batch") == (c == 0)).all()
    assert (shared_with_first("layer") == (n == 0)).all()
    assert (shared_with_first("instance") == ((n == 0) & (c == 0))).all()
    assert (shared_with_first("group") == ((n == 0) & (c < 3))).all()
    assert not shared_with_first("none").any()


@pytest.mark.parametrize("name", [None, "group"])
def test_a_figure_is_a_png(tmp_path: Path, name: str | None) -> None:
    said = norms(name, tmp_path / "cube.png")

    assert f"picture: {tmp_path / 'cube.png'}" in said
    height, width, _ = imread(tmp_path / "cube.png").shape
    assert width > 300
    assert height > 300
    assert (width > 2 * height) == (name is None), "side by side"


@pytest.mark.parametrize("name", [None, "batch"])
def test_a_figure_is_an_svg(tmp_path: Path, name: str | None) -> None:
    norms(name, tmp_path / "cube.svg")

    text = " ".join(ElementTree.parse(tmp_path / "cube.svg").getroot().itertext())
    for each in [name] if name else ["batch", "layer", "instance", "group"]:
        assert NORMS[each].title in text


def test_a_figure_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.pdf: a figure ends in \.png or \.svg"):
        norms("group", tmp_path / "x.pdf")

    assert list(tmp_path.iterdir()) == []
