"""Differences, crossings, what is lost to what, and costs, against NumPy and SciPy."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from normbench.report.compare.choice import choices
from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.costs import cost, peak_rate
from normbench.report.compare.differences import (
    between,
    change,
    changed,
    changes,
    decomposition,
    differences,
    error,
    meeting,
    with_new_images,
)
from normbench.report.compare.statistics import welch
from normbench.report.read.cells import collect
from normbench.store.outcomes import write_outcomes
from tests.report_helpers import around, edit_result, slow_down, write_cell, write_sweep

RUNNING = {2: [0.600, 0.612, 0.591], 32: [0.701, 0.709, 0.699]}
ANEW = {2: [0.641, 0.650, 0.633], 32: [0.702, 0.711, 0.699]}


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


def half(values: list[float]) -> float:
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


@pytest.fixture
def batch_norm(tmp_path: Path) -> Comparison:
    for batch, accuracies in RUNNING.items():
        anew, by_batch = ANEW[batch], around(0.5)
        write_cell(
            tmp_path, "batch", batch, accuracies, reestimated=anew, batch_statistics=by_batch
        )
    write_cell(tmp_path, "group", 2, [0.65, 0.66])
    return only(tmp_path)


def test_errors_are_percentages_with_intervals(batch_norm: Comparison) -> None:
    value = error(batch_norm.lines[0].points[0])

    assert value is not None
    expected = [100 * (1 - a) for a in RUNNING[2]]
    assert (value.mean, value.half) == pytest.approx((np.mean(expected), half(expected)))


def test_differences_are_welch_s(batch_norm: Comparison) -> None:
    (found,) = differences(batch_norm)
    theirs = stats.ttest_ind([40.0, 38.8, 40.9], [35.0, 34.0], equal_var=False)
    interval = theirs.confidence_interval(0.95)

    assert (found.first.label, found.second.label, found.x) == ("batch", "group", 2)
    assert (found.points.low, found.points.high) == pytest.approx((interval.low, interval.high))
    assert found.together == found.points, "one difference alone needs no correction"


MOMENTUM = {0.1: [0.600, 0.640, 0.570], 0.01: [0.641, 0.678, 0.613]}


def write_momenta(folder: Path, *others: list[float], seeds: int = 3) -> None:
    """Two cells that differ in what they average alone, unless ``others`` were re-estimated."""
    for (momentum, accuracies), anew in zip(
        MOMENTUM.items(), [ANEW[2], *others, ANEW[2]], strict=False
    ):
        changes = {"norm.momentum": momentum}
        write_cell(
            folder, "batch", 2, accuracies[:seeds], reestimated=anew[:seeds], changes=changes
        )


def test_evaluations_of_the_same_weights_are_paired(tmp_path: Path) -> None:
    write_momenta(tmp_path)
    (found,) = differences(only(tmp_path))
    theirs = stats.ttest_rel(*([100 * (1 - a) for a in values] for values in MOMENTUM.values()))
    interval = theirs.confidence_interval(0.95)

    assert (found.first.label, found.second.label) == (
        "batch, momentum=0.01",
        "batch, momentum=0.1",
    )
    assert found.paired
    assert found.correlation == pytest.approx(np.corrcoef(list(MOMENTUM.values()))[0, 1])
    assert (found.points.low, found.points.high) == pytest.approx((-interval.high, -interval.low))
    assert found.clear
    apart = welch(found.first.points[0].errors, found.second.points[0].errors)
    assert apart is not None
    assert not apart.clear


@pytest.mark.parametrize(
    ("others", "seeds"),
    [
        ([[0.641, 0.650, 0.634]], 3),
        ([[]], 3),
        ([], 1),
    ],
    ids=["one seed has other weights", "not re-estimated", "one seed cannot tell"],
)
def test_what_may_be_other_weights_is_not_paired(
    tmp_path: Path, others: list[list[float]], seeds: int
) -> None:
    write_momenta(tmp_path, *others, seeds=seeds)
    (found,) = differences(only(tmp_path))

    assert not found.paired
    assert found.points == welch(found.first.points[0].errors, found.second.points[0].errors)


def test_cells_with_other_seeds_are_not_paired(tmp_path: Path) -> None:
    """The pairs' mean may have another sign than the difference of the means."""
    first, second = [0.72, 0.71, 0.70, 0.76, 0.76], [0.73, 0.72, 0.71]
    for momentum, values in ((0.1, first), (0.01, second)):
        anew = [0.78, 0.775, 0.77, 0.79, 0.791][: len(values)]
        changes = {"norm.momentum": momentum}
        write_cell(tmp_path, "batch", 2, values, reestimated=anew, changes=changes)
    (found,) = differences(only(tmp_path))

    assert not found.paired
    assert found.points.mean == pytest.approx(1.0), "of momentum=0.01 less that of 0.1"


def test_a_few_test_images_tell_no_more_than_they_can(tmp_path: Path) -> None:
    """Seeds that agree to the image still are known in steps of an image."""
    cells = [
        write_cell(tmp_path, norm, 2, [accuracy] * 2)
        for norm, accuracy in (("batch", 0.41), ("group", 0.44))
    ]
    (found,) = differences(only(tmp_path))
    assert (found.points.half, found.clear) == (0.0, True), "how many is not recorded"
    for cell in cells:
        for seed in (0, 1):
            edit_result(cell, seed, test_images=100)
    (found,) = differences(only(tmp_path))

    # By hand: t of two degrees of freedom times the root of (1/12)/2 + (1/12)/2.
    assert found.points.half == pytest.approx(4.3027 * (1 / 12) ** 0.5, rel=1e-3)
    for cell in cells:
        for seed in (0, 1):
            edit_result(cell, seed, test_images=20)
    assert not differences(only(tmp_path))[0].clear
    (choice,) = choices(only(tmp_path))
    assert choice.more == "about 3 more seeds would tell"


def test_cells_of_two_norms_are_never_paired(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, RUNNING[2], reestimated=ANEW[2])
    write_cell(tmp_path, "batch_renorm", 2, RUNNING[2], reestimated=ANEW[2])
    (found,) = differences(only(tmp_path))

    assert not found.paired


def test_all_differences_of_a_comparison_are_one_family(tmp_path: Path) -> None:
    for norm, accuracy in (("batch", 0.60), ("group", 0.62), ("layer", 0.55)):
        for batch in (2, 4):
            write_cell(tmp_path, norm, batch, around(accuracy, 3, 0.01))
    found = differences(only(tmp_path))
    ps = sorted(one.points.p or 0.0 for one in found)

    assert len(found) == 6
    by_p = sorted(found, key=lambda one: one.points.p or 0.0)
    assert by_p[0].level == pytest.approx(1 - 0.05 / 6)
    assert [one.clear for one in by_p] == [
        all(p <= 0.05 / (6 - k) for k, p in enumerate(ps[: i + 1])) for i in range(6)
    ]


def test_a_difference_is_found_from_either_side(batch_norm: Comparison) -> None:
    asked = differences(batch_norm)
    batch, group = batch_norm.lines
    there, back = between(asked, batch, group, 2), between(asked, group, batch, 2)

    assert there is not None
    assert back is not None
    assert back.points.mean == pytest.approx(-there.points.mean)
    assert (back.points.low, back.points.high) == pytest.approx(
        (-(there.points.high or 0), -(there.points.low or 0))
    )
    assert back.clear == there.clear
    assert between(asked, batch, group, 32) is None


def test_norms_that_lost_seeds_are_in_no_difference(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.7, 0.7, None])
    write_cell(tmp_path, "group", 2, around(0.6))

    assert differences(only(tmp_path)) == []


def test_cells_that_lost_seeds_are_in_no_change_and_no_reference(tmp_path: Path) -> None:
    lost = [0.71, None, 0.713]
    for batch, accuracies in ((2, RUNNING[2]), (8, RUNNING[32]), (32, lost)):
        write_cell(tmp_path, "batch", batch, accuracies, reestimated=around(0.7))
    for groups, accuracies in ((1, around(0.5)), (2, lost), (4, around(0.57))):
        changed = {"norm.groups": groups}
        write_cell(tmp_path / "groups", "group", 8, accuracies, changes=changed)
    batches, groups_ = compare(collect(tmp_path))

    assert [(row.x, row.reference) for row in decomposition(batches)] == [(2, False), (8, True)]
    assert [one.x for one in changes(groups_)] == [4]


def test_a_change_is_welch_s_too(batch_norm: Comparison) -> None:
    found = change(batch_norm.lines[0], 2, 32)
    theirs = stats.ttest_ind(*([100 * (1 - a) for a in RUNNING[x]] for x in (2, 32)),
                             equal_var=False).confidence_interval(0.95)  # fmt: skip

    assert found is not None
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert [(c.first.label, c.x, c.other) for c in changes(batch_norm)] == [("batch", 32, 2)]
    turned = changed(changes(batch_norm), batch_norm.lines[0], 2, 32)
    assert turned is not None
    assert turned.points.mean == pytest.approx(found.mean)


def test_what_is_lost_is_split_without_a_rest_unaccounted_for(batch_norm: Comparison) -> None:
    small, large = decomposition(batch_norm)

    gaps = {x: [100 * (b - a) for a, b in zip(RUNNING[x], ANEW[x], strict=True)] for x in ANEW}
    for row in (small, large):  # the same weights, so paired
        assert (row.gap.mean, row.gap.half) == pytest.approx(
            (np.mean(gaps[row.x]), half(gaps[row.x]))
        )
        assert row.correlation == pytest.approx(np.corrcoef(RUNNING[row.x], ANEW[row.x])[0, 1])
    for value, here, there in (
        (small.lost, RUNNING[32], RUNNING[2]),
        (small.rest, ANEW[32], ANEW[2]),
        (small.averages, [gap / 100 for gap in gaps[2]], [gap / 100 for gap in gaps[32]]),
    ):
        theirs = stats.ttest_ind(np.multiply(here, 100), np.multiply(there, 100), equal_var=False)
        assert value is not None
        assert value.p == pytest.approx(theirs.pvalue)
    assert small.lost is not None
    assert small.averages is not None
    assert small.rest is not None
    assert small.lost.mean == pytest.approx(small.averages.mean + small.rest.mean)
    assert small.batch is not None
    assert small.batch.mean == pytest.approx(50.0)
    assert (large.lost, large.averages, large.rest) == (None, None, None)


def test_what_the_reference_loses_to_its_averages_is_not_lost_on_the_way(tmp_path: Path) -> None:
    for batch in (2, 32):
        write_cell(tmp_path, "batch", batch, around(0.6), reestimated=around(0.65))
    small, _ = decomposition(only(tmp_path))

    assert small.averages is not None
    assert small.averages.mean == pytest.approx(0)
    assert small.gap.mean == pytest.approx(5.0)


def test_the_reference_is_32_even_where_larger_batches_were_measured(tmp_path: Path) -> None:
    for batch in (2, 32, 128):
        write_cell(tmp_path, "batch", batch, around(0.6), reestimated=around(0.6))

    assert [row.reference for row in decomposition(only(tmp_path))] == [False, True, False]


def test_norms_without_running_averages_lose_nothing_to_them(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.5))

    assert decomposition(only(tmp_path)) == []


def test_lines_meet_where_they_cross(tmp_path: Path) -> None:
    (crossing,) = meeting(*only(write_sweep(tmp_path)).lines)

    # 6.5 points at 2 and -1.3 at 8, on log2
    assert crossing.at == pytest.approx(2 ** (1 + 2 * 6.5 / 7.8))


def test_lines_with_one_common_place_do_not_meet(batch_norm: Comparison) -> None:
    assert meeting(*batch_norm.lines) == []


# --- A new test set -------------------------------------------------------------------------------


def write_all(cell: Path, correct: "npt.NDArray[np.bool_]") -> None:
    for seed, row in enumerate(correct):
        write_outcomes(cell / f"seed-{seed}", seed, row)


def test_a_new_test_set_adds_the_variance_over_images(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    correct = random.random((3, 2000)) < random.choice([0.3, 0.9], 2000)
    cell = write_cell(tmp_path, "group", 2, [float(row.mean()) for row in correct])
    point = only(tmp_path).lines[0].points[0]
    assert with_new_images(error(point), point) is None
    write_all(cell, correct)
    point = only(tmp_path).lines[0].points[0]
    value = error(point)
    found = with_new_images(value, point)

    assert value is not None
    assert value.half is not None
    images = 1.961 * 100 * stats.sem(correct.mean(axis=0))
    assert found == pytest.approx(np.hypot(value.half, images), rel=1e-3)


def test_images_that_are_hard_for_both_cancel_in_a_difference(tmp_path: Path) -> None:
    correct = np.random.default_rng(0).random((3, 2000)) < 0.7
    for norm in ("batch", "group"):
        cell = write_cell(tmp_path, norm, 2, [float(row.mean()) for row in correct])
        write_all(cell, correct)
    first, second = only(tmp_path).lines
    (found,) = differences(only(tmp_path))

    assert with_new_images(found.points, first.points[0], second.points[0]) == pytest.approx(
        found.points.half
    )


def test_outcomes_that_were_edited_are_not_believed(tmp_path: Path) -> None:
    correct = np.random.default_rng(0).random((1, 800)) < 0.7
    cell = write_cell(tmp_path, "group", 2, [float(correct.mean())])
    write_all(cell, correct)
    assert only(tmp_path).cells[0].seeds[0].outcomes is not None
    path = cell / "seed-0" / "outcomes.json"
    path.write_text(path.read_text().replace('"correct": "', '"correct": "ff')[:-3] + '"}')

    assert only(tmp_path).cells[0].seeds[0].outcomes is None


# --- Costs ----------------------------------------------------------------------------------------


def test_costs_are_of_an_epoch_and_a_step(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [0.5, 0.6, 0.7])
    paid = cost(only(tmp_path).cells[0])

    assert paid.seconds == pytest.approx(61)  # 60 + seed
    assert paid.images == pytest.approx(50_000 / 61, rel=1e-3)
    assert paid.memory == 2_000_000
    assert paid.rate == pytest.approx(0.1 * 2 / 32)
    assert not paid.busy


def test_seeds_whose_times_differ_were_timed_on_a_busy_machine(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.6, 0.7])
    slow_down(cell, 2)
    paid = cost(only(tmp_path).cells[0])

    assert (paid.busy, paid.seconds, paid.images) == (True, None, None)


def test_a_short_break_of_one_seed_is_a_busy_machine_too(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.6])
    edit_result(cell, 1, seconds=3 * 120.0)
    curve = cell / "seed-1" / "metrics.jsonl"
    lines = curve.read_text().splitlines()
    lines[5] = lines[5].replace(": 800.0", ": 66.0")  # one of twelve
    curve.write_text("\n".join(lines) + "\n")

    assert cost(only(tmp_path).cells[0]).busy


def test_the_last_seed_of_several_lanes_has_the_machine_to_itself(tmp_path: Path) -> None:
    """Two in two lanes took half of the time each, the third all of it, at the same speed."""
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.6, 0.7])
    for seed, seconds in enumerate((30.0, 30.5, 58.0)):
        edit_result(cell, seed, seconds=3 * seconds)
    paid = cost(only(tmp_path).cells[0])

    assert (paid.busy, paid.seconds) == (False, 30.5)


def test_a_cell_that_has_not_finished_cost_nothing_yet(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, [None])
    paid = cost(only(tmp_path).cells[0])

    assert (paid.seconds, paid.images, paid.memory) == (None, None, None)


@pytest.mark.parametrize(("scaling", "rate"), [("linear", 0.00625), ("sqrt", 0.025), ("none", 0.1)])
def test_the_peak_rate_follows_the_rule(tmp_path: Path, scaling: str, rate: float) -> None:
    write_cell(tmp_path, "group", 2, [0.5], changes={"optim.scaling": scaling})

    assert peak_rate(only(tmp_path).cells[0]) == pytest.approx(rate)


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.scaling": "cubic"},
        {"optim.lr": "fast"},
        {"optim.lr": []},
        {"optim.scaling_batch": 0},
        {"optim.scaling": ["linear"]},
    ],
)
def test_an_odd_rule_leaves_the_rate_to_the_curves(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    write_cell(tmp_path, "group", 2, [0.5], changes=changes)

    assert peak_rate(only(tmp_path).cells[0]) == pytest.approx(0.1)
