"""Which norm to use at each batch size, by how much, how sure, and at what cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from normbench.report.compare.comparisons import Comparison, Line, Point
from normbench.report.compare.differences import cost, error, typical, with_new_images
from normbench.report.compare.statistics import (
    MOST_SEEDS,
    Estimate,
    holm,
    seeds_to_tell,
    welch,
)
from normbench.report.read.cells import CellRun

CLASSES = {"cifar100": 100, "cifar10": 10, "synthetic": 10}
"""How many classes a data set has, by how its name begins."""

CHANCE = 1.25
"""How many times as good as guessing still is no better, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The norm with the lowest mean error at one place.

    Attributes:
        x: where.
        best: the norm.
        error: its test error in %.
        error_new: half its 95 % interval with a new test set; None where not recorded.
        second: the runner-up; None where nothing else was measured.
        ahead: by how much the runner-up's error is higher, in points (Welch, 95 %).
        clear: whether that holds with all rows of the grid taken together (Holm).
        seeds: how many each of the two would need (80 % power); None where it cannot be said, or
            where they would be more than 100.
        time, memory: of the best over batch norm's; None where not measured or not comparable.
    """

    x: int
    best: Line
    error: Estimate
    error_new: float | None = None
    second: Line | None = None
    ahead: Estimate | None = None
    clear: bool = False
    seeds: int | None = None
    time: float | None = None
    memory: float | None = None

    @property
    def more(self) -> str:
        """How many more seeds would tell, in words."""
        if self.ahead is None or self.ahead.half is None:
            return "one seed, which cannot tell"
        if self.seeds is None:
            return f"more than {MOST_SEEDS} seeds would be needed"
        more = max(self.seeds - self.ahead.n, 1)
        return f"about {more} more seed{'' if more == 1 else 's'} would tell"


def choices(comparison: Comparison) -> list[Choice]:
    """A choice for every place with a finished seed; norms of which seeds diverged are in none."""
    found = [choice for x in comparison.xs if (choice := _choice(comparison, x)) is not None]
    adjusted = holm([choice.ahead for choice in found])
    return [
        replace(choice, clear=together is not None and together.clear)
        for choice, together in zip(found, adjusted, strict=True)
    ]


def _choice(comparison: Comparison, x: int) -> Choice | None:
    ranked = _ranked(comparison, x)
    if not ranked:
        return None
    best, point, value = ranked[0]
    choice = Choice(x=x, best=best, error=value, error_new=with_new_images(value, point))
    time, memory = _against_batch_norm(comparison, best, x)
    choice = replace(choice, time=time, memory=memory)
    if len(ranked) == 1:
        return choice
    second, other, _ = ranked[1]
    ends = other.errors, point.errors
    needed = seeds_to_tell(*(errors.values() for errors in ends))
    return replace(choice, second=second, ahead=welch(*ends), seeds=needed)


def _ranked(comparison: Comparison, x: int) -> list[tuple[Line, Point, Estimate]]:
    """The lines at a place from the lowest mean error up, without those that lost seeds."""
    found = []
    for line in comparison.lines:
        point = line.at(x)
        if point is not None and not point.diverged and (value := error(point)) is not None:
            found.append((line, point, value))
    return sorted(found, key=lambda one: one[2].mean)


def _against_batch_norm(
    comparison: Comparison, line: Line, x: int
) -> tuple[float | None, float | None]:
    """Seconds and memory of a line over batch norm's."""
    batch = typical(comparison, "batch")
    here, there = line.at(x), None if batch is None else batch.at(x)
    if here is None or there is None:
        return None, None
    mine, theirs = cost(here.cell), cost(there.cell)
    time = None
    if mine.seconds and theirs.seconds and not untimed(comparison):
        time = mine.seconds / theirs.seconds
    memory = mine.memory / theirs.memory if mine.memory and theirs.memory else None
    return time, memory


def untimed(comparison: Comparison) -> str:
    """Why the times of a comparison are not to be compared; "" where nothing speaks against it."""
    cells = [cell for cell in comparison.cells if cell.finished]
    busy = sum(cost(cell).busy for cell in cells)
    if busy:
        return (
            f"in {busy} of {len(cells)} cells the times of the seeds differ by more than 20 %, so"
            " the machine was busy with other work"
        )
    machines = {
        str([environment.get(key) for key in ("processor", "gpu", "device", "threads")])
        for cell in cells
        for run in cell.seeds
        if (environment := run.environment or cell.environment)
    }
    return "the cells were trained on different machines" if len(machines) > 1 else ""


# --- Chance ---------------------------------------------------------------------------------------


def at_chance(cell: CellRun) -> bool:
    """Whether no seed of a cell is better than guessing; False where the classes are not known."""
    classes = next((n for name, n in CLASSES.items() if cell.data.startswith(name)), None)
    accuracies = [r.test_accuracy for r in cell.finished if r.test_accuracy is not None]
    return classes is not None and bool(accuracies) and max(accuracies) <= CHANCE / classes


def all_at_chance(cells: Sequence[CellRun]) -> bool:
    """Whether every cell with a finished seed is at chance."""
    finished = [cell for cell in cells if cell.finished]
    return bool(finished) and all(at_chance(cell) for cell in finished)
