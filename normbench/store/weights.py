"""The tensors of a network in a file: ``model.safetensors`` in a seed's folder."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save as bytes_of
from torch import Tensor

from normbench.files import write_bytes

WEIGHTS = "model.safetensors"
"""The file in a seed's folder."""


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors by name as a safetensors file, with :func:`write_bytes`."""
    # The library's own writing to a file reports a full disk as another error.
    write_bytes(path, bytes_of({k: tensor.contiguous().cpu() for k, tensor in tensors.items()}))
