"""The answer of a race, and cells side by side, as documents: for a page and for a notebook."""

from collections.abc import Sequence
from pathlib import Path

from normbench.launch.advise.answer import Answer
from normbench.launch.advise.pictures import Error, by_batch, by_norm
from normbench.launch.advise.wording import COLUMNS, NOTE, headline, table
from normbench.report.page.document import (
    Block,
    Code,
    Heading,
    Pictures,
    Sentences,
    Table,
    Text,
    to_piece,
)
from normbench.report.page.writing import write_document
from normbench.report.plots.style import Drawing
from normbench.terminal.words import count


def contents(answer: Answer) -> list[Block]:
    """What an answer's page shows."""
    blocks: list[Block] = [
        Heading(1, "Which norm?"),
        Sentences(headline(answer)),
        *_shown(by_norm(_drawn(answer))),
        Table(COLUMNS, table(answer)),
        Text(NOTE, muted=True),
    ]
    if answer.command:
        blocks += [Heading(2, "Train it"), Code([answer.command])]
        blocks += [Heading(2, "In your own code"), Code(answer.code.splitlines(), "python")]
    return blocks


def write(answer: Answer, folder: Path) -> Path:
    """Writes ``answer.md``, ``answer.html`` and their picture; returns the page.

    Raises:
        OSError: the folder cannot be written to.
    """
    return write_document(folder, "answer", "normbench: which norm?", contents(answer))


def in_notebook(answer: Answer) -> str:
    """An answer as a piece of HTML."""
    return to_piece(contents(answer)[1:])


def compared(errors: Sequence[Error], rows: Sequence[Sequence[str]]) -> str:
    """Cells side by side as a piece of HTML: a row each, and a picture of those with an error."""
    columns = ("norm", "batch", "test error, %", "seeds")
    return to_piece([Table(columns, rows), *_shown(by_batch(errors))])


def _shown(drawing: Drawing | None) -> list[Block]:
    return [] if drawing is None else [Pictures([drawing])]


def _drawn(answer: Answer) -> list[Error]:
    """The rows of an answer that have an error; what was trained in full is not grey."""
    found = []
    for row in answer.rows:
        if row.error is not None:
            full = row.final
            label = row.norm if full else f"{row.norm}, {count(row.epochs, 'epoch')}"
            found.append(Error(row.norm, label, row.error, row.half, full=full))
    return found
