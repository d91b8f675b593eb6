"""From a sweep's overrides to its cells, and from those to any of Hydra's launchers.

Hydra composes each job and its launchers spread them over processes and machines. What is planned
here first is which cells there are, so that a mistake in any of them is found before the first is
trained, no cell is trained twice, and a launcher gets only those that are not finished.
"""

import copy
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Glob
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench.config import PLACES, Config
from normbench.errors import UsageError
from normbench.launch import hints, rates, sweep
from normbench.launch.choices import CONFIGS
from normbench.launch.compose import (
    Typed,
    check,
    composed,
    in_words,
    load_config,
    master,
    parse,
    register_schemas,
    split_launcher,
)
from normbench.launch.planned import Cells, Planned, planned_cells
from normbench.store.environment import cores
from normbench.terminal.screen import Screen

MOST_CELLS = 10_000
"""A grid larger than this is a mistake."""

Known = Callable[[Cells], Mapping[Path, float]] | None

# Each cell keeps its own records, so that Hydra need not.
_QUIET = (
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "hydra.output_subdir=null",
    "hydra.sweep.dir=.",
    "hydra.sweep.subdir=.",
)


def train_all(arguments: Sequence[str], screen: Screen, *, dry_run: bool = False) -> Cells:
    """Plans the cells of a sweep, trains those that are not finished, and returns all of them.

    Trials of ``optim.lr=auto`` that failed, whose cells cannot be trained, are among them.

    Args:
        arguments: overrides as on the command line; ``batch=2,8`` is a grid's axis, and
            ``hydra/launcher=…`` and ``hydra.launcher.…`` say how cells are spread.
        screen: where progress is shown.
        dry_run: whether to say what would be trained, and how long it would take, and no more.

    Raises:
        UsageError: an override or a cell cannot be; nothing has been trained then.
    """
    auto = rates.wanted(arguments)
    with _opened([text for text in arguments if text != rates.AUTO]) as grid:
        cells: Iterable[rates.Composed] = grid.cells(chosen="optim.lr" if auto else None)
        failed: list[Planned] = []
        if auto:
            cells, failed = rates.with_best_rates(grid, cells, screen, dry_run=dry_run)
        return Cells([*grid.train(cells, screen, dry_run=dry_run), *failed])


def with_rate(arguments: Sequence[str], screen: Screen) -> list[str]:
    """The overrides of a run, with a learning rate in place of ``optim.lr=auto``."""
    if not rates.wanted(arguments):
        return list(arguments)
    others = [text for text in arguments if text != rates.AUTO]
    hints.check_arguments("run", arguments)  # says what is wrong as a run says it
    cell = load_config(others), [parse(text).readable for text in others]
    with _opened([]) as grid:
        ((config, _),), _ = rates.with_best_rates(grid, [cell], screen)
    return [*others, f"optim.lr={config.optim.lr}"]


def train_each(
    cells: Sequence[Sequence[str]], launcher: Sequence[str], screen: Screen, known: Known = None
) -> Cells:
    """Trains the given cells together, those that are not finished, and returns all of them.

    Args:
        cells: the overrides of each, ``["norm=group", "optim.lr=0.05"]``; all go to one folder.
        launcher: ``hydra/launcher=…`` and ``hydra.launcher.…``, how cells are spread.
        screen: where progress is shown.
        known: told the cells before they are trained, says how many seconds each will take.

    Raises:
        UsageError: an override or a cell cannot be; nothing has been trained then.
    """
    with _opened(launcher) as grid:
        each = [[parse(text) for text in overrides] for overrides in cells]
        for typed in itertools.chain.from_iterable(each):
            check(typed)
        configs = ((composed(c), [t.readable for t in c]) for c in each)
        return grid.train(configs, screen, known=known)


def compose_launcher(launcher: Sequence[str]) -> None:
    """Composes ``hydra/launcher=…`` and ``hydra.launcher.…``, and launches nothing.

    Raises:
        UsageError: there is no such setting, or it cannot have this value.
    """
    with _opened(launcher):
        pass


@dataclass(frozen=True, slots=True)
class Workers:
    """How a launcher works on several jobs.

    Attributes:
        jobs: how many at a time.
        threads: of each; None: all.
        divided: whether cells that may share a stack are divided where there would be fewer jobs.
    """

    jobs: int
    threads: int | None = None
    divided: bool = True


def workers_of(launcher: Sequence[str]) -> Workers:
    """How a launcher would work on several jobs."""
    with _opened(launcher) as grid:
        return grid.workers()


@contextmanager
def _opened(arguments: Sequence[str]) -> Iterator["_Grid"]:
    """Composes what every job of a sweep begins with, and finds its launcher."""
    register_schemas()
    launcher, typed = split_launcher(arguments)
    hints.check_arguments("sweep", typed)
    own = [parse(text) for text in typed]
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIGS, version_base="1.3", job_name="normbench"):
        for each in own:
            _check_axis(each)
        # An experiment's own axes may choose the norm that a typed setting is one of: each cell is
        # composed by itself, and only what they share here.
        shared = [each.readable for each in own if each.key == "experiment"]
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            whole = master((*_QUIET, *_settled(launcher), *launcher, *shared))
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(in_words(error, [*map(parse, launcher), *own])) from None
        yield _Grid(whole, HydraContext(hydra.config_loader, Callbacks(whole)), own)


def _settled(launcher: Sequence[str]) -> list[str]:
    """What a launcher is told unless it was typed.

    submitit hides the GPUs from its jobs unless they ask for some, and ends one that takes longer
    than an hour: on this machine nothing is gained by either. Where only some GPUs are to be used
    it would take others, so that none is asked for.
    """
    if "hydra/launcher=submitit_local" not in launcher:
        return []
    import torch  # takes a while

    devices = 0 if "CUDA_VISIBLE_DEVICES" in os.environ else torch.cuda.device_count()
    gpus = [f"hydra.launcher.gpus_per_node={devices}"] if devices else []
    return [f"hydra.launcher.timeout_min={_YEAR}", *gpus]


_YEAR = 365 * 24 * 60


def job(tree: DictConfig) -> None:
    """What a launcher runs, wherever it runs it: one cell, whose records say how it ended."""
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    sweep.train(config, sweep.screen())


class _Grid:
    """The cells of a sweep, see :class:`normbench.launch.compose.GridConfig`, and its launcher.

    Args:
        master: the configuration that every job begins with, Hydra's own part included.
        context: what Hydra's launchers need.
        typed: what was typed: values and axes.
    """

    def __init__(self, master: DictConfig, context: HydraContext, typed: Sequence[Typed]) -> None:
        self._master = master
        self._context = context
        self._typed = typed

    def train(
        self,
        configs: Iterable[tuple[Config, list[str]]],
        screen: Screen,
        *,
        dry_run: bool = False,
        known: Known = None,
    ) -> Cells:
        """Plans cells, trains those that are not finished, and returns all of them."""
        launcher = _launcher_of(self._master)
        elsewhere = launcher == "submitit_slurm"
        cells = planned_cells(configs, screen, elsewhere=elsewhere, write=not dry_run)
        if dry_run:
            sweep.dry_run(cells, screen, timed=not elsewhere)
        elif todo := cells.unfinished():
            seconds = known(cells) if known else None
            with sweep.foreseen(todo, screen, seconds, here=launcher == "basic"):
                sweep.finish(cells, todo, self.launch, screen)
        return cells

    def cells(self, chosen: str | None = None) -> Iterator[rates.Composed]:
        """Every cell's configuration, and the overrides that compose it; no axis is ``chosen``."""
        grid_config = self._master.hydra.sweeper
        fixed = {each.key for each in self._typed}
        count = 0
        for grid in grid_config.grids or [{}]:
            axes: dict[str, list[Typed]] = {}
            said = dict(grid_config.params) | dict(grid)
            said.pop(chosen, None)
            for key, value in said.items():
                axes[key] = _values(parse(f"{key}={'null' if value is None else value}"))
            # What is typed replaces what the experiment says.
            axes |= {each.key: _values(each) for each in self._typed}
            count += math.prod(map(len, axes.values()))
            _check_number(count)
            for values in itertools.product(*axes.values()):
                for each in values:
                    if each.key not in fixed:
                        check(each)
                yield composed(values), [each.readable for each in values]

    def launch(self, cells: Sequence[Planned]) -> None:
        """Hands cells to the launcher and waits for their end.

        Raises:
            Exception: whatever the launcher raises where a process of its own dies.
        """
        config = copy.deepcopy(self._master)
        config.hydra.sweep.dir = str(cells[0].directory.parent)
        config.hydra.runtime.cwd = str(Path.cwd())  # it may have been composed elsewhere
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=job, config=config
        )
        workers = self._workers()
        jobs = Cells(cells).jobs(workers or 1)
        threads = None if workers is None else max(1, cores() // min(workers, len(jobs)))
        extra = [] if threads is None else [f"threads={threads}"]
        # What was typed comes last and wins.
        launcher.launch([[*extra, *each.overrides] for each in jobs], initial_job_idx=0)

    def workers(self) -> Workers:
        """See :func:`workers_of`."""
        if _launcher_of(self._master) == "submitit_slurm":
            most = int(self._master.hydra.launcher.array_parallelism)
            return Workers(max(1, most), divided=False)
        workers = self._workers()
        return Workers(1) if workers is None else Workers(workers, max(1, cores() // workers))

    def _workers(self) -> int | None:
        """How many processes train side by side on this machine; None: one, with all threads."""
        match _launcher_of(self._master):
            case "joblib":
                workers = int(self._master.hydra.launcher.n_jobs or 1)
                return workers if workers > 0 else max(1, cores() + 1 + workers)
            case "submitit_local" | "ray":  # all at once; a core a job, unless told otherwise
                return cores()
            case _:
                return None


def _launcher_of(config: DictConfig) -> str:
    return str(config.hydra.runtime.choices["hydra/launcher"])


def _values(typed: Typed) -> list[Typed]:
    """The values of an axis, or the one value of what is none."""
    override = typed.override
    if not override.is_sweep_override():
        return [typed]
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        raise UsageError(f"{typed.text}: give values, {typed.key}=A,B or {typed.key}=range(1,5)")
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MOST_CELLS + 1))
    except (ValueError, ArithmeticError, HydraException):
        raise UsageError(f"{typed.text}: the step of a range must not be 0, nor nan") from None
    if not values:
        raise UsageError(f"{typed.text}: there is no value in it")
    _check_number(len(values))
    return [parse(f"{override.get_key_element()}={value}") for value in values]


def _check_number(cells: int) -> None:
    if cells > MOST_CELLS:
        raise UsageError(
            f"this sweep has more than {MOST_CELLS:,} cells: give fewer values, or several sweeps"
        )


def _check_axis(typed: Typed) -> None:
    """Refuses what no run takes, and axes along which the records cannot be told apart."""
    values = _values(typed)
    if len(values) > 1 and typed.key in ("seed", "seeds"):
        raise hints.several_seeds(typed.text, (value.value for value in values))
    if len(values) > 1 and typed.key in ("experiment", *PLACES):
        raise UsageError(f"{typed.text}: a sweep takes one {typed.key}")
    for value in values:
        check(value)
