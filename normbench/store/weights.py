"""The tensors of a network in a file: written as safetensors, read without running anything."""

import pickle
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from normbench.errors import UnreadableError
from normbench.files import write_bytes

WEIGHTS = "model.safetensors"
"""The file in a seed's folder."""

_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError,
    AttributeError,
)  # fmt: skip


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors by name as a safetensors file, with :func:`write_bytes`."""
    plain = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    write_bytes(path, bytes_of(plain))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that ``torch.save`` wrote, by name.

    A file of ``torch.save`` may have its tensors under ``state_dict`` or ``model``.

    Raises:
        UnreadableError: it is neither; the message does not name the file.
    """
    if not path.is_file():  # a pipe would be waited for without end
        raise UnreadableError("it is no plain file" if path.exists() else "there is no such file")
    try:
        content = path.read_bytes()
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnreadableError(f"it cannot be read: {reason}") from None
    try:
        found: Any = tensors_of(content)
    except SafetensorError:
        found = _saved_by_torch(content)
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping):
        raise UnreadableError("it holds no tensors by name (a state_dict)")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UnreadableError("it holds no tensors by name (a state_dict)")
    return tensors


def _saved_by_torch(content: bytes) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):  # of a file that is no tensors
            return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except _UNREADABLE:
        raise UnreadableError(
            "it is neither a safetensors file nor tensors saved by torch.save; save"
            " model.state_dict(), not the model"
        ) from None
