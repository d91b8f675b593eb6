"""The same from Python."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from normbench import compare
from normbench.errors import UsageError
from normbench.terminal.screen import Screen
from tests.conftest import TINY, files_below

SCRIPT = Path(__file__).parents[3] / "scripts" / "example_compare.py"


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO()))


def test_norms_are_compared_and_come_back_as_records(tiny: list[str], tmp_path: Path) -> None:
    own = [text for text in tiny if not text.startswith("batch=")]
    found = compare(*own, norms=["batch", "group"], batches=[4, 2], seeds=2, screen=quiet())

    records = found.to_records()
    assert [(r["norm"], r["batch"]) for r in records] == [
        ("batch", 4),
        ("group", 4),
        ("batch", 2),
        ("group", 2),
    ]
    assert all(len(record["errors"]) == 2 for record in records)
    assert all(record["half"] is not None for record in records)
    assert "<td>group</td><td>2</td>" in found._repr_html_()
    before = files_below(tmp_path)
    again = compare(*own, norms=["batch", "group"], batches=[4, 2], seeds=2, screen=quiet())
    assert again == found
    assert files_below(tmp_path) == before


def test_what_cannot_be_is_refused_before_anything_is_trained(
    tiny: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="grop"):
        compare(*tiny, norms=["batch", "grop"], screen=quiet())
    assert files_below(tmp_path) == {}


def test_the_example_prints_a_line_a_norm(tiny: list[str], tmp_path: Path) -> None:
    own = [text for text in TINY if not text.startswith(("batch=", "epochs="))]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *own, "epochs=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )

    first, second = done.stdout.splitlines()[-2:]
    assert first.startswith("   batch norm, batch 2: ")
    assert second.startswith("   group norm, batch 2: ")
    assert second.endswith(" test error")
