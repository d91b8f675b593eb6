"""normbench: which normalization layer for a small batch, at what cost, and how sure?

The house, in nine floors; a room imports only from the floors below it::

    1  cli/          the commands; alone knows Typer
    2  launch/       settings -> cells, and Hydra's launchers; alone knows Hydra and OmegaConf
    3  report/       records -> tables, figures, verdicts, one HTML page
       run/          trains one cell, from its configuration to its records: start reading here
    4  terminal/     what a person sees on a terminal
       config.py     the configuration of a cell, and its digest
    5  training/     the training loop, the optimizers, stacks of replicas
    6  models/       the networks
       data/         the images, the order of an epoch, the data sets on this machine
       store/        the files of a cell: results, curves, checkpoints, the lock
    7  norms/        the normalization layers
    8  files.py      atomic writes, validated reads, locks
       registry.py   choices by name
    9  errors.py     what can go wrong that is no mistake of the program

Each room's docstring names its modules. Everything from ``training/`` down can be used without the
command line::

    from normbench import NORMS, diagnose, stack, swap_norm, unstack

The whole comparison from Python, as the command line makes it::

    from normbench import advise, compare
"""

from importlib import import_module

TYPE_CHECKING = False  # as mypy takes it; the command line must not wait for typing either

if TYPE_CHECKING:
    from normbench.launch.notebook import advise, compare
    from normbench.norms import NORMS, describe_swap, swap_norm
    from normbench.run.diagnose import diagnose
    from normbench.training.stacking import stack, unstack

__all__ = [
    "NORMS",
    "advise",
    "compare",
    "describe_swap",
    "diagnose",
    "stack",
    "swap_norm",
    "unstack",
]

_HOME = {
    "NORMS": "normbench.norms",
    "advise": "normbench.launch.notebook",
    "compare": "normbench.launch.notebook",
    "describe_swap": "normbench.norms",
    "swap_norm": "normbench.norms",
    "diagnose": "normbench.run.diagnose",
    "stack": "normbench.training.stacking",
    "unstack": "normbench.training.stacking",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is asked for: the command line must not wait for torch."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
