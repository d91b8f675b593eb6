"""A data set as one file: pixels and labels, with classes, origin and a digest in its header.

The format is safetensors. The file, written beside its place and renamed into it, is there wholly
or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from normbench.errors import UnreadableError, UsageError
from normbench.files import DATA_SET, remove_leftovers, write_atomically

if TYPE_CHECKING:  # listing the data sets reads headers only, and must not wait for torch
    from torch import Tensor

_FORMAT = "normbench-images-1"
_PARTS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a data set without reading a pixel.

    Attributes:
        name: what ``data.name`` calls it.
        sha256: the content digest it claims; whoever loads the pixels checks it.
        classes: class names in label order.
        num_train, num_test: images in each part.
        image_size: height and width, in pixels.
    """

    name: str
    sha256: str
    classes: tuple[str, ...]
    num_train: int
    num_test: int
    image_size: tuple[int, int]


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

    @property
    def description(self) -> Description:
        """What a run needs to know of a sound data set before it loads it."""
        counts = self.num_train, self.num_test
        return Description(self.name, self.sha256, self.classes, *counts, self.image_size)


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


def write(path: Path, images: ImageSet, source: str) -> None:
    """Writes a data set to a file, replacing what is there.

    Args:
        path: the file; its folder is made where it is missing.
        images: the data set; its digest has to be that of its content.
        source: where the images came from, in words.

    Raises:
        OSError, SafetensorError: the folder cannot be written to; what was there still is.
    """
    from safetensors.torch import save_file

    tensors = {part: getattr(images, part).contiguous() for part in _PARTS}
    digest = content_digest(images.classes, **tensors)
    assert images.sha256 == digest, "the digest is of other content"
    classes = json.dumps(images.classes)
    metadata = {"format": _FORMAT, "classes": classes, "source": source, "sha256": digest}
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def read(path: Path) -> ImageSet:
    """Reads a data set from a file and checks it against its digest.

    Raises:
        UnreadableError: it is not a sound data set.
    """
    header = read_header(path)
    with _opened(path, "pt") as file:
        tensors = {part: file.get_tensor(part) for part in _PARTS}
    for part in ("train_labels", "test_labels"):
        low, high = int(tensors[part].min()), int(tensors[part].max())
        if low < 0 or high >= len(header.classes):
            raise UnreadableError(f"{part} are {low} to {high} for {len(header.classes)} classes")
    if content_digest(header.classes, **tensors) != header.sha256:
        raise UnreadableError("its content does not match its digest")
    return ImageSet(header.name, header.sha256, header.classes, **tensors)


def read_header(path: Path) -> Entry:
    """Reads a data set's entry from its file's header, which has to be consistent.

    Raises:
        UnreadableError: it is not.
    """
    with _opened(path, "np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise UnreadableError("it is not a normbench data set")
        if set(file.keys()) != set(_PARTS):
            raise UnreadableError(f"it holds {sorted(file.keys())} instead of {sorted(_PARTS)}")
        slices = {part: file.get_slice(part) for part in _PARTS}
        shapes = {part: tuple(slices[part].get_shape()) for part in _PARTS}
        types = {part: slices[part].get_dtype() for part in _PARTS}
    _check_shapes(shapes, types)
    return Entry(
        name=path.name.removesuffix(DATA_SET),
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
        names = json.loads(text)
    except ValueError:
        names = None
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise UnreadableError("its class names cannot be read")
    return tuple(names)


def _check_shapes(shapes: dict[str, tuple[int, ...]], types: dict[str, str]) -> None:
    for part, shape in shapes.items():
        is_images = part.endswith("images")
        right = len(shape) == 4 and shape[1] == 3 if is_images else len(shape) == 1
        if types[part] != ("U8" if is_images else "I64") or not right or 0 in shape:
            raise UnreadableError(f"{part} is {types[part]} {list(shape)}")
    for split in ("train", "test"):
        images, labels = shapes[f"{split}_images"][0], shapes[f"{split}_labels"][0]
        if images != labels:
            raise UnreadableError(f"{images} {split} images have {labels} labels")
    if shapes["train_images"][2:] != shapes["test_images"][2:]:
        raise UnreadableError("training and test images differ in size")


@contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    """The safetensors file, with everything its reader can raise turned into `UnreadableError`."""
    try:
        with path.open("rb"):  # its reader's errors do not tell this from bad bytes
            pass
    except FileNotFoundError:
        raise UnreadableError("there is no such file") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise UnreadableError(" ".join(str(error).split()) or type(error).__name__) from None
