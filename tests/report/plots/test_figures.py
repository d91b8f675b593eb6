"""The pictures: what they show, in which colours, and that equal runs give equal bytes."""

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.published import BEFRANKE, WU_HE
from normbench.report.compare.rates import rate_trials
from normbench.report.compare.statistics import Estimate
from normbench.report.plots.curves import curves_drawing
from normbench.report.plots.figures import (
    cost_drawing,
    error_drawing,
    published_drawing,
    rate_looks,
    rates_drawing,
)
from normbench.report.plots.lines import styles_of
from normbench.report.plots.style import (
    COLORS,
    MARKERS,
    MOST_LINES,
    THEME,
    Drawing,
    Series,
    draw_series,
    log2_axis,
    look,
    new_figure,
    style,
)
from normbench.report.read.cells import collect
from tests.report.compare.test_rates import write_trial
from tests.report_helpers import around, edit_result, slow_down, write_cell, write_sweep


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return only(write_sweep(tmp_path_factory.mktemp("sweep"), epochs=6))


def all_drawings(comparison: Comparison) -> list[Drawing]:
    found = [
        error_drawing(comparison, "error"),
        published_drawing(WU_HE, "published"),
        cost_drawing(comparison, "cost"),
        curves_drawing(comparison, 2, "curves"),
    ]
    drawings = [drawing for drawing in found if drawing is not None]
    assert len(drawings) == len(found)
    return drawings


@pytest.fixture(scope="module")
def drawings(sweep: Comparison) -> list[Drawing]:
    return all_drawings(sweep)


def words(drawing: Drawing) -> list[str]:
    root = ElementTree.fromstring(drawing.svg)
    return ["".join(e.itertext()).strip() for e in root.iter("{http://www.w3.org/2000/svg}text")]


def test_equal_runs_give_equal_bytes(
    sweep: Comparison, drawings: list[Drawing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)  # a person's own settings
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "pink")
    second = all_drawings(sweep)

    assert [(d.svg, d.png) for d in drawings] == [(d.svg, d.png) for d in second]
    assert mpl.rcParams["font.size"] == 30


def test_a_picture_is_a_whole_svg_and_a_png(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        assert ElementTree.fromstring(drawing.svg).tag.endswith("svg")
        image = Image.open(io.BytesIO(drawing.png))
        assert image.width == 992
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_error_is_drawn_over_batch_sizes_with_a_name_a_line(drawings: list[Drawing]) -> None:
    said = words(drawings[0])
    assert said[:4] == ["2", "8", "32", "128"]
    assert {"batch size", "test error, %", "batch", "group"} <= set(said)


def test_a_picture_says_network_images_epochs_and_seeds(drawings: list[Drawing]) -> None:
    said = words(drawings[0])

    assert "ResNet-8 on cifar10-jpeg, 6 epochs, 3 seeds" in said


def test_batch_norm_with_re_estimated_statistics_is_a_line(
    drawings: list[Drawing], tmp_path: Path
) -> None:
    write_cell(tmp_path, "batch", 2, around(0.5))

    assert "batch, re-est." in words(drawings[0])
    assert "batch, re-est." not in words(error_drawing(only(tmp_path), "error"))


@pytest.mark.parametrize(("xs", "dashed"), [([2, 8], 0), ([2, 32], 1), ([2, 4, 64, 128], 1)])
def test_lines_between_far_apart_places_are_dashed(xs: list[int], dashed: int) -> None:
    values = dict.fromkeys(xs, Estimate(1.0, None, None, 1))
    with style():
        _, (axes,) = new_figure()
        draw_series(axes, [Series("a", 0, values, {})], xs)
    segments = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == 2]

    kinds = [line.get_linestyle() for line in segments if line.get_linestyle() != "None"]
    assert len(kinds) == len(xs) - 1
    assert sum(kind != "-" for kind in kinds) == dashed


def test_the_best_learning_rate_is_ringed(tmp_path: Path) -> None:
    for rate, error in ((0.05, 30.0), (0.1, 28.0), (0.2, 33.0)):
        write_trial(tmp_path, "batch", 2, rate, [error])
    (trial,) = rate_trials(collect(tmp_path))
    drawing = rates_drawing(trial, "rates")

    assert drawing is not None
    assert {"0.05", "0.1", "0.2", "batch, 2"} <= set(words(drawing))
    assert len(re.findall(r"<use[^>]*stroke-width: 1[.]6", drawing.svg)) == 1
    assert not re.search(r"#[0-9a-f]{6}\b", drawing.inline())


@pytest.mark.parametrize(
    ("batches", "momenta"),
    [((2, 8, 32, 128), (0.1,)), ((2,), (0.1, 0.02))],
    ids=["places", "kinds"],
)
def test_no_two_lines_of_learning_rates_look_alike(
    tmp_path: Path, batches: tuple[int, ...], momenta: tuple[float, ...]
) -> None:
    places: list[tuple[str, int, dict[str, Any]]] = [("group", batch, {}) for batch in batches]
    places += [("batch", b, {"norm.momentum": m}) for b in batches for m in momenta]
    for norm, batch, changes in places:
        for rate in (0.05, 0.1):
            held_out = {"optim.lr": rate, "data.val_fraction": 0.1}
            cell = write_cell(tmp_path, norm, batch, [0.5], changes=changes | held_out)
            edit_result(cell, val_accuracy=0.5)
    (trial,) = rate_trials(collect(tmp_path))
    looks = rate_looks(trial.lines)

    assert len(set(looks.values())) == len(looks) == len(places)


def test_times_of_a_busy_machine_are_not_drawn(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.6])
    before = cost_drawing(only(tmp_path), "cost")
    slow_down(cell, 1)
    after = cost_drawing(only(tmp_path), "cost")

    assert before is not None
    assert after is not None
    assert "seconds an epoch" in words(before)
    assert "seconds an epoch" not in words(after)
    assert "MB a step" in words(after)


def test_the_axis_is_logarithmic(drawings: list[Drawing]) -> None:
    root = ElementTree.fromstring(drawings[0].svg)
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

    assert "× 1/2" in set(after) - set(before)
    assert any("× seeds diverged or failed" in word for word in after)


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


# --- Many lines, many places ----------------------------------------------------------------------


def variants(directory: Path, number: int, batches: tuple[int, ...] = (2, 4)) -> Comparison:
    """A comparison of ``number`` lines: group norm with 1, 2, 3 ... groups."""
    for groups in range(1, number + 1):
        for batch in batches:
            accuracies = around(0.5 + 0.01 * groups, 2)
            write_cell(directory, "group", batch, accuracies, changes={"norm.groups": groups})
    return only(directory)


def looks_in_legend(drawing: Drawing) -> list[str]:
    """Colour and dashes of every line of the legend below a picture."""
    root = ElementTree.fromstring(drawing.svg)
    legends = [e for e in root.iter() if e.attrib.get("id") == "legend_1"]
    lines = [
        path.attrib["style"]
        for legend in legends
        for group in legend
        if group.attrib.get("id", "").startswith("line2d")
        for path in group
        if path.tag.endswith("path")
    ]
    assert all("stroke: #" in line for line in lines)
    return lines


def has_a_margin(drawing: Drawing) -> bool:
    """Whether nothing touches the edge of a picture, as what is cut there would."""
    pixels = np.asarray(Image.open(io.BytesIO(drawing.png)).convert("L"))
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((edges == 255).all())


def test_up_to_eight_lines_are_named_at_their_ends(tmp_path: Path) -> None:
    drawing = error_drawing(variants(tmp_path, 8), "error")

    assert 'id="legend' not in drawing.svg
    assert {f"group, G = {i}" for i in range(1, 9)} <= set(words(drawing))
    assert drawing.note == ""


def test_more_lines_are_named_in_full_below_and_no_two_look_alike(tmp_path: Path) -> None:
    comparison = variants(tmp_path, MOST_LINES)
    drawn = [
        error_drawing(comparison, "error"),
        cost_drawing(comparison, "cost"),
        curves_drawing(comparison, 2, "curves"),
    ]

    for drawing in drawn:
        assert drawing is not None
        assert drawing.note == ""
        assert [words(drawing).count(f"group, G = {i + 1}") for i in range(24)] == [1] * 24
        assert len(set(looks_in_legend(drawing))) == MOST_LINES == 24
        assert has_a_margin(drawing)
        assert Image.open(io.BytesIO(drawing.png)).width == 992


def test_no_two_looks_are_alike_and_level_lines_are_dashed() -> None:
    for level in (False, True):
        looks = [look(i, level=level) for i in range(MOST_LINES)]
        assert len({(one.color, one.dashes) for one in looks}) == MOST_LINES
        assert len({(one.color, one.marker) for one in looks}) == (8 if level else MOST_LINES)
    solid = {look(i).dashes for i in range(MOST_LINES)}
    assert not solid & {look(i, level=True).dashes for i in range(MOST_LINES)}


def test_lines_beyond_what_a_picture_holds_are_counted(tmp_path: Path) -> None:
    comparison = variants(tmp_path, 26)
    error, cost, curves = (
        error_drawing(comparison, "error"),
        cost_drawing(comparison, "cost"),
        curves_drawing(comparison, 2, "curves"),
    )

    first = [line.label for line in comparison.lines[:24]]
    for drawing in (error, cost, curves):
        assert drawing is not None
        assert drawing.note.startswith("Of 26 lines measured here the first 24 are drawn; the oth")
        assert [word for word in words(drawing) if word.startswith("group, ")] == first
    assert error.note.endswith("the other 2 are in the table of every cell.")


def test_a_long_name_is_wrapped_below_and_not_cut(tmp_path: Path) -> None:
    for other in ("a" * 30, "b"):
        write_cell(tmp_path, "group", 2, [0.5], changes={"norm.an_unknown_setting": other})
        write_cell(tmp_path, "group", 4, [0.6], changes={"norm.an_unknown_setting": other})
    comparison = only(tmp_path)
    drawing = error_drawing(comparison, "error")

    assert len(looks_in_legend(drawing)) == 2
    for line in comparison.lines:
        assert line.label.replace(" ", "") in "".join(words(drawing)).replace(" ", "")
    assert has_a_margin(drawing)


@pytest.mark.parametrize("lines", [2, 8, 24])
@pytest.mark.parametrize("xs", [[8], [2, 4, 8], [2, 128], [2, 3, 4], list(range(2, 122, 2))])
def test_points_stand_at_their_own_tick(lines: int, xs: list[int]) -> None:
    values = dict.fromkeys(xs, Estimate(1.0, None, None, 1))
    series = [Series(str(i), i, values, dict.fromkeys(xs, (1.0,))) for i in range(lines)]
    with style():
        _, (axes,) = new_figure()
        log2_axis(axes, xs, "batch size")
        draw_series(axes, series, xs)
    means = [line for line in axes.lines if str(line.get_marker()) in MARKERS]
    drawn = [np.asarray(line.get_xdata(), dtype=float) for line in means]

    assert len(drawn) == lines
    ticks = np.log2(xs)
    low, high = axes.get_xlim()
    for at in drawn:
        assert low < at.min() <= at.max() < high
        nearest = np.abs(np.log2(at)[:, None] - ticks).argmin(axis=1)
        assert nearest.tolist() == list(range(len(xs)))


@pytest.mark.parametrize("xs", [[2, 8, 32, 128], list(range(2, 122, 2)), [1, 1000, 1001]])
def test_numbers_on_the_axis_do_not_touch(xs: list[int]) -> None:
    with style():
        figure, (axes,) = new_figure()
        log2_axis(axes, xs, "batch size")
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]

    assert len(boxes) >= 2
    assert axes.get_xticklabels()[0].get_text() == str(xs[0])
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    assert sorted([*axes.get_xticks(), *axes.get_xticks(minor=True)]) == xs


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
    assert len(set(MARKERS)) == len(set(COLORS)) == len(MARKERS) == len(COLORS)


def test_pictures_that_stand_side_by_side_have_the_same_heights(
    tmp_path: Path, sweep: Comparison
) -> None:
    """Else one reads two errors as one height."""
    write_cell(tmp_path, "group", 2, around(0.9))
    write_cell(tmp_path, "group", 8, around(0.8))
    both = (sweep, only(tmp_path))

    def errors_written(drawing: Drawing) -> list[str]:
        return re.findall(
            r">([\d.]+)</text>", drawing.svg[drawing.svg.index("matplotlib.axis_2") :]
        )

    alone = [errors_written(error_drawing(one, "error")) for one in both]
    beside = [errors_written(error_drawing(one, "error", beside=both)) for one in both]
    assert alone[0] != alone[1]
    assert beside[0] == beside[1] != []
