"""The answer in words goes as far as the numbers go."""

from pathlib import Path

import pytest
from report_helpers import around, write_cell, write_sweep

from normbench.report.answers import answers
from normbench.report.collection import collect
from normbench.report.comparisons import compare


def said(directory: Path) -> list[str]:
    (comparison,) = compare(collect(directory))
    return answers(comparison)


def test_a_sweep_is_answered_with_intervals(tmp_path: Path) -> None:
    small, large, falls, cross, parts, costs = said(write_sweep(tmp_path))

    assert small == (
        "At batch 2, group norm beats batch norm by 6.50 ± 0.00 points of test error"
        " (3 seeds, paired)."
    )
    assert large.startswith("At batch 128, batch norm beats group norm by 4.50 ± 0.00 points")
    assert falls == (
        "From batch 128 to 2, batch norm loses 10.00 ± 0.00 and group norm gains 1.00 ± 0.00"
        " points."
    )
    assert cross == (
        "The lines of batch and group norm cross at batch 6.3 (95 % interval 6.3 to 6.3)."
    )
    assert parts == (
        "Of the 10.00 ± 0.00 points that batch norm loses at batch 2, 2.00 ± 0.00 are lost only to"
        " its running averages and 8.00 ± 0.00 even with statistics that fit the weights."
    )
    assert costs == (
        "Against batch norm at batch 2, as measured: an epoch takes 1.00 times as long with group"
        " norm; a step holds 1.00 times as much memory with group norm."
    )


def test_the_contrary_is_said_as_plainly(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.6, 0.61, 0.62])
    write_cell(tmp_path, "group", 2, [0.5, 0.51, 0.52])

    assert said(tmp_path)[0].startswith("At batch 2, batch norm beats group norm by 10.00 ± 0.00")


def test_what_the_seeds_do_not_tell_is_not_told(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.50, 0.60, 0.55])
    write_cell(tmp_path, "group", 2, [0.56, 0.55, 0.57])

    assert said(tmp_path)[0].startswith(
        "At batch 2, 3 seeds cannot tell batch and group norm apart: group norm's error is lower"
        " by 1.0 ± "
    )


def test_one_seed_may_be_chance(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.5])
    write_cell(tmp_path, "group", 2, [0.6])

    assert said(tmp_path)[0] == (
        "At batch 2, group norm's test error is 10.0 points lower than batch norm's, but this is"
        " one seed: no interval, and it may be chance."
    )


def test_the_best_of_several_is_named_with_its_rivals(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, around(0.50))
    write_cell(tmp_path, "group", 2, [0.60, 0.62, 0.61])
    write_cell(tmp_path, "layer", 2, [0.61, 0.60, 0.60])

    assert said(tmp_path)[0].endswith(
        "The lowest mean is group norm's, 39.0 ± 2.5 %; these seeds do not tell it from layer."
    )


def test_no_crossing_is_said(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path, "batch", batch, around(0.5))
        write_cell(tmp_path, "group", batch, around(0.6))

    assert (
        "The lines of batch and group norm do not cross from batch 2 to 32: group norm's mean"
        " error is lower throughout." in said(tmp_path)
    )


def test_nothing_finished_says_nothing(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [], seeds=2)

    assert said(tmp_path) == ["No seed has finished yet: there is nothing to say."]


def test_what_is_still_to_come_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], seeds=2)
    write_cell(tmp_path, "group", 4, [0.5, None])

    assert said(tmp_path)[-1] == "Not all is in: 1 of 2 cells have seeds still to finish."


def test_one_cell_is_an_answer_too(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.60, 0.61, 0.62])

    assert said(tmp_path) == ["At batch 2, group norm's test error is 39.0 ± 2.5 % (3 seeds)."]


@pytest.mark.parametrize("best", [2, 8])
def test_groups_are_answered_with_the_best_place(tmp_path: Path, best: int) -> None:
    for groups in (1, 2, 8):
        accuracy = 0.65 if groups == best else 0.60
        write_cell(tmp_path, "group", 32, around(accuracy), changes={"norm.groups": groups})

    assert said(tmp_path) == [f"Group norm's lowest mean error is 35.00 ± 0.50 % at G = {best}."]
