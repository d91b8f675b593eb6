"""The networks. A new one is one file in this package.

From the top down::

    inspection.py    a network layer by layer: shapes, averaged axes, parameters, FLOPs
    base.py          what all networks share: configuration, initialization
"""

from normbench.models.base import MODELS, ModelConfig

MODELS.discover(__name__, __path__)

__all__ = ["MODELS", "ModelConfig"]
