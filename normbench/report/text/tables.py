"""Rows of a report's tables, and the same as CSV."""

import csv
import io
from collections.abc import Sequence

from normbench.report.compare.analysis import (
    Lead,
    change,
    cost,
    decomposition,
    difference,
    error,
    meeting,
    pairs,
)
from normbench.report.compare.comparisons import Comparison, Line, Point, axis_value
from normbench.report.compare.regimes import SIGNS
from normbench.report.compare.statistics import Estimate
from normbench.report.read.cells import CellRun, Collection
from normbench.report.read.groups import groups_of
from normbench.report.read.progress import state
from normbench.report.text.wording import difference as signed_difference
from normbench.report.text.wording import memory, number, place, plus_minus

Rows = list[list[str]]

CELL_COLUMNS = (
    "norm", "batch", "error %", "n", "state", "peak rate", "s/epoch", "images/s", "memory",
)  # fmt: skip


def cell_rows(comparison: Comparison) -> Rows:
    """A row a cell: mean error with its interval, n, state, learning rate and what it costs."""
    rows = []
    for line in comparison.lines:
        points: Sequence[Point] = line.points[:1] if line.level else line.points
        for point in points:
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
                    number(paid.seconds),
                    number(paid.images),
                    memory(paid.memory),
                ]
            )
            if comparison.axis in SIGNS:
                rows[-1] += groups_of(point.cell) or ["-"]
    return rows


def cell_columns(comparison: Comparison) -> list[str]:
    """The names of :func:`cell_rows`' columns."""
    axis = SIGNS.get(comparison.axis, comparison.axis)
    named = [axis if name == "batch" else name for name in CELL_COLUMNS]
    return [*named, "groups by stage"] if comparison.axis in SIGNS else named


def difference_rows(comparison: Comparison) -> tuple[list[str], Rows]:
    """Columns and a row for every two lines: their paired difference at each place."""
    xs = [x for x in comparison.xs if any(line.at(x) for line in comparison.lines)]
    rows = []
    for first, second in pairs(comparison):
        points = [difference(first, second, x).points for x in xs]
        if any(value is not None for value in points):
            cells = [signed_difference(value) for value in points]
            counts = sorted({value.n for value in points if value is not None})
            said = "–".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
            rows.append([f"{first.label} − {second.label}", *cells, said])
    return ["norms", *(axis_value(comparison.axis, x) for x in xs), "n"], rows


def along_rows(comparison: Comparison) -> tuple[list[str], Rows]:
    """Columns and a row a line: its error at each place less that at its smallest, by seed."""
    lines = [line for line in comparison.lines if not line.level and len(line.measured) > 1]
    xs = sorted({point.x for line in lines for point in line.measured})
    rows = []
    for line in lines:
        first = line.measured[0]
        moved = [change(line, x, first.x) for x in xs]
        moved = [None if x == first.x else value for x, value in zip(xs, moved, strict=True)]
        rows.append([f"{line.named}, against {axis_value(comparison.axis, first.x)}"])
        rows[-1] += [signed_difference(value) for value in moved]
    return ["norm", *(axis_value(comparison.axis, x) for x in xs)], rows


def crossing_rows(comparison: Comparison) -> Rows:
    """A row for every two lines with two places in common: where they cross."""
    rows = []
    for first, second in pairs(comparison):
        found = meeting(first, second)
        if found is None:
            continue
        left, right = (second if found.above[end] else first for end in (0, -1))
        ends = f"{left.label} at {found.xs[0]:g}, {right.label} at {found.xs[-1]:g}"
        if len(set(found.above)) == 1 and not found.crossings:
            ends = f"{left.label} at all {len(found.xs)}, from {found.xs[0]:g} to {found.xs[-1]:g}"
        rows.append([f"{first.label}, {second.label}", place(found.crossings), ends])
    return rows


def lead_rows(comparison: Comparison, leads: Sequence[Lead]) -> tuple[list[str], Rows]:
    """Columns and a row an epoch, at the last one, at half of it, a quarter, and so on."""
    epochs = sorted({epoch for lead in leads for epoch in lead.points})
    kept, part = {epochs[0]}, epochs[-1]
    while part >= epochs[0]:
        kept.add(max(epoch for epoch in epochs if epoch <= part))
        part /= 2
    columns = ["epochs", *(axis_value(comparison.axis, lead.x) for lead in leads), "n"]
    counts = sorted({value.n for lead in leads for value in lead.points.values()})
    said = "–".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    rows = [
        [f"{epoch:g}", *(signed_difference(lead.points.get(epoch)) for lead in leads), said]
        for epoch in sorted(kept)
    ]
    return columns, rows


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
            *(
                "reference" if row.reference else signed_difference(value)
                for value in (row.lost, row.averages, row.rest)
            ),
            str(row.gap.n),
        ]
        for row in decomposition(comparison)
    ]


# --- CSV ------------------------------------------------------------------------------------------

_SEED_COLUMNS = (
    "folder", "norm", "batch", "norm_batch", "model", "data", "sha256", "seed", "state", "epochs",
    "steps", "test_accuracy", "test_accuracy_reestimated", "test_accuracy_batch", "val_accuracy",
    "test_loss", "train_accuracy", "train_loss", "seconds", "images_per_second", "memory_bytes",
    "stacked", "threads", "diverged_at", "problem",
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
            for point in line.points[:1] if line.level else line.points:
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
    """A row for every two lines and place: the error of the first minus that of the second."""
    rows: list[list[object]] = []
    for comparison in comparisons:
        for first, second in pairs(comparison):
            for x in comparison.xs:
                points = difference(first, second, x).points
                if points is not None:
                    names = [comparison.title, first.label, second.label, comparison.axis, x]
                    rows.append([*names, *_ends(points)])
    columns = ("comparison", "first", "second", "axis", "x", "n", "mean", "low", "high")
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
