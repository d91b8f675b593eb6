"""The cells of a sweep: which there are, what is left of each, and which are launched together.

What is left is read from the cells' own folders, so that it holds whoever trained them, on whatever
machine, and in however many attempts.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from normbench.config import Config
from normbench.errors import UsageError
from normbench.registry import as_override
from normbench.report.read.defaults import unfilled
from normbench.run.cell import Cell
from normbench.run.machine import choose_device
from normbench.run.stacks import LOG, companions
from normbench.store import plan
from normbench.store.plan import PlannedCell
from normbench.store.results import FAILED, FINISHED, Result, read_results
from normbench.terminal.screen import Screen
from normbench.terminal.words import count


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell of a sweep.

    Attributes:
        cell: the cell.
        overrides: what composes its configuration.
    """

    cell: Cell
    overrides: list[str]

    @property
    def directory(self) -> Path:
        """Where its records go."""
        return self.cell.directory

    @property
    def left(self) -> list[int]:
        """The seeds that have no result that can be believed, or a failure."""
        return [
            seed for seed, result in self._results() if result is None or result.status == FAILED
        ]

    @property
    def finished(self) -> bool:
        """Whether all its seeds have come to a good end."""
        return all(result and result.status == FINISHED for _, result in self._results())

    @property
    def problem(self) -> str:
        """What keeps it from being finished, in a few words."""
        said: dict[str, list[int]] = {}
        for seed, result in self._results():
            if result is None:
                said.setdefault("no result", []).append(seed)
            elif result.status != FINISHED:
                said.setdefault(result.error or result.said, []).append(seed)
        return "; ".join(f"seed {', '.join(map(str, seeds))} {why}" for why, seeds in said.items())

    def _results(self) -> list[tuple[int, Result | None]]:
        """Each seed that is wanted, and its result as it is on disk now."""
        found = {result.seed: result for result in read_results(self.directory)}
        return [(seed, found.get(seed)) for seed in self.cell.config.all_seeds]

    @property
    def log(self) -> Path:
        """All that was said of it."""
        return self.directory / LOG

    def entry(self) -> PlannedCell:
        """What the plan says of it."""
        config = self.cell.config
        return PlannedCell(
            folder=self.directory.name,
            norm=config.norm.name,
            batch=config.batch,
            norm_batch=config.statistics_batch,
            model=config.model.title,
            data=self.cell.images.name,
            seeds=config.all_seeds,
            settings=unfilled(config.plain()),
        )


class Job(list[Planned]):
    """Cells whose replicas may share stacks: they are launched as one."""

    @property
    def overrides(self) -> list[str]:
        """What composes the configuration of the job."""
        first, *rest = self
        if not rest:
            return first.overrides
        optims = [each.cell.config.optim for each in self]
        pairs = as_override([(optim.lr, optim.weight_decay) for optim in optims])
        return [*first.overrides, f"together={pairs}"]


class Cells(list[Planned]):
    """The cells of a sweep, all in one folder."""

    @property
    def directory(self) -> Path:
        """The folder of the cells."""
        return self[0].directory.parent

    def bad(self) -> "Cells":
        """Those that are not finished."""
        return Cells(each for each in self if not each.finished)

    def jobs(self, workers: int = 1) -> list[Job]:
        """The cells as jobs, each of those that may share stacks; for ``workers`` at least.

        Cells whose replicas have begun in one stack stay together.
        """
        groups: dict[str, Job] = {}
        for each in self:
            config = each.cell.config
            common = config.stack_identity(each.cell.images) | {"seeds": config.all_seeds}
            groups.setdefault(json.dumps(common, sort_keys=True), Job()).append(each)
        parts = -(-workers // max(1, len(groups)))
        split = []
        for group in groups.values():
            bundles = _begun_together(group)
            split += [Job(chain(*bundles[part::parts])) for part in range(parts)]
        return [job for job in split if job]

    def unfinished(self) -> "Cells":
        """Those with something left to train; what has diverged would diverge again."""
        return Cells(each for each in self if each.left)


def _begun_together(cells: Sequence[Planned]) -> list[list[Planned]]:
    """Those of ``cells`` together whose replicas are in one stack that has begun."""
    bundles: list[tuple[set[str], list[Planned]]] = []
    for each in cells:
        names, together = {each.directory.name, *companions(each.cell)}, [each]
        for bundle in [bundle for bundle in bundles if not names.isdisjoint(bundle[0])]:
            bundles.remove(bundle)
            names, together = names | bundle[0], bundle[1] + together
        bundles.append((names, together))
    return [together for _, together in bundles]


def planned_cells(
    configs: Iterable[tuple[Config, list[str]]],
    screen: Screen,
    *,
    elsewhere: bool = False,
    write: bool = True,
) -> Cells:
    """Finds the cells of ``configs``, each once, and writes down which they are.

    Args:
        configs: configurations and the overrides that compose them.
        screen: where it is said what was found.
        elsewhere: whether they will be trained on other machines, with other devices.
        write: whether to write them down.

    Raises:
        UsageError: one of them cannot be trained, or the folder cannot be written to.
    """
    found: dict[Path, Planned] = {}
    with screen.working("planning") as bar:
        for number, (config, overrides) in enumerate(configs, start=1):
            planned = Planned(Cell.of(config), overrides)
            if planned.directory not in found and _left(planned):
                if not elsewhere:
                    choose_device(config.device)
                planned.cell.check_fit()
            found.setdefault(planned.directory, planned)
            bar.update("planning", number, None)
    cells = Cells(found.values())
    if write:
        _write_plan(cells)
    left = len(cells.unfinished())
    done = "" if left == len(cells) else f", {len(cells) - left} of them trained already"
    screen.line(f"{count(len(cells), 'cell')}{done}: {cells.directory}")
    return cells


def _left(planned: Planned) -> list[int]:
    try:
        return planned.left
    except OSError as error:
        raise _elsewhere("read", planned.directory, error) from None


def _write_plan(cells: Cells) -> None:
    """Writes down which cells there are."""
    try:
        plan.add(cells.directory, [each.entry() for each in cells])
    except OSError as error:
        raise _elsewhere("write to", cells.directory, error) from None


def _elsewhere(what: str, folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot {what} {folder}: {error.strerror}; choose another folder with runs=FOLDER, or"
        " another name=NAME"
    )
