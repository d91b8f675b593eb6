"""The networks. A new one is one file in this package.

From the top down::

    python.py        a network of one's own
    foreign.py       networks of torchvision and timm
    inspection.py    a network layer by layer: shapes, averaged axes, parameters, FLOPs
    base.py          what all networks share: configuration, initialization, a file of weights
    files.py         files that networks come from
"""

from normbench.models.base import MODELS, ModelConfig

MODELS.discover(__name__, __path__)

__all__ = ["MODELS", "ModelConfig"]
