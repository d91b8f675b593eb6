"""Differences, crossings, what is lost to what, and costs, against NumPy and SciPy."""

import json
from pathlib import Path

import numpy as np
import pytest
from normbench.report.compare.analysis import (
    change,
    cost,
    decomposition,
    difference,
    error,
    meeting,
    pairs,
    peak_rate,
    spread,
)
from normbench.report.text.answers import answers
from scipy import stats

from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.read.cells import collect
from normbench.report.text.tables import crossing_rows
from tests.report_helpers import around, write_cell, write_sweep

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


def test_differences_are_paired_by_seed(batch_norm: Comparison) -> None:
    ((first, second),) = pairs(batch_norm)
    found = difference(first, second, 2).points

    assert (first.label, second.label) == ("batch", "group")
    assert found is not None
    expected = [40.0 - 35.0, 38.8 - 34.0]  # the third seed has no partner
    assert (found.mean, found.half) == pytest.approx((np.mean(expected), half(expected)))
    assert difference(first, second, 32).points is None


def test_a_change_is_against_the_same_seeds(batch_norm: Comparison) -> None:
    found = change(batch_norm.lines[0], 2, 32)

    assert found is not None
    lost = [100 * (b - a) for a, b in zip(RUNNING[2], RUNNING[32], strict=True)]
    assert (found.mean, found.half) == pytest.approx((np.mean(lost), half(lost)))


def test_what_is_lost_is_split_without_a_rest_unaccounted_for(batch_norm: Comparison) -> None:
    small, large = decomposition(batch_norm)

    gaps = {x: [100 * (b - a) for a, b in zip(RUNNING[x], ANEW[x], strict=True)] for x in ANEW}
    averages = [here - there for here, there in zip(gaps[2], gaps[32], strict=True)]
    rest = [100 * (b - a) for a, b in zip(ANEW[2], ANEW[32], strict=True)]
    lost = [100 * (b - a) for a, b in zip(RUNNING[2], RUNNING[32], strict=True)]
    assert small.batch is not None
    for value, expected in (
        (small.gap, gaps[2]),
        (small.averages, averages),
        (small.rest, rest),
        (small.lost, lost),
        (large.gap, gaps[32]),
    ):
        assert value is not None
        assert (value.mean, value.half) == pytest.approx((np.mean(expected), half(expected)))
    assert np.mean(lost) == pytest.approx(np.mean(averages) + np.mean(rest))
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


def test_one_spread_for_all_cells_equals_numpy_s(tmp_path: Path) -> None:
    cells = [[0.60, 0.62, 0.61], [0.70, 0.71, 0.75], [0.50, 0.54, 0.52]]
    for batch, accuracies in zip((2, 8, 32), cells, strict=True):
        write_cell(tmp_path, "batch", batch, accuracies)
    found = spread(only(tmp_path))

    deviation = 100 * np.sqrt(np.mean([np.var(cell, ddof=1) for cell in cells]))
    r = np.asarray(np.corrcoef(cells))[np.triu_indices(3, 1)].mean()
    assert found is not None
    assert found.freedom == 6
    assert found.deviation == pytest.approx(deviation)
    assert found.correlation == pytest.approx(r)
    assert found.half(3) == pytest.approx(stats.t.ppf(0.975, 6) * deviation * np.sqrt(2 / 3))


def test_the_parts_of_a_loss_are_of_the_same_seeds(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, RUNNING[2], reestimated=ANEW[2])
    write_cell(tmp_path, "batch", 32, RUNNING[32][:2], reestimated=ANEW[32][:2])
    small, large = decomposition(only(tmp_path))

    assert small.lost is not None
    assert small.rest is not None
    assert small.averages is not None
    assert (small.lost.n, small.averages.n, small.rest.n) == (2, 2, 2)
    assert small.lost.mean == pytest.approx(small.averages.mean + small.rest.mean)
    assert (small.running.n, small.reference, large.reference) == (3, False, True)


def test_norms_without_running_averages_lose_nothing_to_them(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.5))

    assert decomposition(only(tmp_path)) == []


def test_lines_meet_where_they_cross(tmp_path: Path) -> None:
    batch, group = only(write_sweep(tmp_path)).lines
    found = meeting(batch, group)

    assert found is not None
    assert found.above[0]
    (crossing,) = found.crossings
    assert 2 < crossing.at < 8
    # 6.5 points at 2 and -1.3 at 8, on log2
    assert crossing.at == pytest.approx(2 ** (1 + 2 * 6.5 / 7.8))


def test_lines_of_other_seeds_at_other_places_are_not_said_to_stay_on_one_side(
    tmp_path: Path,
) -> None:
    """With the seeds that neighbours share nothing crosses; with all of them the leader changes."""
    errors = {
        "batch": {2: [0.50], 4: [0.50, 0.60, 0.60], 8: [0.50, 0.62, 0.62]},
        "group": {2: [0.51], 4: [0.51, 0.54, 0.55], 8: [0.51, 0.54, 0.55]},
    }
    for norm, places in errors.items():
        for batch, accuracies in places.items():
            write_cell(tmp_path, norm, batch, accuracies, seeds=3)
    comparison = only(tmp_path)
    found = meeting(*comparison.lines)

    assert found is not None
    assert found.crossings == ()
    assert found.above == (True, False, False)
    assert not [said for said in answers(comparison) if "do not cross" in said]
    ((_, _, ends),) = crossing_rows(comparison)
    assert ends == "group at 2, batch at 8"


def test_lines_with_one_common_place_do_not_meet(batch_norm: Comparison) -> None:
    assert meeting(*batch_norm.lines) is None


def test_costs_are_of_an_epoch_and_a_step(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.5, 0.6, 0.7])
    late = json.loads((cell / "seed-2" / "result.json").read_text())
    late |= {"seconds": 3 * 900.0, "images_per_second": late["steps"] * 2 / 2700}
    (cell / "seed-2" / "result.json").write_text(json.dumps(late))
    paid = cost(only(tmp_path).cells[0])

    assert paid.seconds == pytest.approx(61)  # 60 + seed; one that had to wait does not count
    assert paid.images == pytest.approx(50_000 / 61)
    assert paid.memory == 2_000_000
    assert paid.rate == pytest.approx(0.1 * 2 / 32)


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
