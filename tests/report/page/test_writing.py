"""The report as a whole: files, states of a half-finished sweep, hostile names, determinism."""

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from normbench import report
from normbench.errors import UsageError
from normbench.report.page.document import Heading, Text
from normbench.report.page.writing import write_document
from normbench.store import results
from normbench.terminal.screen import Screen
from tests.conftest import Finished, files_below
from tests.report.compare.test_rates import write_trial
from tests.report_helpers import (
    around,
    edit_result,
    failed,
    write_cell,
    write_curve,
    write_plan,
    write_sweep,
    write_text,
)

EVIL = '<script>alert("x")</script>|`*_'


def screen() -> tuple[Screen, StringIO]:
    text = StringIO()
    return Screen(Console(file=text, width=160)), text


def write(directory: Path, **options: object) -> report.Report:
    return report.write(directory, screen()[0], **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


@pytest.fixture(scope="module")
def naive(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    """A report on a finished sweep, with published lines; for tests that only look at it."""
    return write(write_sweep(tmp_path_factory.mktemp("runs") / "naive"), papers=True)


def test_a_report_is_markdown_csv_pictures_and_a_page(naive: report.Report) -> None:
    names = set(files_below(naive.folder))

    assert (naive.folder.name, naive.folder.parent.name) == ("report", "naive")
    assert names >= {"report.md", "report.html", "cells.csv", "seeds.csv", "differences.csv"}
    for name in ("error", "cost", "curves-2", "curves-128"):
        assert {f"{name}.png", f"{name}.svg"} <= names
    assert naive.page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_report_opens_with_the_answer_and_has_every_part(naive: report.Report) -> None:
    text = (naive.folder / "report.md").read_text(encoding="utf-8")

    parts = [
        "| 2 | group | 33.50 ± 0.50 | 6.50 ± 0.",
        "](error.png)",
        "test error rises by 11.00",
        "<summary>Every cell",
        "<summary>Differences and crossings",
        "they cross",
        "<summary>What is lost to what",
        "<summary>What it costs",
        "<summary>Curves",
        "<summary>What was equal",
        "<summary>Commands that train it again",
        "### Wu &amp; He 2018",
        "### BeFranke",
        "](published-wu-he-2018.png)",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)
    assert naive.page.read_text(encoding="utf-8").count("<svg") == text.count(".png)")


def test_every_picture_that_markdown_shows_is_there(naive: report.Report) -> None:
    text = (naive.folder / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(([^)]+\.png)\)", text)

    assert len(shown) == len(set(shown)) == 9
    assert all((naive.folder / name).is_file() for name in shown)


def test_the_page_uses_no_network(naive: report.Report) -> None:
    page = naive.page.read_text(encoding="utf-8")

    assert "://" not in page
    assert not re.search(r"<[^>]*\b(src|srcset|action|data|xlink:href)=", page)
    assert "@import" not in page
    assert "<script" not in page
    assert "<link" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'href="([^"]*)"', page)
    assert targets
    assert set(targets) <= {f"#{identity}" for identity in ids}


def test_equal_runs_give_equal_reports(naive: report.Report, tmp_path: Path) -> None:
    made = write(write_sweep(tmp_path / "naive"), papers=True)

    assert contents(made.folder) == contents(naive.folder)


@pytest.mark.usefixtures("undrawn")
def test_a_report_on_a_reported_folder_is_the_same_and_leaves_the_runs_alone(
    tmp_path: Path,
) -> None:
    write_cell(tmp_path / "x", "group", 2, around(0.5))
    before = files_below(tmp_path / "x")
    first = contents(write(tmp_path / "x").folder)
    assert contents(write(tmp_path / "x").folder) == first

    after = files_below(tmp_path / "x")
    assert {name: when for name, when in after.items() if name in before} == before
    assert all(name.startswith("report/") for name in set(after) - set(before))


@pytest.mark.usefixtures("undrawn")
def test_published_lines_come_only_on_request(naive: report.Report, tmp_path: Path) -> None:
    published = {"published-wu-he-2018.svg", "published-befranke-groupnorm.svg"}
    write_cell(tmp_path / "x", "group", 2, around(0.5))

    assert published <= set(files_below(naive.folder))
    assert not published & set(files_below(write(tmp_path / "x").folder))


@pytest.mark.usefixtures("undrawn")
def test_pictures_of_an_earlier_report_go_and_nothing_else_does(tmp_path: Path) -> None:
    runs = write_sweep(tmp_path / "runs")
    out = tmp_path / "out"
    write(runs, out=out, papers=True)
    write_text(out / "mine.png", "a user's own")
    with (out / "report.md").open("a", encoding="utf-8") as file:
        file.write("\n\n![Mine](mine.png)\n\n![Not here](../runs.png)\n")

    write(runs, out=out)

    names = set(files_below(out))
    assert {"mine.png", "error.png", "error.svg"} <= names
    assert not [name for name in names if name.startswith("published")]


def test_names_from_files_can_only_be_read(tmp_path: Path) -> None:
    write_cell(tmp_path / "x", "group", 2, around(0.5), data=EVIL, model="<b>net</b>")
    write_cell(tmp_path / "x", "batch", 2, around(0.5), data=EVIL, model="<b>net</b>")
    cell = write_cell(tmp_path / "x", "layer", 2, around(0.5), data=EVIL, model="<b>net</b>")
    results.write_result(cell / "seed-1", replace(failed(1), error=EVIL))
    write_text(tmp_path / "x" / "none-b2-89abcdef" / "config.yaml", f"norm: {EVIL!r}")
    made = write(tmp_path / "x", papers=True)
    page = made.page.read_text(encoding="utf-8")
    text = (made.folder / "report.md").read_text(encoding="utf-8")

    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    before, again, after = text.partition("<summary>Commands that train it again")
    _, _, after = after.partition("```bash")
    commands, _, after = after.partition("```")
    assert again
    assert EVIL in commands.replace("'", ""), "a command says it as it is, in quotes"
    assert "<script" not in before + after
    for path in made.folder.glob("*.svg"):
        assert "<script" not in path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_data_sets_models_and_recipes_have_pictures_of_their_own(tmp_path: Path) -> None:
    write_cell(tmp_path / "x", "group", 2, around(0.5))
    write_cell(tmp_path / "x", "group", 2, around(0.5), changes={"optim.lr": 0.2})
    write_cell(tmp_path / "x", "group", 4, around(0.5), data="cifar10")
    made = write(tmp_path / "x")

    assert len(made.comparisons) == 3
    assert {"error-1.svg", "error-2.svg", "error-3.svg"} <= set(files_below(made.folder))


@pytest.mark.usefixtures("undrawn")
def test_two_folders_stand_side_by_side(tmp_path: Path) -> None:
    first = write_sweep(tmp_path / "short")
    second = write_sweep(tmp_path / "long", epochs=6)
    made = write(first, beside=second)
    text = (made.folder / "report.md").read_text(encoding="utf-8")

    assert made.folder == first / "report-long"
    assert len(made.comparisons) == 2
    assert {"beside-1.png", "beside-2.png"} <= set(files_below(made.folder))
    start = text.index("## Side by side")
    assert "| group | 128 | 34.50 ± 0.50 | 34.50 ± 0.50 | 0.00 ± 0.4" in text[start:].replace(
        "+0", "0"
    )
    assert start < text.index("## short: ") < text.index("## long: ")


@pytest.mark.usefixtures("undrawn")
def test_a_folder_is_set_beside_the_other_and_never_beside_itself(tmp_path: Path) -> None:
    """The first of two comparisons is alone in its folder; its second is the first's own."""
    for epochs in (1, 3):
        for norm in ("batch", "group"):
            write_cell(tmp_path / "old", norm, 2, around(0.6), changes={"epochs": epochs})
            write_cell(tmp_path / "new", norm, 2, around(0.7), changes={"epochs": 6})
    made = write(tmp_path / "old", beside=tmp_path / "new")
    text = (made.folder / "report.md").read_text(encoding="utf-8")
    note = next(line for line in text.splitlines() if line.startswith("*First: "))

    assert "First: old: " in note
    assert "Second: new: " in note


@pytest.mark.usefixtures("undrawn")
def test_a_file_of_one_s_own_is_not_overwritten(tmp_path: Path) -> None:
    own = "# My report\n\n![what I drew](mine.png)\n"
    heading = Heading(1, "normbench: runs")
    for name in ("report.md", "mine.png", "mine.svg"):
        write_text(tmp_path / name, own)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"report\.md: would be overwritten.*; rename it"):
        write_document(tmp_path, "report", "a title", [heading])
    assert contents(tmp_path) == before

    write_document(tmp_path, "other", "a title", [heading])
    write_document(tmp_path, "other", "a title", [Heading(1, "normbench: other runs"), Text("x")])
    assert "other runs" in (tmp_path / "other.md").read_text(encoding="utf-8")
    with pytest.raises(UsageError):
        write_document(tmp_path, "other", "a title", [Heading(1, "Which norm?")])


@pytest.mark.usefixtures("undrawn")
def test_rates_of_two_variants_of_a_norm_are_two_lines(tmp_path: Path) -> None:
    """As the first round of a race makes them: three rates, and one with another momentum."""
    for rate, error in ((0.05, 30.0), (0.1, 28.0), (0.2, 33.0)):
        write_trial(tmp_path, "batch", 2, rate, [error])
    changes = {"optim.lr": 0.1, "data.val_fraction": 0.1, "norm.momentum": 0.02}
    cell = write_cell(tmp_path, "batch", 2, [0.1], changes=changes)
    edit_result(cell, val_accuracy=0.75)
    text = (write(tmp_path).folder / "report.md").read_text(encoding="utf-8")

    assert "| batch, momentum=0.1 | 2 | 0.1 | 28.0 |" in text
    assert "| batch, momentum=0.02 | 2 | 0.1 | 25.0 |" in text


@pytest.mark.usefixtures("undrawn")
def test_weights_that_training_started_from_have_a_table(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "group", 2, [0.6, 0.62])
    write_cell(tmp_path, "batch", 2, [0.5, 0.5])
    for seed in (0, 1):
        edit_result(cell, seed, test_accuracy_before=0.7, test_accuracy_swapped=0.2)
    made = write(tmp_path)
    text = (made.folder / "report.md").read_text(encoding="utf-8")

    assert "### From given weights" in text
    assert "| group | 2 | anew | 30.00 ± 0.00 | 80.00 ± 0.00 | 39.0" in text
    assert "test_accuracy_before" in (made.folder / "seeds.csv").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_trials_of_learning_rates_have_a_picture_and_a_file(tmp_path: Path) -> None:
    for rate, error in ((0.05, 30.0), (0.1, 28.0), (0.2, 33.0)):
        write_trial(tmp_path / "rates", "batch", 2, rate, [error])
    made = write(tmp_path / "rates")
    rows = (made.folder / "rates.csv").read_text(encoding="utf-8").splitlines()

    assert (len(made.trials), len(made.comparisons)) == (1, 0)
    assert {"rates.png", "rates.svg"} <= set(files_below(made.folder))
    assert [row.split(",")[-4:] for row in rows[1:]] == [
        ["0.05", "0", "30.0", "False"],
        ["0.1", "0", "28.0", "True"],
        ["0.2", "0", "33.0", "False"],
    ]


def half_finished(directory: Path) -> Path:
    write_cell(directory, "group", 2, around(0.6))
    write_cell(directory, "batch", 2, [0.5, None, 0.5])
    running = write_cell(directory, "layer", 2, [0.55], seeds=3, summary=False)
    write_curve(running / "seed-1", 0.4, 1.4)
    plan = {"norm": "instance", "batch": 2, "model": "ResNet-8", "data": "cifar10-jpeg"}
    write_plan(directory, [plan | {"folder": "instance-b2-0123abcd", "seeds": [0, 1, 2]}])
    write_text(directory / "none-b2-89abcdef" / "config.yaml", "{")
    return running


@pytest.mark.usefixtures("undrawn")
def test_a_half_finished_sweep_shows_what_is_done_running_and_failed(tmp_path: Path) -> None:
    running = half_finished(tmp_path / "x")
    with FileLock(running / ".lock"):
        made = write(tmp_path / "x")
    text = (made.folder / "report.md").read_text(encoding="utf-8")

    assert len(made.comparisons) == 1
    for said in (
        "| finished 3/3 |",
        "| finished 2/3, 1 diverged at step 12 |",
        "| finished 1/3, 1 running (epoch 1.4/3), 1 waiting |",
        "| waiting |",
        "the loss was not finite at step 12",
        "config.yaml: it is damaged or half written",
        "1 of 5 cells finished; of 12 seeds 6 finished, 1 running, 4 waiting, 1 diverged;"
        " 1 cell unreadable",
        "Not finished yet: 2 of 4 cells",
    ):
        assert said in text, said


@pytest.mark.usefixtures("undrawn")
def test_a_report_shows_the_table_of_a_half_finished_sweep(tmp_path: Path) -> None:
    half_finished(tmp_path / "x")
    shown, text = screen()
    report.write(tmp_path / "x", shown)
    lines = text.getvalue()

    for said in ("ResNet-8 on cifar10-jpeg, 3 epochs", "finished 3/3", "diverged at step 12"):
        assert said in lines
    assert "1 of 5 cells finished" in lines
    assert "cells that cannot be read" in lines


def test_nothing_finished_is_a_report_too(tmp_path: Path) -> None:
    write_cell(tmp_path / "x", "group", 2, [], seeds=2, summary=False)
    made = write(tmp_path / "x")

    assert "No seed has finished yet" in made.page.read_text(encoding="utf-8")
    assert not [name for name in files_below(made.folder) if name.endswith(".png")]


def test_only_unreadable_cells_are_a_report_too(tmp_path: Path) -> None:
    write_text(tmp_path / "x" / "group-b2-89abcdef" / "config.yaml", "{")
    made = write(tmp_path / "x")

    assert "What cannot be read" in made.page.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_to_is_the_user_s_to_mend(tmp_path: Path) -> None:
    write_cell(tmp_path / "x", "group", 2, [0.5])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written to.*another folder with") as raised:
        write(tmp_path / "x", out=tmp_path / "file" / "report")
    assert "\n" not in str(raised.value)


def test_a_folder_without_cells_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match="has no cells"):
        write(tmp_path / "x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "x"]


def test_a_report_on_a_real_run(finished: Finished, tmp_path: Path) -> None:
    made = write(finished.home / "runs", out=tmp_path / "out")
    (comparison,) = made.comparisons
    text = (made.folder / "report.md").read_text(encoding="utf-8")

    assert [cell.problem for cell in made.collection.cells] == [None]
    assert comparison.title.endswith("ConvNet-2, width 4 on tiny, 2 epochs")
    assert "| finished 2/2 |" in text
    assert "norm=group batch=4 model=convnet model.depth=2 model.width=4" in text
    assert str(tmp_path) not in text
    assert str(finished.home) not in made.page.read_text(encoding="utf-8")
