"""The networks. A new one is a file in this package and a file in ``configs/model``.

From the top down::

    inspection.py    a network layer by layer: shapes, averaged axes, parameters, FLOPs
    base.py          what all networks share: configuration, initialization
"""

from normbench.models.base import MODELS, ModelConfig, NormBuilder

MODELS.discover(__name__, __path__)

__all__ = ["MODELS", "ModelConfig", "NormBuilder"]
