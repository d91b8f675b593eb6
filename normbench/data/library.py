"""The data sets on this machine: one checked file each, in one folder.

A data set is one ``<name>.safetensors`` of pixels and labels, with classes, origin and a digest in
its header. One file, written beside its place and renamed into it, is there wholly or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from platformdirs import user_data_path
from safetensors import SafetensorError, safe_open

from normbench.errors import UsageError

if TYPE_CHECKING:  # listing the data sets reads headers only, and must not wait for torch
    from torch import Tensor

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = ("auto", "synthetic", "images")  # values of `data=` that are not one particular set
DOWNLOADABLE = ("cifar10", "cifar100")  # names only the genuine data may carry

_FORMAT = "normbench-images-1"
_SUFFIX = ".safetensors"
_PARTS = ("train_images", "train_labels", "test_images", "test_labels")
_STALE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Labelled images of one size, split into a training and a test set.

    Args:
        name: what ``data.name`` calls it.
        sha256: ``content_digest`` of the rest, so independent of name, container, path and machine.
        classes: class names; label i is `classes[i]`.
        train_images: uint8 [N, 3, H, W].
        train_labels: int64 [N].
        test_images: uint8 [M, 3, H, W].
        test_labels: int64 [M].
    """

    name: str
    sha256: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the library, read from a file's header.

    Args:
        name: the data set's name.
        path: its file.
        num_bytes: size of the file, in bytes.
        damage: why the file cannot be used, or None; where it is set, the fields below are empty.
        source: where the images came from, in words.
        sha256: the content digest the file claims (``verify`` checks it).
        classes: class names in label order.
        num_train, num_test: images in each split.
        image_size: height and width, in pixels.
    """

    name: str
    path: Path
    num_bytes: int
    damage: str | None = None
    source: str = ""
    sha256: str = ""
    classes: tuple[str, ...] = ()
    num_train: int = 0
    num_test: int = 0
    image_size: tuple[int, int] = (0, 0)


class _DamageError(Exception):
    """The file is not a sound data set; the text says why."""


def root() -> Path:
    """Returns the folder of the data sets: $NORMBENCH_DATA, else one in the user's data folder.

    It need not exist yet.
    """
    chosen = os.environ.get("NORMBENCH_DATA")
    return Path(chosen).expanduser() if chosen else user_data_path("normbench")


def check_name(name: str) -> str:
    """Returns the name itself, if a data set may bear it.

    Raises:
        UsageError: it has characters no file name needs, or means something else in ``data=``.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"data set name {name!r} is not allowed: use 1 to 64 letters, digits, dots, dashes or "
            "underscores, beginning with a letter or digit"
        )
    if name.lower() in RESERVED:
        raise UsageError(
            f"data set name {name!r} is taken: {', '.join(RESERVED)} mean something else in `data=`"
        )
    return name


def content_digest(
    classes: Sequence[str],
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
) -> str:
    """Computes the SHA-256 (hex) of classes, shapes, pixels and labels, the same on any machine.

    Args:
        classes: class names in label order.
        train_images, test_images: uint8 [N, 3, H, W].
        train_labels, test_labels: int64 [N].
    """
    tensors = (train_images, train_labels, test_images, test_labels)
    head = {"format": _FORMAT, "classes": list(classes), "shapes": [list(t.shape) for t in tensors]}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode() + b"\n")
    for tensor in tensors:
        array = tensor.contiguous().numpy()
        # labels are fixed to little endian, so that the digest is not a property of the machine
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds a name against other processes, so that looking for it and saving it are one step."""
    folder = root() / ".locks"
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / f"{name}.lock")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def save(images: ImageSet, source: str) -> Path:
    """Writes a data set into the library, replacing one of its name, and returns its file.

    Args:
        images: the data set; its digest has to be that of its content.
        source: where the images came from, in words.

    Raises:
        UsageError: the name is not allowed or the folder cannot be written to.
    """
    from safetensors.torch import save_file

    path = _path(images.name)
    tensors = {part: getattr(images, part).contiguous() for part in _PARTS}
    metadata = {
        "format": _FORMAT,
        "classes": json.dumps(images.classes),
        "source": source,
        "sha256": images.sha256,
    }
    assert images.sha256 == content_digest(images.classes, **tensors), (
        "the digest is of other content"
    )
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        handle, name = tempfile.mkstemp(prefix=f".{images.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            save_file(tensors, temporary, metadata)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def load(name: str) -> ImageSet:
    """Reads a data set and checks it against its digest.

    Raises:
        UsageError: it is not on this machine, or damaged; names the commands that bring it.
    """
    path = _path(name)
    if not path.is_file():
        raise UsageError(_missing(name))
    try:
        header = _read_header(path)
        with _opened(path, "pt") as file:
            tensors = {part: file.get_tensor(part) for part in _PARTS}
        _check_labels(tensors["train_labels"], tensors["test_labels"], header)
        if content_digest(header.classes, **tensors) != header.sha256:
            raise _DamageError("its content does not match its digest")
    except _DamageError as damage:
        raise UsageError(
            f"data set {name!r} is damaged ({path}: {damage}): delete the file and {_bring(name)}"
        ) from None
    return ImageSet(name, header.sha256, header.classes, **tensors)


def verify(name: str) -> Entry:
    """Checks a whole data set, pixels included, and returns its entry.

    Raises:
        UsageError: as ``load`` does.
    """
    load(name)
    return _read_header(_path(name))


def available() -> list[Entry]:
    """Lists the data sets on this machine by name, from their headers alone, damaged ones too."""
    folder = root()
    try:
        paths = sorted(path for path in folder.glob(f"*{_SUFFIX}") if not path.name.startswith("."))
    except OSError:
        return []
    return [_entry(path) for path in paths]


def find(name: str) -> Entry | None:
    """Returns the entry of one data set, damaged or not, or None where there is no such file."""
    path = _path(name)
    return _entry(path) if path.is_file() else None


def _path(name: str) -> Path:
    return root() / f"{check_name(name)}{_SUFFIX}"


def _entry(path: Path) -> Entry:
    try:
        return _read_header(path)
    except _DamageError as damage:
        num_bytes = path.lstat().st_size if os.path.lexists(path) else 0
        return Entry(path.name.removesuffix(_SUFFIX), path, num_bytes, damage=str(damage))


def _read_header(path: Path) -> Entry:
    """What the header says, after checking that it says something consistent."""
    with _opened(path, "np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise _DamageError("it is not a normbench data set")
        if set(file.keys()) != set(_PARTS):
            raise _DamageError(
                f"it holds {', '.join(sorted(file.keys()))} instead of {', '.join(sorted(_PARTS))}"
            )
        slices = {part: file.get_slice(part) for part in _PARTS}
        shapes = {part: tuple(slices[part].get_shape()) for part in _PARTS}
        types = {part: slices[part].get_dtype() for part in _PARTS}
    _check_shapes(shapes, types)
    return Entry(
        name=path.name.removesuffix(_SUFFIX),
        path=path,
        num_bytes=path.stat().st_size,
        source=metadata.get("source", ""),
        sha256=metadata.get("sha256", ""),
        classes=_parse_classes(metadata.get("classes", "")),
        num_train=shapes["train_images"][0],
        num_test=shapes["test_images"][0],
        image_size=(shapes["train_images"][2], shapes["train_images"][3]),
    )


def _parse_classes(text: str) -> tuple[str, ...]:
    try:
        classes = json.loads(text)
    except ValueError:
        raise _DamageError("its class names cannot be read") from None
    if not (
        isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)
    ):
        raise _DamageError("its class names cannot be read")
    return tuple(classes)


def _check_shapes(shapes: dict[str, tuple[int, ...]], types: dict[str, str]) -> None:
    for part in _PARTS:
        wanted, rank = ("U8", 4) if part.endswith("images") else ("I64", 1)
        shape = shapes[part]
        if (
            types[part] != wanted
            or len(shape) != rank
            or (rank == 4 and shape[1] != 3)
            or 0 in shape
        ):
            raise _DamageError(f"{part} is {types[part]} {list(shape)}")
    for split in ("train", "test"):
        images, labels = shapes[f"{split}_images"][0], shapes[f"{split}_labels"][0]
        if images != labels:
            raise _DamageError(f"{images} {split} images have {labels} labels")
    if shapes["train_images"][2:] != shapes["test_images"][2:]:
        raise _DamageError("training and test images differ in size")


def _check_labels(train: Tensor, test: Tensor, header: Entry) -> None:
    low = min(int(train.min()), int(test.min()))
    high = max(int(train.max()), int(test.max()))
    if low < 0 or high >= len(header.classes):
        raise _DamageError(
            f"its labels run from {low} to {high}, but it has {len(header.classes)} classes"
        )


@contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    """The safetensors file, with everything its reader can raise turned into `_DamageError`."""
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise _DamageError(" ".join(str(error).split()) or type(error).__name__) from None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot write {path}: {reason}; make room, or set NORMBENCH_DATA to another folder"
        ) from None


def _sync(path: Path) -> None:
    """Have the system put a file or folder on the disk before anything relies on it."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder, and needs no such step
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what a killed `save` left. A younger file may belong to one that is still writing."""
    for leftover in folder.glob(".*.tmp"):
        if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
            leftover.unlink(missing_ok=True)


def _bring(name: str) -> str:
    download = f"`normbench data fetch {name if name in DOWNLOADABLE else 'cifar10'}`"
    own = f"`normbench data import PATH --name {name}`"
    return (
        f"run {download} or {own}"
        if name in DOWNLOADABLE
        else f"run {own} (or {download} for CIFAR-10)"
    )


def _missing(name: str) -> str:
    there = ", ".join(entry.name for entry in available()) or "none"
    return f"data set {name!r} is not on this machine ({root()} has: {there}): {_bring(name)}"
