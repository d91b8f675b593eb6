"""A document as plain blocks, and the two forms it is written in: Markdown and one HTML page.

Blocks hold plain text. Both forms escape every character of it that would mean something to them,
so that a name found in a file can only ever be read, and whatever is said once is said in both.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias, TypeVar

from normbench.report.plotting import THEME, Drawing


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
class Lead:
    """The answer: sentences set apart from the rest."""

    sentences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns that hold only numbers are aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, but for cells that stand for one."""
        cells = [row[column] for row in self.rows if row[column] not in _NO_NUMBER]
        return bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)


@dataclass(frozen=True, slots=True)
class Facts:
    """A box of names and values."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures, side by side where there is room."""

    drawings: Sequence[Drawing]


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines to be copied to a shell."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that are shown when asked for."""

    summary: str
    blocks: Sequence["Block"]


T = TypeVar("T")
Block: TypeAlias = Heading | Text | Lead | Bullets | Table | Facts | Pictures | Commands | Folded

_NO_NUMBER = ("", "-", "any", "reference")
_NUMBER = re.compile(r"[+\N{MINUS SIGN}-]?\d[\d.,–]*( ± [\d.,]+)?( [kMG]?B)?")


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
        case Lead(sentences):
            return "\n>\n".join(f"> {_md(sentence)}" for sentence in sentences)
        case Bullets(items):
            return "\n".join(f"- {_md(item)}" for item in items)
        case Table(columns, rows):
            sides = ["---:" if block.numeric(i) else "---" for i in range(len(columns))]
            lines = [[_md(c) for c in columns], sides, *([_md(c) for c in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Facts(title, facts):
            return "\n".join(
                [f"**{_md(title)}**", "", *(f"- {_md(k)}: {_md(v)}" for k, v in facts)]
            )
        case Pictures(drawings):
            return "\n\n".join(f"![{_md(d.alt)}]({d.name}.png)" for d in drawings)
        case Commands(lines):
            fence = "`" * max(
                3, 1 + max((len(r) for x in lines for r in _TICKS.findall(x)), default=0)
            )
            return "\n".join([f"{fence}bash", *(_one_line(line) for line in lines), fence])
        case Folded(summary, blocks):
            inner = "\n\n".join(_markdown(inner) for inner in blocks)
            return f"<details><summary>{_md(summary)}</summary>\n\n{inner}\n\n</details>"


_TICKS = re.compile(r"`+")
_SPECIAL = re.compile(r"([\\`*\[\]|~$@]|(?<!\w)_|_(?!\w)|^[#+-](?=\s)|^\d+(?=[.)]\s))")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _md(text: str) -> str:
    """Plain text as Markdown: on one line, with what has a meaning escaped."""

    def escaped(match: re.Match[str]) -> str:
        found = match[0]
        return f"{found}\\" if found.isdigit() else f"\\{found}"

    return _SPECIAL.sub(escaped, _one_line(text)).translate(_ENTITIES)


# --- HTML -----------------------------------------------------------------------------------------


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as one page that needs nothing else: no network, no script, no other file."""
    body = "\n".join(_html(block) for block in blocks)
    return _PAGE.format(title=escape(title), css=_css(), body=body)


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text, muted):
            return f'<p class="muted">{escape(text)}</p>' if muted else f"<p>{escape(text)}</p>"
        case Lead(sentences):
            return _wrapped("div", sentences, lambda s: f"<p>{escape(s)}</p>", ' class="lead"')
        case Bullets(items):
            return _wrapped("ul", items, lambda item: f"<li>{escape(item)}</li>")
        case Table():
            return _html_table(block)
        case Facts(title, facts):
            rows = _wrapped(
                "dl", facts, lambda fact: f"<dt>{escape(fact[0])}</dt><dd>{escape(fact[1])}</dd>"
            )
            return f'<section class="facts"><h3>{escape(title)}</h3>\n{rows}</section>'
        case Pictures(drawings):
            return _wrapped("div", drawings, _html_picture, ' class="pictures"')
        case Commands(lines):
            return f"<pre>{escape(chr(10).join(_one_line(line) for line in lines))}</pre>"
        case Folded(summary, blocks):
            inner = "\n".join(_html(inner) for inner in blocks)
            return f"<details><summary>{escape(summary)}</summary>\n{inner}\n</details>"


def _wrapped(tag: str, items: Sequence[T], make: Callable[[T], str], attributes: str = "") -> str:
    return "\n".join([f"<{tag}{attributes}>", *map(make, items), f"</{tag}>"])


def _html_picture(drawing: Drawing) -> str:
    return (
        f'<figure role="img" aria-label="{escape(drawing.alt)}">{drawing.inline()}'
        f"<figcaption>{escape(drawing.alt)}</figcaption></figure>"
    )


def _html_table(table: Table) -> str:
    classes = [' class="number"' if table.numeric(i) else "" for i in range(len(table.columns))]

    def row(cells: Sequence[str], tag: str) -> str:
        made = (
            f"<{tag}{kind}>{escape(cell)}</{tag}>"
            for kind, cell in zip(classes, cells, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead>{row(table.columns, "th")}</thead>\n'
        + _wrapped("tbody", table.rows, lambda cells: row(cells, "td"))
        + "\n</table></div>"
    )


def _css() -> str:
    """The page's style, with the pictures' colours for light and dark."""
    light, dark = ("".join(f"--{part}:{both[i]};" for part, both in THEME.items()) for i in (0, 1))
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{_STYLE}"


_STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem 1rem 4rem;max-width:64rem;background:var(--ground);
color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.4rem 0 .2rem}
h2{font-size:1.3rem;line-height:1.3;margin:2.6rem 0 .6rem;padding-top:.8rem;
border-top:2px solid var(--grid)}
h3{font-size:1.05rem;margin:1.8rem 0 .4rem}
p,li,dd{max-width:46rem;overflow-wrap:anywhere}
.muted,figcaption{color:var(--muted);font-size:.88rem}
.lead{border-left:.3rem solid var(--line1);padding:.2rem 0 .2rem 1rem;margin:1rem 0 1.6rem;
font-size:1.08rem}
.lead p{margin:.5rem 0}
.scroll{overflow-x:auto;margin:.6rem 0 1rem;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .75rem .3rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--grid)}
th{color:var(--muted);font-weight:600;vertical-align:bottom}
td{min-width:3.5rem}
td:not(.number){min-width:5.5rem}
.number{text-align:right;white-space:nowrap}
.pictures{display:grid;gap:1rem 1.6rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))}
figure{margin:.4rem 0;max-width:38rem}
figure svg{display:block;width:100%;height:auto}
figure svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif!important}
.facts{border:1px solid var(--grid);border-radius:.5rem;padding:0 1rem .6rem;margin:1.4rem 0}
.facts dl{display:grid;
grid-template-columns:minmax(7rem,max-content) 1fr;gap:.35rem 1.2rem;margin:0}
.facts dt{color:var(--muted)}
.facts dd{margin:0}
@media(max-width:34rem){.facts dl{grid-template-columns:1fr;gap:0}.facts dd{margin:0 0 .6rem}}
pre{overflow-x:auto;border:1px solid var(--grid);border-radius:.5rem;padding:.7rem .9rem;
font-size:.85rem}
summary{cursor:pointer;margin:.8rem 0}
@media print{.scroll{overflow:visible}}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
</body>
</html>
"""
