"""The bars of a command at work, on a terminal; elsewhere a line an epoch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any

from rich.console import RenderableType
from rich.progress import Progress, ProgressColumn, Task, TaskID, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from normbench.training.progress import Metrics

_TURN = 1.0
"""Seconds after which a table above the bars is made anew."""


def one_line(max_width: int | None = None) -> Column:
    """A column of a bar that is never broken."""
    return Column(no_wrap=True, max_width=max_width, overflow="ellipsis")


class TimeLeftColumn(TimeRemainingColumn):
    """The time left, in words that say so."""

    def render(self, task: Task) -> Text:
        """Renders the column."""
        return Text.assemble(super().render(task), " left", style="cyan")


class Below(Progress):
    """Bars below a table that is made anew every second.

    Args:
        columns: of the bars.
        table: makes the table; None where there is none.
        options: of rich's ``Progress``.
    """

    def __init__(
        self, *columns: ProgressColumn, table: Callable[[], RenderableType] | None, **options: Any
    ) -> None:
        self._table = table
        self._made: tuple[float, RenderableType] | None = None
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table and the bars."""
        if self._table is not None:
            if self._made is None or perf_counter() > self._made[0] + _TURN:
                self._made = perf_counter(), self._table()
            yield self._made[1]
        yield from super().get_renderables()


class WorkBar:
    """The bar of ``Screen.working``; without a terminal it does nothing."""

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
    """The bar of ``Screen.training``; without a terminal, a line an epoch.

    Loss and accuracy are means over the epoch so far. The bar is of time: what is left of training
    by the steps, and of evaluation by the evaluations, so far.

    Args:
        label: what is trained.
        steps, epochs: how long.
        tested: how many images an evaluation looks at.
        evaluate_every: epochs between two evaluations; the last epoch always has one.
        wide: whether there is room for everything now.
        say: prints a line.
        moved: told that the bar has moved.

    Attributes:
        left: seconds left, or None where nothing is known yet.
    """

    def __init__(
        self,
        label: str,
        steps: int,
        epochs: int,
        tested: int,
        evaluate_every: int = 1,
        *,
        wide: Callable[[], bool],
        say: Callable[[str], None],
        moved: Callable[[], None],
    ) -> None:
        self.left: float | None = None
        self._wide = wide
        self._say = say
        self._moved = moved
        self._label = label
        self._steps = steps
        self._epochs = epochs
        self._tested = tested
        self._evaluate_every = evaluate_every
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._state = ""
        self._begun = perf_counter()
        # Steps, seconds and images since the first metrics: it may have gone on from a checkpoint.
        self._first: int | None = None
        self._last = 0
        self._training = 0.0
        self._images = 0.0
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
            self._images += metrics.seconds * metrics.images_per_second
        self._last = metrics.step
        if self._seen:
            self._testing, self._seen = perf_counter() - self._since, 0
        if self._live is not None:
            self.left = self._estimated()
            self._state = self._said(metrics)
            self._show(self._state)
        if metrics.evaluation is not None:
            evaluation = metrics.evaluation
            self._say(
                f"  {self._label}  epoch {metrics.epoch:.0f}/{self._epochs}"
                f"  loss {_mean(metrics.epoch_loss):.3f} {_mean(metrics.epoch_accuracy):.1%}"
                f"  eval loss {_mean(evaluation.loss):.3f} {_mean(evaluation.accuracy):.1%}"
                f"  {metrics.images_per_second:,.0f} img/s"
            )

    def _said(self, metrics: Metrics) -> str:
        wide = self._wide()
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
        left = (self._steps - self._last) * self._training / done
        each = self._testing
        if each is None:  # until one has been seen: it has a forward pass where training has three
            each = self._tested * self._training / (3 * self._images)
        return left + self._evaluations() * each

    def _evaluations(self) -> int:
        """How many evaluations are still to come."""
        epoch = self._last * self._epochs // self._steps
        if epoch >= self._epochs:
            return 0
        return ceil(self._epochs / self._evaluate_every) - epoch // self._evaluate_every

    def _show(self, state: str) -> None:
        if self._live is None or self._task is None:
            return
        spent = perf_counter() - self._begun
        share = 0.0 if self.left is None else spent / max(spent + self.left, 1e-9)
        left = "-:-- left" if self.left is None else f"{clock(self.left)} left"
        self._live.update(self._task, completed=share, state=state, left=left)
        self._moved()

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
