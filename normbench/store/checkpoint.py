"""Checkpoints: the state of a training in one file that is whole, or is not believed.

A file is a line that says what it is, the SHA-256 of all that follows, a line of JSON, and tensors
in the safetensors format. Nothing in it can run code. It is written beside its place, synced and
renamed; the one before it is kept, and read where the newest turns out to be damaged.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from normbench.errors import UnreadableError, UsageError
from normbench.files import write_atomically
from normbench.store.weights import on_cpu

MAGIC = b"normbench checkpoint 1\n"
KEPT = 2
"""How many checkpoints of a training are there at most."""

DAMAGED = ".damaged"
"""What a damaged checkpoint's name ends with once it has been found out."""

_NAME = re.compile(r"step-(\d{1,18})\.checkpoint")
_DIGEST_BYTES = 65  # hexadecimal, and the end of the line
_LONGEST_HEAD = 1 << 24


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file held.

    Attributes:
        path: the file.
        tensors: by name, on the CPU.
        values: what JSON can hold.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
    """Writes a checkpoint and removes all but the one before it.

    Args:
        folder: where the checkpoints of this training are.
        step: how far it has come.
        tensors: its tensors; those on a GPU are copied from it.
        values: the rest, for JSON.

    Raises:
        OSError: it could not be written; the earlier ones are then as they were.
    """
    own = on_cpu(tensors)
    head = json.dumps(values).encode() + b"\n"
    # Bytes, because the library's own writing to a file reports a full disk as another error.
    body = bytes_of(own)
    digest = hashlib.sha256(head)
    digest.update(body)

    def write(path: Path) -> None:
        with path.open("wb") as file:
            for part in (MAGIC, digest.hexdigest().encode() + b"\n", head, body):
                file.write(part)

    before = files(folder)
    path = folder / f"step-{step:09d}.checkpoint"
    write_atomically(path, write)
    for old in [each for each in before if each != path][KEPT - 1 :]:
        _remove(old)
    return path


def files(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, the newest first; none where there is no such folder."""
    found = [
        (match, path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, key=lambda pair: int(pair[0][1]), reverse=True)]


def heads(folder: Path, *, verified: bool = False) -> Iterator[Mapping[str, Any]]:
    """The values of the checkpoints in ``folder`` that say any, the newest first.

    Whoever goes on from a checkpoint uses :func:`load`; this only tells what to build for it.

    Args:
        folder: where the checkpoints of a training are.
        verified: whether to leave out those that are not what was saved; each is then read whole.
    """
    for path in files(folder):
        values = None
        with suppress(OSError, ValueError, RecursionError):
            values = _head(path, verified=verified)
        if isinstance(values, dict):
            yield values


def _head(path: Path, *, verified: bool) -> object:
    """What the head of a file says; None where the file is none, or not what was saved.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read, or is no JSON.
    """
    if not path.is_file():  # a pipe would be waited for
        return None
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + _DIGEST_BYTES)
        values: object = json.loads(file.readline(_LONGEST_HEAD))
        if verified:
            file.seek(len(start))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if start != MAGIC + digest.encode() + b"\n":
                return None
    return values


def read(path: Path) -> Checkpoint:
    """Reads one checkpoint.

    Raises:
        UnreadableError: it is not what was saved; says how it can be told.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UnreadableError("is not a file")
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from None
    except MemoryError:
        raise UnreadableError("is larger than the memory") from None
    if not content.startswith(MAGIC):
        raise UnreadableError("is not a checkpoint of this version")
    start = len(MAGIC)
    digest, rest = content[start : start + _DIGEST_BYTES], content[start + _DIGEST_BYTES :]
    if digest != hashlib.sha256(rest).hexdigest().encode() + b"\n":
        raise UnreadableError("its SHA-256 does not match its content")
    head, _, body = rest.partition(b"\n")
    try:
        values = json.loads(head)
        tensors = tensors_of(body)
    except (ValueError, RecursionError, SafetensorError) as error:
        raise UnreadableError(f"its content makes no sense: {error}") from None
    if not isinstance(values, dict):
        raise UnreadableError("its content makes no sense: values without names")
    return Checkpoint(path, tensors, values)


def load(
    folder: Path, use: Callable[[Checkpoint], None], warn: Callable[[str], None]
) -> Checkpoint | None:
    """Uses the newest checkpoint that is sound.

    Args:
        folder: where the checkpoints of this training are.
        use: takes a checkpoint over; LookupError, TypeError, ValueError or RuntimeError from it
            mean that the checkpoint does not fit, which counts as damage.
        warn: told, in one line, of each one that is damaged, where one before it is used.

    Returns:
        The checkpoint used; None where there is none at all.

    Raises:
        UsageError: there are some and all are damaged: starting over is not for us to decide.
    """
    for half_written in folder.glob(".step-*"):
        _remove(half_written)
    found = files(folder)
    reasons: list[str] = []
    for path in found:
        try:
            checkpoint = read(path)
            use(checkpoint)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reasons.append(str(error).partition("\n")[0])
        else:
            for damaged, reason in zip(found, reasons, strict=False):
                warn(f"damaged checkpoint, the one before it is used: {damaged}: {reason}")
                damaged.replace(damaged.with_suffix(DAMAGED))  # out of the way of the next ones
            return checkpoint
    if found:
        each = [f"{path.name} {reason}" for path, reason in zip(found, reasons, strict=True)]
        raise UsageError(
            f"{folder}: no checkpoint can be used ({'; '.join(each)}); put a sound copy there,"
            " or remove them to begin this training anew"
        )
    return None


def clear(folder: Path) -> None:
    """Removes the checkpoints of a training that has come to its end."""
    for pattern in ("step-*.checkpoint", f"step-*{DAMAGED}", ".step-*"):
        for path in folder.glob(pattern):
            _remove(path)


def _remove(path: Path) -> None:
    """Removes what may also be a folder; what cannot be removed is no reason to end anything."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
