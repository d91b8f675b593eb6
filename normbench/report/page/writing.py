"""normbench report: run folders -> Markdown, CSV, pictures and one HTML page.

Equal records give equal bytes. Nothing is believed that is read, and nothing is fetched.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from normbench.errors import UsageError
from normbench.files import write_bytes, write_text
from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.page.contents import contents
from normbench.report.page.document import Block, Folded, Pictures, to_html, to_markdown
from normbench.report.plots.style import Drawing
from normbench.report.read.cells import Collection, collect
from normbench.report.read.progress import progress, state
from normbench.report.text.tables import (
    cell_columns,
    cell_rows,
    cells_csv,
    differences_csv,
    seeds_csv,
)
from normbench.terminal.screen import Screen

FOLDER = "report"
"""Where a report goes unless told otherwise: into this folder of the runs it is about."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report that has been written.

    Attributes:
        folder: where.
        page: the HTML page.
        collection: all cells that were found.
        comparisons: what they were put into.
    """

    folder: Path
    page: Path
    collection: Collection
    comparisons: tuple[Comparison, ...]


def write(
    directory: Path, screen: Screen, *, out: Path | None = None, papers: bool = False
) -> Report:
    """Writes a report on the cells in ``directory`` and shows their table.

    Args:
        directory: a cell, ``runs/NAME`` or ``runs``.
        screen: where the table is shown.
        out: the folder to write to; ``directory/report`` by default.
        papers: whether published lines stand beside the pictures.

    Raises:
        UsageError: there are no cells, or the folder cannot be written to.
    """
    collection = collect(directory)
    comparisons = compare(collection)
    blocks = contents(collection, comparisons, papers=papers)
    drawings = list(_drawings(blocks))
    folder = directory / FOLDER if out is None else out
    try:
        before = _shown_before(folder)
        for drawing in drawings:
            write_text(folder / f"{drawing.name}.svg", drawing.svg)
            write_bytes(folder / f"{drawing.name}.png", drawing.png)
        write_text(folder / "seeds.csv", seeds_csv(collection))
        write_text(folder / "cells.csv", cells_csv(comparisons))
        write_text(folder / "differences.csv", differences_csv(comparisons))
        write_text(folder / "report.md", to_markdown(blocks))
        write_text(folder / "report.html", to_html(f"normbench: {collection.name}", blocks))
        for name in before - {drawing.name for drawing in drawings}:
            for suffix in ("png", "svg"):
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written to: {error.strerror}; choose another folder with --out"
        ) from None
    _show(screen, collection, comparisons)
    page = folder / "report.html"
    screen.line(f"report: {page}")
    return Report(folder, page, collection, tuple(comparisons))


def _show(screen: Screen, collection: Collection, comparisons: Sequence[Comparison]) -> None:
    for comparison in comparisons:
        screen.table(comparison.title, cell_columns(comparison), cell_rows(comparison))
    bad = [cell for cell in collection.cells if cell.problem is not None]
    if bad:
        rows = [[cell.folder, state(cell), cell.problem or ""] for cell in bad]
        screen.table("cells that cannot be read", ("cell", "state", "why"), rows)
    for problem in collection.problems:
        screen.line(problem)
    screen.line(progress(collection.cells))


def _drawings(blocks: Sequence[Block]) -> Iterator[Drawing]:
    for block in blocks:
        match block:
            case Pictures(drawings):
                yield from drawings
            case Folded(_, inner):
                yield from _drawings(inner)
            case _:
                pass


def _shown_before(folder: Path) -> set[str]:
    """The pictures that the report of an earlier time in ``folder`` shows, by name."""
    try:
        text = (folder / "report.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return set()
    names = re.findall(r"^!\[.*\]\(([a-z0-9-]+)\.png\)$", text, re.MULTILINE)
    return {name for name in names if (folder / f"{name}.svg").exists()}
