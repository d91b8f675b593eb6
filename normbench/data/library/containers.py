"""What is in a folder, a .tar or a .zip of images: its files, one after another.

Archives are read as they stream by, and nothing is unpacked to the disk. What an archive says about
itself (paths, sizes, links) is believed nowhere.
"""

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, cast

from normbench.errors import UsageError

Parts = tuple[str, ...]
"""A relative path, folder by folder."""

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")
MAX_MEMBERS = 5_000_000
# An archive may grow to so many times its size, past an amount that harms nobody: pictures hardly
# compress, and what grows more is a bomb.
MAX_GROWTH = 200
HARMLESS_BYTES = 1 << 30

_MAX_EXTENSION_BYTES = 1 << 14  # longer than any path; and tarfile searches them slowly
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # zipfile's for a kind of compression it does not know
    ValueError,  # tarfile's for a number that is none; zipfile's for a name in another encoding
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder in a folder or archive.

    Args:
        source: the folder or archive.
        parts: its path in there, printable and without ``..``.
        size: in bytes, as the source gives it.
        done: bytes of the source that lie behind.
        content: returns the file's content; None: it is a folder.
    """

    source: Path
    parts: Parts
    size: int
    done: int
    content: Callable[[], bytes] | None

    def __str__(self) -> str:
        return f"{self.source}: {'/'.join(self.parts)}"

    @property
    def is_folder(self) -> bool:
        """Whether it has no content."""
        return self.content is None

    @property
    def is_hidden(self) -> bool:
        """Whether it is one of the files that systems leave about."""
        return is_hidden(self.parts)

    def read(self, limit: int) -> bytes:
        """Returns the file's content; to be called before the next member is asked for.

        Raises:
            UsageError: it has more than ``limit`` bytes, and none has been read.
        """
        assert self.content is not None, "a folder has no content"
        if self.size > limit:
            raise UsageError(f"{self} has {self.size:,} bytes; at most {limit:,} are accepted")
        return self.content()


def is_hidden(parts: Parts) -> bool:
    """Whether a path is that of one of the files that systems leave about."""
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or (
        bool(parts) and parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


def members(path: Path) -> tuple[int, Iterator[Member]]:
    """Opens a folder or archive; returns its size in bytes, and its members.

    To be called, and the members to be read, in a ``reading`` block.

    Raises:
        UsageError: it is neither, or (while its members are read) one of them leads out of it, is a
            link or a device, there are too many, or they unpack to too much.
    """
    if path.is_dir():
        return _folder_members(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist: give a folder or an archive of images")
    if not path.name.lower().endswith(ARCHIVES) or not path.is_file():
        raise UsageError(
            f"{path} is neither a folder nor an archive: accepted are {', '.join(ARCHIVES)}"
        )
    read = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    return path.stat().st_size, read(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns everything a damaged or unreadable source can raise into one line."""
    try:
        yield
    except UsageError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path} is damaged or cut short ({reason}): get it afresh") from None
    except OSError as error:
        if error.errno is None:  # bz2's way of saying that the data are bad
            raise UsageError(f"{path} is damaged or cut short ({error}): get it afresh") from None
        raise UsageError(f"cannot read {error.filename or path}: {error.strerror}") from None


def _safe_parts(path: Path, name: str) -> Parts:
    """Splits a member's path, which has to stay inside its folder, and makes it printable."""
    # bytes that are no UTF-8 arrive as surrogates, which can be neither printed nor saved; and the
    # same é is one character in some archives and two in others
    clean = unicodedata.normalize("NFC", printable(name))
    if clean.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", clean):
        raise UsageError(f"{path}: {clean!r} is an absolute path; nothing has been imported")
    if ".." in re.split(r"[/\\]", clean):
        raise UsageError(f"{path}: {clean!r} leads out of its folder; nothing has been imported")
    return tuple(part for part in clean.split("/") if part not in ("", "."))


def printable(name: str) -> str:
    """A name without the surrogates that stand for bytes that are no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_count(path: Path, count: int) -> None:
    if count > MAX_MEMBERS:
        raise UsageError(f"{path} holds more than {MAX_MEMBERS:,} files")


# ---- folders ----


def _folder_members(path: Path) -> tuple[int, Iterator[Member]]:
    found: list[Member] = []
    done = 0
    inside = path.resolve()
    waiting = [path]
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name):
            there = Path(entry.path)
            parts = _safe_parts(path, there.relative_to(path).as_posix())
            what = f"{path}: {'/'.join(parts)}"
            if is_hidden(parts) and (entry.is_symlink() or not _is_plain(entry)):
                found.append(Member(path, parts, 0, done, bytes))
                _check_count(path, len(found))
                continue
            if entry.is_symlink() and not _stays_inside(there, inside):
                raise UsageError(f"{what} is a link that leads elsewhere: copy what it leads to")
            status = entry.stat()
            is_folder = stat.S_ISDIR(status.st_mode)
            if is_folder:
                waiting.append(there)
            elif not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{what} is not a regular file")
            done += 0 if is_folder else status.st_size
            content = None if is_folder else there.read_bytes
            found.append(Member(path, parts, status.st_size, done, content))
            _check_count(path, len(found))
    return done, iter(found)


def _is_plain(entry: "os.DirEntry[str]") -> bool:
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


def _stays_inside(link: Path, inside: Path) -> bool:
    """Whether a link is to a file below the folder. Links to folders could go round in circles."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return target.is_file() and target.is_relative_to(inside)


# ---- archives ----


def _zip_members(path: Path) -> Iterator[Member]:
    budget = _Budget(path)
    done = 0
    with zipfile.ZipFile(path) as archive:
        _check_count(path, len(archive.infolist()))
        for info in archive.infolist():
            done += info.compress_size
            # some Windows programs separate folders by backslashes
            parts = _safe_parts(path, info.filename.replace("\\", "/"))
            content = None if info.is_dir() else partial(archive.read, info)
            member = Member(path, parts, info.file_size, done, content)
            if info.flag_bits & 0x1:
                raise UsageError(f"{member} is encrypted: unpack it and import that")
            plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
            if not (plain or member.is_hidden):
                raise UsageError(f"{member} is a link or device, not a file")
            budget.spend(info.file_size)
            yield member


def _tar_members(path: Path) -> Iterator[Member]:
    count = 0
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
                _check_count(path, count := count + 1)
                parts = _safe_parts(path, info.name)
                content = None if info.isdir() else partial(_read_tar_member, archive, info)
                member = Member(path, parts, info.size, raw.tell(), content)
                if member.is_hidden:
                    yield replace(member, content=member.content and bytes)
                    continue
                if not (info.isreg() or info.isdir()):
                    raise UsageError(f"{member} is a link or device, not a file")
                if info.issparse():  # it is as large as it says, without having as many bytes
                    raise UsageError(f"{member} is a sparse file, as no image is")
                yield member
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
