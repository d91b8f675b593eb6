"""Tables that fit a terminal: columns are left out before words are broken."""

import re
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

Shown = tuple[str, Sequence[str], Iterable[Sequence[str]], Sequence[str] | None]
"""A table: title, columns, rows, and the columns that may be left out."""

_PADDING = 3
"""Blanks between two columns."""

_BREAKS = re.compile(r"(?<!±) (?!±|\d+/\d|\d+ (?:min|s)\b|(?:h|min|s)\b)|\n")
"""Where a cell may be broken: no interval leaves its mean, no number its unit or what it counts."""

_BLANKS = re.compile(r"\s")
"""Where it is broken if that is still too wide."""

_NUMERIC = frozenset("0123456789-+.±")


def laid_out(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    droppable: Sequence[str] | None,
    width: int,
) -> Table:
    """A table in ``width`` characters; columns of numbers are aligned to the right.

    Where it is too wide, ``droppable`` columns are left out, in that order, before words are
    broken; where none are named, those from the third on, the last first.
    """
    filled = [list(row) for row in rows]
    least = _least(columns, filled, _BREAKS)
    last_first = range(len(columns) - 1, 1, -1)
    order = last_first if droppable is None else map(list(columns).index, droppable)
    kept = _fitting(least, order, width)
    columns, least = [columns[i] for i in kept], [least[i] for i in kept]
    filled = [[row[index] for index in kept] for row in filled]
    if sum(least) > _room(width, len(kept)):  # rather an interval below its mean than half a word
        least = _least(columns, filled, _BLANKS)
    widths = _widths(columns, least, filled, width)
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        cells = [row[index] for row in filled if row[index]]
        numeric = bool(cells) and all(cell[0] in _NUMERIC for cell in cells)
        table.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            width=widths[index],
        )
    for row in filled:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _fitting(least: Sequence[int], droppable: Iterable[int], width: int) -> list[int]:
    """The columns, by index, that fit side by side where each is at ``least`` so wide."""
    kept = list(range(len(least)))
    for index in droppable:
        if sum(least[each] for each in kept) <= _room(width, len(kept)):
            break
        kept.remove(index)
    return kept


def _room(width: int, columns: int) -> int:
    """The characters that a table of so many columns has for what is in them."""
    return width - _PADDING * columns + 1


def _widths(
    columns: Sequence[str], least: Sequence[int], rows: Sequence[Sequence[str]], width: int
) -> list[int | None]:
    """The width of each column: wide ones give way first, and none breaks a word."""
    widths = [
        max(len(line) for cell in cells for line in cell.splitlines() or [""])
        for cells in zip(columns, *rows, strict=True)
    ]
    room = _room(width, len(columns))
    if sum(widths) <= room or sum(least) > room:  # it fits, or words have to be broken
        return [None] * len(columns)
    while sum(widths) > room:
        slack = [wide - low for wide, low in zip(widths, least, strict=True)]
        widths[slack.index(max(slack))] -= 1
    return list(widths)


def _least(
    columns: Sequence[str], rows: Sequence[Sequence[str]], breaks: re.Pattern[str]
) -> list[int]:
    """The width that each column needs where its cells are broken at ``breaks`` alone."""
    return [
        max(len(word) for cell in cells for word in breaks.split(cell))
        for cells in zip(columns, *rows, strict=True)
    ]
