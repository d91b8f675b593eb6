"""The networks. A new one is one file in this package.

From the top down::

    convnet.py          a plain convolutional network
    preact_resnet.py    pre-activation residual networks
    resnet.py           residual networks
    wide_resnet.py      wide residual networks
    python.py           a network of one's own
    foreign.py          networks of torchvision and timm
    hidden.py           norms that a network has not as layers
    layout.py           how a network wants its images stored
    inspection.py       a network layer by layer: shapes, averaged axes, parameters, FLOPs
    base.py             what all networks share: configuration, initialization, a file of weights
    files.py            files that networks come from
    drawing.py          the random numbers that layers begin with
"""

from normbench.models.base import MODELS, ModelConfig

MODELS.discover(__name__, __path__)

__all__ = ["MODELS", "ModelConfig"]
