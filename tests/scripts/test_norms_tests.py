"""The table of what is tested of each norm is the one that the tests give, and has no empty box."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import norms_tests  # noqa: E402

from tests.norms import test_every_norm as every  # noqa: E402


def test_the_committed_table_is_that_of_the_tests() -> None:
    committed = (ROOT / "results" / "norms-tests.md").read_text(encoding="utf-8")
    norms = re.findall(r"^\| `(\w+)`", committed, re.MULTILINE)
    assert "group" in norms
    assert norms_tests.table(norms) == committed, "run python scripts/norms_tests.py"


def test_a_box_that_nothing_fills_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(norms_tests, "public", lambda: {"batch": ["torch"]})
    with pytest.raises(SystemExit, match="batch_renorm: nothing is tested for public impl"):
        norms_tests.table()
    monkeypatch.setattr(every.test_every_norm_in_every_setting, "pytestmark", [])
    with pytest.raises(SystemExit, match="batch: nothing is tested for reference, gradients, sta"):
        norms_tests.table()
