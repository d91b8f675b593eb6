"""The networks. A new one is a file in this package and a file in ``configs/model``."""

from normbench.models.base import MODELS, ModelConfig, NormBuilder

MODELS.discover(__name__, __path__)

__all__ = ["MODELS", "ModelConfig", "NormBuilder"]
