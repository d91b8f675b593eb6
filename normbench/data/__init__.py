"""The images. A new source is a class in this package.

From the top down::

    batches.py      the epoch plan: order, crops and flips, from (seed, epoch) alone
    sheet.py        a sheet of sample images
    sources.py      the sources of images: built in, CIFAR, one's own
    base.py         what all sources share: the configuration
    synthetic.py    the built-in images
    library/        the data sets on this machine: import, fetch, read, check
"""

from normbench.data.base import DATA, DataConfig
from normbench.data.library import ImageSet

DATA.discover(__name__, __path__)

__all__ = ["DATA", "DataConfig", "ImageSet"]
