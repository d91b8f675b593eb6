"""The networks. A new one is one file in this package."""

from normbench.models.base import MODELS, ModelConfig

MODELS.discover(__name__, __path__)

__all__ = ["MODELS", "ModelConfig"]
