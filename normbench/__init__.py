"""normbench: which normalization layer for a small batch, at what cost, and how sure?

The house, from the top down; imports only ever go downward::

    cli.py              the commands (the only file that knows Typer)
    sweeper.py          a sweep's overrides -> its cells -> Hydra's launchers
    launch.py           overrides -> configuration (with sweeper.py all that knows Hydra)
    sweeping.py         the cells of a sweep, and what becomes of each
    catalog.py          what the norms and data commands print
    experiment.py       one cell, from its configuration to its records: start reading here
    report/             records -> tables, pictures, verdicts, one HTML page
    replicas.py         trains some seeds together        views.py        what is said of a cell
    display.py          the screen        cubes.py        pictures of what a norm averages over
    lockstep.py         how seeds share the machine       environment.py  on what a run runs
    saving.py           when a training is saved          occupancy.py    one process a cell
    checkpoint.py       its state in one file that is whole, or not believed
    tracking.py         curves: metrics.jsonl and TensorBoard (the only file that knows it)
    records.py          results, written so that a file that is there is whole
    cell.py             a configuration, its images and its folder
    decomposition.py    batch norm evaluated with other statistics than its running ones
    training.py         the loop, a generator of metrics  inspection.py   layer by layer
    metrics.py          what is measured, and where training stands
    diagnosis.py        what happens inside of the network while it is trained
    config.py           the configuration of a cell, and its digest
    capture.py          a step as a CUDA graph            interruption.py signals
    stacking.py         K networks of one architecture <-> one stacked network
    optim.py  data/  models/      optimizer / images and their epoch plan / networks
    norms/              one file a family: configuration, reference, layer

Everything from ``training.py`` down can be used without the command line::

    from normbench import NORMS, stack, swap_norm, unstack
"""

from importlib import import_module

TYPE_CHECKING = False  # as mypy takes it; the command line must not wait for typing either

if TYPE_CHECKING:
    from normbench.norms import NORMS, swap_norm
    from normbench.training.stacking import stack, unstack

__all__ = ["NORMS", "stack", "swap_norm", "unstack"]

_HOME = {
    "NORMS": "normbench.norms",
    "swap_norm": "normbench.norms",
    "stack": "normbench.training.stacking",
    "unstack": "normbench.training.stacking",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is asked for: the command line must not wait for torch."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
