"""Images from outside into the library: a folder, a .tar or .zip, the CIFAR files.

One pass over the container decodes each image where it is met; its place among the others is worked
out afterwards, from the paths.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from normbench.data import library
from normbench.data.library import Entry, ImageSet, cifar, containers, decoding
from normbench.data.library.containers import Member, Parts
from normbench.data.library.image_folder import Assignment, arrange
from normbench.errors import UsageError

Notify = Callable[[str, int, int | None], None]
"""Is told what is going on, how many bytes are done, and how many there are (None: unknown)."""

MAX_IMAGE_BYTES = 64 << 20
MAX_CIFAR_BYTES = 512 << 20  # CIFAR-100's training set is one file of 155 MB


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Args:
        entry: the data set in the library.
        existed: it was there already, with the same content, and nothing was written.
        num_resized: images that had another size, and were made to fit.
        fit: how: the middle of the scaled image, or all of it with black edges.
        num_ignored: files that are no images, and were passed over.
        made_test_split: there was no test set, and a sixth of each class became it.
        left_out: folders beside the training and the test set whose images were not used.
        broken: images that could not be decoded, and were passed over as wanted.
        seconds: how long it took.
    """

    entry: Entry
    existed: bool
    num_resized: int = 0
    fit: decoding.Fit = "crop"
    num_ignored: int = 0
    made_test_split: bool = False
    left_out: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class _Found:
    """What a pass over a container has found.

    Args:
        images: the images, decoded.
        paths: the path of each image.
        folders: folders met, with or without images.
        cifar_files: files of the published CIFAR sets, by folder and name.
        num_ignored: how many other files there are.
        broken: why images could not be decoded, a line each.
        named: whether the data set has a name, or the container's will do.
    """

    images: decoding.Decoded
    paths: list[Parts] = field(default_factory=list)
    folders: set[Parts] = field(default_factory=set)
    cifar_files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    num_ignored: int = 0
    broken: list[str] = field(default_factory=list)
    named: bool = True


def silent(what: str, done: int, total: int | None) -> None:
    """A `Notify` that shows nothing."""


def import_images(
    path: Path,
    name: str | None,
    *,
    size: int = 32,
    fit: decoding.Fit = "crop",
    skip_broken: bool = False,
    replace: bool = False,
    source: str | None = None,
    progress: Notify = silent,
) -> Imported:
    """Reads images and saves them in the library as one data set.

    Accepted are ``train/<class>/*`` with ``test/<class>/*`` (or the like), or ``<class>/*``, in a
    folder, .tar (.gz, .xz, .bz2) or .zip, with or without one folder around it all; and CIFAR-10
    and CIFAR-100 as published, packed or not. Equal files give equal data sets, however packed.

    Args:
        path: the folder or archive.
        name: what to call the data set; None: after the file, or ``cifar10`` if it is that.
        size: height and width of the images, in pixels, from 4 to 512.
        fit: how an image of another size is made to fit.
        skip_broken: whether to go on without images that cannot be decoded.
        replace: whether a data set of that name with other content gives way.
        source: where the images came from, in words; None: the file's name.
        progress: told how many bytes have been read.

    Raises:
        UsageError: the name, the size, the file or something in it will not do. The message names
            it, each image that cannot be decoded included, and nothing has been written.
    """
    started = time.perf_counter()
    if not 4 <= size <= 512:
        raise UsageError(f"--size {size}: must be from 4 to 512 pixels")
    if name is not None:
        library.check_name(name)
    with containers.reading(path):
        path = _cifar_inside(path, name)
        found = _gather(path, decoding.Decoded(size, path, fit), progress, named=name is not None)
    if found.broken and not skip_broken:
        raise UsageError(_all_broken(found.broken, path))
    read = _cifar_set if found.cifar_files else _folder_set
    images, arrangement = read(found, name, path)
    existed = _store(images, source or containers.printable(path.resolve().name), replace)
    entry = library.find(images.name)
    assert entry is not None, "it has just been saved"
    return Imported(
        entry=entry,
        existed=existed,
        num_resized=found.images.num_resized,
        fit=fit,
        num_ignored=found.num_ignored,
        made_test_split=arrangement.made_test_split,
        left_out=arrangement.left_out,
        broken=tuple(found.broken),
        seconds=time.perf_counter() - started,
    )


def _all_broken(broken: list[str], path: Path) -> str:
    if len(broken) == 1:
        return f"{broken[0]}; --skip-broken goes on without it"
    lines = "\n  ".join(broken)
    return f"{path}: {len(broken):,} images are broken; --skip-broken goes on without:\n  {lines}"


def is_sound(name: str) -> bool:
    """Returns whether a data set in the library passes all checks."""
    try:
        library.verify(name)
    except UsageError:
        return False
    return True


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


# ---- one pass over a container ----


def _gather(
    path: Path, images: decoding.Decoded, progress: Notify, *, named: bool = True
) -> _Found:
    found = _Found(images, named=named)
    total, members = containers.members(path)
    what = f"reading {path.resolve().name}"
    for count, member in enumerate(members):
        _take(member, found)
        if count % 64 == 0:
            progress(what, member.done, total)
    progress(what, total, total)
    return found


def _take(member: Member, found: _Found) -> None:
    parts = member.parts
    if member.is_hidden or not parts:
        found.num_ignored += not member.is_folder
        return
    if member.is_folder:
        found.folders.add(parts)
        return
    folder = parts[-2] if len(parts) > 1 else member.source.resolve().name
    layout = cifar.BY_FOLDER.get(folder)
    if layout is not None and parts[-1] in layout.files:
        found.cifar_files.setdefault(folder, {})[parts[-1]] = member.read(MAX_CIFAR_BYTES)
    elif parts[-1].lower().endswith(decoding.SUFFIXES):
        if not found.named:  # what nothing can be called is said before anything is decoded
            _check_stem(member.source)
            found.named = True
        try:
            if member.size > MAX_IMAGE_BYTES:
                raise decoding.BrokenImageError(
                    f"{member} has {member.size:,} bytes; at most {MAX_IMAGE_BYTES:,} are accepted"
                )
            found.images.add("/".join(parts), member.read(MAX_IMAGE_BYTES))
            found.paths.append(parts)
        except decoding.BrokenImageError as error:
            found.broken.append(str(error))
            found.folders.update({parts[:-1]} - {()})  # a class of none but broken images
    else:
        found.num_ignored += 1
        found.folders.update({parts[:-1]} - {()})


# ---- images in class folders ----


def _folder_set(found: _Found, name: str | None, path: Path) -> tuple[ImageSet, Assignment]:
    if not found.paths:
        raise UsageError(
            f"{path} holds no images ({found.num_ignored} other files): expected "
            "train/<class>/ and test/<class>/, or <class>/, with .jpg or .png files in them"
        )
    plan = arrange(found.paths, found.folders, path)
    name = _own_name(name, path)
    splits = (plan.train, plan.test)
    train, test = found.images.take([[i for group in split for i in group] for split in splits])
    labels = [np.repeat(np.arange(len(it)), [len(group) for group in it]) for it in splits]
    return _make(name, plan.classes, train, labels[0], test, labels[1]), plan


def _own_name(name: str | None, path: Path) -> str:
    """The name for images in folders, which are never CIFAR as published."""
    name = _stem(path) if name is None else name
    if name.lower() in library.DOWNLOADABLE:
        raise UsageError(f"{path} is not {name} as published: give it another name with --name")
    return name


def _stem(path: Path) -> str:
    """The name of a folder or archive, without the archive's ending."""
    stem = containers.printable(path.resolve().name)
    suffix = max((s for s in containers.ARCHIVES if stem.lower().endswith(s)), key=len, default="")
    return stem[: len(stem) - len(suffix)]


def _check_stem(path: Path) -> None:
    try:
        library.check_name(_stem(path))
    except UsageError as error:
        hint = "" if "--name" in str(error) else "; give it a name with --name"
        raise UsageError(f"{path}: {error}{hint}") from None


def _make(
    name: str,
    classes: tuple[str, ...],
    train_images: decoding.Pixels,
    train_labels: npt.NDArray[np.int64],
    test_images: decoding.Pixels,
    test_labels: npt.NDArray[np.int64],
) -> ImageSet:
    arrays = (train_images, train_labels, test_images, test_labels)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return ImageSet(name, library.content_digest(classes, *tensors), classes, *tensors)


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
    found = next(iter(inside.values()), path)
    if found != path and name is not None and name not in library.DOWNLOADABLE:
        others = sorted(
            each.name for each in path.iterdir() if each != found and _holds_images(each)
        )
        if len(others) > 1:  # one is no classes
            raise UsageError(
                f"{path} holds {found.name} beside {', '.join(others[:3])}: import {found}, or put"
                " the others into a folder of their own and import that"
            )
    return found


def _holds_images(folder: Path) -> bool:
    """Whether a folder looks like a class."""
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    return any(each.name.lower().endswith(decoding.SUFFIXES) for each in folder.iterdir())


def _cifar_set(found: _Found, name: str | None, path: Path) -> tuple[ImageSet, Assignment]:
    if len(found.cifar_files) > 1:
        raise UsageError(f"{path} holds {' and '.join(found.cifar_files)}: import one of them")
    folder, files = next(iter(found.cifar_files.items()))
    layout = cifar.BY_FOLDER[folder]
    if found.images.size != cifar.SIDE:
        raise UsageError(
            f"size={found.images.size}: the images in {folder} are {cifar.SIDE} pixels wide"
        )
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
    return _make(name, content.classes, *splits), Assignment()
