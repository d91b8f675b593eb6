"""A few of the moments of ``scripts/interrupt_matrix.py``, the same ones each time."""

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import interrupt_matrix


@pytest.mark.parametrize(
    ("code", "errors", "seconds", "kind"),
    [
        (130, "\0normbench: interrupted\n", 0.3, "interrupted"),
        (130, "\0normbench: interrupted; the same command trains what is missing\n", 1.9,
         "interrupted"),
        (130, "\0normbench: interrupted\n", 2.1, "wrong"),
        (130, "\0normbench: interrupted\nnormbench: interrupted\n", 0.1, "wrong"),
        (130, "\0Traceback\nnormbench: interrupted\n", 0.1, "wrong"),
        (1, "\0normbench: interrupted\n", 0.1, "wrong"),
        (-2, "\0", 0.1, "wrong"),
        (0, "\0", 0.1, "done"),
        (1, "Traceback\n", 0.1, "python"),
        (-2, "", 0.1, "python"),
    ],
)  # fmt: skip
def test_how_a_command_left_is_judged(code: int, errors: str, seconds: float, kind: str) -> None:
    assert interrupt_matrix._judged(code, errors, seconds).kind == kind


def test_a_third_of_the_moments_are_early() -> None:
    found = list(interrupt_matrix.moments(300, 10.0, random.Random(0)))

    assert all(0 <= moment <= 10 for moment in found)
    assert 100 <= sum(moment <= 0.5 for moment in found) < 130


@pytest.mark.timeout(400)
def test_commands_leave_in_a_line_whenever_they_are_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt_matrix, "LIMIT", 20.0)  # other tests run beside this one
    found = tmp_path / "found.json"
    commands = ["help", "run", "report", "import"]
    code = interrupt_matrix.main(["--moments", "4", "--only", *commands, "--json", str(found)])

    report = json.loads(found.read_text())
    assert {name: each["wrong"] for name, each in report.items()} == {c: [] for c in commands}
    assert code == 0
    assert sum(each["kinds"].get("interrupted", 0) for each in report.values()) >= 5
