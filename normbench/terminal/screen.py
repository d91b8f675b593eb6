"""What a person sees while a command works and when it is done.

On a terminal: colour and a live bar. Elsewhere: plain lines, one an epoch, nothing that moves. A
terminal that is gone, or a full disk under what should keep the lines, ends the lines and no more.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import StringIO, TextIOWrapper
from pathlib import Path
from threading import Lock
from typing import IO, Any, TextIO, cast

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text

from normbench.terminal.bars import (
    Below,
    Overall,
    TimeLeftColumn,
    TrainingBar,
    WorkBar,
    clock,
    one_line,
)
from normbench.terminal.tables import Shown, laid_out

PLAIN_WIDTH = 120
"""The width of what is not a terminal."""

WIDE = 100
"""The width from which a terminal's bar shows everything."""


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
        self._above: Callable[[], RenderableType] | None = None
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
    def unseen(cls) -> "Screen":
        """A screen that nobody sees."""
        return cls(Console(file=StringIO()))

    @classmethod
    @contextmanager
    def to_file(cls, path: Path) -> Iterator["Screen"]:
        """A screen that nobody sees, whose lines go to the end of a file."""
        screen = cls.unseen()
        with screen.logged(path):
            yield screen

    @contextmanager
    def logged(self, *paths: Path) -> Iterator[None]:
        """Within it, all lines go to the end of files too, as far as they can be written."""
        # A link that somebody put there must not have us write elsewhere.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        for path in paths:
            with suppress(OSError):
                handle = os.open(path, flags, 0o666)
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
        line = Text.from_ansi(text)
        self.log(line.plain)
        self.console.print(line, soft_wrap=True)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        droppable: Sequence[str] | None = None,
    ) -> None:
        """Prints a table, see :func:`normbench.terminal.tables.laid_out`."""
        rows, width = list(rows), self.console.width
        self.console.print(laid_out(title, columns, rows, droppable, width))
        if self._logs:
            width = max(PLAIN_WIDTH, width)
            self.log(_plain(laid_out(title, columns, rows, droppable, width), width))

    @contextmanager
    def watching(self, table: Callable[[], Shown], *, live: bool) -> Iterator[None]:
        """Within it, a table stands above the bars of training and is drawn anew in its place.

        Where there are no bars, or it is not to be ``live``, it is printed at the end.
        """
        if not (live and self._has_bars):
            yield
            self.table(*table())
            return
        self._above = lambda: laid_out(*table(), self.console.width)
        try:
            yield
        finally:
            self._above = None

    @contextmanager
    def training(
        self, label: str, *, steps: int, epochs: int, tested: int = 0, evaluate_every: int = 1
    ) -> Iterator[TrainingBar]:
        """Shows the progress of ``steps`` steps in ``epochs`` epochs.

        Several may be shown at once, from several threads: their bars stand below one another, and
        below them that of the sweep, if there is one. ``tested`` is how many images an evaluation
        looks at, and ``evaluate_every`` how many epochs lie between two.
        """
        bar = TrainingBar(
            label,
            steps,
            epochs,
            tested,
            evaluate_every,
            wide=lambda: self.console.width >= WIDE,
            say=self.line,
            moved=self.show_overall,
        )
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
        live = Below(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=one_line(max_width=20)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", markup=False, table_column=one_line()),
            TextColumn("{task.fields[left]}", style="cyan", table_column=one_line()),
            table=self._above,
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
    def working(self, label: str) -> Iterator[WorkBar]:
        """Shows the progress of something counted in items or bytes."""
        if not self._has_bars:
            yield WorkBar(None, None)
            return
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=one_line()),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeLeftColumn(table_column=one_line()),
        ]
        with Progress(*columns, console=self.console, expand=True, transient=True) as progress:
            yield WorkBar(progress, progress.add_task(label, total=0))


def _plain(shown: RenderableType, width: int) -> str:
    """The lines of what is shown, in ``width`` characters and without colours."""
    paper = StringIO()
    Console(file=paper, width=width, force_terminal=False, color_system=None).print(shown)
    lines = (line.rstrip() for line in paper.getvalue().splitlines())
    return "\n".join(line for line in lines if line)
