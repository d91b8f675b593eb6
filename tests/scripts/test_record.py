"""``scripts/record.py``: what stays on a screen, and a bash on a pseudo-terminal."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import record


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("one\r\ntwo\r\n", "one\ntwo"),
        ("\x1b[1;31mred\x1b[0m \x1b[?25lbar\x1b[?25h", "red bar"),
        ("50 %\r100 %", "100 %"),
        ("a bar\r\x1b[2Kdone", "done"),
        ("line\r\na\r\nb\x1b[1A\r\x1b[2K\x1b[1B", "line\n\nb"),
        ("one\r\ntwo\x1b[1A\r\x1b[2Know", "now\ntwo"),
        ("norm=gx\b\x1b[Kroup", "norm=group"),
        ("abcd\x1b[3D\x1b[1Px", "axd"),
        ("\x1b]0;a title\x07text\x07", "text"),
    ],
)
def test_the_paper_shows_what_a_terminal_would(written: str, shown: str) -> None:
    paper = record.Paper()
    paper.write(written)

    assert paper.text() == shown


def test_moments_with_a_bar_are_kept_evenly() -> None:
    seen = [(float(second), "" if second < 10 else "━") for second in range(50)]

    assert [second for second, _ in record.kept(seen)] == [15, 25, 35, 45]
    assert list(record.kept(seen[:10])) == []


def test_a_command_is_typed_into_bash_and_its_screen_is_kept(tmp_path: Path) -> None:
    terminal = record.Terminal(tmp_path, pause=0.5)
    try:
        terminal.enter("echo un$((1))\n")
        terminal.enter("echo forgotten\x03")
    finally:
        terminal.close()

    assert terminal.paper.text().splitlines()[:3] == [
        "$ echo un$((1))",
        "un1",
        "$ echo forgotten^C",
    ]
