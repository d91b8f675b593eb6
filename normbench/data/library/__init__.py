"""The data sets on this machine, by name: one checked file each, in one folder.

From the top down::

    fetching.py        downloads; the only module that touches the network
    importing.py       a folder, an archive or CIFAR's files -> a data set
    image_folder.py    class folders    containers.py   files of a folder, .tar or .zip
    cifar.py           CIFAR's files    decoding.py     encoded images -> pixels
    image_set.py       a data set as one file, with its digest
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from safetensors import SafetensorError

from normbench.data.library import cifar, image_set
from normbench.data.library.image_set import (
    Description,
    Entry,
    ImageSet,
    content_digest,
)
from normbench.errors import UnreadableError, UsageError
from normbench.files import DATA_SET, data_folder, data_sets, locked

__all__ = [
    "DOWNLOADABLE",
    "NAME",
    "RESERVED",
    "DamagedError",
    "Description",
    "Entry",
    "ImageSet",
    "available",
    "check_name",
    "content_digest",
    "describe",
    "find",
    "load",
    "lock",
    "save",
    "verify",
    "writing",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = ("auto", "synthetic", "images")  # values of `data=` that are not one particular set
DOWNLOADABLE = ("cifar10", "cifar100")  # names only the genuine data may carry

_LOADED: dict[tuple[Path, int, int, int], ImageSet] = {}


class DamagedError(UsageError):
    """A data set's file is not what was saved."""


def check_name(name: str) -> str:
    """Returns the name itself, if a data set may bear it.

    Raises:
        UsageError: it has characters no file name needs, or means something else in ``data=``.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"data set name {name!r} is not allowed: use 1 to 64 letters, digits, dots, dashes or "
            "underscores, the first a letter or digit"
        )
    if name.lower() in RESERVED:
        raise UsageError(
            f"data set name {name!r} is taken: `data={name}` means something else; choose another"
            " --name"
        )
    return name


def lock(name: str) -> AbstractContextManager[None]:
    """Holds a name against other processes, so that looking for it and saving it are one step."""
    return locking(data_folder() / ".locks" / f"{name}.lock")


@contextmanager
def locking(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock ``path`` in the library; ``waiting`` is called if another process has it.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with ExitStack() as stack:
        with writing(path):
            stack.enter_context(locked(path, waiting=waiting))
        yield


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns everything that writing to the library can raise into one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or _reason(str(error))
        raise UsageError(
            f"cannot write {path}: {reason}; make room, or set NORMBENCH_DATA to another folder"
        ) from None


def _reason(text: str) -> str:
    """What the system says, in what safetensors makes of it: ``… I/O error: … (os error 28)``."""
    code = re.search(r"\(os error (\d+)\)", text)
    return os.strerror(int(code[1])) if code else text


def save(images: ImageSet, source: str) -> Path:
    """Writes a data set into the library, replacing one of its name, and returns its file.

    Args:
        images: the data set; its digest has to be that of its content.
        source: where the images came from, in words.

    Raises:
        UsageError: the name is not allowed or the folder cannot be written to.
    """
    path = _path(images.name)
    with writing(path):
        image_set.write(path, images, source)
    return path


def load(name: str) -> ImageSet:
    """Reads a data set and checks it against its digest.

    Raises:
        UsageError: it is not on this machine; names the commands that bring it.
        DamagedError: its file is not what was saved.
    """
    path = _present(name)
    status = path.stat()
    key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
    with _naming_damage(name, path):
        if key not in _LOADED:  # a sweep's cells have the same images
            images = image_set.read(path)
            _LOADED.clear()
            _LOADED[key] = images
        return _LOADED[key]


def describe(name: str) -> Description:
    """What a data set's header says; its pixels are neither read nor checked.

    Raises:
        UsageError, DamagedError: as :func:`load` does.
    """
    path = _present(name)
    with _naming_damage(name, path):
        return image_set.read_header(path).description


def _present(name: str) -> Path:
    """The file of a data set; raises UsageError where there is none."""
    path = _path(name)
    if not path.is_file():
        there = ", ".join(entry.name for entry in available()) or "none"
        raise UsageError(
            f"data set {name!r} is not on this machine ({data_folder()} has: {there}):"
            f" {_bring(name)}"
        )
    return path


@contextmanager
def _naming_damage(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except UnreadableError as damage:
        raise DamagedError(
            f"data set {name!r} is damaged ({path}: {damage}): delete the file and {_bring(name)}"
        ) from None


def verify(name: str) -> Entry:
    """Checks a whole data set, pixels included, and returns its entry.

    Raises:
        UsageError: as ``load`` does.
    """
    _LOADED.clear()
    load(name)
    return image_set.read_header(_path(name))


def available() -> list[Entry]:
    """Lists the data sets on this machine by name, from their headers alone, damaged ones too."""
    try:
        paths = data_sets()
    except OSError:
        return []
    return [_entry(path) for path in paths]


def find(name: str) -> Entry | None:
    """Returns the entry of one data set, damaged or not, or None where there is no such file."""
    path = _path(name)
    return _entry(path) if path.is_file() else None


def _path(name: str) -> Path:
    return data_folder() / f"{check_name(name)}{DATA_SET}"


def _entry(path: Path) -> Entry:
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UnreadableError("it is not a file")
        return image_set.read_header(path)
    except (UnreadableError, UsageError) as damage:
        num_bytes = path.lstat().st_size if os.path.lexists(path) else 0
        return Entry(path.name.removesuffix(DATA_SET), path, num_bytes, damage=str(damage))


def _bring(name: str) -> str:
    """The commands that bring a data set."""
    own = f"`normbench data import PATH --name {name}`"
    if name in DOWNLOADABLE:
        like = next((e.name for e in available() if cifar.has_classes_of(name, e.classes)), None)
        also = (
            f", or train on `data=images data.name={like}`, which has its classes" if like else ""
        )
        return f"run `normbench data fetch {name}` or {own}{also}"
    return f"run {own} (or `normbench data fetch cifar10` for CIFAR-10)"
