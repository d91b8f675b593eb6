"""What a report shows along the training."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.plots.curves import _draw_curves, curves_drawing
from normbench.report.plots.style import look
from normbench.report.read.cells import collect
from tests.report_helpers import write_cell


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


def places_drawn(comparison: Comparison) -> dict[int, str]:
    """The places that have a picture of curves, with its note."""
    drawings = {x: curves_drawing(comparison, x, f"curves-{x}") for x in comparison.xs}
    return {x: drawing.note for x, drawing in drawings.items() if drawing is not None}


def test_six_places_at_most_have_curves(tmp_path: Path) -> None:
    for batch in range(1, 14):
        write_cell(tmp_path, "group", batch, [0.5])
    drawn = places_drawn(only(tmp_path))

    assert list(drawn) == [1, 3, 6, 8, 11, 13]
    (note,) = set(drawn.values())
    assert note.startswith("Of 13 places of the axis 6 are drawn")
    assert "metrics.jsonl" in note
    assert "TensorBoard" in note


def test_places_without_a_curve_do_not_count(tmp_path: Path) -> None:
    for batch in range(1, 8):
        write_cell(tmp_path, "group", batch, [0.5], curves=batch != 4)

    assert places_drawn(only(tmp_path)) == dict.fromkeys((1, 2, 3, 5, 6, 7), "")


def test_a_seed_that_broke_off_early_does_not_cut_the_mean_short() -> None:
    whole = [{float(at): 10.0 * seed + at for at in range(12)} for seed in (1, 2)]
    cut = {float(at): 99.0 for at in range(3)}
    figure = Figure()
    axes = figure.subplots()
    _draw_curves(axes, [*whole, cut, {}], "batch", look(0))
    *_, mean = axes.get_lines()

    assert np.column_stack(mean.get_data()).tolist() == [[at, 15.0 + at] for at in range(12)]


def test_held_out_images_are_not_called_test_images(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], changes={"data.val_fraction": 0.1})
    drawing = curves_drawing(only(tmp_path), 2, "curves")

    assert drawing is not None
    assert ">held-out error, %<" in drawing.svg
    assert ">test error, %<" not in drawing.svg
