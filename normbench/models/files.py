"""Files that a network comes from: known by their content, read without running anything."""

import hashlib
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from torch import Tensor, nn

from normbench.errors import UnreadableError, UsageError

State = Mapping[str, Tensor]

COUNTER = "num_batches_tracked"
"""How torch's batch norm calls the number of batches that it has seen; nothing computes with it."""

_WRAPPED = re.compile(r"^(?:module\.)+")

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Under which keys a checkpoint has its tensors."""


def sha256_of(key: str, file: str) -> str:
    """The SHA-256 (hex) of a file's content.

    Args:
        key: the setting that names it, for the error.
        file: its path; a leading ~ is the home folder.

    Raises:
        UsageError: there is no such file, or it cannot be read.
    """
    path = _path(key, file)
    status = path.stat()
    return _sha256(key, path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _sha256(key: str, path: Path, _changed: int, _size: int) -> str:
    return hashlib.sha256(_content(key, path)).hexdigest()


def content_of(key: str, file: str, sha256: str) -> bytes:
    """The content of a file that must have the digest ``sha256``.

    Raises:
        UsageError: there is no such file, it cannot be read, or it has changed.
    """
    content = _content(key, _path(key, file))
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UsageError(f"{key}={file}: its SHA-256 is {found}, not {key}_sha256={sha256}")
    return content


def _path(key: str, file: str) -> Path:
    try:
        path = Path(file).expanduser()
        is_file = path.is_file()
    except (RuntimeError, ValueError, OSError):
        is_file = False
    if not is_file:
        raise UsageError(f"{key}={file}: there is no such file")
    return path


def _content(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(f"{key}={path}: cannot be read: {reason}") from None


@lru_cache(maxsize=1)  # the seeds of a cell start from the same file
def read_weights(file: str, sha256: str) -> State:
    """The tensors of a file by :func:`plain_name`, see :func:`tensors_in`.

    Raises:
        UsageError: it is no file of weights, or has changed.
    """
    try:
        found = tensors_in(content_of("model.weights", file, sha256))
    except UnreadableError as error:
        raise UsageError(f"model.weights={file}: {error}") from None
    return {plain_name(name): value for name, value in found.items()}


def plain_name(name: str) -> str:
    """A tensor's name without what ``torch.compile`` and DistributedDataParallel put into it."""
    return _WRAPPED.sub("", name.replace("_orig_mod.", ""))


def tensors_in(content: bytes) -> dict[str, Tensor]:
    """The tensors by name in what a safetensors file, or one that ``torch.save`` wrote, holds.

    A dictionary may have its tensors under one of ``WRAPPERS``. Nothing in it can run code.

    Raises:
        UnreadableError: it is neither.
    """
    try:
        found: Any = tensors_of(content)
    except SafetensorError:
        found = _saved_by_torch(content)
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    named = found.items() if isinstance(found, Mapping) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise UnreadableError("holds no tensors by name (a state_dict)")
    return tensors


def _saved_by_torch(content: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another pickle protocol is read, or is an error
            return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # of a dozen kinds: the content can be anything
        raise UnreadableError(
            "is neither a safetensors file nor tensors saved by torch.save; save"
            " model.state_dict(), not the model"
        ) from None


def without_counters(state: State) -> dict[str, Tensor]:
    """The tensors that a network computes with."""
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


def load_weights(model: nn.Module, state: State, file: str) -> str | None:
    """Gives ``model`` the tensors of ``state``, named as :func:`plain_name` says.

    The last layer may be another, and any one layer may have another number of outputs; it then
    stays as it is.

    Returns:
        A line about a layer that was not loaded; None where all was.

    Raises:
        UsageError: the tensors are those of another network.
    """
    tensors, theirs = without_counters(model.state_dict()), without_counters(state)
    mine = {plain_name(name): name for name in tensors}
    own = {plain: tensors[name] for plain, name in mine.items()}
    kinds = (nn.Linear, nn.Conv2d)
    layers = [plain_name(n) for n, m in model.named_modules() if isinstance(m, kinds)]
    other = [k for k in own if k in theirs and own[k].shape != theirs[k].shape]
    places = {k.rpartition(".")[0] for k in other}
    outputs = all(own[k].shape[1:] == theirs[k].shape[1:] for k in other)
    head = len(places) == 1 and places <= {*(layers if outputs else layers[-1:])}
    for problem, names in (
        ("has no", [k for k in own if k not in theirs]),
        ("has a tensor that this network has not,", [k for k in theirs if k not in own]),
        ("has another shape of", [] if head else other),
    ):
        if names:
            raise UsageError(
                f"model.weights={file}: it {problem} {names[0]} ({len(names)} such of {len(own)}"
                " tensors), so it is of another network or norm"
            )
    model.load_state_dict({mine[k]: v for k, v in theirs.items() if k not in other}, strict=False)
    if not other:
        return None
    if not outputs:
        return (
            f"model.weights: {other[0]} has another shape in the file: {places.pop()} starts anew"
        )
    a, b = len(theirs[other[0]]), len(own[other[0]])
    return f"model.weights: {places.pop()} has {a} outputs in the file and {b} here: it starts anew"
