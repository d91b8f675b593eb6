"""Trials of learning rates are told from comparisons, and scored on held-out images only."""

from pathlib import Path

from normbench.report.compare.comparisons import compare
from normbench.report.compare.rates import RateTrial, rate_trials
from normbench.report.compare.recipes import length
from normbench.report.read.cells import collect
from normbench.report.text.grid import rate_rows
from tests.report_helpers import around, edit_result, unbegun, write_cell

ERRORS = {0.025: 40.0, 0.05: 35.0, 0.1: 36.0, 0.2: 50.0}


def write_trial(
    directory: Path, norm: str, batch: int, rate: float, errors: list[float | None]
) -> Path:
    """A cell whose test accuracy would choose another rate than its held-out accuracy."""
    changes = {"optim.lr": rate, "data.val_fraction": 0.1}
    accuracies = [None if error is None else rate for error in errors]
    cell = write_cell(directory, norm, batch, accuracies, changes=changes)
    for seed, error in enumerate(errors):
        if error is not None:
            edit_result(cell, seed, val_accuracy=1 - error / 100)
    return cell


def only(directory: Path) -> RateTrial:
    (trial,) = rate_trials(collect(directory))
    return trial


def test_the_best_rate_has_the_lowest_held_out_error(tmp_path: Path) -> None:
    for batch in (2, 16):
        for rate, error in ERRORS.items():
            write_trial(tmp_path, "batch", batch, rate, [error + batch])
    trial = only(tmp_path)

    assert [(line.norm, line.batch, line.best) for line in trial.lines] == [
        ("batch", 2, 0.05),
        ("batch", 16, 0.05),
    ]
    assert all(line.inside for line in trial.lines)
    assert trial.rates == list(ERRORS)
    assert compare(collect(tmp_path)) == []


def test_a_rate_with_fewer_seeds_does_not_win_by_luck(tmp_path: Path) -> None:
    write_trial(tmp_path, "batch", 2, 0.05, [34.0])
    write_trial(tmp_path, "batch", 2, 0.1, [35.0, 36.0])
    write_trial(tmp_path, "batch", 2, 0.2, [36.0, 37.0])
    (line,) = only(tmp_path).lines

    assert line.best == 0.1


def test_trials_of_two_recipes_are_told_apart(tmp_path: Path) -> None:
    for decay in (0.0, 0.0005):
        for rate in (0.05, 0.1):
            changes = {"optim.lr": rate, "optim.weight_decay": decay, "data.val_fraction": 0.1}
            write_cell(tmp_path, "group", 2, [0.5], changes=changes)

    start = "learning rates, ResNet-8 on cifar10-jpeg, 3 epochs"
    assert [trial.title for trial in rate_trials(collect(tmp_path))] == [
        f"{start}, optim.weight_decay=0.0",
        f"{start}, optim.weight_decay=0.0005",
    ]


def test_a_rate_that_is_still_to_come_is_among_the_rates(tmp_path: Path) -> None:
    for rate in (0.05, 0.1):
        write_trial(tmp_path, "batch", 2, rate, [100 * rate])
    unbegun(tmp_path, write_trial(tmp_path, "batch", 2, 0.025, [None]))
    trial = only(tmp_path)

    assert trial.rates == [0.025, 0.05, 0.1]
    assert [row[-1] for row in rate_rows(trial)] == ["not finished yet"]


def test_the_best_at_the_end_of_the_rates_is_not_inside(tmp_path: Path) -> None:
    for rate, error in ((0.1, 30.0), (0.2, 31.0)):
        write_trial(tmp_path, "batch", 2, rate, [error])
    (line,) = only(tmp_path).lines

    assert (line.best, line.inside) == (0.1, False)


def test_a_rate_that_diverged_is_tried_and_has_no_error(tmp_path: Path) -> None:
    write_trial(tmp_path, "batch", 2, 0.1, [30.0])
    write_trial(tmp_path, "batch", 2, 0.8, [None])
    (line,) = only(tmp_path).lines

    assert list(line.cells) == [0.1, 0.8]
    assert line.best == 0.1
    assert line.at(0.8) is None


def test_cells_with_a_chosen_rate_each_are_one_comparison(tmp_path: Path) -> None:
    for norm, batch, rate in (("batch", 2, 0.05), ("batch", 32, 0.1), ("group", 2, 0.2)):
        write_cell(tmp_path, norm, batch, [0.5, 0.6], changes={"optim.lr": rate})
    (comparison,) = compare(collect(tmp_path))

    assert comparison.xs == [2, 32]
    assert comparison.rates == ["0.05", "0.1", "0.2"]
    assert rate_trials(collect(tmp_path)) == []


def test_the_title_of_chosen_rates_names_none_of_them(tmp_path: Path) -> None:
    for experiment, epochs in (("short", 3), ("long", 20)):
        for norm, rate in (("batch", 0.1), ("group", 0.2)):
            changes = {"optim.lr": rate, "epochs": epochs}
            write_cell(tmp_path / experiment, norm, 2, around(0.6), changes=changes)
    titles = [comparison.title for comparison in compare(collect(tmp_path))]

    assert len(titles) == 2
    assert all(", chosen learning rates" in title for title in titles)
    assert not any("optim.lr" in title for title in titles)


def test_two_rates_at_one_place_without_held_out_images_are_two_comparisons(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        write_cell(tmp_path, "batch", 2, [0.5, 0.6], changes={"optim.lr": rate})

    assert len(compare(collect(tmp_path))) == 2


def test_one_epoch_is_no_epochs() -> None:
    assert [length(epochs) for epochs in (1, 3, 1.0, None)] == [
        ", 1 epoch",
        ", 3 epochs",
        ", 1 epoch",
        "",
    ]
