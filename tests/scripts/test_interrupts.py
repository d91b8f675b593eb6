"""A few of the moments of ``scripts/interrupt_matrix.py``, the same ones each time."""

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
    found = [interrupt_matrix.moment(10.0, 0, "run", number) for number in range(300)]

    assert all(0 <= moment <= 10 for moment in found)
    assert 100 <= sum(moment <= 0.5 for moment in found) < 130


@pytest.mark.timeout(400)
def test_commands_leave_in_a_line_whenever_they_are_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt_matrix, "LIMIT", 20.0)  # other tests run beside this one
    commands = ["run"]
    line = ["--moments", "2", "--only", *commands, "--out", str(tmp_path)]
    assert interrupt_matrix.main(line) == 0

    found = interrupt_matrix._read(tmp_path / "interrupts-0.json")
    assert {name: len(outcomes) for name, outcomes in found.items()} == dict.fromkeys(commands, 2)
    assert sum(each.kind == "interrupted" for each in found["run"]) >= 1
    before = (tmp_path / "interrupts.md").read_text()
    assert "| `run` | 2 |" in before

    assert interrupt_matrix.main(line) == 0, "all has been tried"
    assert interrupt_matrix.main([*line, "--moments", "3", "--within", "0"]) == 0
    assert (tmp_path / "interrupts.md").read_text() == before


def test_the_commands_take_turns_and_go_on_where_they_were() -> None:
    outcome = interrupt_matrix.Outcome("done", 0.1)
    found = {"run": [outcome] * 12, "help": [outcome] * 3}

    assert list(interrupt_matrix.turns(found, ["help", "run"], 25)) == [
        ("help", range(3, 10)),
        ("help", range(3, 20)),
        ("run", range(12, 20)),
        ("help", range(3, 25)),
        ("run", range(12, 25)),
    ]
