"""Writes documents, and normbench's report: folders of records -> Markdown, CSV, pictures, HTML.

Equal records give equal bytes. Nothing is believed that is read, and nothing is fetched.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from normbench.errors import UsageError
from normbench.files import write_bytes, write_text
from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.rates import RateTrial, rate_trials
from normbench.report.page.contents import contents
from normbench.report.page.document import Block, First, Folded, Pictures, to_html, to_markdown
from normbench.report.plots.style import Drawing
from normbench.report.read.cells import Collection, collect
from normbench.report.read.states import overview, state
from normbench.report.text.findings import findings
from normbench.report.text.grid import RATE_COLUMNS, grid, rate_rows
from normbench.report.text.tables import (
    cell_columns,
    cell_rows,
    cells_csv,
    differences_csv,
    rates_csv,
    seeds_csv,
    without_empty,
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
        trials: the learning rates that were tried on held-out images.
    """

    folder: Path
    page: Path
    collection: Collection
    comparisons: tuple[Comparison, ...]
    trials: tuple[RateTrial, ...]


def write(
    directory: Path,
    screen: Screen,
    *,
    beside: Path | None = None,
    out: Path | None = None,
    papers: bool = False,
) -> Report:
    """Writes a report on the cells in ``directory`` and shows their table.

    Args:
        directory: a cell, ``runs/NAME`` or ``runs``.
        screen: where the table is shown.
        beside: another folder, whose cells stand side by side with the first one's.
        out: the folder to write to; by default ``directory/report``, of two folders
            ``directory/report-NAME`` with the name of the second.
        papers: whether pictures of published lines are drawn.

    Raises:
        UsageError: there are no cells, or the folder cannot be written to or has another report.md.
    """
    collection, names = (collect(directory), []) if beside is None else _both(directory, beside)
    comparisons, trials = compare(collection), rate_trials(collection)
    blocks = contents(collection, comparisons, trials, papers=papers, beside=names)
    name = FOLDER if beside is None else f"{FOLDER}-{beside.resolve().name}"
    folder = directory / name if out is None else out
    texts = {
        "seeds.csv": seeds_csv(collection),
        "cells.csv": cells_csv(comparisons),
        "differences.csv": differences_csv(comparisons),
        **({"rates.csv": rates_csv(trials)} if trials else {}),
    }
    try:
        page = write_document(folder, "report", f"normbench: {collection.name}", blocks)
        for table, text in texts.items():
            write_text(folder / table, text)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written to: {error.strerror}; choose another folder with --out"
        ) from None
    _show(screen, collection, comparisons, trials)
    screen.line(f"report: {page}")
    return Report(folder, page, collection, tuple(comparisons), tuple(trials))


def _both(first: Path, second: Path) -> tuple[Collection, list[str]]:
    """The cells of two folders, each under its folder's name, and these names."""
    found = [collect(first), collect(second)]
    names = [collection.name for collection in found]
    if names[0] == names[1]:
        names = [f"{name} ({n})" for n, name in enumerate(names, start=1)]
    cells = [
        replace(cell, folder=f"{name}/{cell.folder}")
        for name, collection in zip(names, found, strict=True)
        for cell in collection.cells
    ]
    problems = [problem for collection in found for problem in collection.problems]
    return Collection(" and ".join(names), tuple(cells), tuple(problems)), names


def write_document(folder: Path, name: str, title: str, blocks: Sequence[Block]) -> Path:
    """Writes ``name.md``, ``name.html`` and the pictures; returns the page.

    Pictures of an earlier document of that name that this one has not are deleted.

    Raises:
        OSError: the folder cannot be written to.
        UsageError: ``name.md`` is there and does not begin as such a document does; nothing is
            written then.
    """
    drawings, before = list(_drawings(blocks)), _shown_before(folder / f"{name}.md", blocks[0])
    for drawing in drawings:
        write_text(folder / f"{drawing.name}.svg", drawing.svg)
        write_bytes(folder / f"{drawing.name}.png", drawing.png)
    page = folder / f"{name}.html"
    write_text(folder / f"{name}.md", to_markdown(blocks))
    write_text(page, to_html(title, blocks))
    for picture in before - {drawing.name for drawing in drawings}:
        for suffix in ("png", "svg"):
            (folder / f"{picture}.{suffix}").unlink(missing_ok=True)
    return page


def _show(
    screen: Screen,
    collection: Collection,
    comparisons: Sequence[Comparison],
    trials: Sequence[RateTrial],
) -> None:
    for comparison in comparisons:
        screen.table(
            comparison.title, *without_empty(cell_columns(comparison), cell_rows(comparison))
        )
        columns, rows = without_empty(*grid(comparison))
        if rows:
            last = [column for column in ("memory", "time") if column in columns]
            screen.table("which norm", columns, rows, last)
        for sentence in findings(comparison):
            screen.line(sentence)
    for trial in trials:
        screen.table(trial.title, RATE_COLUMNS, rate_rows(trial))
    bad = collection.unreadable
    if bad:
        rows = [[cell.folder, state(cell), cell.problem or ""] for cell in bad]
        screen.table("cells that cannot be read", ("cell", "state", "why"), rows)
    for problem in collection.problems:
        screen.line(problem)
    screen.line(overview(collection.cells))


def _drawings(blocks: Sequence[Block]) -> Iterator[Drawing]:
    for block in blocks:
        match block:
            case Pictures(drawings):
                yield from drawings
            case First(_, drawing, _):
                yield drawing
            case Folded(_, inner):
                yield from _drawings(inner)
            case _:
                pass


def _shown_before(document: Path, heading: Block) -> set[str]:
    """The pictures that a document of an earlier time shows, by name.

    Raises:
        UsageError: it is of another kind than one that begins with ``heading``.
    """
    try:
        text = document.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return set()
    kind = re.match("[^:]*:?", to_markdown([heading]).strip())  # after a colon it has a name
    if kind is None or not text.startswith(kind[0]):
        raise UsageError(
            f"{document}: would be overwritten, but normbench has not written it; rename it, or"
            " choose another folder"
        )
    names = re.findall(r"^!\[.*\]\(([a-z0-9-]+)\.png\)$", text, re.MULTILINE)
    return {name for name in names if document.with_name(f"{name}.svg").exists()}
