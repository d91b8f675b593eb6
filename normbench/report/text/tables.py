"""Rows of a report's tables, and the same as CSV."""

import csv
import io
from collections.abc import Sequence
from itertools import combinations

from normbench.report.compare.comparisons import NAMES, Comparison, Line, Point
from normbench.report.compare.costs import cost, untimed
from normbench.report.compare.differences import (
    Difference,
    changes,
    decomposition,
    differences,
    error,
    meeting,
    with_new_images,
)
from normbench.report.compare.rates import RateTrial
from normbench.report.compare.regimes import SIGNS
from normbench.report.compare.statistics import Estimate, estimate
from normbench.report.read.cells import CellRun, Collection
from normbench.report.read.settings import groups_of
from normbench.report.read.states import state
from normbench.report.text.wording import difference as signed_difference
from normbench.report.text.wording import memory, number, place, plus_minus
from normbench.terminal.words import fixed

Rows = list[list[str]]

CELL_COLUMNS = (
    "norm", "batch", "error %", "n", "state", "peak rate", "s/epoch", "images/s", "memory",
)  # fmt: skip
NEW_IMAGES = "± on new images"


def cell_rows(comparison: Comparison) -> Rows:
    """A row a cell: mean error with its interval, n, state, learning rate and what it costs.

    Times only where they can be compared; the interval for a new test set where some cell has it.
    """
    rows = []
    timed = not untimed(comparison)
    new_images = _has_new_images(comparison)
    for line in comparison.lines:
        for point in line.own:
            paid = cost(point.cell)
            value = error(point)
            rows.append(
                [
                    line.label,
                    "any" if line.level else str(point.x),
                    plus_minus(value),
                    "0" if value is None else str(value.n),
                    state(point.cell),
                    number(paid.rate),
                    number(paid.seconds if timed else None),
                    number(paid.images if timed else None),
                    memory(paid.memory),
                ]
            )
            if new_images:
                wide = with_new_images(value, point)
                rows[-1].append("-" if wide is None else fixed(wide, 1))
            if comparison.axis in SIGNS:
                rows[-1] += groups_of(point.cell) or ["-"]
    return rows


def _has_new_images(comparison: Comparison) -> bool:
    return any(run.outcomes is not None for cell in comparison.cells for run in cell.seeds)


def without_empty(
    columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """A table without the columns of which no row has a value."""
    kept = [i for i in range(len(columns)) if any(row[i] != "-" for row in rows)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def cell_columns(comparison: Comparison) -> list[str]:
    """The names of :func:`cell_rows`' columns."""
    axis = SIGNS.get(comparison.axis, NAMES[comparison.axis])
    named = [axis if name == "batch" else name for name in CELL_COLUMNS]
    named += [NEW_IMAGES] if _has_new_images(comparison) else []
    return [*named, "groups by stage"] if comparison.axis in SIGNS else named


def difference_table(comparison: Comparison) -> tuple[list[str], Rows]:
    """Columns and a row for every two lines and place (on an axis of groups: for every two places
    of a line): the difference with its own interval, and with Holm's for all rows together."""
    along = comparison.axis in SIGNS
    found = changes(comparison) if along else differences(comparison)
    rows = [
        [
            f"{one.first.named}, less at {one.other}"
            if along
            else f"{one.first.label} − {one.second.label}",
            "any" if one.first.level and one.second.level and not along else str(one.x),
            signed_difference(one.points),
            signed_difference(one.together),
            ("clear" if one.clear else "unclear") + _pairing(one),
            str(one.points.n),
        ]
        for one in found
    ]
    axis = SIGNS.get(comparison.axis, NAMES[comparison.axis])
    return ["error of", axis, "points, alone", "points, together", "how sure", "n"], rows


def _pairing(one: Difference) -> str:
    """What pairing gains, where the same weights are compared."""
    if not one.paired:
        return ""
    return ", paired" if one.correlation is None else f", paired (r {fixed(one.correlation, 2)})"


def crossing_rows(comparison: Comparison) -> Rows:
    """A row for every two lines with two places in common: where they cross."""
    return [
        [f"{first.label}, {second.label}", place(meeting(first, second))]
        for first, second in combinations(comparison.lines, 2)
        if len(first.errors.keys() & second.errors.keys()) > 1
        and not (first.level and second.level)
    ]


DECOMPOSED = (
    "running", "re-estimated", "of the batch", "averages cost", "r", "lost", "to averages",
    "to the rest", "n",
)  # fmt: skip


def decomposition_rows(comparison: Comparison) -> Rows:
    """A row for every batch-dependent cell: errors by kind of statistics, and what is lost."""
    return [
        [
            row.line.label,
            "any" if row.line.level else str(row.x),
            plus_minus(row.running),
            plus_minus(row.reestimated),
            plus_minus(row.batch),
            signed_difference(row.gap),
            "-" if row.correlation is None else fixed(row.correlation, 2),
            *(
                "reference" if row.reference else signed_difference(value)
                for value in (row.lost, row.averages, row.rest)
            ),
            str(row.gap.n),
        ]
        for row in decomposition(comparison)
    ]


STARTED = ("γ and β", "before", "at once after", "now", "n")


def started_rows(comparison: Comparison) -> Rows:
    """A row for every cell that started from given weights: their test error before their norms
    were swapped, at once after it, and after training; and whether γ and β were carried over."""
    rows = []
    for line in comparison.lines:
        for point in line.own:
            ended = [r for r in point.cell.finished if r.test_accuracy_before is not None]
            if ended:
                before, swapped = (
                    estimate(100 * (1 - v) for r in ended if (v := getattr(r, key)) is not None)
                    for key in ("test_accuracy_before", "test_accuracy_swapped")
                )
                model = point.cell.settings.get("model")
                carried = isinstance(model, dict) and model.get("carry") is True
                rows.append(
                    [
                        line.label,
                        "any" if line.level else str(point.x),
                        "carried" if carried else "anew",
                        plus_minus(before),
                        plus_minus(swapped),
                        plus_minus(error(point)),
                        str(len(ended)),
                    ]
                )
    return rows


# --- CSV ------------------------------------------------------------------------------------------

_SEED_COLUMNS = (
    "folder", "norm", "batch", "norm_batch", "model", "data", "sha256", "seed", "state", "epochs",
    "steps", "test_accuracy", "test_accuracy_reestimated", "test_accuracy_batch", "val_accuracy",
    "test_accuracy_before", "test_accuracy_swapped", "test_images", "test_loss", "train_accuracy",
    "train_loss", "seconds", "images_per_second", "memory_bytes", "stacked", "threads",
    "diverged_at", "problem",
)  # fmt: skip
_RESULT_KEYS = _SEED_COLUMNS[10:-1]


def seeds_csv(collection: Collection) -> str:
    """A row a seed of every cell, unfinished and unreadable ones too; accuracies are 0..1."""
    rows: list[list[object]] = []
    for cell in collection.cells:
        head = [*_head(cell)]
        for run in cell.seeds:
            values = [None if run.result is None else getattr(run.result, k) for k in _RESULT_KEYS]
            epochs = round(run.epoch, 6)
            problem = run.problem or cell.problem
            rows.append([*head, run.seed, run.state, epochs, *values, problem])
        if not cell.seeds:
            rows.append([*head, None, state(cell), *[None] * (len(_RESULT_KEYS) + 1), cell.problem])
    return _csv(_SEED_COLUMNS, rows)


def _head(cell: CellRun) -> list[object]:
    return [
        cell.folder, cell.norm, cell.batch, cell.norm_batch, cell.model, cell.data, cell.sha256,
    ]  # fmt: skip


_CELL_COLUMNS = (
    "comparison", "folder", "line", "axis", "x", "norm", "batch", "norm_batch", "model", "data",
    "sha256", "state", "n", "error_mean", "error_low", "error_high", "peak_learning_rate",
    "seconds_per_epoch", "images_per_second", "memory_bytes",
)  # fmt: skip


def cells_csv(comparisons: Sequence[Comparison]) -> str:
    """A row a cell and comparison; errors in %, with the ends of the 95 % interval."""
    rows: list[list[object]] = []
    for comparison in comparisons:
        for line in comparison.lines:
            for point in line.own:
                rows.append(_cell_row(comparison, line, point))
    return _csv(_CELL_COLUMNS, rows)


def _cell_row(comparison: Comparison, line: Line, point: Point) -> list[object]:
    cell, paid = point.cell, cost(point.cell)
    folder, *head = _head(cell)
    return [
        comparison.title,
        folder,
        line.label,
        comparison.axis,
        None if line.level else point.x,
        *head,
        state(cell),
        *_ends(error(point)),
        paid.rate,
        *(None if value is None else round(value, 6) for value in (paid.seconds, paid.images)),
        paid.memory,
    ]


def differences_csv(comparisons: Sequence[Comparison]) -> str:
    """A row for every two lines and place, and on an axis of groups for every two places of a line:
    the error of the first at x minus that of the second at other_x, with the ends of its own 95 %
    interval and of Holm's for all such rows of its comparison."""
    rows: list[list[object]] = []
    for comparison in comparisons:
        along = changes(comparison) if comparison.axis in SIGNS else []
        for one in [*along, *differences(comparison)]:
            names = [comparison.title, one.first.label, one.second.label, comparison.axis, one.x]
            rows.append([*names, *_ends(one.points), *_ends(one.together)[2:], one.other])
    columns = ("comparison", "first", "second", "axis", "x", "n", "mean", "low", "high")
    return _csv((*columns, "low_holm", "high_holm", "other_x"), rows)


def rates_csv(trials: Sequence[RateTrial]) -> str:
    """A row a norm, batch size, learning rate and seed: the error on held-out images in %."""
    rows: list[list[object]] = [
        [trial.title, line.norm, line.batch, rate, seed, round(value, 6), rate == line.best]
        for trial in trials
        for line in trial.lines
        for rate, errors in line.errors.items()
        for seed, value in errors.items()
    ]
    columns = ("trial", "norm", "batch", "learning_rate", "seed", "held_out_error", "best")
    return _csv(columns, rows)


def _ends(value: Estimate | None) -> list[object]:
    """n, mean, low and high."""
    if value is None:
        return [0, None, None, None]
    ends = (value.mean, value.low, value.high)
    return [value.n, *(None if end is None else round(end, 6) for end in ends)]


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_harmless(value) for value in row] for row in rows)
    return text.getvalue()


def _harmless(value: object) -> object:
    """Text that a spreadsheet would take for a formula is quoted as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
