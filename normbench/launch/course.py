"""The course of a sweep: how long it will take, which cell it is at, and how much is left."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from normbench.report.text.tables import without_empty
from normbench.run.cell import Replica
from normbench.run.estimate import Estimates
from normbench.run.machine import prepared
from normbench.terminal.bars import Overall, duration
from normbench.terminal.screen import Screen

TURN = 1.0
"""Seconds between two looks at what other processes have done."""


def estimated(jobs: Sequence[Sequence[Replica]], screen: Screen) -> dict[Path, float]:
    """About how many seconds each cell's share of what is left takes, by its directory.

    Args:
        jobs: the replicas that are left of a sweep, those that are launched together; all are
            trained on one device.
        screen: where it is shown how far the timing is.
    """
    cells = list({each.cell.directory: each.cell for job in jobs for each in job}.values())
    if not cells:
        return {}
    with prepared(cells[0].config) as device:
        return _estimated(Estimates(cells, device), jobs, screen)


def _estimated(
    estimates: Estimates, jobs: Sequence[Sequence[Replica]], screen: Screen
) -> dict[Path, float]:
    found: dict[Path, float] = {}
    with screen.working("timing a few steps") as bar:
        for number, job in enumerate(jobs):
            bar.update("timing a few steps", number, len(jobs))
            share = 0.0
            with suppress(Exception):  # whatever it is, training says it of this job alone
                share = estimates.seconds(job) / len(job)
            for replica in job:
                directory = replica.cell.directory
                found[directory] = found.get(directory, 0.0) + share
    return found


class Course:
    """Where a sweep is that trains one cell after another in this process.

    Args:
        seconds: what each cell will take, by its directory, in the order of training.
    """

    def __init__(self, seconds: Mapping[Path, float]) -> None:
        self._left = dict(seconds)
        self._cells = len(seconds)
        self._before = 0.0
        self._start = monotonic()

    def at(self, directories: Sequence[Path]) -> Overall | None:
        """What is known as cells begin that are trained together; None where none was foreseen."""
        known = [self._left.pop(each) for each in directories if each in self._left]
        if not known:
            return None
        last = self._cells - len(self._left)
        first = last - len(known) + 1
        label = f"cell {last}" if first == last else f"cells {first} to {last}"
        this, after = sum(known), sum(self._left.values())
        # What the cells so far have taken corrects what was expected of the others.
        slower = (monotonic() - self._start) / self._before if self._before else 1.0
        overall = Overall(
            f"{label} of {self._cells}", self._before * slower, this * slower, after * slower
        )
        self._before += this
        return overall


@contextmanager
def followed(cells: Mapping[str, Callable[[], bool]], screen: Screen) -> Iterator[None]:
    """Within it, says of each of ``cells``, which other processes train, when it is done.

    Args:
        cells: what says whether it is, by name.
        screen: where that is said.
    """
    stop, left = Event(), dict(cells)

    def watch() -> None:
        stopped = False
        while left and not stopped:
            stopped = stop.wait(TURN)
            for name in [name for name, done in left.items() if done()]:
                del left[name]
                screen.line(f"cell {len(cells) - len(left)} of {len(cells)} is done: {name}")

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def show_plan(screen: Screen, rows: Sequence[Sequence[str]], total: float | None) -> None:
    """Prints the cells of a sweep: what is done, and what the rest will take, if that is known."""
    columns, shown = without_empty(("cell", "settings", "seeds", "time left"), rows)
    screen.table("Cells", columns, shown, droppable=columns[2:])
    about = "no times, as other machines train it" if total is None else said(total)
    screen.line(f"{about}; nothing has been trained (--dry-run)")


def said(seconds: float) -> str:
    """``about 12 min 5 s on this machine``."""
    return f"about {duration(seconds)} on this machine"
