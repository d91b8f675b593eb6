"""Images from outside into the library: a folder, a .tar or .zip, the CIFAR files.

Archives are read as they stream by: each image is decoded where it is met, and nothing is unpacked
to the disk. What an archive says about itself (paths, sizes, links, pickles) is believed nowhere.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import tarfile
import time
import unicodedata
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from normbench.data import cifar, library
from normbench.data.library import Entry, ImageSet
from normbench.errors import UsageError

Progress = Callable[[str, int, int | None], None]
"""Is told what is going on, how many bytes are done, and how many there are (None: unknown)."""

Pixels = npt.NDArray[np.uint8]
Parts = tuple[str, ...]
"""A relative path, folder by folder."""
_Groups = dict[str, list[int]]
"""Images, by index, of each class."""

MAX_MEMBERS = 5_000_000
MAX_IMAGE_BYTES = 64 << 20
MAX_CIFAR_BYTES = 512 << 20  # CIFAR-100's training set is one file of 155 MB
MAX_IMAGE_PIXELS = 64_000_000
MAX_RESULT_BYTES = 16 << 30
# An archive may grow to so many times its size, past an amount that harms nobody: pictures hardly
# compress, and what grows more is a bomb.
MAX_GROWTH = 200
HARMLESS_BYTES = 1 << 30

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Only plain raster formats: some of Pillow's others start programs (EPS) or open further files.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")
_TEST_NAMES = ("test", "val", "valid", "validation")  # the first one there is the test set
_BLOCK_BYTES = 64 << 20
_MAX_EXTENSION_BYTES = 1 << 20
_ORIENTATION = 0x0112
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # zipfile's for a kind of compression it does not know
)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Args:
        entry: the data set in the library.
        existed: it was there already, with the same content, and nothing was written.
        num_resized: images that had another size, and were scaled and cropped.
        num_ignored: files that are no images, and were passed over.
        made_test_split: there was no test set, and a sixth of each class became it.
        left_out: folders beside the training and the test set whose images were not used.
        seconds: how long it took.
    """

    entry: Entry
    existed: bool
    num_resized: int = 0
    num_ignored: int = 0
    made_test_split: bool = False
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0


def silent(what: str, done: int, total: int | None) -> None:
    """A `Progress` that shows nothing."""


def import_images(
    path: Path,
    name: str | None,
    *,
    size: int = 32,
    replace: bool = False,
    source: str | None = None,
    progress: Progress = silent,
) -> Imported:
    """Reads images and saves them in the library as one data set.

    Accepted are ``train/<class>/*`` with ``test/<class>/*`` (or val, valid), or ``<class>/*``, in a
    folder, .tar (.gz, .xz, .bz2) or .zip, with or without one folder around it all; and CIFAR-10
    and CIFAR-100 as published, packed or not. Equal files give equal data sets, however packed.

    Args:
        path: the folder or archive.
        name: what to call the data set; None: after the file, or ``cifar10`` if it is that.
        size: height and width of the images, in pixels; others are scaled and cropped. 8 to 512.
        replace: whether a data set of that name with other content gives way.
        source: where the images came from, in words; None: the file's name.
        progress: told how many bytes have been read.

    Raises:
        UsageError: the name, the size, the file or something in it will not do. The message names
            it, and nothing has been written.
    """
    started = time.perf_counter()
    if not 8 <= size <= 512:
        raise UsageError(f"size={size}: images must be from 8 to 512 pixels wide")
    if name is not None:
        library.check_name(name)
    with _reading(path):
        path = _cifar_inside(path, name)
        found = _gather(path, size, progress)
    if found.cifar_files:
        plan, images = _Plan(), _cifar_set(found, name, size, path)
    else:
        plan = _arrange(found, path)
        images = _image_set(found, plan, _own_name(name, path))
    existed = _store(images, source or path.resolve().name, replace)
    entry = library.find(images.name)
    assert entry is not None, "it has just been saved"
    return Imported(
        entry=entry,
        existed=existed,
        num_resized=found.num_resized,
        num_ignored=found.num_ignored,
        made_test_split=plan.made_test_split,
        left_out=plan.left_out,
        seconds=time.perf_counter() - started,
    )


def _store(images: ImageSet, source: str, replace: bool) -> bool:
    """Saves the images unless they are there already; returns whether they were."""
    with library.lock(images.name):
        there = library.find(images.name)
        if there is not None and there.damage is None and there.sha256 == images.sha256:
            if is_sound(images.name):
                return True
        elif there is not None and there.damage is None and not replace:
            raise UsageError(
                f"data set {images.name!r} exists with other content ({there.num_train:,} + "
                f"{there.num_test:,} images from {there.source}): use another --name, or --replace"
            )
        library.save(images, source)
    return False


def is_sound(name: str) -> bool:
    """Returns whether a data set in the library passes all checks."""
    try:
        library.verify(name)
    except UsageError:
        return False
    return True


def _own_name(name: str | None, path: Path) -> str:
    """The name for images in folders, which are never CIFAR as published."""
    if name is None:
        stem = path.resolve().name
        suffix = max((s for s in _ARCHIVES if stem.lower().endswith(s)), key=len, default="")
        name = library.check_name(stem[: len(stem) - len(suffix)])
    if name.lower() in library.DOWNLOADABLE:
        raise UsageError(f"{path} is not {name} as published: give it another name with --name")
    return name


# ---- CIFAR as published ----


def _cifar_inside(path: Path, name: str | None) -> Path:
    """The CIFAR folder or archive in a folder that torchvision has filled; else the path itself."""
    inside: dict[str, Path] = {}
    for layout in cifar.LAYOUTS:
        if name in library.DOWNLOADABLE and name != layout.name:
            continue
        for there in (path / layout.folder, path / layout.archive):
            if there.exists():
                inside.setdefault(layout.name, there)
    if len(inside) > 1:
        listed = " and ".join(there.name for there in inside.values())
        raise UsageError(f"{path} holds {listed}: import one of them")
    return next(iter(inside.values()), path)


def _cifar_set(found: "_Found", name: str | None, size: int, path: Path) -> ImageSet:
    if len(found.cifar_files) > 1:
        raise UsageError(f"{path} holds {' and '.join(found.cifar_files)}: import one of them")
    folder, files = next(iter(found.cifar_files.items()))
    layout = cifar.BY_FOLDER[folder]
    if size != cifar.SIDE:
        raise UsageError(f"size={size}: the images in {folder} are {cifar.SIDE} pixels wide")
    content = cifar.parse(layout, files, str(path))
    genuine = cifar.is_genuine(layout, files, content.classes)
    if name is None and genuine:
        name = layout.name
    if name is None or (
        name.lower() in library.DOWNLOADABLE and not (genuine and name == layout.name)
    ):
        raise UsageError(
            f"{path} has the form of {layout.name} but is not {name or layout.name} as published "
            "(its digests differ): give it another name with --name"
        )
    splits = (content.train_images, content.train_labels, content.test_images, content.test_labels)
    return _make(name, content.classes, *splits)


# ---- images in class folders ----


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which image goes where: for each class, indices into `_Found.paths`, in order."""

    classes: tuple[str, ...] = ()
    train: Sequence[list[int]] = ()
    test: Sequence[list[int]] = ()
    made_test_split: bool = False
    left_out: tuple[str, ...] = ()


def _arrange(found: "_Found", path: Path) -> _Plan:
    """Tells training from test images, and one class from another, by their folders' names.

    The order is that of the sorted paths, whatever the order in the container.
    """
    if not found.paths:
        raise UsageError(
            f"{path} holds no images ({found.num_ignored} other files): expected "
            "train/<class>/ and test/<class>/, or <class>/, with .jpg or .png files in them"
        )
    paths, folders = _unwrap(found.paths, found.folders)
    twice = next((it for it, count in Counter(paths).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{path} holds {'/'.join(twice)} twice")
    tops = {parts[0].casefold(): parts[0] for parts in paths if len(parts) > 1}
    test_top = next((tops[name] for name in _TEST_NAMES if name in tops), None)
    if "train" not in tops or test_top is None:
        groups = _by_class(dict(enumerate(paths)), folders, path)
        _check_classes(path, {"the folder": groups})
        train, test = _hold_out(groups, paths, path)
        return _Plan(tuple(sorted(groups)), train, test, made_test_split=True)
    splits = {
        top: _by_class(
            {i: parts[1:] for i, parts in enumerate(paths) if parts[0] == top},
            {parts[1:] for parts in folders if parts[0] == top and len(parts) > 1},
            path / top,
        )
        for top in (tops["train"], test_top)
    }
    names = _check_classes(path, splits)
    train, test = ([groups[name] for name in names] for groups in splits.values())
    left_out = sorted({parts[0] for parts in paths} - splits.keys())
    return _Plan(tuple(names), train, test, left_out=tuple(left_out))


def _unwrap(paths: Iterable[Parts], folders: Iterable[Parts]) -> tuple[list[Parts], set[Parts]]:
    """Takes off a folder that is wrapped around everything, and a lone train/ below it."""
    paths, folders = list(paths), set(folders)
    for only_train in (False, True):
        tops = {parts[0] for parts in paths}
        top = next(iter(tops))
        wraps = len(tops) == 1 and any(len(parts) > 2 for parts in paths)
        if wraps and (not only_train or top.casefold() == "train"):
            paths = [parts[1:] for parts in paths]
            folders = {parts[1:] for parts in folders if parts[0] == top and len(parts) > 1}
    return paths, folders


def _by_class(paths: Mapping[int, Parts], folders: Iterable[Parts], path: Path) -> _Groups:
    """Sorts images into classes, named by their first folder; a folder without images counts."""
    groups: _Groups = {parts[0]: [] for parts in folders}
    for index, parts in sorted(paths.items(), key=lambda item: item[1]):
        if len(parts) < 2:
            raise UsageError(f"{path}: image {parts[0]} is in no class folder")
        groups.setdefault(parts[0], []).append(index)
    return groups


def _check_classes(path: Path, splits: Mapping[str, _Groups]) -> list[str]:
    names = sorted(set().union(*splits.values()))
    for split, groups in splits.items():
        empty = next((name for name in names if not groups.get(name)), None)
        if empty is not None:
            raise UsageError(f"{path}: class {empty!r} has no images in {split}")
    if len(names) < 2:
        raise UsageError(f"{path} holds one class only ({names[0]!r}): at least two are needed")
    return names


def _hold_out(
    groups: _Groups, paths: Sequence[Parts], path: Path
) -> tuple[list[list[int]], list[list[int]]]:
    """Makes a sixth of each class the test set: always the same one, by a hash of the paths."""
    train, test = [], []
    for name, indices in sorted(groups.items()):
        if len(indices) < 2:
            raise UsageError(
                f"{path}: class {name!r} has one image, too few to hold some out for the test set"
            )
        drawn = sorted(indices, key=lambda i: hashlib.sha256("/".join(paths[i]).encode()).digest())
        held_out = set(drawn[: max(1, len(indices) // 6)])
        train.append([i for i in indices if i not in held_out])
        test.append([i for i in indices if i in held_out])
    return train, test


def _image_set(found: "_Found", plan: _Plan, name: str) -> ImageSet:
    orders = [np.array([i for group in split for i in group]) for split in (plan.train, plan.test)]
    labels = [
        np.repeat(np.arange(len(split)), [len(group) for group in split])
        for split in (plan.train, plan.test)
    ]
    train, test = _reorder(found.blocks, orders)
    return _make(name, plan.classes, train, labels[0], test, labels[1])


def _reorder(blocks: list[Pixels], orders: Sequence[npt.NDArray[np.int64]]) -> list[Pixels]:
    """Picks images out of the blocks in the orders given, emptying the blocks to save memory."""
    total = sum(len(block) for block in blocks)
    results = [np.empty((len(order), *blocks[0].shape[1:]), np.uint8) for order in orders]
    places = [np.full(total, -1) for _ in orders]
    for place, order in zip(places, orders, strict=True):
        place[order] = np.arange(len(order))
    stop = total
    while blocks:
        block = blocks.pop()
        start = stop - len(block)
        for result, place in zip(results, places, strict=True):
            at = place[start:stop]
            result[at[at >= 0]] = block[at >= 0]
        stop = start
    return results


def _make(
    name: str,
    classes: tuple[str, ...],
    train_images: Pixels,
    train_labels: npt.NDArray[np.int64],
    test_images: Pixels,
    test_labels: npt.NDArray[np.int64],
) -> ImageSet:
    import torch

    arrays = (train_images, train_labels, test_images, test_labels)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return ImageSet(name, library.content_digest(classes, *tensors), classes, *tensors)


# ---- one pass over everything in a folder or archive ----


@dataclass(slots=True)
class _Found:
    """What a pass has found: images, CIFAR files, and how much else.

    Args:
        size: height and width of the images.
        blocks: the images, uint8 [_, 3, size, size]; the last block is filled as far as there are
            paths.
        paths: the path of each image.
        folders: folders met, with or without images.
        cifar_files: files of the published CIFAR sets, by folder and name.
    """

    size: int
    blocks: list[Pixels] = field(default_factory=list)
    paths: list[Parts] = field(default_factory=list)
    folders: set[Parts] = field(default_factory=set)
    cifar_files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    num_resized: int = 0
    num_ignored: int = 0

    def add(self, parts: Parts, content: bytes, path: Path) -> None:
        """Decodes one more image. Threads were tried, and gained nothing for images this small."""
        count = len(self.paths)
        image_bytes = 3 * self.size**2
        if (count + 1) * image_bytes > MAX_RESULT_BYTES:
            raise UsageError(
                f"{path}: more than {count:,} images of {self.size} x {self.size} pixels do not "
                f"fit into {MAX_RESULT_BYTES >> 30} GiB: choose a smaller size"
            )
        block = max(1, _BLOCK_BYTES // image_bytes)
        if count % block == 0:
            self.blocks.append(np.empty((block, 3, self.size, self.size), np.uint8))
        image, resized = _decode(f"{path}: {'/'.join(parts)}", content, self.size)
        self.blocks[-1][count % block] = image.transpose(2, 0, 1)
        self.paths.append(parts)
        self.num_resized += resized


@dataclass(frozen=True, slots=True)
class _Member:
    """A file or folder in the source.

    Args:
        path: as the source gives it.
        size: in bytes, as the source gives it.
        done: bytes of the source that lie behind.
        read: its content; to be called before the next member is asked for. None: a folder.
    """

    path: str
    size: int
    done: int
    read: Callable[[], bytes] | None


def _gather(path: Path, size: int, progress: Progress) -> _Found:
    found = _Found(size)
    total, members = _members(path)
    what = f"reading {path.resolve().name}"
    with warnings.catch_warnings():
        # our own limit on pixels is below the one Pillow warns of
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for count, member in enumerate(members):
            if count >= MAX_MEMBERS:
                raise UsageError(f"{path} holds more than {MAX_MEMBERS:,} files")
            _take(member, path, found)
            if count % 64 == 0:
                progress(what, member.done, total)
    progress(what, total, total)
    return found


def _take(member: _Member, path: Path, found: _Found) -> None:
    parts = _safe_parts(member.path, path)
    if _is_hidden(parts) or not parts:
        found.num_ignored += member.read is not None
        return
    if member.read is None:
        found.folders.add(parts)
        return
    folder = parts[-2] if len(parts) > 1 else path.resolve().name
    layout = cifar.BY_FOLDER.get(folder)
    if layout is not None and parts[-1] in layout.files:
        _check_size(member, MAX_CIFAR_BYTES, path)
        found.cifar_files.setdefault(folder, {})[parts[-1]] = member.read()
    elif parts[-1].lower().endswith(_SUFFIXES):
        _check_size(member, MAX_IMAGE_BYTES, path)
        found.add(parts, member.read(), path)
    else:
        found.num_ignored += 1
        found.folders.update({parts[:-1]} - {()})


def _check_size(member: _Member, limit: int, path: Path) -> None:
    if member.size > limit:
        raise UsageError(
            f"{path}: {member.path} has {member.size:,} bytes; at most {limit:,} are accepted"
        )


def _safe_parts(name: str, path: Path) -> Parts:
    """Splits a member's path, which has to stay inside its folder, and makes it printable."""
    # bytes that are no UTF-8 arrive as surrogates, which can be neither printed nor saved; and the
    # same é is one character in some archives and two in others
    clean = unicodedata.normalize(
        "NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    )
    if clean.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", clean):
        raise UsageError(f"{path}: {clean!r} is an absolute path; nothing has been imported")
    if ".." in re.split(r"[/\\]", clean):
        raise UsageError(f"{path}: {clean!r} leads out of its folder; nothing has been imported")
    return tuple(part for part in clean.split("/") if part not in ("", "."))


def _is_hidden(parts: Parts) -> bool:
    """Whether it is one of the files that systems leave about."""
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or (
        bool(parts) and parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


# ---- where the members come from ----


def _members(path: Path) -> tuple[int, Iterator[_Member]]:
    """The size of a source in bytes, and its members."""
    if path.is_dir():
        return _folder_members(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist: give a folder or an archive of images")
    if not path.name.lower().endswith(_ARCHIVES) or not path.is_file():
        raise UsageError(
            f"{path} is neither a folder nor an archive: accepted are {', '.join(_ARCHIVES)}"
        )
    read = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    return path.stat().st_size, read(path)


def _folder_members(path: Path) -> tuple[int, Iterator[_Member]]:
    found: list[tuple[Path, os.stat_result]] = []
    inside = path.resolve()
    waiting = [path]
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name):
            there = Path(entry.path)
            if entry.is_symlink() and not _stays_inside(there, inside):
                raise UsageError(
                    f"{path}: {there.relative_to(path)} is a link that leads elsewhere"
                )
            status = entry.stat()
            if stat.S_ISDIR(status.st_mode):
                waiting.append(there)
            elif not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: {there.relative_to(path)} is not a regular file")
            found.append((there, status))
            if len(found) > MAX_MEMBERS:
                raise UsageError(f"{path} holds more than {MAX_MEMBERS:,} files")

    def members() -> Iterator[_Member]:
        done = 0
        for there, status in found:
            is_folder = stat.S_ISDIR(status.st_mode)
            read = None if is_folder else there.read_bytes
            done += 0 if is_folder else status.st_size
            yield _Member(there.relative_to(path).as_posix(), status.st_size, done, read)

    return sum(status.st_size for _, status in found if stat.S_ISREG(status.st_mode)), members()


def _stays_inside(link: Path, inside: Path) -> bool:
    """Whether a link is to a file below the folder. Links to folders could go round in circles."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return target.is_file() and target.is_relative_to(inside)


def _zip_members(path: Path) -> Iterator[_Member]:
    budget = _Budget(path)
    done = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 0x1:
                raise UsageError(f"{path}: {info.filename} is encrypted: unpack it and import that")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UsageError(f"{path}: {info.filename} is a link or device, not a file")
            done += info.compress_size
            budget.spend(info.file_size)
            read = None if info.is_dir() else partial(archive.read, info)
            # some Windows programs separate folders by backslashes
            yield _Member(info.filename.replace("\\", "/"), info.file_size, done, read)


def _tar_members(path: Path) -> Iterator[_Member]:
    with path.open("rb") as raw, _decompressed(path, raw) as stream:
        metered = cast(IO[bytes], _Metered(stream, _Budget(path)))  # a stream needs only read()
        with tarfile.open(
            fileobj=metered,
            mode="r|",
            tarinfo=_StrictTarInfo,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if not (info.isreg() or info.isdir()):
                    raise UsageError(f"{path}: {info.name} is a link or device, not a file")
                read = None if info.isdir() else partial(_read_tar_member, archive, info)
                yield _Member(info.name, info.size, raw.tell(), read)
        while metered.read(1 << 20):  # to the end, where the checksum of the whole is
            pass


def _read_tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None, "only regular files are read"
    return file.read()


def _decompressed(path: Path, raw: IO[bytes]) -> IO[bytes]:
    match path.name.lower().rpartition(".")[2]:
        case "gz" | "tgz":
            return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
        case "xz" | "txz":
            return lzma.LZMAFile(raw)
        case "bz2":
            return bz2.BZ2File(raw)
        case _:
            return raw


class _StrictTarInfo(tarfile.TarInfo):
    """A tar header of which damage is an error.

    `tarfile` takes a damaged or missing header in mid-archive for the archive's end, and the images
    after it would be missing without a word. The proper end is a block of zeros.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictTarInfo":
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if bytes(buf) == bytes(tarfile.BLOCKSIZE):
                raise
            raise tarfile.ReadError(str(error)) from None
        if not (info.isreg() or info.isdir()) and info.size > _MAX_EXTENSION_BYTES:
            raise tarfile.ReadError("oversized header")  # long names are read into memory whole
        return info


class _Budget:
    """Bytes an archive may still unpack to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = max(HARMLESS_BYTES, MAX_GROWTH * path.stat().st_size)

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UsageError(
                f"{self.path} unpacks to more than {MAX_GROWTH} times its size, as no images do; "
                "if it is sound, unpack it and import the folder"
            )


class _Metered:
    """A stream that spends a budget as it is read."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self.stream = stream
        self.budget = budget

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.budget.spend(len(block))
        return block


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns everything a damaged or unreadable source can raise into one line."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path} is damaged or cut short ({reason}): get it afresh") from None
    except OSError as error:
        if error.errno is None:  # bz2's way of saying that the data are bad
            raise UsageError(f"{path} is damaged or cut short ({error}): get it afresh") from None
        raise UsageError(f"cannot read {error.filename or path}: {error.strerror}") from None


# ---- decoding ----


def _decode(what: str, content: bytes, size: int) -> tuple[Pixels, bool]:
    """Decodes an image to uint8 [size, size, 3]; also returns whether it had another size."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            image.load()
            upright: Image.Image = image
            if image.getexif().get(_ORIENTATION, 1) != 1:
                upright = ImageOps.exif_transpose(image)
            rgb = _to_rgb(upright)
            resized = rgb.size != (size, size)
            if resized:  # so that the shorter side fits, and the middle of the longer one
                rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
            return np.asarray(rgb), resized
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{what} cannot be decoded as an image: {reason}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:  # what lies under transparent pixels is often garbage
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no agreed range: save it with 8 or 16 bits")
    return image if image.mode == "RGB" else image.convert("RGB")
