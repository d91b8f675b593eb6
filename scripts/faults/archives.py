"""Hostile archives and damaged data sets for the fault matrix."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from normbench.data.library.image_set import content_digest

ESCAPES = {"up": "../pwned", "absolute": "/tmp/pwned", "inside": "cat/../../pwned", "drive": "C:/x"}
LINKS = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
}


class Bomb:
    """Unpickling it leaves a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned ../pwned",)


def picture(number: int) -> bytes:
    """A small sound image."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def _sound() -> dict[str, bytes]:
    return {f"{label}/{i}.png": picture(i) for label in ("cat", "dog") for i in range(8)}


def _tar(home: Path, extra: Callable[[tarfile.TarFile], None]) -> Path:
    path = home / "mine.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in _sound().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        extra(archive)
    return path


def _tar_with(name: str, content: bytes, **fields: Any) -> Callable[[Path, Random], Path]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info, io.BytesIO(content))

    return lambda home, _: _tar(home, add)


def _zip_with(
    extra: dict[str, bytes], mode: int = 0, change: Callable[[bytes], bytes] = bytes
) -> Callable[[Path, Random], Path]:
    def build(home: Path, _: Random) -> Path:
        path = home / "mine.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in _sound().items():
                archive.writestr(name, content)
            for name, content in extra.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        path.write_bytes(change(path.read_bytes()))
        return path

    return build


def _tar_bomb(home: Path, _: Random) -> Path:
    """1.3 GB of zeros, as gzip members that are all alike."""
    path = home / "mine.tar.gz"
    info = tarfile.TarInfo("notes.txt")
    info.size = 80 << 24
    zeros = gzip.compress(bytes(1 << 24))
    path.write_bytes(gzip.compress(info.tobuf()) + zeros * 81)
    return path


def _png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def _cut(home: Path, draw: Random) -> Path:
    path = _tar(home, lambda _: None)
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(20, len(content) - 9)])
    return path


def _cifar(home: Path, _: Random) -> Path:
    """CIFAR's files are pickles: these run something."""
    folder = home / "cifar-10-batches-py"
    folder.mkdir()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    return folder


def _folder_with_link(home: Path, _: Random) -> Path:
    folder = home / "mine"
    for name, content in _sound().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "cat" / "link.png").symlink_to("/etc/passwd")
    return folder


def _folder_with_pipe(home: Path, draw: Random) -> Path:
    folder = _folder_with_link(home, draw)
    (folder / "cat" / "link.png").unlink()
    os.mkfifo(folder / "cat" / "pipe.png")
    return folder


def _claims_more(content: bytes) -> bytes:
    """A zip whose directory claims other sizes than its files have."""
    place = content.rindex(b"PK\x01\x02")
    return content[: place + 24] + struct.pack("<I", 80 << 20) + content[place + 28 :]


ARCHIVES: dict[str, Callable[[Path, Random], Path]] = {
    **{f"tar, {kind}": _tar_with(name, b"x") for kind, name in ESCAPES.items()},
    **{f"zip, {kind}": _zip_with({name: b"x"}) for kind, name in ESCAPES.items()},
    "zip, backslashes": _zip_with({"..\\..\\pwned": b"x"}),
    **{
        f"tar, {name}": _tar_with("cat/odd.png", b"", type=kind, linkname="/etc/passwd")
        for name, kind in LINKS.items()
    },
    "zip, symbolic link": _zip_with({"cat/odd.png": b"/etc/passwd"}, mode=0o120777),
    "tar, bomb": _tar_bomb,
    "zip, large member": _zip_with({"cat/bomb.png": bytes(65 << 20)}),
    "zip, claimed size": _zip_with({"cat/odd.png": picture(3)}, change=_claims_more),
    "tar, long header": _tar_with("x", bytes(2 << 20), type=tarfile.XHDTYPE),
    "tar, cut short": _cut,
    "image, huge": _zip_with({"cat/odd.png": _png_of(60_000, 60_000)}),
    "image, pickle": _zip_with({"cat/odd.png": pickle.dumps(Bomb())}),
    "image, script": _zip_with({"cat/odd.jpg": b"#!/bin/sh\ntouch pwned\n"}),
    "CIFAR, pickles that run": _cifar,
    "folder, link outside": _folder_with_link,
    "folder, pipe": _folder_with_pipe,
}


# ---- data sets in the library ----


def _with_labels(content: bytes, label: int) -> bytes:
    """The data set with another label and the digest that goes with it."""
    tensors = tensors_of(content)
    tensors["train_labels"][0] = label
    classes = ("cat", "dog")
    digest = content_digest(classes, **tensors)
    metadata = {
        "format": "normbench-images-1",
        "classes": json.dumps(classes),
        "source": "x",
        "sha256": digest,
    }
    return bytes_of(tensors, metadata)


def _flipped(content: bytes, draw: Random) -> bytes:
    harmed = bytearray(content)
    harmed[draw.randrange(1000, len(harmed))] ^= 1 << draw.randrange(8)
    return bytes(harmed)


def _header(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _link(path: Path, target: str) -> None:
    path.symlink_to(target)


Harm = Callable[[Path, bytes, Random], object]

LIBRARIES: dict[str, Harm] = {
    "cut short": lambda p, c, d: p.write_bytes(c[: d.randrange(len(c))]),
    "a flipped bit": lambda p, c, d: p.write_bytes(_flipped(c, d)),
    "empty": lambda p, c, d: p.write_bytes(b""),
    "a pickle": lambda p, c, d: p.write_bytes(pickle.dumps(Bomb())),
    "labels without a class": lambda p, c, d: p.write_bytes(_with_labels(c, 7)),
    "negative labels": lambda p, c, d: p.write_bytes(_with_labels(c, -1)),
    "a header of exabytes": lambda p, c, d: p.write_bytes(struct.pack("<Q", 1 << 62) + c),
    "tensors of terabytes": lambda p, c, d: p.write_bytes(
        _header({"train_images": {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}})
    ),
    "tensors one over another": lambda p, c, d: p.write_bytes(
        _header(
            {
                "train_images": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
                "test_images": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
            }
        )
        + bytes(8)
    ),
    "a nested header": lambda p, c, d: p.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000),
    "without metadata": lambda p, c, d: p.write_bytes(bytes_of({"x": torch.zeros(3)})),
    "a link to itself": lambda p, c, d: _link(p, p.name),
    "a folder": lambda p, c, d: p.mkdir(),
    "a pipe": lambda p, c, d: os.mkfifo(p),
}
