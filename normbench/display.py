"""What a person sees while a command works and when it is done.

On a terminal: colour and a live bar. Elsewhere: plain lines, one an epoch, nothing that moves.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

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
from rich.table import Table
from rich.text import Text

from normbench.training import Metrics

PLAIN_WIDTH = 120
_NUMERIC = frozenset("0123456789-+.±")


class Screen:
    """Writes to the terminal or to a file.

    Args:
        console: where to; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:  # a file has no width; lines should not break in it
            self.console.width = max(PLAIN_WIDTH, self.console.width)

    def facts(self, title: str, rows: Iterable[tuple[str, str]]) -> None:
        """Prints a title and, below it, a name and a value a line."""
        self.console.print(Text(title, style="bold"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(overflow="fold")
        for name, value in rows:
            grid.add_row(f"  {name}", Text(value))
        self.console.print(grid)

    def line(self, text: str, style: str = "") -> None:
        """Prints one line."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def ansi(self, text: str) -> None:
        """Prints one line that brings its own colours."""
        self.console.print(Text.from_ansi(text), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Prints a table; columns of numbers are aligned to the right."""
        filled = [list(row) for row in rows]
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        for index, column in enumerate(columns):
            cells = [row[index] for row in filled if row[index]]
            numeric = bool(cells) and all(cell[0] in _NUMERIC for cell in cells)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in filled:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)

    @contextmanager
    def training(self, label: str, *, steps: int, epochs: int) -> Iterator["TrainingBar"]:
        """Shows the progress of ``steps`` steps in ``epochs`` epochs."""
        if not self.console.is_terminal:
            yield TrainingBar(self, label, steps, epochs, None)
            return
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
            TimeLeftColumn(),
        ]
        with Progress(*columns, console=self.console, expand=True, transient=True) as progress:
            yield TrainingBar(self, label, steps, epochs, progress)

    @contextmanager
    def working(self, label: str) -> Iterator["WorkBar"]:
        """Shows the progress of something counted in items or bytes."""
        if not self.console.is_terminal:
            yield WorkBar(None, None)
            return
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeLeftColumn(),
        ]
        with Progress(*columns, console=self.console, expand=True, transient=True) as progress:
            yield WorkBar(progress, progress.add_task(label, total=0))


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


class TrainingBar:
    """The bar of :meth:`Screen.training`; without a terminal, a line an epoch."""

    def __init__(
        self, screen: Screen, label: str, steps: int, epochs: int, progress: Progress | None
    ) -> None:
        self._screen = screen
        self._label = label
        self._steps = steps
        self._epochs = epochs
        self._progress = progress
        self._task = None if progress is None else progress.add_task(label, total=steps, state="")

    def update(self, metrics: Metrics) -> None:
        """Shows the newest metrics."""
        if self._progress is not None and self._task is not None:
            state = (
                f"epoch {min(int(metrics.epoch) + 1, self._epochs)}/{self._epochs}"
                f"  step {metrics.step:,}/{self._steps:,}"
                f"  loss {_mean(metrics.loss):.3f}  acc {_mean(metrics.accuracy):.1%}"
                f"  {metrics.images_per_second:,.0f} img/s"
            )
            self._progress.update(self._task, completed=metrics.step, state=state)
        if metrics.evaluation is not None:
            self._screen.line(
                f"  {self._label}  epoch {metrics.epoch:.0f}/{self._epochs}"
                f"  train loss {_mean(metrics.loss):.3f} acc {_mean(metrics.accuracy):.1%}"
                f"  eval loss {_mean(metrics.evaluation.loss):.3f}"
                f" acc {_mean(metrics.evaluation.accuracy):.1%}"
                f"  {metrics.images_per_second:,.0f} img/s"
            )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8.3 s``, ``2 min 5 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
