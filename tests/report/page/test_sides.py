"""Which comparisons of two folders may stand side by side, and what is said of the others."""

from pathlib import Path
from typing import Any

import pytest

from normbench.report.compare.comparisons import compare
from normbench.report.page import sides
from normbench.report.page.document import Block, Pictures, Table, Text
from normbench.report.page.sides import side_by_side
from normbench.report.plots.style import Drawing
from normbench.report.read.cells import collect
from tests.report_helpers import around, write_cell


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take long, and are not looked at here."""
    empty = Drawing("beside", "", "", b"")
    monkeypatch.setattr(sides, "error_drawing", lambda *_, **__: empty)


def blocks(directory: Path) -> list[Block]:
    return side_by_side(["a", "b"], compare(collect(directory)))


def said(found: list[Block]) -> str:
    return " ".join(block.text for block in found if isinstance(block, Text))


def write(directory: Path, **options: Any) -> None:
    write_cell(directory, "batch", 2, around(0.6), **options)


def test_folders_over_different_things_are_said_to_be(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path / "a", "group", batch, around(0.6))
    for groups in (1, 4):
        write_cell(tmp_path / "b", "group", 8, around(0.6), changes={"norm.groups": groups})
    text = said(blocks(tmp_path))

    assert "a compares ResNet-8 on cifar10-jpeg (f054e0c3) over batch size; b, ResNet-8" in text
    assert "(f054e0c3) over number of groups G." in text


@pytest.mark.parametrize(
    "other",
    [
        {"data": "cifar100"},
        {"sha256": "0" * 64},
        {"model": "ResNet-20", "changes": {"model.depth": 20}},
    ],
    ids=["name", "content", "network"],
)
def test_other_images_and_networks_are_not_set_side_by_side(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", **other)
    found = blocks(tmp_path)
    assert "nothing to be put side by side" in said(found)
    assert not [block for block in found if isinstance(block, Pictures | Table)]

    write(tmp_path / "b")
    write_cell(tmp_path / "b", "group", 2, around(0.6))
    write_cell(tmp_path / "b", "batch", 8, around(0.6))
    titles = said(blocks(tmp_path))
    assert "Only in the second: batch at 8 and group at 2." in titles
    assert "Only in the first" not in titles
    assert "First: a: ResNet-8 on cifar10-jpeg" in titles
    assert "Second: b: ResNet-8 on cifar10-jpeg" in titles


def test_a_place_where_seeds_diverged_is_said_to_have_no_row(tmp_path: Path) -> None:
    for folder, accuracies in (("a", [0.6, 0.61, 0.62]), ("b", [0.6, 0.61, None])):
        write(tmp_path / folder)
        write_cell(tmp_path / folder, "group", 2, accuracies)

    assert "No row where seeds diverged in the second: group at 2." in said(blocks(tmp_path))


def test_a_norm_with_other_settings_says_which(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", changes={"norm.momentum": 0.01})
    (table,) = [block for block in blocks(tmp_path) if isinstance(block, Table)]

    assert [row[0] for row in table.rows] == ["batch (first: momentum=0.1; second: momentum=0.01)"]
