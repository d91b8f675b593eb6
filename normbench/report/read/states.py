"""How far an experiment is: the state of a cell and of all cells, in words."""

from collections import Counter
from collections.abc import Iterable

from normbench.report.read.cells import CellRun
from normbench.report.read.seeds import INTERRUPTED, RUNNING, UNREADABLE, WAITING
from normbench.store.results import DIVERGED, FAILED, FINISHED
from normbench.terminal.words import count

STATES = (FINISHED, RUNNING, INTERRUPTED, WAITING, DIVERGED, FAILED, UNREADABLE)
"""The states of a seed, in the order in which they are said."""


def state(cell: CellRun) -> str:
    """``finished 3/3``, ``running epoch 1.4/3``, ``finished 2/3, 1 diverged at step 12``, …"""
    if cell.problem is not None:
        return UNREADABLE
    counts = Counter(run.state for run in cell.seeds)
    if not counts:
        return WAITING
    total = len(cell.seeds)
    parts = []
    for name in STATES:
        if counts[name] == 0:
            continue
        many = f"{counts[name]} {name}" if len(counts) > 1 else name
        parts.append(f"{name} {counts[name]}/{total}" if name == FINISHED else many)
        parts[-1] += _detail(cell, name, mixed=len(counts) > 1)
    return ", ".join(parts)


def _detail(cell: CellRun, name: str, *, mixed: bool) -> str:
    """How far the seeds in a state are, the slowest of them."""
    runs = [run for run in cell.seeds if run.state == name]
    if name in (RUNNING, INTERRUPTED):
        of = "" if cell.epochs is None else f"/{cell.epochs:g}"
        said = f"epoch {min(run.epoch for run in runs):.1f}{of}"
        return f" ({said})" if mixed else f" {said}"
    if name == DIVERGED:
        steps = [run.result.diverged_at for run in runs if run.result is not None]
        known = sorted({step for step in steps if step is not None})
        return f" at step {', '.join(f'{step:,}' for step in known)}" if known else ""
    return ""


def settled(cell: CellRun) -> bool:
    """Whether no seed of a cell is still to come to its end, good or bad."""
    return bool(cell.seeds) and all(r.state in (FINISHED, DIVERGED, FAILED) for r in cell.seeds)


def overview(cells: Iterable[CellRun]) -> str:
    """One line: ``12 of 20 cells finished; of 60 seeds 37 finished, 3 running, 20 waiting``."""
    found = list(cells)
    counts = Counter(run.state for cell in found for run in cell.seeds)
    whole = sum(
        cell.problem is None and bool(cell.seeds) and all(r.state == FINISHED for r in cell.seeds)
        for cell in found
    )
    unreadable = sum(cell.problem is not None for cell in found)
    said = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    line = f"{whole} of {count(len(found), 'cell')} finished"
    if said:
        line += f"; of {count(sum(counts.values()), 'seed')} {said}"
    return line + (f"; {count(unreadable, 'cell')} unreadable" if unreadable else "")
