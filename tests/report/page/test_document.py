"""A document in its two forms: nothing that a file says can mean anything in either."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from normbench.report.page.document import (
    Block,
    Bullets,
    Code,
    Facts,
    First,
    Folded,
    Heading,
    Pictures,
    Sentences,
    Table,
    Text,
    to_html,
    to_markdown,
)
from normbench.report.plots.style import Drawing

EVIL = "<script>alert(1)</script> & \"quotes\" 'single' `code` *bold* [a](b) | ![i](j) \n# x"
DRAWING = Drawing(
    "error", "an <alt>", '<?xml?><svg viewBox="0 0 1 1" xmlns="urn:x"><g id="a"/></svg>', b""
)


def every_block(text: str) -> list[Block]:
    return [
        Heading(1, text),
        Text(text),
        Text(text, muted=True),
        Sentences([text]),
        Bullets([text]),
        Table([text, "n"], [[text, "1"]]),
        Facts([(text, text)]),
        Pictures([DRAWING]),
        First(Table([text, "n"], [[text, "1"]]), replace(DRAWING, name="first")),
        Code([text]),
        Folded(text, [Text(text)]),
    ]


class Reader(HTMLParser):
    """Collects tags and text, and checks that what is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_stays_text_in_html() -> None:
    reader = Reader(to_html(EVIL, every_block(EVIL)))

    assert "script" not in reader.tags
    assert "img" not in reader.tags
    # The title, each block once, and more often in those that take several texts.
    assert reader.text.count("<script>alert(1)</script>") == 15


def test_text_stays_text_in_markdown() -> None:
    text = to_markdown([block for block in every_block(EVIL) if not isinstance(block, Code)])

    assert "<script" not in text
    assert "\\`code\\`" in text
    assert "\\*bold\\*" in text
    assert "\\[a\\](b)" in text
    assert "\\|" in text
    assert "\n# x" not in text


def test_a_command_cannot_end_its_block() -> None:
    text = to_markdown([Code(["echo ```", "second\nline"])])

    assert text == "````bash\necho ```\nsecond line\n````\n"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("# no heading", "\\# no heading"),
        ("- no list", "\\- no list"),
        ("1. no list", "1\\. no list"),
        ("> no quote", "&gt; no quote"),
        ("norm_batch 2", "norm_batch 2"),
        ("_not emphasis_", "\\_not emphasis\\_"),
        ("a ~~b~~", "a \\~\\~b\\~\\~"),
        ("&lt;", "&amp;lt;"),
        ("1.5 points - less", "1.5 points - less"),
    ],
)
def test_markdown_is_escaped_only_where_it_means_something(text: str, written: str) -> None:
    assert to_markdown([Text(text)]) == f"{written}\n"


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    table = Table(["norm", "error"], [["batch", "36.8 ± 1.2"], ["group", "-"], ["layer", "−1"]])

    assert to_markdown([table]).splitlines()[1] == "| --- | ---: |"
    assert '<th scope="row">batch</th><td class="number">36.8&nbsp;±&nbsp;1.2</td>' in to_html(
        "", [table]
    )


def test_columns_of_words_that_begin_with_a_number_are_not() -> None:
    table = Table(["n", "here"], [["2–5", "6.1 points"], ["3", "2 MB"]])

    assert [table.numeric(i) for i in (0, 1)] == [True, False]


def test_a_page_needs_nothing_else() -> None:
    page = to_html("title", every_block("text"))

    assert "default-src 'none'" in page
    assert "://" not in page
    assert "<script" not in page
    assert "src=" not in page
    assert "url(" not in page


def test_a_page_knows_light_dark_and_phones() -> None:
    page = to_html("title", [])

    assert "prefers-color-scheme:dark" in page
    assert 'name="color-scheme" content="light dark"' in page
    assert "width=device-width" in page
    assert "overflow-x:auto" in page


def test_markdown_shows_pictures_from_beside_it() -> None:
    assert to_markdown([Pictures([DRAWING])]) == "![an &lt;alt&gt;](error.png)\n"


def test_what_pictures_leave_out_is_said_once_in_both() -> None:
    cut = replace(DRAWING, note="Of <30> lines 24 are drawn.")
    block = Pictures([cut, replace(cut, name="other"), DRAWING])

    assert to_markdown([block]).count("*Of &lt;30&gt; lines 24 are drawn.*\n") == 1
    assert to_html("", [block]).count('<p class="muted">Of &lt;30&gt; lines 24 are drawn.</p>') == 1
    assert "muted" not in to_html("", [Pictures([DRAWING])]).split("<main>")[1]


# --- For those who cannot see it ------------------------------------------------------------------


def with_role(page: str, role: str) -> list[dict[str, str | None]]:
    return [values for _, values in Reader(page).attributes if values.get("role") == role]


def test_a_page_has_a_language_and_a_main_part() -> None:
    reader = Reader(to_html("title", every_block("text")))

    assert reader.attributes[0] == ("html", {"lang": "en"})
    assert reader.tags.count("main") == 1
    assert reader.tags.index("main") == reader.tags.index("body") + 1


def test_every_head_of_a_column_or_row_says_so() -> None:
    reader = Reader(to_html("", [Table(["norm", "error"], [["batch", "1"]])]))

    scopes = [values.get("scope") for tag, values in reader.attributes if tag == "th"]
    assert scopes == ["col", "col", "row"]


def test_what_scrolls_is_reached_by_keyboard_and_has_a_name_of_its_own() -> None:
    table = Table(["norm"], [["batch"]])
    blocks: list[Block] = [
        Heading(2, "One"),
        Heading(3, "Every cell"),
        table,
        Heading(2, "Two"),
        table,
        Heading(3, "Every cell"),
        table,
        Text("and"),
        table,
        Heading(3, "Again"),
        Code(["echo"]),
        Folded("More", [table]),
    ]
    regions = with_role(to_html("", blocks), "region")

    assert [values["aria-label"] for values in regions] == [
        "Every cell: One",
        "Two",
        "Every cell: Two",
        "Every cell: Two (2)",
        "Again: Two",
        "More: Two",
    ]
    assert {values["tabindex"] for values in regions} == {"0"}


def test_names_and_labels_stay_text() -> None:
    rows = [["1", "a long text " * 10]]
    page = to_html("", [Heading(2, EVIL), Table([EVIL, "n"], rows), Pictures([DRAWING])])
    reader = Reader(page)

    (region,) = with_role(page, "region")
    assert region["aria-label"] == EVIL
    labels = [
        values.get("data-label") for tag, values in reader.attributes if "data-label" in values
    ]
    assert labels == [EVIL, "n"]
    assert [values["aria-label"] for values in with_role(page, "img")] == ["an <alt>"]


def test_tables_wider_than_a_phone_are_cards_there_and_narrow_ones_are_not() -> None:
    words = Table(["verdict", "rule"], [["same", "a long text " * 10]])
    many = Table([f"column {i}" for i in range(8)], [["1.0 ± 0.1"] * 8])
    few = Table(["norm", "error"], [["group", "36.8 ± 1.2"]])

    for wide in (words, many):
        assert '<table class="cards">' in to_html("", [wide])
    assert '<td data-label="rule">a long' in to_html("", [words])
    assert "data-label=" not in to_html("", [few]).split("<main>")[1]
