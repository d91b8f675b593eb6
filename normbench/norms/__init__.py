"""The normalization layers. A new one is one file in this package.

Each module holds a family: its configuration dataclass (with the formula and the reference
definition), its layer, and its place in ``NORMS``. What they share::

    swap.py    changes the norm of a network that exists already
    base.py    configuration, shape checks, scale and shift
"""

from normbench.norms.base import NORMS, Norm, NormConfig
from normbench.norms.swap import swap_norm

NORMS.discover(__name__, __path__)

__all__ = ["NORMS", "Norm", "NormConfig", "swap_norm"]
