"""The pictures: what they show, in which colours, and that equal runs give equal bytes."""

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from report_helpers import around, write_cell, write_sweep

from normbench.report.analysis import decomposition
from normbench.report.collection import collect
from normbench.report.comparisons import Comparison, compare
from normbench.report.figures import (
    cost_drawing,
    curves_drawing,
    error_drawing,
    published_drawing,
    split_drawing,
    styles_of,
)
from normbench.report.plotting import COLORS, THEME, Drawing
from normbench.report.published import BEFRANKE, WU_HE


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return only(write_sweep(tmp_path_factory.mktemp("sweep")))


def all_drawings(comparison: Comparison) -> list[Drawing]:
    found = [
        error_drawing(comparison, "error"),
        published_drawing(WU_HE, "published"),
        split_drawing(decomposition(comparison), comparison.axis, "statistics"),
        cost_drawing(comparison, "cost"),
        curves_drawing(comparison, 2, "curves"),
    ]
    drawings = [drawing for drawing in found if drawing is not None]
    assert len(drawings) == len(found)
    return drawings


def words(drawing: Drawing) -> list[str]:
    root = ElementTree.fromstring(drawing.svg)
    return ["".join(e.itertext()).strip() for e in root.iter("{http://www.w3.org/2000/svg}text")]


def test_equal_runs_give_equal_bytes(sweep: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    first = all_drawings(sweep)
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)  # a person's own settings
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "pink")
    second = all_drawings(sweep)

    assert [(d.svg, d.png) for d in first] == [(d.svg, d.png) for d in second]
    assert mpl.rcParams["font.size"] == 30


def test_a_picture_is_a_whole_svg_and_a_png(sweep: Comparison) -> None:
    for drawing in all_drawings(sweep):
        assert ElementTree.fromstring(drawing.svg).tag.endswith("svg")
        image = Image.open(io.BytesIO(drawing.png))
        assert image.width == 992
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_error_is_drawn_over_batch_sizes_with_a_name_a_line(sweep: Comparison) -> None:
    drawing = error_drawing(sweep, "error")

    said = words(drawing)
    assert said[:4] == ["2", "8", "32", "128"]
    assert {"batch size", "test error, %", "batch", "group"} <= set(said)


def test_the_axis_is_logarithmic(sweep: Comparison) -> None:
    root = ElementTree.fromstring(error_drawing(sweep, "error").svg)
    ticks = [
        float(use.attrib["x"])
        for group in root.iter()
        if re.fullmatch(r"xtick_\d", group.attrib.get("id", ""))
        for use in list(group.iter("{http://www.w3.org/2000/svg}use"))[:1]
    ]

    assert len(ticks) == 4
    assert np.diff(ticks) == pytest.approx([ticks[1] - ticks[0]] * 3, rel=1e-3)  # 2, 8, 32, 128


def test_each_seed_is_a_point(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.5, 3))
    write_cell(tmp_path, "group", 4, around(0.5, 3))
    three = error_drawing(only(tmp_path), "error").svg
    write_cell(tmp_path, "group", 4, around(0.5, 5))
    five = error_drawing(only(tmp_path), "error").svg

    assert five.count("<use") == three.count("<use") + 2


def test_a_seed_that_diverged_is_marked(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5, 0.6])
    before = words(error_drawing(only(tmp_path), "error"))
    write_cell(tmp_path, "group", 2, [0.5, None])
    after = words(error_drawing(only(tmp_path), "error"))

    assert set(after) - set(before) >= {"× a seed diverged or failed"}


def test_an_interval_off_the_scale_does_not_flatten_the_rest(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.50, 0.52])
    write_cell(tmp_path, "group", 4, [0.50, 0.52])
    said = words(error_drawing(only(tmp_path), "error"))
    ticks = [float(word) for word in said[3:] if re.fullmatch(r"[\d.]+", word)]

    assert max(ticks) - min(ticks) < 8  # the interval is 25 points wide


def test_a_norm_keeps_its_colour(tmp_path: Path, sweep: Comparison) -> None:
    write_cell(tmp_path, "group", 2, [0.5])
    alone = styles_of(only(tmp_path).lines)

    assert alone["group"] == styles_of(sweep.lines)["group"]


def test_lines_differ_however_many_there_are(tmp_path: Path) -> None:
    for groups in (1, 2, 4, 8):
        for batch in (2, 4):
            write_cell(tmp_path, "group", batch, [0.5], changes={"norm.groups": groups})
    write_cell(tmp_path, "none", 2, [0.5])
    styles = styles_of(only(tmp_path).lines)

    assert len(set(styles.values())) == len(styles) == 5


def test_nothing_recorded_is_not_drawn(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [None], curves=False)
    comparison = only(tmp_path)

    assert curves_drawing(comparison, 2, "curves") is None
    assert cost_drawing(comparison, "cost") is None


def test_published_lines_are_the_published_ones() -> None:
    assert {"batch", "group", "layer", "instance"} <= set(words(published_drawing(WU_HE, "p")))
    assert "ResNet-20, CIFAR-10, published" in words(published_drawing(BEFRANKE, "p"))


# --- In a page ------------------------------------------------------------------------------------


def test_an_inline_picture_refers_to_nothing_outside(sweep: Comparison) -> None:
    for drawing in all_drawings(sweep):
        svg = drawing.inline()
        assert svg.startswith("<svg viewBox=")
        assert "://" not in svg
        assert "<metadata" not in svg
        ids = re.findall(r'\bid="([^"]+)"', svg)
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
        assert len(ids) == len(set(ids))
        assert {a or b for a, b in used} <= set(ids)
        assert all(identity.startswith(f"{drawing.name}-") for identity in ids)
        ElementTree.fromstring(svg)


def test_an_inline_picture_has_only_colours_that_the_page_can_change(sweep: Comparison) -> None:
    for drawing in all_drawings(sweep):
        assert not re.search(r"#[0-9a-f]{6}\b", drawing.inline())
        assert set(re.findall(r"var\(--(\w+)\)", drawing.inline())) <= set(THEME)


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours."""

    def luminance(color: str) -> float:
        values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("shade", [0, 1], ids=["light", "dark"])
def test_lines_and_text_stand_out_from_the_ground(shade: int) -> None:
    ground = THEME["ground"][shade]

    for part, both in THEME.items():
        if part not in ("ground", "grid"):
            # Lines carry their labels in their own colour.
            assert contrast(both[shade], ground) >= 4.0, part


def test_markers_and_colours_are_as_many() -> None:
    from normbench.report.plotting import MARKERS

    assert len(set(MARKERS)) == len(set(COLORS)) == len(MARKERS) == len(COLORS)
