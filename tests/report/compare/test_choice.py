"""Which norm at each batch size: ranking, sureness, costs, chance."""

import json
from pathlib import Path

import pytest
from scipy import stats

from normbench.report.compare.choice import all_at_chance, at_chance, choices
from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.costs import untimed
from normbench.report.read.cells import collect
from tests.report_helpers import around, edit_result, slow_down, write_cell, write_sweep


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


def test_the_lowest_mean_error_is_chosen_at_every_batch_size(tmp_path: Path) -> None:
    found = choices(only(write_sweep(tmp_path)))

    assert [(c.x, c.best.norm) for c in found] == [
        (2, "group"), (8, "batch"), (32, "batch"), (128, "batch"),
    ]  # fmt: skip
    assert all(c.clear for c in found)
    assert found[0].ahead is not None
    assert found[0].ahead.mean == pytest.approx(6.5)


def test_a_lead_is_clear_only_with_all_rows_taken_together(tmp_path: Path) -> None:
    """p = 0.035 alone is clear; as one of two rows it is not."""
    for batch in (2, 4):
        write_cell(tmp_path, "batch", batch, [0.600, 0.610, 0.620])
        write_cell(tmp_path, "group", batch, [0.624, 0.634, 0.644])
    found = choices(only(tmp_path))
    p = stats.ttest_ind([60.0, 61.0, 62.0], [62.4, 63.4, 64.4], equal_var=False).pvalue

    assert 0.025 < p < 0.05
    assert [(c.ahead is not None and c.ahead.clear, c.clear) for c in found] == [(True, False)] * 2


def test_the_best_has_to_be_clear_of_every_other_norm(tmp_path: Path) -> None:
    """The runner-up is told apart; the third, whose seeds scatter, is not."""
    write_cell(tmp_path, "batch", 2, around(0.70, 3, 0.001))
    write_cell(tmp_path, "group", 2, around(0.66, 3, 0.001))
    write_cell(tmp_path, "layer", 2, [0.50, 0.62, 0.72])
    (found,) = choices(only(tmp_path))

    assert (found.best.norm, found.second and found.second.norm) == ("batch", "group")
    assert found.doubt is not None
    assert found.doubt.norm == "layer"
    assert not found.clear


def test_what_is_unclear_says_how_many_more_seeds_would_tell(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.60, 0.61, 0.62])
    write_cell(tmp_path, "group", 2, [0.61, 0.62, 0.63])
    (found,) = choices(only(tmp_path))

    assert not found.clear
    assert found.seeds == 17  # a difference of one standard deviation, with a power of 80 %
    assert "14 more seeds" in found.more


def test_seeds_to_come_are_counted_for_the_two_that_are_in_doubt(tmp_path: Path) -> None:
    """The runner-up has ten seeds; the one in doubt has one, and no interval."""
    write_cell(tmp_path, "batch", 2, around(0.70, 10, 0.001))
    write_cell(tmp_path, "group", 2, around(0.66, 10, 0.001))
    write_cell(tmp_path, "layer", 2, [0.65])
    (found,) = choices(only(tmp_path))

    assert found.doubt is not None
    assert (found.doubt.norm, found.have) == ("layer", 1)
    assert found.more == "one seed, which cannot tell"


@pytest.mark.parametrize(
    ("third", "more"),
    [
        ([0.66, 0.69, 0.70], "about 15 more seeds would tell"),
        ([0.6995, 0.7095, 0.6895], "more than 100 seeds would be needed"),
        ([0.69], "one seed, which cannot tell"),
    ],
)
def test_seeds_to_come_are_those_that_tell_every_norm_apart(
    tmp_path: Path, third: list[float], more: str
) -> None:
    """The runner-up takes two more seeds; the third, which is in doubt too, takes more."""
    write_cell(tmp_path, "group", 2, [0.700, 0.701, 0.702])
    write_cell(tmp_path, "layer", 2, [0.6985, 0.6995, 0.7000])
    write_cell(tmp_path, "instance", 2, third)
    (found,) = choices(only(tmp_path))

    assert found.doubt is not None
    assert (found.doubt.norm, found.more) == ("instance", more)


def test_one_seed_cannot_tell(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.5])
    write_cell(tmp_path, "group", 2, [0.6])
    (found,) = choices(only(tmp_path))

    assert (found.clear, found.seeds) == (False, None)


def test_a_norm_that_lost_seeds_does_not_win_by_the_others(tmp_path: Path) -> None:
    write_cell(tmp_path, "group", 2, around(0.6))
    write_cell(tmp_path, "batch", 2, [0.70, 0.71, None])
    (found,) = choices(only(tmp_path))

    assert (found.best.norm, found.second) == ("group", None)


def test_costs_are_over_batch_norm_s(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.5])
    group = write_cell(tmp_path, "group", 2, [0.6])
    edit_result(group, seconds=3 * 90.0)
    (found,) = choices(only(tmp_path))

    assert found.time == pytest.approx(1.5)
    assert found.memory == pytest.approx(1.0)


def test_times_of_a_busy_machine_are_not_compared(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.5, 0.5])
    group = write_cell(tmp_path, "group", 2, [0.6, 0.6])
    assert untimed(only(tmp_path)) == ""
    slow_down(group)
    (found,) = choices(only(tmp_path))

    assert found.time is None
    assert "1 of 2 cells" in untimed(only(tmp_path))


def test_a_training_whose_speed_changed_was_on_a_busy_machine(tmp_path: Path) -> None:
    """The seeds of one network share its time evenly: their times cannot show it."""
    write_cell(tmp_path, "batch", 2, [0.5, 0.5])
    group = write_cell(tmp_path, "group", 2, [0.6, 0.6])
    for speeds, why in (((1000, 1010), ""), ((1000, 700), "the speed along the training")):
        lines = [
            {"step": i, "epoch": i / 40, "time": i, "train/images_per_second": speeds[i > 20]}
            for i in range(1, 41)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (group / "seed-0" / "metrics.jsonl").write_text(text)

        said = untimed(only(tmp_path))
        assert why in said
        assert bool(said) == bool(why)


@pytest.mark.parametrize(
    "other",
    [{"processor": "another"}, {"packages": {"torch": "2.14.1"}}, {"packages": 3}],
    ids=["machine", "torch", "unknown"],
)
def test_times_of_two_machines_are_not_compared(tmp_path: Path, other: dict[str, object]) -> None:
    write_cell(tmp_path, "batch", 2, [0.5])
    group = write_cell(tmp_path, "group", 2, [0.6])
    path = group / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | other))

    assert "different machines or with different versions of torch" in untimed(only(tmp_path))


@pytest.mark.parametrize("stacks", [(1, 1), (4, 4), (1, 4)], ids=["cells", "more", "seeds"])
def test_times_of_stacks_of_different_sizes_are_not_compared(
    tmp_path: Path, stacks: tuple[int, int]
) -> None:
    """Neither as what a norm costs, nor as a sign of a busy machine."""
    batch = write_cell(tmp_path, "batch", 2, [0.5, 0.5])
    group = write_cell(tmp_path, "group", 2, [0.6, 0.6])
    for seed, stacked in enumerate(stacks):
        edit_result(batch, seed, stacked=4)
        edit_result(group, seed, stacked=stacked, seconds=3 * 80.0 / stacked)
    (found,) = choices(only(tmp_path))

    assert (found.time is None) == (stacks != (4, 4))
    assert untimed(only(tmp_path)) == ""


def test_threads_are_no_machines(tmp_path: Path) -> None:
    """A run arranges each cell as is fastest: norms with as many threads are still compared."""
    for norm, batch, threads in (
        ("batch", 2, 1),
        ("group", 2, 1),
        ("batch", 8, 2),
        ("group", 8, 1),
    ):
        cell = write_cell(tmp_path, norm, batch, around(0.7 if norm == "group" else 0.6))
        for seed in range(3):
            edit_result(cell, seed, stacked=1, threads=threads)
        path = cell / "environment.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": threads}))
    two, eight = choices(only(tmp_path))

    assert untimed(only(tmp_path)) == ""
    assert (two.time is None, eight.time is None) == (False, True)


@pytest.mark.parametrize(
    ("data", "accuracy", "chance"),
    [
        ("cifar10-jpeg", 0.11, True),
        ("cifar10-jpeg", 0.2, False),
        ("cifar100", 0.11, False),
        ("cifar100", 0.011, True),
        ("mine", 0.1, False),
    ],
)
def test_chance_is_one_over_the_classes(
    tmp_path: Path, data: str, accuracy: float, chance: bool
) -> None:
    write_cell(tmp_path, "group", 2, [accuracy], data=data)
    (cell,) = collect(tmp_path).cells

    assert at_chance(cell) == chance
    write_cell(tmp_path, "group", 2, [accuracy], data=data, classes=4)
    assert at_chance(collect(tmp_path).cells[0]), "a summary knows better than a name"
    assert all_at_chance([cell]) == chance


@pytest.mark.parametrize(
    ("accuracy", "images", "chance"),
    [(0.60, None, True), (0.60, 1_000, False), (0.55, 1_000, True), (0.60, 100, True)],
)
def test_two_classes_are_guessed_as_well_as_the_number_of_images_allows(
    tmp_path: Path, accuracy: float, images: int | None, chance: bool
) -> None:
    cell = write_cell(tmp_path, "group", 2, [accuracy], data="mine", classes=2)
    edit_result(cell, test_images=images)

    assert at_chance(collect(tmp_path).cells[0]) == chance
