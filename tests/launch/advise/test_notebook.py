"""The same from Python."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"norms": ()}, 'norms=(): give one or more, for example norms=["batch", "group"]'),
        ({"batches": []}, "batches=[]: give one or more, for example batches=[2]"),
    ],
)
def test_nothing_to_compare_is_refused_with_what_to_give(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        compare(**given, screen=quiet())
    assert str(refused.value) == said
    assert files_below(tmp_path) == {}


def test_a_name_is_one_name_whatever_is_in_it(tiny: list[str]) -> None:
    for name in ("a,b", """a 'b' "c" [d]"""):
        found = compare(*tiny, "epochs=1", norms=["group"], batches=[4], name=name, screen=quiet())

        assert Path(found.rows[0].folder).parts[:2] == ("runs", name)


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
