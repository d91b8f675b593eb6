"""A document as plain blocks, and the two forms it is written in: Markdown and one HTML page.

Blocks hold plain text. Both forms escape every character of it that would mean something to them,
so that a name found in a file can only ever be read, and whatever is said once is said in both.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias, TypeVar

from normbench.report.page.html import page, piece
from normbench.report.plots.style import Drawing


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the document's title."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; ``muted`` ones are remarks."""

    text: str
    muted: bool = False


@dataclass(frozen=True, slots=True)
class Sentences:
    """One sentence a finding, set apart from the rest."""

    sentences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, whose first column names the rows.

    Columns that hold only numbers are aligned to the right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, but for cells that stand for one."""
        cells = [row[column] for row in self.rows if row[column] not in _NO_NUMBER]
        return bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)

    @property
    def wide(self) -> bool:
        """Whether a row has more to read than a line of a phone holds."""
        return any(len("  ".join(row)) > _PHONE for row in [self.columns, *self.rows])


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures, side by side where there is room."""

    drawings: Sequence[Drawing]

    @property
    def notes(self) -> list[str]:
        """What the pictures leave out, each remark once."""
        return list(dict.fromkeys(d.note for d in self.drawings if d.note))


@dataclass(frozen=True, slots=True)
class First:
    """What the first screen shows: a table, sentences on it, and its picture beside them where
    there is room."""

    table: Table
    drawing: Drawing
    said: Sequence[str] = ()

    @property
    def parts(self) -> "list[Block]":
        """The same one after the other."""
        said: list[Block] = [Sentences(self.said)] if self.said else []
        return [self.table, Pictures([self.drawing]), *said]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to be copied, to a shell unless said otherwise."""

    lines: Sequence[str]
    language: str = "bash"


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that are shown when asked for."""

    summary: str
    blocks: Sequence["Block"]


T = TypeVar("T")
Block: TypeAlias = (
    Heading | Text | Sentences | First | Bullets | Table | Facts | Pictures | Code | Folded
)

_NO_NUMBER = ("", "-", "any", "reference")
_NUMBER = re.compile(
    r"(?:× )?[+\N{MINUS SIGN}-]?\d[\d.,–]*( ± [\d.,]+)?( \(± [\d.,]+\))?( [kMG]?B)?"
)
_PHONE = 40  # characters


# --- Markdown -------------------------------------------------------------------------------------


def to_markdown(blocks: Sequence[Block]) -> str:
    """The document as Markdown, as code-hosting sites show it; pictures are PNG files beside it."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_md(text)}"
        case Text(text, muted):
            return f"*{_md(text)}*" if muted else _md(text)
        case Sentences(sentences):
            return "\n".join(f"- {_md(sentence)}" for sentence in sentences)
        case Bullets(items):
            return "\n".join(f"- {_md(item)}" for item in items)
        case Table(columns, rows):
            sides = ["---:" if block.numeric(i) else "---" for i in range(len(columns))]
            lines = [[_md(c) for c in columns], sides, *([_md(c) for c in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Facts(facts):
            return "\n".join(f"- {_md(k)}: {_md(v)}" for k, v in facts)
        case Pictures(drawings):
            shown = [f"![{_md(d.alt)}]({d.name}.png)" for d in drawings]
            return "\n\n".join([*shown, *(f"*{_md(note)}*" for note in block.notes)])
        case First():
            return "\n\n".join(map(_markdown, block.parts))
        case Code(lines, language):
            fence = "`" * max(
                3, 1 + max((len(r) for x in lines for r in _TICKS.findall(x)), default=0)
            )
            return "\n".join([f"{fence}{language}", *map(_code_line, lines), fence])
        case Folded(summary, blocks):
            inner = "\n\n".join(_markdown(inner) for inner in blocks)
            return f"<details><summary>{_md(summary)}</summary>\n\n{inner}\n\n</details>"


_TICKS = re.compile(r"`+")
_SPECIAL = re.compile(r"([\\`*\[\]|~$@]|(?<!\w)_|_(?!\w)|^[#+-](?=\s)|^\d+(?=[.)]\s))")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _code_line(text: str) -> str:
    """A line of code: nothing in it can end it, and what it begins with stays."""
    return " ".join(text.splitlines())


def _md(text: str) -> str:
    """Plain text as Markdown: on one line, with what has a meaning escaped."""

    def escaped(match: re.Match[str]) -> str:
        found = match[0]
        return f"{found}\\" if found.isdigit() else f"\\{found}"

    return _SPECIAL.sub(escaped, _one_line(text)).translate(_ENTITIES)


# --- HTML -----------------------------------------------------------------------------------------


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as one page that needs nothing else: no network, no script, no other file."""
    return page(title, _body(blocks))


def to_piece(blocks: Sequence[Block]) -> str:
    """The blocks as they stand in a notebook: in its look, with light pictures."""
    return piece(_body(blocks))


def _body(blocks: Sequence[Block]) -> str:
    return "\n".join(_html(block, name) for block, name in _named(blocks))


def _named(blocks: Sequence[Block], above: str = "") -> Iterator[tuple[Block, str]]:
    """Each block with the name that its part of the page has for those who cannot see it.

    It is the headings above it and, from the second table or list of commands there, a number.
    """
    section, heading = above, above
    met: Counter[str] = Counter()
    for block in blocks:
        match block:
            case Heading(level, text):
                section, heading = (text, text) if level < 3 else (section, f"{text}: {section}")
            case Folded(summary, _):
                yield block, f"{summary}: {section}"
                continue
            case Table() | Code() | First():
                met[heading] += 1
        yield block, heading if met[heading] < 2 else f"{heading} ({met[heading]})"


def _html(block: Block, name: str) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text, muted):
            return f'<p class="muted">{escape(text)}</p>' if muted else f"<p>{escape(text)}</p>"
        case Sentences(sentences):
            return _wrapped("ul", sentences, lambda s: f"<li>{escape(s)}</li>", ' class="findings"')
        case Bullets(items):
            return _wrapped("ul", items, lambda item: f"<li>{escape(item)}</li>")
        case Table():
            return _html_table(block, name)
        case Facts(facts):
            return _wrapped(
                "dl", facts, lambda fact: f"<dt>{escape(fact[0])}</dt><dd>{escape(fact[1])}</dd>"
            )
        case Pictures(drawings):
            notes = [f'\n<p class="muted">{escape(note)}</p>' for note in block.notes]
            shown = _wrapped("div", drawings, _html_picture, ' class="pictures"')
            return "".join([shown, *notes])
        case First():
            return _wrapped("div", block.parts, lambda part: _html(part, name), ' class="first"')
        case Code(lines):
            said = escape("\n".join(map(_code_line, lines)))
            return f"<pre {_region(name)}>{said}</pre>"
        case Folded(summary, blocks):
            inner = "\n".join(_html(one, told) for one, told in _named(blocks, name))
            return f"<details><summary>{escape(summary)}</summary>\n{inner}\n</details>"


def _wrapped(tag: str, items: Sequence[T], make: Callable[[T], str], attributes: str = "") -> str:
    return "\n".join([f"<{tag}{attributes}>", *map(make, items), f"</{tag}>"])


def _html_picture(drawing: Drawing) -> str:
    return (
        f'<figure role="img" aria-label="{escape(drawing.alt)}">{drawing.inline()}'
        f"<figcaption>{escape(drawing.alt)}</figcaption></figure>"
    )


def _region(name: str) -> str:
    """The attributes of a part of the page that scrolls by itself: keyboards have to reach it."""
    return f'tabindex="0" role="region" aria-label="{escape(name)}"'


def _unbroken(cell: str) -> str:
    """A cell whose means stay in a line with their intervals."""
    return escape(cell).replace(" ± ", "&nbsp;±&nbsp;").replace("(± ", "(±&nbsp;")


def _html_table(table: Table, name: str) -> str:
    classes = [' class="number"' if table.numeric(i) else "" for i in range(len(table.columns))]
    labels = [f' data-label="{escape(c)}"' if table.wide else "" for c in table.columns]
    look = ' class="cards"' if table.wide else ""
    heads = (
        f'<th scope="col"{kind}>{escape(column)}</th>'
        for kind, column in zip(classes, table.columns, strict=True)
    )

    def row(cells: Sequence[str]) -> str:
        tags = [' scope="row"', *[""] * (len(cells) - 1)]
        made = (
            f"<{tag}{scope}{kind}{label}>{_unbroken(cell)}</{tag}>"
            for scope, kind, label, cell in zip(tags, classes, labels, cells, strict=True)
            for tag in ("th" if scope else "td",)
        )
        return f"<tr>{''.join(made)}</tr>"

    return (
        f'<div class="scroll" {_region(name)}><table{look}>\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n"
        f"{_wrapped('tbody', table.rows, row)}\n</table></div>"
    )
