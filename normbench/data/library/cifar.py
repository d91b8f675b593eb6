"""The files CIFAR-10 and CIFAR-100 are published as, read without running anything in them.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. The "python version" consists of pickles, and a
pickle is a program. Here it may only put together dictionaries, lists, strings and byte arrays.
"""

import hashlib
import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from normbench.errors import UsageError

SIDE = 32
_PIXELS = 3 * SIDE * SIDE
_Images = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """One published form of one data set.

    Args:
        name: the data set, ``cifar10`` or ``cifar100``.
        archive: the file name of its archive.
        folder: the folder inside the archive that holds the files.
        train: the files of the training set, in order.
        test: the file of the test set.
        meta: the file of the class names.
        label_key: where a pickle keeps its labels; None: the files are binary.
        names_key: where the pickle of the class names keeps them.
        label_bytes: bytes of labels ahead of each binary record's pixels; the last one counts.
        digests: the published digest of each file, MD5 (32 digits) or SHA-256 (64).
    """

    name: str
    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    digests: Mapping[str, str]
    label_key: str | None = None
    names_key: str = ""
    label_bytes: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        """All files the layout consists of."""
        return (*self.train, self.test, self.meta)


@dataclass(frozen=True, slots=True)
class Cifar:
    """What a layout's files hold.

    Args:
        classes: class names in label order.
        train_images, test_images: uint8 [N, 3, 32, 32].
        train_labels, test_labels: int64 [N].
    """

    classes: tuple[str, ...]
    train_images: _Images
    train_labels: _Labels
    test_images: _Images
    test_labels: _Labels


# Digests of the python version: torchvision's. Of the binary version, for which its publisher gives
# none by file: torchvision-ruby's; class names there are plain text, and known.
LAYOUTS = (
    Layout(
        name="cifar10",
        archive="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        label_key="labels",
        names_key="label_names",
        digests={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
    Layout(
        name="cifar10",
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test="test_batch.bin",
        meta="batches.meta.txt",
        digests={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
    ),
    Layout(
        name="cifar100",
        archive="cifar-100-python.tar.gz",
        folder="cifar-100-python",
        train=("train",),
        test="test",
        meta="meta",
        label_key="fine_labels",
        names_key="fine_label_names",
        digests={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
    Layout(
        name="cifar100",
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        meta="fine_label_names.txt",
        label_bytes=2,
        digests={
            "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
    ),
)

# SHA-256 over the class names, joined by newlines ("airplane\nautomobile...").
_NAMES = {
    "cifar10": "bb3914949cecedee6d1257f7f5fdb8f43fa3b2c8095fd1763161caf1b873fe59",
    "cifar100": "fbe8ad23bbaf24969898a386833b49c3aaf6ad1119d43f7b41cdea1b3416d578",
}

BY_FOLDER = {layout.folder: layout for layout in LAYOUTS}


def parse(layout: Layout, files: Mapping[str, bytes], where: str) -> Cifar:
    """Reads a layout's files.

    Args:
        layout: which form they have.
        files: their contents by name.
        where: what they were found in, for messages.

    Raises:
        UsageError: a file is missing, damaged, or a pickle that wants to load more than data.
    """
    missing = [name for name in layout.files if name not in files]
    if missing:
        raise UsageError(f"{where}: {layout.folder} lacks {', '.join(missing)}; get it afresh")
    where = f"{where}: {layout.folder}"
    classes = _class_names(layout, files[layout.meta], f"{where}/{layout.meta}")
    read = _read_binary if layout.label_key is None else _read_pickle
    parts = []
    for name in (*layout.train, layout.test):
        images, labels = read(layout, files[name], f"{where}/{name}")
        if labels.size == 0 or labels.min() < 0 or labels.max() >= len(classes):
            _damaged(f"{where}/{name}", f"labels outside 0..{len(classes) - 1}")
        parts.append((images, labels))
    *train, (test_images, test_labels) = parts
    train_images = np.concatenate([images for images, _ in train])
    train_labels = np.concatenate([labels for _, labels in train])
    # copied: it may be a view of the file's bytes
    return Cifar(classes, train_images, train_labels, test_images.copy(), test_labels)


def is_genuine(layout: Layout, files: Mapping[str, bytes], classes: tuple[str, ...]) -> bool:
    """Returns whether these are the published files, by their digests and class names."""
    return has_classes_of(layout.name, classes) and all(
        _digest(files[name], len(digest)) == digest for name, digest in layout.digests.items()
    )


def has_classes_of(name: str, classes: Sequence[str]) -> bool:
    """Whether these are the classes of ``cifar10`` or ``cifar100``, in its order."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest() == _NAMES[name]


def _digest(content: bytes, num_digits: int) -> str:
    # MD5 cannot vouch against a forger; it is what was published, and honest look-alikes differ
    kind = "md5" if num_digits == 32 else "sha256"
    return hashlib.new(kind, content, usedforsecurity=False).hexdigest()


def _read_binary(layout: Layout, content: bytes, where: str) -> tuple[_Images, _Labels]:
    record = layout.label_bytes + _PIXELS
    if len(content) % record:
        _damaged(where, f"{len(content)} bytes are no multiple of {record}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    images = rows[:, layout.label_bytes :].reshape(-1, 3, SIDE, SIDE)
    return images, rows[:, layout.label_bytes - 1].astype(np.int64)


def _read_pickle(layout: Layout, content: bytes, where: str) -> tuple[_Images, _Labels]:
    batch = _unpickle(content, where)
    pixels, labels = batch.get("data"), batch.get(layout.label_key)
    if not (isinstance(pixels, _Array) and pixels.values.shape[1:] == (_PIXELS,)):
        _damaged(where, f"its 'data' is not an array of {_PIXELS} bytes an image")
    if not (isinstance(labels, list) and all(type(n) is int and 0 <= n < 1 << 31 for n in labels)):
        _damaged(where, f"its {layout.label_key!r} is not a list of class numbers")
    if len(labels) != len(pixels.values):
        _damaged(where, f"{len(pixels.values)} images have {len(labels)} labels")
    return pixels.values.reshape(-1, 3, SIDE, SIDE), np.array(labels, np.int64)


def _class_names(layout: Layout, content: bytes, where: str) -> tuple[str, ...]:
    if layout.label_key is None:
        lines = content.decode("utf-8", "replace").split("\n")
        names: Any = [line.strip() for line in lines if line.strip()]
    else:
        names = _unpickle(content, where).get(layout.names_key)
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        _damaged(where, "it holds no class names")
    return tuple(names)


def _damaged(where: str, what: str) -> NoReturn:
    raise UsageError(f"{where} is damaged: {what}; get it afresh")


class _RefusedError(Exception):
    """A pickle asked for something that data does not need."""


def _unpickle(content: bytes, where: str) -> dict[Any, Any]:
    try:
        _check_memo(content)
        # latin1 maps bytes to characters one to one; Python 2 wrote the published files
        loaded = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except _RefusedError as refused:
        raise UsageError(f"{where} {refused}; refused, as no data file needs that") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        _damaged(where, f"{type(error).__name__}: {' '.join(str(error).split())}")
    if not isinstance(loaded, dict):
        _damaged(where, f"it holds a {type(loaded).__name__}, not a dictionary")
    return loaded


def _check_memo(content: bytes) -> None:
    """Refuses a place in the memo far beyond those in use: nine bytes could ask for gigabytes."""
    count = 0
    for opcode, place, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            count += 1
            if place is None or place > count:
                raise _RefusedError(f"asks for a memo of {place:,} places after {count:,} values")
        elif opcode.name == "MEMOIZE":
            count += 1


class _Dtype:
    """Stands for ``numpy.dtype`` in a pickle: bytes, and nothing else, least of all objects."""

    def __init__(self, kind: object, *_: object) -> None:
        if kind not in ("u1", "uint8"):
            raise _RefusedError(f"holds an array of {kind!r} instead of bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for bytes."""


class _Array:
    """Stands for ``numpy.ndarray`` in a pickle: filled here, with checks, not by numpy itself."""

    values: npt.NDArray[np.uint8]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, raw = state
        self.fill(raw, dtype, shape, "F" if fortran_order else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        content = raw.encode("latin1") if isinstance(raw, str) else bytes(memoryview(raw))
        if not isinstance(dtype, _Dtype) or math.prod(shape) != len(content):
            raise ValueError(f"{len(content)} bytes do not make an array of shape {shape}")
        # read in C order and turn, for "F": the shape comes from the file
        flat = np.frombuffer(content, np.uint8)
        self.values = flat.reshape(shape) if order == "C" else flat.reshape(shape[::-1]).T


def _from_buffer(raw: object, dtype: object, shape: object, order: str) -> _Array:
    array = _Array()
    array.fill(raw, dtype, shape, order)
    return array


# Everything an array of bytes is pickled with, by Python 2 and 3, by numpy 1 and 2.
_ALLOWED: Mapping[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}


class _Unpickler(pickle.Unpickler):
    """Hands out stand-ins for the names above; no name leads to code that is not in this file."""

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"tried to load {module}.{name}") from None

    def persistent_load(self, pid: object, /) -> Any:
        raise _RefusedError(f"tried to load {pid!r} from outside")
