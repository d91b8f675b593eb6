"""Images in class folders: which one is of which class, for training or for the test.

Known are ``train/<class>/*`` with ``test/<class>/*`` (or training; testing, val, valid,
validation), and ``<class>/*``, with or without one folder around it all.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from normbench.data.library.containers import Parts
from normbench.errors import UsageError

_TRAIN_NAMES = ("train", "training")
# The first of these that is there is the test set.
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")
_SPLITS = {*_TRAIN_NAMES, *_TEST_NAMES, "eval", "evaluation", "dev", "holdout"}
_Groups = dict[str, list[int]]
"""Images, by index, of each class."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which image goes where.

    Args:
        classes: class names in label order.
        train, test: for each class, indices of its images, in order.
        made_test_split: there was no test set, and a sixth of each class became it.
        left_out: folders beside the training and the test set whose images are not used.
    """

    classes: tuple[str, ...] = ()
    train: Sequence[list[int]] = ()
    test: Sequence[list[int]] = ()
    made_test_split: bool = False
    left_out: tuple[str, ...] = ()


def arrange(paths: Collection[Parts], folders: Iterable[Parts], path: Path) -> Assignment:
    """Tells training from test images, and one class from another, by their folders' names.

    The order is that of the sorted paths, whatever the order in the container.

    Args:
        paths: of the images; at least one.
        folders: folders that were met, with or without images.
        path: the container, for messages.

    Raises:
        UsageError: the layout is none of those above, or a class has no images.
    """
    images, folders = _unwrap(paths, folders)
    twice = next((it for it, count in Counter(images).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{path} holds {'/'.join(twice)} twice")
    tops = {parts[0].casefold(): parts[0] for parts in images if len(parts) > 1}
    test_top = next((tops[name] for name in _TEST_NAMES if name in tops), None)
    train_top = next((tops[name] for name in _TRAIN_NAMES if name in tops), None)
    if train_top is None or test_top is None:
        _check_splits(images, train_top, path)
        groups = _by_class(dict(enumerate(images)), folders, path)
        _check_classes(path, {"the folder": groups})
        train, test = _hold_out(groups, images, path)
        return Assignment(tuple(sorted(groups)), train, test, made_test_split=True)
    splits = {
        top: _by_class(
            {i: parts[1:] for i, parts in enumerate(images) if parts[0] == top},
            {parts[1:] for parts in folders if parts[0] == top and len(parts) > 1},
            path / top,
        )
        for top in (train_top, test_top)
    }
    names = _check_classes(path, splits)
    train, test = ([groups[name] for name in names] for groups in splits.values())
    left_out = sorted({parts[0] for parts in images} - splits.keys())
    return Assignment(tuple(names), train, test, left_out=tuple(left_out))


def _check_splits(images: Iterable[Parts], train: str | None, path: Path) -> None:
    """Refuses folders that are no classes: splits of names that are not known, or not sorted into
    classes."""
    below: dict[str, set[str]] = {}
    for parts in images:
        if len(parts) > 1:
            below.setdefault(parts[0], set()).update(parts[1:-1][:1])
    named = {top for top in below if _split_like(top)}
    suspects = list(combinations(sorted(named), 2))
    if train is not None:
        suspects += [(train, top) for top in sorted(below.keys() - named)]
    for one, other in suspects:
        if below[one] & below[other]:
            raise UsageError(
                f"{path}: holds {one}/ and {other}/ with the same folders inside; if these are"
                " training and test images, rename them to train/ and test/"
            )
    if len(below) > 1 and not any(below.values()) and len(named) == len(below):
        tops = " and ".join(f"{top}/" for top in sorted(below))
        raise UsageError(
            f"{path}: {tops} look like training and test images, but hold no class folders:"
            " sort the images into folders named after their classes"
        )


def _split_like(name: str) -> bool:
    """Whether a folder is named like a part of a data set: ``seg_train``, ``test1``."""
    return not _SPLITS.isdisjoint(re.split(r"[^a-z]+", name.casefold()))


def _unwrap(paths: Iterable[Parts], folders: Iterable[Parts]) -> tuple[list[Parts], set[Parts]]:
    """Takes off a folder that is wrapped around everything, and a lone train/ below it."""
    paths, folders = list(paths), set(folders)
    for only_train in (False, True):
        tops = {parts[0] for parts in paths}
        top = next(iter(tops))
        wraps = len(tops) == 1 and any(len(parts) > 2 for parts in paths)
        if wraps and (not only_train or top.casefold() in _TRAIN_NAMES):
            paths = [parts[1:] for parts in paths]
            folders = {parts[1:] for parts in folders if parts[0] == top and len(parts) > 1}
    return paths, folders


def _by_class(paths: Mapping[int, Parts], folders: Iterable[Parts], path: Path) -> _Groups:
    """Sorts images into classes, named by their first folder; a folder without images counts."""
    groups: _Groups = {parts[0]: [] for parts in folders}
    for index, parts in sorted(paths.items(), key=lambda item: item[1]):
        if len(parts) < 2:
            raise UsageError(
                f"{path}: image {parts[0]} is in no class folder: put it into one named after its"
                " class"
            )
        groups.setdefault(parts[0], []).append(index)
    return groups


def _check_classes(path: Path, splits: Mapping[str, _Groups]) -> list[str]:
    names = sorted(set().union(*splits.values()))
    for split, groups in splits.items():
        empty = next((name for name in names if not groups.get(name)), None)
        if empty is not None:
            raise UsageError(
                f"{path}: class {empty!r} has no images in {split}: add some, or remove that class"
            )
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
