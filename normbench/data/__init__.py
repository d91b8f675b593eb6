"""The images. A new source is a class in this package and a file in ``configs/data``."""

from normbench.data.base import DATA, DataConfig
from normbench.data.library import ImageSet

DATA.discover(__name__, __path__)

__all__ = ["DATA", "DataConfig", "ImageSet"]
