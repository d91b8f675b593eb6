"""What a person sees while a command works and when it is done.

On a terminal: colour and a live bar. Elsewhere: plain lines, one an epoch, nothing that moves. A
terminal that is gone, or a full disk under what should keep the lines, ends the lines and no more.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO, TextIOWrapper
from math import ceil
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import IO, Any, TextIO, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from normbench.training.progress import Metrics

PLAIN_WIDTH = 120
"""The width of what is not a terminal."""

WIDE = 100
"""The width from which a terminal's bar shows everything."""

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)

_PADDING = 3
"""Blanks between two columns of a table."""

_BREAKS = re.compile(r"(?<!±) (?!±)|\n")
_BLANKS = re.compile(r"\s")
"""Where a cell of a table may be broken: no interval leaves its mean."""

_NUMERIC = frozenset("0123456789-+.±")


class _Lasting:
    """A stream to write to, whose failures are kept from whoever has something to say.

    A closed pipe is told on: whoever was reading has had enough.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with self._silent():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._silent():
            self.stream.flush()

    @contextmanager
    def _silent(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError:  # from now on all goes nowhere, what is buffered as well
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Screen:
    """Writes to the terminal or to a file.

    Args:
        console: where to; standard output by default.
        live: whether a terminal gets bars; not where other processes write to it as well.
    """

    def __init__(self, console: Console | None = None, *, live: bool = True) -> None:
        self.console = console or Console(file=cast(IO[str], _Lasting(sys.stdout)), highlight=False)
        self.overall: Overall | None = None
        self._has_bars = live and self.console.is_terminal
        self._live: Progress | None = None
        self._sweep: TaskID | None = None
        self._showing: list[TrainingBar] = []
        self._lock = Lock()
        self._logs: list[TextIO] = []
        stream = getattr(self.console.file, "stream", self.console.file)
        if isinstance(stream, TextIOWrapper):  # an old encoding is no reason to fail
            stream.reconfigure(errors="replace")
        if not self.console.is_terminal:  # a file has no width; lines should not break in it
            self.console.width = max(PLAIN_WIDTH, self.console.width)

    @classmethod
    @contextmanager
    def to_file(cls, path: Path) -> Iterator["Screen"]:
        """A screen that nobody sees, whose lines go to the end of a file."""
        screen = cls(Console(file=StringIO()))
        with screen.logged(path):
            yield screen

    @contextmanager
    def logged(self, *paths: Path) -> Iterator[None]:
        """Within it, all lines go to the end of files too, as far as they can be written."""
        for path in paths:
            with suppress(OSError):
                # A link that somebody put there must not have us write elsewhere.
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINKS, 0o666)
                self._logs.append(open(handle, "a", encoding="utf-8", buffering=1))  # noqa: PTH123, SIM115
        try:
            yield
        finally:
            for log in self._logs:
                with suppress(OSError):
                    log.close()
            self._logs = []

    def log(self, text: str) -> None:
        """Writes lines to the logs alone, if there are any."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        for log in self._logs:
            with suppress(OSError, ValueError):
                log.write("".join(f"{now}  {line}\n" for line in text.splitlines()))

    def facts(self, title: str, rows: Iterable[tuple[str, str]]) -> None:
        """Prints a title and, below it, a name and a value a line."""
        self.console.print(Text(title, style="bold"))
        self.log(title)
        named = list(rows)
        width = max((len(name) for name, _ in named), default=0)
        for name, value in named:
            for number, line in enumerate(value.splitlines()):
                shown = name if number == 0 else ""
                text = Text.assemble((f"  {shown:<{width}}  ", "dim"), line)
                self.console.print(text, soft_wrap=True)
                self.log(text.plain)

    def line(self, text: str, style: str = "") -> None:
        """Prints one line."""
        self.log(text)
        self.console.print(Text(text, style=style), soft_wrap=True)

    def ansi(self, text: str) -> None:
        """Prints one line that brings its own colours."""
        self.console.print(Text.from_ansi(text), soft_wrap=True)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        droppable: Sequence[str] | None = None,
    ) -> None:
        """Prints a table; columns of numbers are aligned to the right.

        Where it is too wide for the terminal, ``droppable`` columns are left out, in that order,
        before words are broken; where none are named, those from the third on, the last first.
        """
        filled = [list(row) for row in rows]
        least = _least(columns, filled, _BREAKS)
        last_first = range(len(columns) - 1, 1, -1)
        order = last_first if droppable is None else map(list(columns).index, droppable)
        kept = self._fitting(least, order)
        columns, least = [columns[i] for i in kept], [least[i] for i in kept]
        filled = [[row[index] for index in kept] for row in filled]
        if sum(least) > self._room(len(kept)):  # rather an interval below its mean than half a word
            least = _least(columns, filled, _BLANKS)
        widths = self._widths(columns, least, filled)
        table = Table(
            title=Text(title),
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        for index, column in enumerate(columns):
            cells = [row[index] for row in filled if row[index]]
            numeric = bool(cells) and all(cell[0] in _NUMERIC for cell in cells)
            table.add_column(
                column,
                justify="right" if numeric else "left",
                overflow="fold",
                width=widths[index],
            )
        for row in filled:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)

    def _fitting(self, least: Sequence[int], droppable: Iterable[int]) -> list[int]:
        """The columns, by index, that fit side by side where each is at ``least`` so wide."""
        kept = list(range(len(least)))
        for index in droppable:
            if sum(least[each] for each in kept) <= self._room(len(kept)):
                break
            kept.remove(index)
        return kept

    def _room(self, columns: int) -> int:
        """The characters that a table of so many columns has for what is in them."""
        return self.console.width - _PADDING * columns + 1

    def _widths(
        self, columns: Sequence[str], least: Sequence[int], rows: Sequence[Sequence[str]]
    ) -> list[int | None]:
        """The width of each column: wide ones give way first, and none breaks a word."""
        widths = [
            max(len(line) for cell in cells for line in cell.splitlines() or [""])
            for cells in zip(columns, *rows, strict=True)
        ]
        room = self._room(len(columns))
        if sum(widths) <= room or sum(least) > room:  # it fits, or words have to be broken
            return [None] * len(columns)
        while sum(widths) > room:
            slack = [width - low for width, low in zip(widths, least, strict=True)]
            widths[slack.index(max(slack))] -= 1
        return list(widths)

    @contextmanager
    def training(
        self, label: str, *, steps: int, epochs: int, tested: int = 0
    ) -> Iterator["TrainingBar"]:
        """Shows the progress of ``steps`` steps in ``epochs`` epochs.

        Several may be shown at once, from several threads: their bars stand below one another, and
        below them that of the sweep, if there is one. ``tested`` is how many images an evaluation
        looks at.
        """
        bar = TrainingBar(self, label, steps, epochs, tested)
        if not self._has_bars:
            yield bar
            return
        with self._lock:
            if self._live is None:
                self._live = self._started()
            bar.show_in(self._live)
            self._showing.append(bar)
        try:
            yield bar
        finally:
            with self._lock:
                bar.close()
                self._showing.remove(bar)
                if not self._showing:
                    self._live.stop()
                    self._live = None

    def _started(self) -> Progress:
        live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=_one_line(max_width=20)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", markup=False, table_column=_one_line()),
            TextColumn("{task.fields[left]}", style="cyan", table_column=_one_line()),
            console=self.console,
            expand=True,
            transient=True,
        )
        if self.overall is not None:
            self._sweep = live.add_task(self.overall.label, total=1.0, state="", left="")
        live.start()
        return live

    def show_overall(self) -> None:
        """Brings the bar of the sweep up to date with those of the trainings."""
        if self.overall is None or self._live is None or self._sweep is None:
            return
        known = [bar.left for bar in self._showing if bar.left is not None]
        left = max(known) if known else self.overall.this
        done = max(0.0, self.overall.this - left)
        self._live.update(
            self._sweep,
            completed=self.overall.before + done,
            total=self.overall.before + max(self.overall.this, left) + self.overall.after,
            left=f"{clock(left + self.overall.after)} left",
        )

    @contextmanager
    def working(self, label: str) -> Iterator["WorkBar"]:
        """Shows the progress of something counted in items or bytes."""
        if not self._has_bars:
            yield WorkBar(None, None)
            return
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=_one_line()),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeLeftColumn(table_column=_one_line()),
        ]
        with Progress(*columns, console=self.console, expand=True, transient=True) as progress:
            yield WorkBar(progress, progress.add_task(label, total=0))


def _least(
    columns: Sequence[str], rows: Sequence[Sequence[str]], breaks: re.Pattern[str]
) -> list[int]:
    """The width that each column needs where its cells are broken at ``breaks`` alone."""
    return [
        max(len(word) for cell in cells for word in breaks.split(cell))
        for cells in zip(columns, *rows, strict=True)
    ]


def _one_line(max_width: int | None = None) -> Column:
    return Column(no_wrap=True, max_width=max_width, overflow="ellipsis")


class TimeLeftColumn(TimeRemainingColumn):
    """The time left, in words that say so."""

    def render(self, task: Task) -> Text:
        """Renders the column."""
        return Text.assemble(super().render(task), " left", style="cyan")


class WorkBar:
    """The bar of :meth:`Screen.working`; without a terminal it does nothing."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress = progress
        self._task = task

    def update(self, what: str, done: int, total: int | None) -> None:
        """Shows that ``done`` of ``total`` are done."""
        if self._progress is not None and self._task is not None:
            shown = total if total is not None else max(done, 1)
            self._progress.update(self._task, description=what, completed=done, total=shown)


@dataclass(frozen=True, slots=True)
class Overall:
    """Where a sweep is as one of its cells begins.

    Attributes:
        label: which cell it is, and of how many.
        before, this, after: seconds that the cells before it have taken, that it will take, and
            that those after it will take, about.
    """

    label: str
    before: float
    this: float
    after: float

    @property
    def said(self) -> str:
        """``cell 3 of 20, about 12 min left``."""
        return f"{self.label}, about {duration(self.this + self.after)} left"


class TrainingBar:
    """The bar of :meth:`Screen.training`; without a terminal, a line an epoch.

    Loss and accuracy are means over the epoch so far. The bar is of time: what is left of training
    by the steps, and of evaluation by the evaluations, so far.

    Attributes:
        left: seconds left, or None where nothing is known yet.
    """

    def __init__(self, screen: Screen, label: str, steps: int, epochs: int, tested: int) -> None:
        self.left: float | None = None
        self._screen = screen
        self._label = label
        self._steps = steps
        self._epochs = epochs
        self._tested = tested
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._state = ""
        self._begun = perf_counter()
        # Steps and seconds since the first metrics: it may have gone on from a checkpoint.
        self._first: int | None = None
        self._last = 0
        self._training = 0.0
        # Images looked at in this evaluation, its beginning, and the seconds of the last one.
        self._seen = 0
        self._since = 0.0
        self._testing: float | None = None

    def show_in(self, live: Progress) -> None:
        """Shows itself among other bars."""
        self._live = live
        self._task = live.add_task(self._label, total=1.0, state="", left="")

    def tested(self, images: int) -> None:
        """Shows that an evaluation is about to look at so many images more."""
        if self._live is None or self._tested == 0:
            return
        if self._seen == 0:
            self._since = perf_counter()
        done = min(self._seen % self._tested + images, self._tested)
        self._seen += images
        self._show(f"{self._state}  testing {done:,}/{self._tested:,}")

    def update(self, metrics: Metrics) -> None:
        """Shows the newest metrics."""
        if self._first is None:
            self._first = metrics.step
        else:
            self._training += metrics.seconds
        self._last = metrics.step
        if self._seen:
            self._testing, self._seen = perf_counter() - self._since, 0
        if self._live is not None:
            self.left = self._estimated()
            self._state = self._said(metrics)
            self._show(self._state)
        if metrics.evaluation is not None:
            evaluation = metrics.evaluation
            self._screen.line(
                f"  {self._label}  epoch {metrics.epoch:.0f}/{self._epochs}"
                f"  loss {_mean(metrics.epoch_loss):.3f} {_mean(metrics.epoch_accuracy):.1%}"
                f"  eval loss {_mean(evaluation.loss):.3f} {_mean(evaluation.accuracy):.1%}"
                f"  {metrics.images_per_second:,.0f} img/s"
            )

    def _said(self, metrics: Metrics) -> str:
        wide = self._screen.console.width >= WIDE
        parts = [f"epoch {max(1, ceil(metrics.epoch))}/{self._epochs}"]
        if wide:
            parts.append(f"step {metrics.step:,}/{self._steps:,}")
        parts += [
            f"loss {_mean(metrics.epoch_loss):.3f}",
            f"acc {_mean(metrics.epoch_accuracy):.1%}",
        ]
        if wide:
            parts.append(f"{metrics.images_per_second:,.0f} img/s")
        return "  ".join(parts)

    def _estimated(self) -> float | None:
        """Seconds left for the steps and the evaluations that are still to come."""
        done = self._last - (self._first or 0)
        if done == 0:
            return None
        a_step = self._training / done
        evaluations = self._epochs - self._last * self._epochs // self._steps
        # Until one has been seen: an evaluation has a forward pass where training has three.
        guess = a_step * self._tested * self._epochs / (3 * self._steps)
        each = guess if self._testing is None else self._testing
        return (self._steps - self._last) * a_step + evaluations * each

    def _show(self, state: str) -> None:
        if self._live is None or self._task is None:
            return
        spent = perf_counter() - self._begun
        share = 0.0 if self.left is None else spent / max(spent + self.left, 1e-9)
        left = "-:-- left" if self.left is None else f"{clock(self.left)} left"
        self._live.update(self._task, completed=share, state=state, left=left)
        self._screen.show_overall()

    def close(self) -> None:
        """Takes the bar off the screen."""
        if self._live is not None and self._task is not None:
            self._live.remove_task(self._task)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: ``0:08``, ``12:05``, ``3:20:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8.3 s``, ``2 min 5 s``, ``3 h 20 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
