"""What has been trained: a line a cell, for a terminal."""

from itertools import groupby
from pathlib import Path

from normbench.report.compare.recipes import settings_apart
from normbench.report.compare.statistics import estimate
from normbench.report.read.cells import CellRun, collect
from normbench.report.read.states import state
from normbench.report.text.tables import Rows, without_empty
from normbench.report.text.wording import plus_minus
from normbench.terminal.bars import duration
from normbench.terminal.screen import Screen


def show_runs(screen: Screen, directory: Path) -> None:
    """Prints a line for each cell in ``directory``: its settings, its state, its result.

    Args:
        directory: as for :func:`.collect`.

    Raises:
        UsageError: there is none.
    """
    found = collect(directory)
    rows: Rows = []
    for _, grouped in groupby(found.cells, lambda cell: cell.experiment):
        cells = list(grouped)
        apart = settings_apart([cell.settings for cell in cells])
        rows += [_row(cell, own, found.name) for cell, own in zip(cells, apart, strict=True)]
    columns = ["cell", "settings", "state", "error %", "test images", "trained"]
    columns, rows = without_empty(columns, rows)
    dropped = [each for each in ("trained", "test images", "settings", "state") if each in columns]
    screen.table(f"Cells in {directory}", columns, rows, droppable=dropped)
    for problem in found.problems:
        screen.line(f"note: {problem}")


def _row(cell: CellRun, apart: str, name: str) -> list[str]:
    results = [run.result for run in cell.seeds if run.result is not None]
    images = {result.test_images for result in results if result.test_images is not None}
    return [
        cell.folder if cell.folder != "." else name,
        apart or "-",
        state(cell),
        plus_minus(estimate(cell.errors.values())),
        ", ".join(f"{number:,}" for number in sorted(images)) or "-",
        duration(sum(result.seconds for result in results)) if results else "-",
    ]
