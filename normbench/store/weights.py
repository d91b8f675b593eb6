"""The tensors of a network in a file: ``model.safetensors`` in a seed's folder."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from safetensors.torch import save as bytes_of
from torch import Tensor

from normbench.files import write_bytes

WEIGHTS = "model.safetensors"
"""The file in a seed's folder."""

TORCH = (".pt", ".pth")
"""How a file that ``torch.save`` wrote ends."""

ENDINGS = (".safetensors", *TORCH)
"""How a file of weights may end."""


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, contiguous, on the CPU, no two in one memory.

    A layer of a network may have two names; the safetensors format has none for that, and reading
    gives both names the same values.
    """
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous().cpu()
        memory = own.untyped_storage().data_ptr()
        found[name] = own.clone() if memory in taken else own
        taken.add(memory)
    return found


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors by name as a file of the format that its ending, one of ``ENDINGS``, says.

    Raises:
        OSError: see :func:`normbench.files.write_atomically`.
    """
    held = on_cpu(tensors)
    # Bytes, because the libraries' own writing to a file reports a full disk as another error.
    if path.suffix in TORCH:
        buffer = BytesIO()
        torch.save(held, buffer)
        content = buffer.getvalue()
    else:
        content = bytes_of(held)
    write_bytes(path, content)
