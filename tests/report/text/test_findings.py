"""The first screen goes as far as the numbers go, and no further."""

from pathlib import Path

import pytest

from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.rates import rate_trials
from normbench.report.compare.statistics import welch
from normbench.report.read.cells import collect
from normbench.report.text.findings import findings
from normbench.report.text.grid import RATE_COLUMNS, grid, rate_rows
from normbench.report.text.tables import difference_table
from normbench.report.text.wording import join
from tests.report.compare.test_rates import write_trial
from tests.report_helpers import around, write_cell, write_sweep


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


def said(directory: Path) -> list[str]:
    return findings(only(directory))


def one(directory: Path, *words: str) -> str:
    """The only sentence with all these words."""
    found = [s for s in said(directory) if all(word in s for word in words)]
    assert len(found) == 1, said(directory)
    return found[0]


# --- The grid -------------------------------------------------------------------------------------


def rows(directory: Path) -> list[dict[str, str]]:
    columns, found = grid(only(directory))
    return [dict(zip(columns, row, strict=True)) for row in found]


def test_a_row_a_batch_size_says_which_norm_and_how_sure(tmp_path: Path) -> None:
    first, *_, last = rows(write_sweep(tmp_path))

    assert first["batch size"] == "2"
    assert (first["lowest error"], first["over"]) == ("group", "batch")
    assert first["error, %"] == "33.50 ± 0.50"
    assert first["lead"].startswith("6.50 ± 0.4")
    assert first["how sure"] == "clear"
    assert (first["time"], first["memory"]) == ("× 1.00", "× 1.00")
    assert (last["batch size"], last["lowest error"]) == ("128", "batch")


def test_an_unclear_lead_says_how_many_more_seeds_would_tell(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.60, 0.61, 0.62])
    write_cell(tmp_path, "group", 2, [0.61, 0.62, 0.63])
    (row,) = rows(tmp_path)

    assert row["how sure"].startswith("unclear: about 14 more seeds")


def test_one_norm_alone_leads_nobody(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.60, 0.61, 0.62])
    (row,) = rows(tmp_path)

    assert (row["lead"], row["over"], row["how sure"]) == ("-", "-", "nothing to compare")


@pytest.mark.parametrize("accuracy", [0.1, 0.11])
def test_a_report_at_chance_concludes_nothing(tmp_path: Path, accuracy: float) -> None:
    for norm in ("batch", "group"):
        for batch in (2, 32):
            write_cell(tmp_path, norm, batch, around(accuracy, 3, 0.001))
    (sentence,) = said(tmp_path)

    assert "at chance" in sentence
    assert grid(only(tmp_path)) == ([], [])


# --- Findings -------------------------------------------------------------------------------------


def test_which_norm_to_use_comes_first(tmp_path: Path) -> None:
    directory = write_sweep(tmp_path)
    assert said(directory)[0] == (
        "After 3 epochs, at batch size 2 use group norm; at 8, 32 and 128 batch norm."
    )


def test_what_is_unclear_is_led_but_not_decided(tmp_path: Path) -> None:
    for batch, accuracies in ((2, around(0.70)), (4, [0.60, 0.66, 0.63])):
        write_cell(tmp_path, "group", batch, around(0.60))
        write_cell(tmp_path, "batch", batch, accuracies)

    assert said(tmp_path)[0] == (
        "After 3 epochs, at batch size 2 use batch norm; at 4 no norm is clearly better (batch norm"
        " has the lowest mean)."
    )


def test_a_norm_that_is_not_told_apart_hides_no_clear_difference(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.70))
    write_cell(tmp_path, "batch", 2, around(0.60))
    write_cell(tmp_path, "layer", 2, [0.66, 0.70, 0.68])

    assert said(tmp_path)[0] == (
        "After 3 epochs, at batch size 2 group norm is clearly better than batch norm, but not than"
        " layer norm."
    )


def test_equal_means_have_no_lowest(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.6))
    write_cell(tmp_path, "batch", 2, around(0.6))
    (row,) = rows(tmp_path)

    assert said(tmp_path)[0] == "After 3 epochs, at batch size 2 no norm is clearly better."
    assert row["how sure"] == "unclear: the means are equal"


def test_where_nothing_was_learned_no_norm_is_named(tmp_path: Path) -> None:
    for batch, accuracies in ((2, (0.100, 0.111)), (32, (0.50, 0.60))):
        for norm, accuracy in zip(("batch", "group"), accuracies, strict=True):
            write_cell(tmp_path, norm, batch, around(accuracy, 3, 0.001))

    assert said(tmp_path)[0] == (
        "After 3 epochs, at batch size 32 use group norm; at 2 no network has learned more than"
        " guessing."
    )
    assert [row["how sure"] for row in rows(tmp_path)] == ["no better than guessing", "clear"]


def test_places_along_an_axis_are_as_clear_in_the_sentence_as_in_the_table(tmp_path: Path) -> None:
    """Of five places all ten pairs are asked: what is clear among four is not among them."""
    every = ((1, around(0.53, 3, 0.004)), (2, around(0.575, 3, 0.004)), (4, around(0.57, 3, 0.004)),
             (8, around(0.57, 3, 0.004)), (16, around(0.58, 3, 0.004)))  # fmt: skip
    for groups, accuracies in every:
        write_cell(tmp_path, "group", 8, accuracies, changes={"norm.groups": groups})
    comparison = only(tmp_path)
    columns, found = difference_table(comparison)
    against_16 = {
        row[0].removeprefix("group norm, less at "): row[columns.index("how sure")]
        for row in found
        if row[1] == "16"
    }
    worse = [place for place, sure in against_16.items() if sure == "clear"]

    assert len(found) == 10
    assert 0 < len(worse) < 4
    assert f"clearly worse: {join(worse)};" in one(tmp_path, "lowest mean error")


def test_batch_norm_s_fall_has_a_lower_bound(tmp_path: Path) -> None:
    sentence = one(write_sweep(tmp_path), "batch norm's test error", "at least")

    assert "rises by 11.00 ± 0.4" in sentence
    assert "at least 10.7" in sentence


def test_a_change_that_may_be_chance_is_said_to_be(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.50, 0.56, 0.59])
    write_cell(tmp_path, "batch", 32, around(0.56))
    write_cell(tmp_path, "group", 2, around(0.56))

    assert "may be chance" in one(tmp_path, "batch norm's test error")
    assert "at least" not in one(tmp_path, "batch norm's test error")


@pytest.mark.parametrize(
    ("small", "word"),
    [
        (around(0.661), "equivalent"),
        (around(0.60), "different"),
        ([0.64, 0.66, 0.68], "not known"),
    ],
)
def test_stable_is_an_equivalence_test(tmp_path: Path, small: list[float], word: str) -> None:
    write_cell(tmp_path, "group", 2, small)
    write_cell(tmp_path, "group", 32, around(0.66))
    write_cell(tmp_path, "batch", 2, around(0.5))
    sentence = one(tmp_path, "Group norm from batch size 2 to 32")

    assert word in sentence
    assert ("seeds a cell would show that it is" in sentence) == (word == "not known")


def test_every_place_of_the_range_has_to_be_stable(tmp_path: Path) -> None:
    for batch, accuracy in ((2, 0.66), (8, 0.60), (32, 0.66), (128, 0.66)):
        write_cell(tmp_path, "group", batch, around(accuracy))
    write_cell(tmp_path, "batch", 2, around(0.5))

    sentence = one(tmp_path, "Group norm from batch size 2 to 32 and to 128:")
    assert "different" in sentence
    assert "at 2 its error is 6.00 ± 0.4" in sentence


def test_a_range_is_never_more_stable_than_one_that_it_holds(tmp_path: Path) -> None:
    """The two ends of 2 to 32 differ most; 128 lies between them."""
    for batch, accuracy in ((2, 0.68), (32, 0.65), (128, 0.665)):
        write_cell(tmp_path, "group", batch, around(accuracy, 3, 0.002))
    write_cell(tmp_path, "batch", 2, around(0.5))

    sentence = one(tmp_path, "Group norm from batch size 2 to 32 and to 128:")
    assert "different" in sentence
    assert "points lower than at 32" in sentence


def test_a_place_where_seeds_diverged_makes_no_range_stable(tmp_path: Path) -> None:
    for batch in (2, 8, 32):
        lost = [None] if batch == 8 else []
        write_cell(tmp_path, "group", batch, [*around(0.66), *lost])
    write_cell(tmp_path, "batch", 2, around(0.5))

    assert not any("from batch size 2 to 32" in sentence for sentence in said(tmp_path))
    assert any(sentence.startswith("Diverged: 1 of 4 seeds") for sentence in said(tmp_path))


@pytest.mark.parametrize(
    ("seeds", "word"), [(1, "; one seed, which cannot tell."), (2, "about 3 seeds a cell")]
)
def test_what_few_seeds_would_show_is_not_invented(tmp_path: Path, seeds: int, word: str) -> None:
    write_cell(tmp_path, "group", 2, [0.70, 0.6998][:seeds])
    write_cell(tmp_path, "group", 32, [0.699, 0.696][:seeds])
    write_cell(tmp_path, "batch", 2, [0.5, 0.5][:seeds])

    assert word in one(tmp_path, "Group norm from batch size 2 to 32", "not known")


def test_lines_that_are_equal_everywhere_are_said_to_be(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path, "group", batch, [0.66])
        write_cell(tmp_path, "batch", batch, [0.66])

    assert one(tmp_path, "same mean errors")


def test_rates_that_changed_as_well_are_named(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.60), changes={"optim.lr": 0.1})
    write_cell(tmp_path, "group", 32, around(0.66), changes={"optim.lr": 0.2})
    write_cell(tmp_path, "batch", 2, around(0.5), changes={"optim.lr": 0.1})

    assert "with optim.lr=0.1 and 0.2" in one(tmp_path, "Group norm from batch size 2 to 32")


def test_a_crossing_has_its_interval_and_its_straight_line(tmp_path: Path) -> None:
    sentence = one(write_sweep(tmp_path), "cross")

    assert "at 6.3 (95 % interval 5.9 to 6.8)" in sentence
    assert "straight line between 2 and 8" in sentence


def test_seeds_that_do_not_locate_a_crossing_are_said_not_to(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.50, 0.62, 0.55])
    write_cell(tmp_path, "batch", 32, [0.60, 0.69, 0.52])
    write_cell(tmp_path, "group", 2, [0.53, 0.60, 0.58])
    write_cell(tmp_path, "group", 32, [0.55, 0.66, 0.57])

    assert "these seeds do not locate the crossing" in one(tmp_path, "cross")


def test_lines_that_cross_several_times_are_not_said_to_do_so_for_sure(tmp_path: Path) -> None:
    for batch, batch_norm, group_norm in ((2, 0.70, 0.69), (4, 0.69, 0.70), (8, 0.70, 0.69)):
        write_cell(tmp_path, "batch", batch, [batch_norm])
        write_cell(tmp_path, "group", batch, [group_norm])

    said = one(tmp_path, "cross")
    assert said.lower() == (
        "the means of batch norm and group norm cross several times (2.8 and 5.7), and these"
        " seeds locate none of the crossings."
    )


def test_no_crossing_is_said(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path, "batch", batch, around(0.5))
        write_cell(tmp_path, "group", batch, around(0.6))

    assert "group norm's mean error is lower" in one(tmp_path, "do not cross")


def test_what_re_estimated_statistics_give_back_is_paired(tmp_path: Path) -> None:
    sentence = one(write_sweep(tmp_path), "PreciseBN")

    assert "by 2.00 ± 0.00 points of the 11.00 ± 0.4" in sentence
    assert "with them its error is 4.50 ± 0.4" in sentence
    assert "points higher than group norm's" in sentence


def test_re_estimated_statistics_that_do_harm_are_said_to(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.60, 0.61, 0.62], reestimated=[0.58, 0.59, 0.60])
    write_cell(tmp_path, "batch", 32, [0.70, 0.71, 0.72], reestimated=[0.70, 0.71, 0.72])
    write_cell(tmp_path, "group", 2, around(0.6))

    assert "that it loses" not in one(tmp_path, "PreciseBN")
    assert "(PreciseBN) raise batch norm's error at batch size 2 by 2.00" in one(
        tmp_path, "PreciseBN"
    )


def test_diverged_seeds_come_first_and_leave_their_cells_out(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path, "group", batch, around(0.6))
    write_cell(tmp_path, "batch", 2, [0.70, 0.71, None, None])
    write_cell(tmp_path, "batch", 32, around(0.7))
    sentences = said(tmp_path)

    assert sentences[0].startswith("Diverged: 2 of 4 seeds of batch norm at batch size 2")
    assert not [s for s in sentences if "cross" in s or "batch norm's test error" in s]


def test_what_is_lost_is_not_held_against_a_cell_that_lost_seeds(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, around(0.6), reestimated=around(0.64))
    write_cell(tmp_path, "batch", 32, [0.71, None, 0.713], reestimated=around(0.72))

    assert "that it loses" not in one(tmp_path, "Re-estimated statistics")


def test_of_several_variants_the_usual_one_is_meant(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path, "batch", batch, around(0.60 + batch / 1000))
        write_cell(tmp_path, "batch", batch, around(0.20), changes={"norm.eps": 0.001})
        write_cell(tmp_path, "group", batch, around(0.50))

    assert "batch norm (eps=1e-05)'s test error rises by 3.0" in one(tmp_path, "test error rises")


def test_nothing_finished_says_nothing(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [], seeds=2)

    assert said(tmp_path) == ["No seed has finished yet."]


def test_what_is_still_to_come_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5], seeds=2)
    write_cell(tmp_path, "group", 4, [0.5, None])

    assert said(tmp_path)[-1] == "Not finished yet: 1 of 2 cells."


def test_one_cell_is_a_finding_too(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.60, 0.61, 0.62])

    assert said(tmp_path) == ["At batch size 2, group norm has 39.0 ± 2.5 % test error (3 seeds)."]


@pytest.mark.parametrize("best", [2, 8])
def test_groups_are_answered_with_the_best_place(tmp_path: Path, best: int) -> None:
    for groups in (1, 2, 8):
        accuracy = 0.65 if groups == best else 0.60
        write_cell(tmp_path, "group", 32, around(accuracy), changes={"norm.groups": groups})
    (sentence,) = said(tmp_path)

    others = " and ".join(str(g) for g in (1, 2, 8) if g != best)
    assert f"at G = {best}; clearly worse: {others}." in sentence


def test_the_best_of_many_groups_is_corrected_for_all_pairs(tmp_path: Path) -> None:
    """The first is clear of the best beside three other pairs, and not beside all six."""
    accuracies = {1: [0.6, 0.61, 0.62], 2: [0.639, 0.64, 0.641], 4: [0.640, 0.64, 0.64]}
    accuracies[8] = [0.64, 0.645, 0.65]
    for groups, values in accuracies.items():
        write_cell(tmp_path, "group", 32, values, changes={"norm.groups": groups})
    (sentence,) = said(tmp_path)
    apart = welch(dict(enumerate(accuracies[1])), dict(enumerate(accuracies[8])))

    assert apart is not None
    assert 0.05 / 6 < (apart.p or 0.0) < 0.05 / 3
    assert "clearly worse: 1" not in sentence.replace("not clearly worse", "")


# --- Learning rates -------------------------------------------------------------------------------


def test_the_best_rate_is_in_the_table_and_the_edge_is_named(tmp_path: Path) -> None:
    for rate, error in ((0.05, 30.0), (0.1, 28.0), (0.2, 33.0)):
        write_trial(tmp_path, "batch", 2, rate, [error])
        write_trial(tmp_path, "group", 2, rate, [100 * rate])
    (trial,) = rate_trials(collect(tmp_path))
    batch, group = (dict(zip(RATE_COLUMNS, row, strict=True)) for row in rate_rows(trial))

    following = "next best (its error, %)"
    assert (batch["best optim.lr"], batch[following], batch["note"]) == (
        "0.1",
        "0.05 (30.0, unclear)",
        "",
    )
    assert (group["best optim.lr"], group["note"]) == ("0.05", "the lowest tried: try lower ones")


def test_a_rate_that_lost_a_seed_is_not_the_next_best(tmp_path: Path) -> None:
    write_trial(tmp_path, "batch", 2, 0.1, [32.0, 32.1, 32.2])
    write_trial(tmp_path, "batch", 2, 0.2, [30.0, 30.1])
    write_trial(tmp_path, "batch", 2, 0.05, [33.0, 33.1, 33.2])
    (trial,) = rate_trials(collect(tmp_path))
    (row,) = (dict(zip(RATE_COLUMNS, row, strict=True)) for row in rate_rows(trial))

    assert row["best optim.lr"] == "0.1"
    assert row["next best (its error, %)"] == "0.05 (33.1, clear)"
