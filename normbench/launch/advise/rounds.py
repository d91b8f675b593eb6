"""Trains the rounds of a race, shows how it stands, and writes down how long each took."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from time import perf_counter

from normbench.errors import UnfinishedError
from normbench.launch.advise import wording
from normbench.launch.advise.book import Round
from normbench.launch.advise.budget import Candidate, Entrant, Heat, Score, Scores
from normbench.launch.advise.question import Question
from normbench.launch.advise.race import There
from normbench.launch.compose import load_config
from normbench.launch.grid import train_each
from normbench.launch.planned import Cells
from normbench.run.cell import Cell
from normbench.store.advice import NOTHING, Plan, Took, read_taken, write_taken
from normbench.store.results import FAILED, Result, is_done, read_results
from normbench.terminal.bars import clock, duration
from normbench.terminal.screen import Screen
from normbench.terminal.tables import Shown

STANDINGS = ("norm", "optim.lr", "held-out error in %", "seeds", "epochs", "state")

DROPPABLE = ("epochs", "seeds", "optim.lr")
"""What a narrow terminal goes without, in that order."""


def train(question: Question, plan: Plan, screen: Screen, step: Round) -> Scores:
    """Trains a round, all its cells in one call, and reads how they ended.

    Raises:
        UnfinishedError: a training failed.
    """
    began, folders, ahead = perf_counter(), list[Path](), dict[str, Took]()
    screen.line(f"{step.title}, about {duration(sum(step.seconds))}", "bold")

    def planned(cells: Cells) -> Mapping[Path, float]:
        folders.extend(cell.directory for cell in cells)
        ahead.update(_ahead(cells, step))
        return dict(zip(folders, step.seconds, strict=True))

    def table() -> Shown:
        # Where a killed race goes on, a part of this round's time is gone already.
        before = sum(_known(read_taken(folders[0].parent), folders, step)) if folders else 0.0
        left = max(0.0, step.remaining - before - (perf_counter() - began))
        rows = wording.standings(step.standings(_scores(folders, step.heats)), plan.lr)
        return f"The race so far; {clock(left)} left", STANDINGS, rows, DROPPABLE

    each = [question.cell(plan, heat) for heat in step.heats]
    try:
        with screen.watching(table, live=not question.launcher):
            cells = train_each(each, question.launcher, screen, planned)
            folders = [cell.directory for cell in cells]  # also where nothing was left of them
    finally:  # an interrupted round has taken its time as well
        _note_time(perf_counter() - began, folders, ahead)
    for cell in cells:
        if cell.left:
            raise UnfinishedError(f"{cell.directory}: {cell.problem} (see {cell.log})")
    return _scores(folders, step.heats)


def _known(taken: Mapping[str, Took], folders: Sequence[Path], step: Round) -> list[float]:
    """The times of those trainings of a round for which one is written down."""
    keys = [
        _key(folder, entry)
        for folder, heat in zip(folders, step.heats, strict=True)
        for entry in heat.entries
    ]
    return [taken[key].seconds for key in keys if key in taken]


def _ahead(cells: Cells, step: Round) -> dict[str, Took]:
    """What each training that is left of a round is expected to take."""
    found = {
        _key(cell.directory, entry): seconds / len(heat.entries)
        for cell, heat, seconds in zip(cells, step.heats, step.seconds, strict=True)
        for entry in heat.entries
        if entry.seed in cell.left
    }
    # Its folder says that a training has begun, whatever became of the process that trained it.
    fresh = not any((cells.directory / key).exists() for key in found)
    return {key: Took(seconds, fresh) for key, seconds in found.items()}


def _note_time(seconds: float, folders: Sequence[Path], ahead: Mapping[str, Took]) -> None:
    """Adds what a call of a round took to the time of each training that it found ahead of it."""
    if not ahead:
        return
    runs, known = folders[0].parent, read_taken(folders[0].parent)
    # Evenly, where all were expected to take nothing: no time is lost.
    least = 1e-9
    scale = seconds / sum(least + took.seconds for took in ahead.values())
    spent = {
        key: Took(known.get(key, NOTHING).seconds + scale * (least + took.seconds), took.whole)
        for key, took in ahead.items()
    }
    write_taken(runs, known | spent)


def trained_before(question: Question, plan: Plan, taken: Mapping[str, Took]) -> There:
    """Tells which trainings were there before the budget was changed: their time is 0."""

    @cache
    def folder(candidate: Candidate, epochs: int) -> Path:
        heat = Heat(candidate, epochs, plan.seed)
        return Cell.of(load_config(question.cell(plan, heat))).directory

    @cache  # also because what is trained anew does not become there
    def there(entry: Entrant) -> bool:
        if NOTHING not in taken.values():
            return False
        own = folder(entry.candidate, entry.epochs)
        return taken.get(_key(own, entry)) == NOTHING and is_done(own / f"seed-{entry.seed}")

    return there


def _key(folder: Path, entry: Entrant) -> str:
    return f"{folder.name}/seed-{entry.seed}"


def _scores(folders: Sequence[Path], heats: Sequence[Heat]) -> Scores:
    """How those trainings have ended that have; of a cell each, as far as there are folders."""
    taken = read_taken(folders[0].parent) if folders else {}
    found = {}
    for folder, heat in zip(folders, heats, strict=False):
        results = by_seed(folder)
        for entry in heat.entries:
            result = results.get(entry.seed)
            if result is not None and result.status != FAILED:
                # Where a process was killed before it could note the time, training's own is known.
                took = taken.get(_key(folder, entry), Took(result.seconds, whole=False))
                found[entry] = Score(result.val_accuracy, took.seconds, took.whole)
    return found


def by_seed(directory: Path) -> dict[int, Result]:
    """The results of a cell."""
    return {result.seed: result for result in read_results(directory)}
