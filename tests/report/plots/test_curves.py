"""What a report shows along the training: curves, and how a difference goes with them."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from normbench.report.compare.analysis import Lead, leads, rivals
from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.page.contents import contents
from normbench.report.page.document import to_markdown
from normbench.report.plots.curves import curves_drawing, leads_drawing
from normbench.report.read.cells import collect
from normbench.report.text.tables import lead_rows
from normbench.store import results
from tests.report_helpers import around, failed, write_cell, write_curve, write_sweep, write_text


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


# --- How a difference goes with the training ------------------------------------------------------


def write_errors(cell: Path, errors: dict[int, list[float]]) -> None:
    """Curves that hold errors in %, a list of epochs for each seed."""
    for seed, values in errors.items():
        lines = [
            {"step": 10 * n, "epoch": float(n), "eval/loss": 1.0, "eval/accuracy": 1 - value / 100}
            for n, value in enumerate(values, start=1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_text(cell / f"seed-{seed}" / "metrics.jsonl", text)


def lead_of(comparison: Comparison) -> list[Lead]:
    pair = rivals(comparison)
    assert pair is not None
    return leads(*pair)


def pair_of_cells(
    folder: Path, batch: dict[int, list[float]], group: dict[int, list[float]]
) -> Comparison:
    """Batch and group norm at 2, with curves of so many errors."""
    for norm, errors in (("batch", batch), ("group", group)):
        cell = write_cell(folder, norm, 2, around(0.5, len(errors)), changes={"epochs": 5})
        write_errors(cell, errors)
    return only(folder)


def test_a_lead_is_the_paired_difference_at_each_epoch(tmp_path: Path) -> None:
    comparison = pair_of_cells(
        tmp_path,
        {0: [60, 50, 44, 40, 39], 1: [62, 51, 45, 42, 39]},
        {0: [70, 57, 47, 41, 36], 1: [71, 59, 49, 42, 37]},
    )
    (lead,) = lead_of(comparison)

    assert (lead.first.norm, lead.second.norm, lead.x) == ("batch", "group", 2)
    assert list(lead.points) == [1, 2, 3, 4, 5]
    means = [value.mean for value in lead.points.values()]
    assert means == pytest.approx([-9.5, -7.5, -3.5, -0.5, 2.5])
    # t(0.975, 1 degree) = 12.706; the differences at 1 are -10 and -9, deviation 1/sqrt(2).
    assert lead.points[1.0].half == pytest.approx(12.7062 * 0.5, rel=1e-4)
    assert all(value.n == 2 for value in lead.points.values())


def test_a_lead_goes_as_far_as_every_seed_of_both_has_got(tmp_path: Path) -> None:
    comparison = pair_of_cells(
        tmp_path,
        {0: [60.0] * 5, 1: [60.0] * 5},
        {0: [50.0] * 5, 1: [51.0] * 4},
    )
    (lead,) = lead_of(comparison)

    assert list(lead.points) == [1, 2, 3, 4]


def test_a_course_of_three_epochs_is_none(tmp_path: Path) -> None:
    three = {0: [60.0] * 3, 1: [61.0] * 3}
    comparison = pair_of_cells(tmp_path, three, three)

    assert lead_of(comparison) == []
    assert "as training goes on" not in to_markdown(
        contents(collect(tmp_path), [comparison], papers=False)
    )


def test_where_seeds_diverged_there_is_no_lead(tmp_path: Path) -> None:
    for batch in (2, 8):
        for norm in ("batch", "group"):
            lost = norm == "group" and batch == 2
            cell = write_cell(
                tmp_path, norm, batch, [0.5, 0.5, None if lost else 0.5], changes={"epochs": 6}
            )
            write_curve(cell / "seed-2", 0.5, 6)

    assert [lead.x for lead in lead_of(only(tmp_path))] == [8]


def test_a_norm_drawn_level_is_held_against_every_place(tmp_path: Path) -> None:
    changes = {"epochs": 6}
    for norm_batch in (2, 8):
        write_cell(tmp_path, "batch", 32, around(0.5), changes=changes | {"norm_batch": norm_batch})
    write_cell(tmp_path, "group", 32, around(0.6), changes=changes)

    assert [lead.x for lead in lead_of(only(tmp_path))] == [2, 8]


def test_the_table_halves_the_training(tmp_path: Path) -> None:
    for norm in ("batch", "group"):
        cell = write_cell(tmp_path, norm, 2, [0.5], changes={"epochs": 20})
        write_errors(cell, {0: [float(40 + n) for n in range(20)]})
    comparison = only(tmp_path)
    columns, rows = lead_rows(comparison, lead_of(comparison))

    assert columns == ["epochs", "batch 2", "n"]
    assert rows == [[str(n), "+0.0", "1"] for n in (1, 2, 5, 10, 20)]


def test_the_table_of_a_very_long_training_is_short(tmp_path: Path) -> None:
    for norm in ("batch", "group"):
        cell = write_cell(tmp_path, norm, 2, [0.5], changes={"epochs": 1100})
        write_errors(cell, {0: [50.0] * 1100})
    comparison = only(tmp_path)
    _, rows = lead_rows(comparison, lead_of(comparison))

    assert [int(row[0]) for row in rows] == [1, 2, 4, 8, 17, 34, 68, 137, 275, 550, 1100]


def test_two_variants_of_batch_norm_are_no_rivals(tmp_path: Path) -> None:
    for momentum in (0.1, 0.01):
        changes = {"epochs": 6, "norm.momentum": momentum}
        write_cell(tmp_path, "batch", 2, around(0.5), changes=changes)

    assert rivals(only(tmp_path)) is None


def test_the_curve_of_a_seed_that_failed_is_in_no_difference(tmp_path: Path) -> None:
    comparison = pair_of_cells(
        tmp_path, {0: [60.0] * 5, 1: [60.0] * 5}, {0: [50.0] * 5, 1: [51.0] * 5}
    )
    cell = tmp_path / comparison.lines[1].points[0].cell.folder
    results.write_result(cell / "seed-1", failed(1))
    (lead,) = lead_of(only(tmp_path))

    assert {value.n for value in lead.points.values()} == {1}


def test_held_out_images_are_not_called_test_images(tmp_path: Path) -> None:
    for norm in ("batch", "group"):
        changes = {"epochs": 6, "data.val_fraction": 0.1}
        write_cell(tmp_path / "x", norm, 2, around(0.5), changes=changes)
    text = to_markdown(contents(collect(tmp_path / "x"), [only(tmp_path / "x")], papers=False))

    assert "Error on the held-out images of batch norm less that of group norm" in text


def test_a_report_on_a_long_training_shows_the_course(tmp_path: Path) -> None:
    write_sweep(tmp_path / "x", epochs=6)
    text = to_markdown(contents(collect(tmp_path / "x"), [only(tmp_path / "x")], papers=False))

    part = text[text.index("### The difference as training goes on") :]
    assert "](lead.png)" in part
    assert "| epochs | batch 2 | batch 8 | batch 32 | batch 128 | n |" in part
    last = next(line for line in part.splitlines() if line.startswith("| 6 |"))
    assert last.split(" | ")[1:3] == ["+6.50 ± 0.00", "−1.30 ± 0.00"]
    assert "above 0 group norm is better" in part


def test_places_have_looks_of_their_own_and_are_six_at_most(tmp_path: Path) -> None:
    for batch in range(1, 9):
        for norm in ("batch", "group"):
            write_cell(tmp_path, norm, batch, around(0.5), changes={"epochs": 6})
    comparison = only(tmp_path)
    drawing = leads_drawing(comparison, lead_of(comparison), "lead")
    svg = drawing.svg
    assert drawing.note.startswith("Of 8 places of the axis 6 are drawn")

    named = [f"batch {x}" for x in (1, 2, 4, 5, 7, 8)]
    places = [svg.find(f">{name}<") for name in named]
    assert -1 not in places
    assert all(a < b for a, b in pairwise(places))
    assert ">batch 3<" not in svg
    assert "#cc5500" not in svg, "batch norm's colour would be taken for batch norm"
