"""Small data sets for the tests of the library: images, folders, archives, CIFAR's files."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from normbench.data.library import ImageSet, cifar, content_digest
from normbench.data.library.importing import import_images
from normbench.errors import UsageError


def pixels(seed: int, width: int = 32, height: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(seed: int, width: int = 32, height: int = 32, kind: str = "png") -> bytes:
    return encode(Image.fromarray(pixels(seed, width, height)), kind)


def encode(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def image_set(name: str = "toy", num_train: int = 6, num_test: int = 4) -> ImageSet:
    classes = ("cat", "dog")
    parts = (
        (torch.arange(num_train * 3 * 64) * 37 % 251).to(torch.uint8).view(num_train, 3, 8, 8),
        torch.arange(num_train) % 2,
        (torch.arange(num_test * 3 * 64) * 41 % 251).to(torch.uint8).view(num_test, 3, 8, 8),
        torch.arange(num_test) % 2,
    )
    return ImageSet(name, content_digest(classes, *parts), classes, *parts)


def split_files(num_train: int = 3, num_test: int = 2) -> dict[str, bytes]:
    """Two classes in the ImageFolder layout; every image differs."""
    return {
        f"{split}/{label}/{i}.png": picture(1000 * s + 100 * c + i)
        for s, (split, count) in enumerate((("train", num_train), ("test", num_test)))
        for c, label in enumerate(("cat", "dog"))
        for i in range(count)
    }


def flat_files(count: int = 12) -> dict[str, bytes]:
    return {
        f"{label}/{i:02}.png": picture(100 * c + i)
        for c, label in enumerate(("cat", "dog"))
        for i in range(count)
    }


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    mode = {".tar": "w:", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}
    with tarfile.open(path, mode[path.suffix]) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            archive.addfile(tar_info(name, len(content)), io.BytesIO(content))
    return path


def tar_info(name: str, size: int = 0, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


WRITERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "": write_folder,
    ".tar": write_tar,
    ".tar.gz": write_tar,
    ".tgz": write_tar,
    ".tar.xz": write_tar,
    ".tar.bz2": write_tar,
    ".zip": write_zip,
}


def cifar_batches(
    layout: cifar.Layout, count: int = 4
) -> Iterator[tuple[str, NDArray[np.uint8], list[int]]]:
    """For each batch file: its name, pixels uint8 [count, 3072], and labels below 3."""
    for seed, name in enumerate((*layout.train, layout.test)):
        rng = np.random.default_rng(seed)
        values = rng.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        yield name, values, rng.integers(0, 3, count).tolist()


def cifar_files(layout: cifar.Layout, protocol: int = 2) -> dict[str, bytes]:
    """Files of the published form with other content, below the layout's folder."""
    names = [f"class{i}" for i in range(3)]
    files: dict[str, bytes] = {}
    for name, values, labels in cifar_batches(layout):
        if layout.label_key is None:
            coarse = np.full((len(labels), layout.label_bytes - 1), 7, np.uint8)
            rows = [coarse, np.array(labels, np.uint8)[:, None], values]
            files[name] = np.concatenate(rows, axis=1).tobytes()
        else:
            batch = {"data": values, layout.label_key: labels, "batch_label": name}
            files[name] = pickle.dumps(batch, protocol)
    if layout.label_key is None:
        files[layout.meta] = ("\n".join(names) + "\n\n").encode()
    else:
        files[layout.meta] = pickle.dumps({layout.names_key: names}, protocol)
    return {f"{layout.folder}/{name}": content for name, content in files.items()}


def everything_below(folder: Path) -> dict[str, str]:
    """Every file below a folder with its digest, to see that nothing was written."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def image_at(images: torch.Tensor, index: int) -> np.ndarray:
    return images[index].permute(1, 2, 0).numpy()


def refused(path: Path, root: Path, name: str | None = "mine", **options: object) -> str:
    """Imports what must not be imported; returns the message, after seeing nothing was written."""
    before = everything_below(root)
    with pytest.raises(UsageError) as raised:
        import_images(path, name, **options)  # type: ignore[arg-type]
    assert everything_below(root) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)
