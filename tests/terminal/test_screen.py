"""The screen: one line where there should be one, and nothing that moves away from a terminal."""

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import sleep

import pytest
from rich.console import Console

from normbench.terminal import bars
from normbench.terminal.bars import Overall, TrainingBar, clock, duration
from normbench.terminal.screen import Screen
from normbench.terminal.tables import Shown
from normbench.training.progress import Evaluation, Metrics

METRICS = Metrics(
    step=12_345,
    epoch=2.5,
    loss=[1.25, 0.75],
    accuracy=[0.5, 0.75],
    epoch_loss=[1.25, 0.75],
    epoch_accuracy=[0.5, 0.75],
    learning_rate=[0.1, 0.1],
    seconds=1.0,
    images_per_second=1234.5,
    diverged=[None, None],
)
AT_END = replace(METRICS, epoch=3.0, evaluation=Evaluation([1.0, 0.5], [0.625, 0.875]))


def screen(columns: int = 80, *, terminal: bool = False) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    console = Console(
        file=file,
        width=columns,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        highlight=False,
        legacy_windows=False,
        _environ={},
    )
    return Screen(console), file


def bar_lines(columns: int, label: str = "seed 0") -> list[str]:
    """The bar as it stands on a terminal ``columns`` wide, a string a line."""
    shown, _ = screen(columns, terminal=True)
    paper, drawn = screen(columns)
    paper.console.width = columns
    with shown.training(label, steps=99_999, epochs=20) as bar:
        bar.update(METRICS)
        bar._begun -= 3600
        bar.update(replace(METRICS, step=METRICS.step + 10))
        assert shown._live is not None
        paper.console.print(shown._live.get_renderable())
    return drawn.getvalue().rstrip("\n").split("\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device is always full here")
def test_a_disk_that_is_full_ends_the_lines_and_not_the_work() -> None:
    code = (
        "from normbench.terminal.screen import Screen\n"
        "shown = Screen()\n"
        "for number in range(3):\n"
        "    shown.line('x' * 100_000)\n"
        "    shown.table('a [b] title', ['a'], [['1']])\n"
        "import sys; sys.stderr.write('to the end')\n"
    )
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=100,
        )
    assert (done.returncode, done.stderr) == (0, "to the end")


def test_a_terminal_that_other_processes_write_to_as_well_gets_no_bars() -> None:
    shown, file = screen(120, terminal=True)
    with Screen(shown.console, live=False).training("seed 0", steps=10, epochs=3) as bar:
        bar.update(AT_END)

    assert "epoch 3/3" in file.getvalue()
    assert "━" not in file.getvalue()
    assert "\x1b[?25l" not in file.getvalue()


def test_a_table_s_title_is_text() -> None:
    shown, file = screen()
    shown.table("/mnt/data [old] [/b]", ["a column as wide as that"], [["1"]])
    assert "/mnt/data [old] [/b]" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0.0 s"),
        (8.34, "8.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (125.4, "2 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_a_duration_is_said_as_a_person_does(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# ---- on a terminal ----


@pytest.mark.parametrize("columns", [100, 120, 160])
def test_the_bar_shows_epoch_step_loss_accuracy_speed_and_time_left(columns: int) -> None:
    (line,) = bar_lines(columns)

    for part in ("seed 0", "epoch 3/20", "step 12,355/99,999", "loss 1.000", "acc 62.5%", "left"):
        assert part in line
    assert re.search(r"1,23[45] img/s", line)
    assert "━" in line


def test_the_bar_is_one_line_with_all_that_matters_on_a_narrow_terminal() -> None:
    (line,) = bar_lines(80)

    for part in ("epoch 3/20", "loss 1.000", "acc 62.5%", "left"):
        assert part in line


def test_the_bar_says_which_seeds_without_pushing_the_rest_away() -> None:
    (line,) = bar_lines(120, "seeds 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")

    for part in ("seed", "epoch 3/20", "loss 1.000", "left"):
        assert part in line


def test_the_bar_counts_the_epoch_that_is_running() -> None:
    shown, _ = screen(120, terminal=True)
    with shown.training("seed 0", steps=40, epochs=4) as bar:
        for epoch, said in ((0.1, 1), (0.9, 1), (1.0, 1), (1.1, 2), (3.9, 4), (4.0, 4)):
            bar.update(replace(METRICS, epoch=epoch))
            assert shown._live is not None
            (task,) = shown._live.tasks
            assert f"epoch {said}/4" in task.fields["state"], epoch


def bar_at(shown: Screen) -> list[tuple[str, str]]:
    """What each bar says: of where it is, and of what is left."""
    assert shown._live is not None
    return [(task.fields["state"], task.fields["left"]) for task in shown._live.tasks]


def test_loss_and_accuracy_are_means_over_the_epoch_so_far() -> None:
    shown, _ = screen(120, terminal=True)
    with shown.training("seed 0", steps=40, epochs=4) as bar:
        bar.update(replace(METRICS, loss=[9.0, 9.0], accuracy=[0.0, 0.0]))
        ((state, _),) = bar_at(shown)

    assert "loss 1.000  acc 62.5%" in state


def test_an_evaluation_is_counted() -> None:
    shown, _ = screen(120, terminal=True)
    with shown.training("seed 0", steps=40, epochs=4, tested=600) as bar:
        bar.update(replace(METRICS, step=9))
        bar.update(replace(METRICS, step=10))
        said = []
        for _ in range(5):  # two replicas, one after the other
            bar.tested(250)
            said.append(bar_at(shown)[0][0].partition("testing ")[2])
        bar.update(replace(AT_END, step=11))

        assert said == ["250/600", "500/600", "600/600", "400/600", "600/600"]
        assert "testing" not in bar_at(shown)[0][0]


def test_the_time_left_has_the_evaluations_in_it() -> None:
    """Ten steps of a second each and four evaluations, of which the first takes ten seconds."""
    shown, _ = screen(120, terminal=True)
    metrics = replace(METRICS, images_per_second=10.0)
    with shown.training("seed 0", steps=40, epochs=4, tested=600) as bar:
        bar.update(replace(metrics, step=8))
        assert bar_at(shown)[0][1] == "-:-- left", "nothing is known yet"
        bar.update(replace(metrics, step=9))
        assert bar.left == pytest.approx(31 + 4 * 20)  # 600 images cost a third of 60 steps of 10
        bar.tested(600)
        bar._since -= 10
        bar.update(replace(AT_END, step=10))
        assert bar.left == pytest.approx(30 + 3 * 10, abs=0.5)
        assert bar_at(shown)[0][1] == "1:00 left"


@pytest.mark.parametrize(
    ("epochs", "left"), [(1, 4), (2, 4), (3, 3), (5, 3), (6, 2), (8, 2), (9, 1), (10, 0)]
)
def test_the_time_left_has_those_evaluations_in_it_that_are_still_to_come(
    epochs: int, left: int
) -> None:
    """Of ten epochs the third, sixth, ninth and last are evaluated, in ten seconds each."""
    shown, _ = screen(120, terminal=True)
    with shown.training("seed 0", steps=100, epochs=10, tested=600, evaluate_every=3) as bar:
        bar.update(replace(METRICS, step=10 * epochs - 1))
        bar.tested(600)
        bar._since -= 10
        bar.update(replace(METRICS, step=10 * epochs))
        assert bar.left == pytest.approx(100 - 10 * epochs + 10 * left, abs=0.5)


def test_a_training_that_goes_on_knows_nothing_of_the_time_before() -> None:
    shown, _ = screen(120, terminal=True)
    with shown.training("seed 0", steps=1000, epochs=4) as bar:
        bar.update(replace(METRICS, step=900))
        bar.update(replace(METRICS, step=901))
        assert bar.left == pytest.approx(99)


def test_a_sweep_has_a_bar_of_its_own_below() -> None:
    shown, _ = screen(120, terminal=True)
    shown.overall = Overall("cell 3 of 5", before=100.0, this=60.0, after=40.0)
    with shown.training("seed 0", steps=100, epochs=1) as bar:
        bar.update(replace(METRICS, step=49))
        bar.update(replace(METRICS, step=50))
        assert shown._live is not None
        tasks = {task.description: task for task in shown._live.tasks}
        sweep = tasks["cell 3 of 5"]

        assert sweep.fields["left"] == "1:30 left"  # 50 steps, and the cells after it
        assert sweep.completed == pytest.approx(110)
        assert sweep.total == pytest.approx(200)
    assert shown.overall.said == "cell 3 of 5, about 1 min 40 s left"


@pytest.mark.parametrize(("seconds", "shown"), [(8.4, "0:08"), (725, "12:05"), (12_000, "3:20:00")])
def test_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_an_epochs_line_stays_above_the_bar() -> None:
    shown, file = screen(120, terminal=True)
    with shown.training("seed 0", steps=99_999, epochs=20) as bar:
        bar.update(AT_END)

    assert "epoch 3/20" in file.getvalue()


# ---- elsewhere ----


def training_lines(columns: int, *metrics: Metrics) -> list[str]:
    shown, file = screen(columns)
    with shown.training("seed 0", steps=99_999, epochs=20) as bar:
        assert isinstance(bar, TrainingBar)
        for each in metrics:
            bar.update(each)
    return file.getvalue().splitlines()


def test_elsewhere_training_is_a_line_an_epoch() -> None:
    (line,) = training_lines(80, METRICS, AT_END)

    for part in ("seed 0", "epoch 3/20", "loss 1.000", "62.5%", "loss 0.750", "75.0%", "img/s"):
        assert part in line


def test_an_epochs_line_fits_a_narrow_terminal() -> None:
    (line,) = training_lines(80, AT_END)

    assert len(line) <= 80


def test_elsewhere_work_is_silent() -> None:
    shown, file = screen()
    with shown.working("cifar10") as bar:
        bar.update("downloading", 10, 100)
        bar.update("downloading", 10, None)

    assert file.getvalue() == ""


def test_facts_are_a_title_and_a_line_each() -> None:
    shown, file = screen()
    shown.facts("Title [with brackets]", [("a", "1"), ("longer", "2 [x]\nsecond line")])

    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines == [
        "Title [with brackets]",
        "  a       1",
        "  longer  2 [x]",
        "          second line",
    ]


def test_a_long_path_is_not_broken_in_a_file() -> None:
    path = "runs/" + "x" * 200
    shown, file = screen()
    shown.facts("Title", [("files", path)])
    shown.line(f"files: {path}")

    assert file.getvalue().count(path) == 2


def test_a_table_aligns_numbers_to_the_right_and_words_to_the_left() -> None:
    shown, file = screen()
    shown.table("Title", ("name", "count"), [("a", "1"), ("bcd", "2,345"), ("e", "-"), ("f", "")])

    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines[0] == "Title"
    rows = [line for line in lines if re.match(r" ?(a|bcd|e|f)\b", line)]
    assert [line.split() for line in rows] == [["a", "1"], ["bcd", "2,345"], ["e", "-"], ["f"]]
    assert len({len(line) for line in rows[:3]}) == 1


def test_a_table_that_is_not_on_a_terminal_is_not_squeezed() -> None:
    shown, file = screen(40)
    shown.table("Title", ("one", "two"), [("x" * 50, "y" * 50)])

    assert "x" * 50 in file.getvalue()
    assert "y" * 50 in file.getvalue()


def narrow_table(columns: int, *droppable: str) -> list[str]:
    shown, file = screen(columns)
    shown.console.width = columns
    names = ("name", "accuracy", "seconds")
    shown.table("Title", names, [("batch-b2-12345678", "98.76%", "1,234")], droppable=droppable)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_narrow_table_drops_columns_instead_of_breaking_words() -> None:
    for columns, there in ((40, (True, True)), (36, (True, False)), (20, (False, False))):
        lines = narrow_table(columns, "seconds", "accuracy")

        assert any("batch-b2-12345678" in line for line in lines), columns
        assert (any("98.76%" in x for x in lines), any("1,234" in x for x in lines)) == there
        assert all(len(line) <= columns for line in lines)


def test_a_narrow_table_keeps_an_interval_with_its_mean_and_drops_the_last_column() -> None:
    shown, file = screen(32)
    shown.console.width = 32
    shown.table("Title", ("norm", "error %", "note"), [("batch", "32.7 ± 45.1", "unclear: more")])

    assert "32.7 ± 45.1" in file.getvalue()
    assert "unclear" in file.getvalue()
    shown.console.width = 22
    shown.table("Title", ("norm", "error %", "again"), [("batch", "32.7 ± 45.1", "unclear: more")])

    assert file.getvalue().count("32.7 ± 45.1") == 2
    assert "again" not in file.getvalue()


def test_what_looks_like_markup_is_printed_as_it_is() -> None:
    shown, file = screen()
    shown.line("[bold]runs[/bold] :smile: [/]")

    assert file.getvalue() == "[bold]runs[/bold] :smile: [/]\n"


def test_an_encoding_without_greek_does_not_end_a_command() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    shown = Screen(Console(file=file, width=80, highlight=False, _environ={}))
    shown.line("μ_c = mean over N·H·W, 16×32×32")
    shown.table("Table", ("C/G", "√"), [("β", "…")])
    file.flush()

    assert b"mean over" in raw.getvalue()


# ---- the log of a cell ----


def test_what_is_said_is_in_the_log_with_the_time(tmp_path: Path) -> None:
    (shown, _), path = screen(), tmp_path / "log.txt"
    shown.line("before")
    with shown.logged(path):
        shown.line("  seed 0  γ = 1", style="bold")
        shown.log("two\nlines")
        shown.facts("Group norm", [("data", "synthetic")])
    shown.line("after")
    with shown.logged(path):
        shown.line("again")

    lines = path.read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in lines] == [
        "  seed 0  γ = 1",
        "two",
        "lines",
        "Group norm",
        "  data  synthetic",
        "again",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in lines)


@pytest.mark.parametrize("columns", [20, 200])
def test_a_table_is_in_the_log_whole_however_narrow_the_terminal(
    tmp_path: Path, columns: int
) -> None:
    (shown, _), path = screen(columns, terminal=True), tmp_path / "log.txt"
    with shown.logged(path):
        rows = ((f"seed {seed}", "98.76%", "1.2345") for seed in (0, 1))
        shown.table("Title", ("", "accuracy", "loss"), rows)
        shown.ansi("\x1b[1mbold\x1b[0m")

    lines = [line.split("  ", 1)[1] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line.split() for line in lines if "─" not in line] == [
        ["Title"],
        ["accuracy", "loss"],
        ["seed", "0", "98.76%", "1.2345"],
        ["seed", "1", "98.76%", "1.2345"],
        ["bold"],
    ]
    assert "\x1b" not in path.read_text(encoding="utf-8")


def test_a_log_without_a_screen_shows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Screen.to_file(tmp_path / "log.txt") as shown:
        shown.line("quietly")

    assert capsys.readouterr() == ("", "")
    assert "quietly" in (tmp_path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_log_on_a_full_disk_keeps_nobody_from_working(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    shown, file = screen()
    with shown.logged(tmp_path / "log.txt"):
        for _ in range(3):
            shown.line("shown")
    shown.log("nowhere")

    assert file.getvalue() == "shown\n" * 3


@pytest.mark.parametrize("place", ["nowhere/log.txt", "."])
def test_a_log_that_cannot_be_opened_keeps_nobody_from_working(tmp_path: Path, place: str) -> None:
    shown, file = screen()
    with shown.logged(tmp_path / place):
        shown.line("shown")

    assert file.getvalue() == "shown\n"


def test_a_log_ends_with_what_is_logged_whatever_happens(tmp_path: Path) -> None:
    shown, _ = screen()
    with pytest.raises(KeyboardInterrupt), shown.logged(tmp_path / "log.txt"):
        raise KeyboardInterrupt
    shown.line("after")

    assert (tmp_path / "log.txt").read_text() == ""


# ---- a table above the bars ----

END = "\x1b[?7777h"  # nothing to a terminal

COLUMNS = ("norm", "held-out error in %", "seeds", "epochs", "state")


def drawn(sent: str) -> list[str]:
    """The lines of a terminal after what was sent to it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", sent):
        number = int(re.sub(r"\D", "", part) or 1) if part[0] == "\x1b" else 1
        if part == "\n":
            row, lines = row + 1, lines + [""] * (row + 2 - len(lines))
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part[0] == "\x1b":
            row -= number
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return lines


class Terminal:
    """A pseudo-terminal, and what was sent to it."""

    def __init__(self, columns: int) -> None:
        self.master, slave = pty.openpty()
        self.file = open(slave, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        self.console = Console(file=self.file, width=columns, _environ={"TERM": "xterm-256color"})
        self.sent, self.ends = b"", 0
        self.reader = Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the other end is closed
            while found := os.read(self.master, 1 << 16):
                self.sent += found

    def lines(self) -> str:
        """What it shows once all that was written has arrived."""
        self.file.write(END)
        self.file.flush()
        self.ends += 1
        while self.sent.count(END.encode()) < self.ends:
            sleep(0.001)
        sent, _, _ = self.sent.decode().rpartition(END)
        return "\n".join(drawn(sent))

    def close(self) -> None:
        self.file.close()
        self.reader.join()
        os.close(self.master)


def on_pty(columns: int, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What a terminal shows while a race is trained on it, and when it is over."""
    monkeypatch.setattr(bars, "_TURN", 0.0)
    terminal, errors = Terminal(columns), ["71.4 ± 3.2"]
    shown = Screen(terminal.console)

    def table() -> Shown:
        rows = [("batch", errors[-1], "1", "1", "racing"), ("layer", "90.0 ± 3.2", "1", "1", WHY)]
        return "The race so far; 2:05 left", COLUMNS, rows, ("epochs", "seeds")

    with shown.watching(table, live=True):
        for _ in range(2):
            with shown.training("3 replicas", steps=10, epochs=1) as bar:
                bar.update(METRICS)
                assert shown._live is not None
                shown._live.refresh()
                errors.append("52.3 ± 3.1")
                shown._live.refresh()
                shows = terminal.lines()
    shown.line("over")
    after = terminal.lines()
    terminal.close()
    return shows, after


WHY = "dropped: 38.0 points behind batch after 1 epoch (p < 0.001)"


def test_a_table_above_the_bars_is_drawn_anew_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    shows, after = on_pty(120, monkeypatch)

    assert shows.count("The race so far; 2:05 left") == 1
    for part in (*COLUMNS, "52.3 ± 3.1", WHY, "3 replicas", "━"):
        assert part in shows
    assert "71.4" not in shows, "it was drawn over"
    assert after.split() == ["over"], "and goes when training is over"


def test_on_a_narrow_terminal_the_table_drops_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    shows, _ = on_pty(40, monkeypatch)
    table, _, bar = shows.rstrip().rpartition("\n")

    assert "52.3 ± 3.1" in table
    assert "epochs" not in table
    assert "…" in bar
    for word in ("dropped:", "points", "behind"):
        assert re.search(rf"\b{word}", table), "no word is broken"
    assert max(map(len, table.splitlines())) <= 40


@pytest.mark.parametrize(("terminal", "live"), [(False, True), (True, False)])
def test_elsewhere_the_table_is_lines(terminal: bool, live: bool) -> None:
    shown, file = screen(80, terminal=terminal)
    with shown.watching(lambda: ("Race", ["norm"], [["batch"]], None), live=live):
        shown.line("trained")

    assert file.getvalue().startswith("trained\n")
    assert file.getvalue().index("Race") < file.getvalue().index("batch")
    assert "\x1b[1A" not in file.getvalue()
