"""Rows of tables, and CSV that reads back as it was."""

import csv
import io
from pathlib import Path

import pytest

from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.differences import meeting
from normbench.report.read.cells import collect
from normbench.report.text.beside import beside
from normbench.report.text.tables import (
    cell_columns,
    cell_rows,
    cells_csv,
    crossing_rows,
    decomposition_rows,
    difference_table,
    differences_csv,
    seeds_csv,
)
from normbench.store import results
from tests.report_helpers import SHA, around, failed, slow_down, write_cell, write_sweep


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_says_what_a_cell_reached_and_cost(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.60, 0.61, 0.62])
    comparison = only(tmp_path)

    row = dict(zip(cell_columns(comparison), cell_rows(comparison)[0], strict=True))

    assert row == {
        "norm": "group",
        "batch size": "2",
        "error %": "39.0 ± 2.5",
        "n": "3",
        "state": "finished 3/3",
        "peak rate": "0.00625",
        "s/epoch": "61",
        "images/s": "820",
        "memory": "2 MB",
    }


def test_cells_that_failed_or_diverged_are_in_the_table(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [None, None])
    results.write_result(folder / "seed-1", failed(1))
    row = cell_rows(only(tmp_path))[0]

    assert row[2:5] == ["-", "0", "1 diverged at step 12, 1 failed"]


def test_a_level_line_is_one_row(tmp_path: Path) -> None:
    for size in (2, 8):
        write_cell(tmp_path, "batch", 32, around(0.5), changes={"norm_batch": size})
    write_cell(tmp_path, "group", 32, around(0.5))
    rows = cell_rows(only(tmp_path))

    assert [row[:2] for row in rows] == [["batch", "2"], ["batch", "8"], ["group", "any"]]
    assert cell_columns(only(tmp_path))[1] == "norm batch size"


def test_differences_have_their_own_interval_and_one_for_all_rows(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.600, 0.610, 0.620])
    write_cell(tmp_path, "group", 2, [0.624, 0.634, 0.644])
    write_cell(tmp_path, "layer", 2, [0.50, 0.51, 0.52])
    columns, rows = difference_table(only(tmp_path))

    assert columns == [
        "error of",
        "batch size",
        "points, alone",
        "points, together",
        "how sure",
        "n",
    ]
    first = next(row for row in rows if row[0] == "batch − group")
    assert first == ["batch − group", "2", "+2.4 ± 2.3", "+2.4 ± 2.3", "clear", "3"]
    assert [row[4] for row in rows] == ["clear"] * 3
    write_cell(tmp_path, "instance", 2, [0.50, 0.51, 0.52])
    _, rows = difference_table(only(tmp_path))
    assert {row[0]: row[4] for row in rows}["instance − layer"] == "unclear"


def test_crossings_are_said(tmp_path: Path) -> None:
    ((lines, where),) = crossing_rows(only(write_sweep(tmp_path)))

    assert lines == "batch, group"
    assert where.startswith("at 6.3 (95 % interval ")


def test_lines_cross_where_no_seed_diverged(tmp_path: Path) -> None:
    for batch, accuracy in ((2, 0.60), (8, 0.68), (32, 0.71)):
        lost = [None] if batch == 8 else []
        write_cell(tmp_path, "batch", batch, [*around(accuracy), *lost])
        write_cell(tmp_path, "group", batch, around(0.667))

    (crossed,) = meeting(*only(tmp_path).lines)
    assert crossed.between == (8.0, 32.0)
    write_cell(tmp_path / "few", "batch", 2, [0.60, None])
    write_cell(tmp_path / "few", "batch", 8, around(0.68))
    for batch in (2, 8):
        write_cell(tmp_path / "few", "group", batch, around(0.667))
    assert crossing_rows(only(tmp_path / "few")) == []


@pytest.mark.parametrize("lost", [{"a": [None]}, {"b": [None]}], ids=["first", "second"])
def test_cells_that_lost_seeds_stand_beside_nothing(
    tmp_path: Path, lost: dict[str, list[float | None]]
) -> None:
    for name in ("a", "b"):
        write_cell(tmp_path / name, "batch", 2, [*around(0.6), *lost.get(name, [])])
        write_cell(tmp_path / name, "group", 2, around(0.7))

    assert [row[0] for row in beside(compare(collect(tmp_path)))[1]] == ["group"]


def test_two_sweeps_stand_side_by_side(tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.6), ("b", 0.7)):
        write_cell(tmp_path / name, "group", 2, around(accuracy))
    write_cell(tmp_path / "b", "batch", 2, around(0.5))
    columns, rows = beside(compare(collect(tmp_path)))

    assert columns[:4] == ["norm", "batch size", "first", "second"]
    (row,) = rows
    assert row[:4] == ["group", "2", "40.00 ± 0.50", "30.00 ± 0.50"]
    assert row[4].startswith("−10.00 ± 0.4")


def test_times_of_a_busy_machine_are_not_in_the_table(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.6])
    slow_down(cell, 1)
    row = dict(zip(cell_columns(only(tmp_path)), cell_rows(only(tmp_path))[0], strict=True))

    assert (row["s/epoch"], row["images/s"], row["memory"]) == ("-", "-", "2 MB")


def test_the_parts_of_a_loss_have_a_row_a_batch(tmp_path: Path) -> None:
    rows = decomposition_rows(only(write_sweep(tmp_path)))

    assert [row[1] for row in rows] == ["2", "8", "32", "128"]
    assert rows[0][5].startswith("+2.00 ± ")  # what the averages cost there
    assert rows[0][6] == "1.00"  # the correlation over seeds
    assert rows[0][7].startswith("+11.00 ± ")  # in total
    assert rows[0][8].startswith("+1.88 ± ")  # to the running averages
    assert rows[0][9].startswith("+9.13 ± ")  # the rest
    assert rows[2][7:10] == ["reference"] * 3


def test_groups_have_differences_along_the_axis_and_their_groups_by_stage(tmp_path: Path) -> None:
    for groups, accuracy in ((1, 0.60), (4, 0.62), (16, 0.61)):
        write_cell(tmp_path, "group", 8, around(accuracy), changes={"norm.groups": groups})
    comparison = only(tmp_path)

    _, rows = difference_table(comparison)
    assert [row[:2] for row in rows] == [
        ["group norm, less at 1", "4"],
        ["group norm, less at 1", "16"],
        ["group norm, less at 4", "16"],
    ]
    assert rows[0][2].startswith("−2.00 ± 0.4")
    assert [row[-1] for row in cell_rows(comparison)] == [
        "G × C/G = 1 × 16 (layer norm), 1 × 32 (layer norm), 1 × 64 (layer norm)",
        "G × C/G = 4 × 4, 4 × 8, 4 × 16",
        "G × C/G = 16 × 1 (instance norm), 16 × 2, 16 × 4",
    ]
    assert len(cell_columns(comparison)) == len(cell_rows(comparison)[0])


# --- CSV ------------------------------------------------------------------------------------------


def test_every_seed_reads_back_from_csv(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "group", 2, [0.601234567, None], seeds=3)
    rows = read(seeds_csv(collect(tmp_path)))

    assert [row["state"] for row in rows] == ["finished", "diverged", "waiting"]
    assert rows[0]["folder"] == folder.name
    assert float(rows[0]["test_accuracy"]) == 0.601234567
    assert (rows[0]["batch"], rows[0]["sha256"], rows[0]["steps"]) == ("2", SHA, "75000")
    assert rows[0]["memory_bytes"] == "2000000"
    assert (rows[1]["test_accuracy"], rows[1]["diverged_at"]) == ("", "12")
    assert rows[2]["test_accuracy"] == ""


def test_unreadable_cells_are_rows_too(tmp_path: Path) -> None:
    (tmp_path / "group-b2-0123abcd").mkdir()
    (row,) = read(seeds_csv(collect(tmp_path)))

    assert (row["state"], row["norm"], row["seed"]) == ("unreadable", "group", "")
    assert row["problem"] == "there is neither config.yaml nor summary.json"


def test_every_cell_reads_back_from_csv(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    rows = read(cells_csv([only(tmp_path)]))

    assert len(rows) == 8
    assert (rows[0]["line"], rows[0]["x"], rows[0]["n"]) == ("batch", "2", "3")
    assert float(rows[0]["error_mean"]) == pytest.approx(40.0)
    low, high = float(rows[0]["error_low"]), float(rows[0]["error_high"])
    assert low < 40 < high
    assert float(rows[0]["peak_learning_rate"]) == 0.00625


def test_every_difference_reads_back_from_csv(tmp_path: Path) -> None:
    rows = read(differences_csv([only(write_sweep(tmp_path))]))

    assert [(r["first"], r["second"], r["x"], r["n"]) for r in rows] == [
        ("batch", "group", x, "3") for x in ("2", "8", "32", "128")
    ]
    assert float(rows[0]["mean"]) == pytest.approx(6.5)


def test_differences_along_an_axis_read_back_from_csv(tmp_path: Path) -> None:
    for groups, accuracy in ((1, 0.60), (4, 0.62), (16, 0.61)):
        write_cell(tmp_path, "group", 8, around(accuracy), changes={"norm.groups": groups})
    rows = read(differences_csv([only(tmp_path)]))

    assert [(r["x"], r["other_x"], r["mean"]) for r in rows] == [
        ("4", "1", "-2.0"), ("16", "1", "-1.0"), ("16", "4", "1.0"),
    ]  # fmt: skip


def test_one_seed_has_no_ends_in_csv(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5])
    (row,) = read(cells_csv([only(tmp_path)]))

    assert (row["n"], row["error_mean"], row["error_low"]) == ("1", "50.0", "")


def test_no_name_is_a_spreadsheet_s_formula(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], data='=HYPERLINK("x","y")')
    (row,) = read(seeds_csv(collect(tmp_path)))

    assert row["data"] == '\'=HYPERLINK("x","y")'
