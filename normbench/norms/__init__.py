"""The normalization layers. A new one is one file in this package.

Each module holds a family: its configuration dataclass (with the formula and the reference
definition), its layer, and its place in ``NORMS``. What they share::

    swap.py    puts a norm into a network: the only way there
    foreign.py  the norms of other libraries: which layer is one, and what it holds
    folding.py  folds norms into the convolutions before them
    base.py    a norm's configuration and its layer    parts.py  what a norm may change of a network
    settings.py  the ranges of settings, and the errors that name them
    published.py  what others have found at a small batch
    moments.py  means and variances with a fast backward pass
"""

from normbench.norms.base import NORMS, Norm, NormConfig
from normbench.norms.swap import Swap, describe_swap, swap_norm

NORMS.discover(__name__, __path__)

__all__ = ["NORMS", "Norm", "NormConfig", "Swap", "describe_swap", "swap_norm"]
