"""The same from Python."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from normbench import advise, compare
from normbench.errors import UsageError
from normbench.launch.advise import command, race
from normbench.launch.notebook import Compared, SideBySide
from normbench.terminal.screen import Screen
from tests.conftest import files_below
from tests.launch.advise.worlds import timing
from tests.script_helpers import run_script

SCRIPTS = Path(__file__).parents[2] / "scripts"


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO()))


@pytest.fixture
def own(tiny: list[str]) -> list[str]:
    """The settings of the smallest cell that are no arguments of ``compare``."""
    return [text for text in tiny if not text.startswith("batch=")]


def test_norms_are_compared_and_come_back_as_records(own: list[str], tmp_path: Path) -> None:
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
    html = found._repr_html_()
    assert '<th scope="row">group</th><td class="number">2</td>' in html
    assert html.count("<svg viewBox=") == 1
    assert ">batch size</text>" in html
    before = files_below(tmp_path)
    again = compare(*own, norms=["batch", "group"], batches=[4, 2], seeds=2, screen=quiet())
    assert again == found
    assert files_below(tmp_path) == before


def test_what_cannot_be_is_refused_before_anything_is_trained(
    own: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="grop"):
        compare(*own, norms=["batch", "grop"], screen=quiet())
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"norms": ()}, 'norms=(): give one or more, for example norms=["batch", "group"]'),
        ({"batches": []}, "batches=[]: give one or more, for example batches=[2]"),
        ({"batches": 2.5}, "batch=2.5: must be a whole number"),
        ({"seeds": "two"}, "seeds=two: must be a whole number"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_to_give(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        compare(**given, screen=quiet())
    assert str(refused.value) == said
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("setting", "argument"),
    [
        ("batch=4", "batches=[4]"),
        ("batch=2,8", "batches=[2,8]"),
        ("norm=group", 'norms="group"'),
        ("seeds=2", "seeds=2"),
        ("name=mine", 'name="mine"'),
    ],
)
def test_a_setting_that_compare_has_an_argument_for_is_refused(
    own: list[str], tmp_path: Path, setting: str, argument: str
) -> None:
    with pytest.raises(UsageError) as refused:
        compare(*own, setting, screen=quiet())
    assert str(refused.value) == f"{setting}: compare has an argument for it: {argument}"
    assert files_below(tmp_path) == {}


def test_one_norm_and_one_batch_size_need_no_list(own: list[str]) -> None:
    one = compare(*own, norms="group", batches=4, seeds=1, screen=quiet())
    two = compare(*own, norms="batch, group", batches=4, seeds=1, screen=quiet())

    assert [(row.norm, row.batch) for row in one.rows] == [("group", 4)]
    assert [row.norm for row in two.rows] == ["batch", "group"]
    assert "<svg" in one._repr_html_(), "without an interval"


def test_what_has_no_error_has_no_picture() -> None:
    row = Compared("group", 2, [], [], None, None, None, None, "runs/x")

    assert "<svg" not in SideBySide([row])._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        ([["batch=2"]], {}, "['batch=2']: give each setting as text, for example \"epochs=3\""),
        ([], {"within": None}, 'within=None: give a time such as "30m", or seconds'),
        ([], {"within": -3}, 'within=-3: give a time such as "30m", or seconds'),
        ([], {"within": "30"}, "--within 30: must be a time such as 90s, 30m or 3h"),
        (
            [],
            {"norms": "group"},
            "--norms group: a race takes two norms or more, for example batch,group",
        ),
        ([], {"norms": 3}, "--norms 3: unknown norm; choose from "),
        ([], {"within": 1}, "--within 1.0 s: too little for any race"),
    ],
)
def test_what_advise_cannot_take_is_refused_with_what_to_give(
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[Any],
    given: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr(command, "measure", lambda cell, *_: timing(cell.config.norm.name))
    with pytest.raises(UsageError) as refused:
        advise(*tiny, *arguments, **{"norms": "batch,group", **given}, screen=quiet())
    assert str(refused.value).startswith(said)
    assert files_below(tmp_path) == {}


def test_a_name_is_one_name_whatever_is_in_it(own: list[str]) -> None:
    for name in ("a,b", """a 'b' "c" [d]"""):
        found = compare(*own, "epochs=1", norms=["group"], batches=[4], name=name, screen=quiet())

        assert Path(found.rows[0].folder).parts[:2] == ("runs", name)


def test_the_example_of_compare_prints_a_line_a_norm(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_script("example_compare.py", *own, "epochs=1")
    first, second = capsys.readouterr().out.splitlines()[-2:]

    assert first.startswith("   batch norm, batch 2: ")
    assert second.startswith("   group norm, batch 2: ")
    assert second.endswith(" test error")


def test_a_race_from_python_comes_back_as_records_code_and_a_picture(
    own: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the example, and from the same race again, which trains nothing more."""
    monkeypatch.setattr(race, "SEEDS_RACED", 5)  # more would only take longer
    run_script("example_advise.py", *own, "epochs=1", "stack=auto")
    said = capsys.readouterr().out.splitlines()
    before = files_below(tmp_path)
    settings = ("batch=2", *own, "epochs=1", "stack=auto")
    found = advise(*settings, norms="batch,group", within=1800, screen=quiet())

    (at,) = (i for i, line in enumerate(said) if re.match("(clear|too close to call): ", line))
    lines, code = said[at + 1 : at + 3], said[at + 3 :]
    assert said[at] == f"{found.verdict}: {found.norm} norm"
    assert {line.split()[0] for line in lines} == {"batch", "group"}
    assert all(line.endswith("% error") for line in lines)
    assert code[:2] == ["import torch", "from normbench import NORMS, swap_norm"]
    assert {record["norm"] for record in found.to_records()} == {"batch", "group"}
    assert found._repr_html_().count("<svg viewBox=") == 1
    page = (tmp_path / "runs" / "advise" / "answer.html").read_text(encoding="utf-8")
    assert "<svg viewBox=" in page
    trained = [name for name in before if name.endswith("result.json")]
    assert trained
    assert all(files_below(tmp_path)[name] == before[name] for name in trained)
