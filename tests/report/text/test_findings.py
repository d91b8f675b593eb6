"""The answer in words goes as far as the numbers go."""

import re
from pathlib import Path

import pytest
from normbench.report.text.answers import answers

from normbench.report.compare.comparisons import compare
from normbench.report.read.cells import collect
from tests.report_helpers import around, write_cell, write_sweep


def said(directory: Path) -> list[str]:
    (comparison,) = compare(collect(directory))
    return answers(comparison)


def test_a_sweep_is_answered_with_intervals(tmp_path: Path) -> None:
    small, large, falls, cross, parts = said(write_sweep(tmp_path))

    assert small == (
        "At batch 2, group norm beats batch norm by 6.50 ± 0.00 points of test error"
        " (3 seeds, paired)."
    )
    assert large.startswith("At batch 128, batch norm beats group norm by 4.50 ± 0.00 points")
    assert falls == (
        "From batch 32 to 2, test error changes: batch norm's by +11.00 ± 0.00 and group norm's by"
        " +0.30 ± 0.00 points."
    )
    assert cross == (
        "The lines of batch norm and group norm cross at batch 6.3, between 2 and 8"
        " (95 % interval 6.3 to 6.3)."
    )
    assert parts == (
        "Of the 11.00 ± 0.00 points that batch norm loses at batch 2, +1.88 ± 0.00 are lost to its"
        " running averages alone and +9.12 ± 0.00 even with statistics that fit the weights."
    )


def test_the_contrary_is_said_as_plainly(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.6, 0.61, 0.62])
    write_cell(tmp_path, "group", 2, [0.5, 0.51, 0.52])

    assert said(tmp_path)[0].startswith("At batch 2, batch norm beats group norm by 10.00 ± 0.00")


def test_what_the_seeds_do_not_tell_is_not_told(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.50, 0.60, 0.55])
    write_cell(tmp_path, "group", 2, [0.56, 0.55, 0.57])

    assert said(tmp_path)[0].startswith(
        "At batch 2, 3 seeds, paired, do not tell batch norm and group norm apart: group norm's"
        " mean error is 1.0 ± "
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
        "The lowest mean is group norm's, 39.0 ± 2.5 %; these seeds do not tell layer norm from it."
    )


def test_no_crossing_is_said(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path, "batch", batch, around(0.5))
        write_cell(tmp_path, "group", batch, around(0.6))

    assert (
        "The lines of batch norm and group norm do not cross: at both places measured, from batch 2"
        " to 32, group norm's mean error is lower." in said(tmp_path)
    )


def test_no_crossing_is_not_claimed_where_the_seeds_do_not_tell(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.50, 0.60, 0.58])
    write_cell(tmp_path, "group", 2, [0.56, 0.57, 0.59])
    write_cell(tmp_path, "batch", 8, around(0.5))
    write_cell(tmp_path, "group", 8, around(0.6))

    assert any(
        sentence.endswith("error is lower; but at 2 these seeds do not tell them apart.")
        for sentence in said(tmp_path)
    )


def test_a_change_that_is_not_told_from_0_is_not_called_one(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.50, 0.56, 0.59])
    write_cell(tmp_path, "group", 32, around(0.56))

    (found,) = [sentence for sentence in said(tmp_path) if "changes" in sentence]
    assert re.search(r"group norm's by [+]1[.]0 ± [0-9.]+ [(]not told from 0[)] points", found)


def test_one_spread_for_all_cells_is_mentioned_where_it_would_tell_more(tmp_path: Path) -> None:
    # Seeds that are against each other: paired, the difference scatters twice as much.
    write_cell(tmp_path, "batch", 2, [0.59, 0.60, 0.61])
    write_cell(tmp_path, "group", 2, [0.64, 0.63, 0.62])
    for batch in (4, 8, 16, 32):
        write_cell(tmp_path, "batch", batch, [0.70, 0.71, 0.70])
        write_cell(tmp_path, "group", batch, [0.60, 0.61, 0.60])

    first = said(tmp_path)[0]
    assert "do not tell batch norm and group norm apart" in first
    assert re.search(
        r"With one spread for all cells it would be ± [01][.]\d, which would tell", first
    )


# --- Seeds that diverged --------------------------------------------------------------------------


def test_a_norm_that_lost_seeds_does_not_win_by_the_others(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path, "group", batch, around(0.6))
    write_cell(tmp_path, "batch", 2, [0.70, 0.71, None, None])
    write_cell(tmp_path, "batch", 32, around(0.7))

    sentences = said(tmp_path)

    assert sentences[0].startswith("Diverged: 2 of batch norm's 4 seeds at batch 2.")
    assert "batch norm beats" not in " ".join(s for s in sentences if s.startswith("At batch 2"))
    assert any(s.startswith("At batch 32, batch norm beats group norm") for s in sentences)
    assert not [s for s in sentences if "cross" in s or "batch norm's by" in s]


def test_a_norm_of_which_all_seeds_diverged_is_named(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.6))
    write_cell(tmp_path, "batch", 2, [None, None])

    assert said(tmp_path)[0].startswith("Diverged: 2 of batch norm's 2 seeds at batch 2.")


# --- Which line is meant --------------------------------------------------------------------------


def test_of_several_variants_the_usual_one_is_compared(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, around(0.60))
    write_cell(tmp_path, "batch", 2, around(0.20), changes={"norm.eps": 0.001})
    write_cell(tmp_path, "group", 2, around(0.50))

    assert said(tmp_path)[0].startswith("At batch 2, batch norm (eps=1e-05) beats group norm by")


def test_nothing_is_lost_where_nothing_is_shown_to_be(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, around(0.70), reestimated=around(0.71))
    write_cell(tmp_path, "batch", 32, around(0.60), reestimated=around(0.60))

    assert said(tmp_path)[-1] == (
        "That batch norm loses anything at batch 2 is not shown: −10.00 ± 0.00 points."
    )


def test_nothing_finished_says_nothing(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [], seeds=2)

    assert said(tmp_path) == ["No seed has finished yet: there is nothing to say."]


def test_what_is_still_to_come_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], seeds=2)
    write_cell(tmp_path, "group", 4, [0.5, None])

    assert said(tmp_path)[-1] == (
        "Not all is in: 1 of 2 cells have seeds still to finish, or that cannot be read."
    )


def test_one_cell_is_an_answer_too(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.60, 0.61, 0.62])

    assert said(tmp_path) == ["At batch 2, group norm's test error is 39.0 ± 2.5 % (3 seeds)."]


@pytest.mark.parametrize("best", [2, 8])
def test_groups_are_answered_with_the_best_place(tmp_path: Path, best: int) -> None:
    for groups in (1, 2, 8):
        accuracy = 0.65 if groups == best else 0.60
        write_cell(tmp_path, "group", 32, around(accuracy), changes={"norm.groups": groups})

    others = " and ".join(f"{g} (+5.00 ± 0.00)" for g in (1, 2, 8) if g != best)
    assert said(tmp_path) == [
        f"Group norm's lowest mean error is 35.00 ± 0.50 % at G = {best}; worse by this much:"
        f" {others}."
    ]
