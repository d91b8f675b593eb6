"""CIFAR as published: every form is read, nothing in it is run, and look-alikes are told apart."""

import dataclasses
import hashlib
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from normbench.data import library
from normbench.data.library import cifar
from normbench.data.library.importing import import_images
from tests.data_helpers import (
    WRITERS,
    cifar_batches,
    cifar_files,
    picture,
    refused,
    write_folder,
    write_tar,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    monkeypatch.setenv("NORMBENCH_DATA", str(folder))
    return folder


PYTHON10, BINARY10, PYTHON100, BINARY100 = cifar.LAYOUTS


def check_cifar(name: str, layout: cifar.Layout) -> None:
    images = library.load(name)
    assert images.classes == ("class0", "class1", "class2")
    batches = list(cifar_batches(layout))
    expected = np.concatenate([values for _, values, _ in batches[:-1]]).reshape(-1, 3, 32, 32)
    assert np.array_equal(images.train_images.numpy(), expected)
    assert images.train_labels.tolist() == [n for _, _, labels in batches[:-1] for n in labels]
    assert np.array_equal(images.test_images.numpy(), batches[-1][1].reshape(-1, 3, 32, 32))
    assert images.test_labels.tolist() == batches[-1][2]


@pytest.mark.parametrize("suffix", ["", ".tar.gz"])
@pytest.mark.parametrize("layout", cifar.LAYOUTS, ids=lambda layout: layout.folder)
def test_the_cifar_files_are_read_packed_and_unpacked(
    layout: cifar.Layout, suffix: str, tmp_path: Path
) -> None:
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", cifar_files(layout))
    import_images(path, "mine")
    check_cifar("mine", layout)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "mine.tar", cifar_files(PYTHON100, protocol))
    import_images(path, "mine")
    check_cifar("mine", PYTHON100)


def test_pickles_written_by_python_2_are_read() -> None:
    # as in the published files: text strings for the bytes, numpy's former module name
    python2 = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01"
        b"\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", 2 * 3072)
        + bytes(range(256)) * 24
        + b"tbU\x0bfine_labelsq\x08]q\x09(K\x00K\x01eu."
    )
    meta = b"\x80\x02}q\x01U\x10fine_label_namesq\x02]q\x03(U\x05appleU\x04babyes."
    files = {"train": python2, "test": python2, "meta": meta}
    content = cifar.parse(PYTHON100, files, "here")
    assert content.classes == ("apple", "baby")
    assert content.train_labels.tolist() == [0, 1]
    assert content.train_images.tobytes() == bytes(range(256)) * 24


def test_a_folder_that_torchvision_filled_is_recognized(tmp_path: Path) -> None:
    files = cifar_files(PYTHON10)
    filled = write_folder(tmp_path / "torchvision", files | {"other/0.png": picture(0)})
    write_tar(filled / PYTHON10.archive, files)
    import_images(filled, "mine")
    check_cifar("mine", PYTHON10)
    import_images(filled / PYTHON10.folder, "inner")
    check_cifar("inner", PYTHON10)
    only_archive = tmp_path / "archive"
    only_archive.mkdir()
    write_tar(only_archive / PYTHON10.archive, files)
    import_images(only_archive, "packed")
    check_cifar("packed", PYTHON10)


def test_a_folder_with_both_cifars_asks_which(tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "both", cifar_files(PYTHON10) | cifar_files(PYTHON100))
    message = refused(path, root)
    assert PYTHON10.folder in message
    assert PYTHON100.folder in message


@pytest.mark.parametrize("name", ["cifar10", "cifar100", None])
@pytest.mark.parametrize("layout", cifar.LAYOUTS, ids=lambda layout: layout.folder)
def test_a_look_alike_may_not_be_called_cifar(
    layout: cifar.Layout, name: str | None, tmp_path: Path, root: Path
) -> None:
    path = write_tar(tmp_path / "mine.tar", cifar_files(layout))
    message = refused(path, root, name=name)
    assert "not" in message
    assert (name or layout.name) in message
    assert "--name" in message


@pytest.mark.parametrize("layout", cifar.LAYOUTS, ids=lambda layout: layout.folder)
def test_files_with_the_published_digests_are_called_cifar_unasked(
    layout: cifar.Layout, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = cifar_files(layout)
    path = write_tar(tmp_path / "mine.tar", files)
    names = hashlib.sha256(b"class0\nclass1\nclass2").hexdigest()
    monkeypatch.setitem(cifar._NAMES, layout.name, names)
    digests = {
        name: hashlib.new(
            "md5" if len(digest) == 32 else "sha256", files[f"{layout.folder}/{name}"]
        )
        for name, digest in layout.digests.items()
    }
    published = {name: digest.hexdigest() for name, digest in digests.items()}
    monkeypatch.setitem(
        cifar.BY_FOLDER, layout.folder, dataclasses.replace(layout, digests=published)
    )
    assert import_images(path, None).entry.name == layout.name
    other = "cifar100" if layout.name == "cifar10" else "cifar10"
    assert other in refused(path, root, name=other)
    assert import_images(path, "mine").entry.name == "mine"
    published[layout.test] = "0" * len(published[layout.test])
    assert "digests differ" in refused(path, root, name=layout.name)


def test_the_digest_table_is_torchvisions() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for layout, theirs in ((PYTHON10, datasets.CIFAR10), (PYTHON100, datasets.CIFAR100)):
        expected = dict(theirs.train_list + theirs.test_list)
        expected[theirs.meta["filename"]] = theirs.meta["md5"]
        assert dict(layout.digests) == expected
        assert layout.archive == theirs.filename
        assert layout.folder == theirs.base_folder


def with_file(layout: cifar.Layout, name: str, content: bytes | None) -> dict[str, bytes]:
    files = cifar_files(layout)
    if content is None:
        del files[f"{layout.folder}/{name}"]
    else:
        files[f"{layout.folder}/{name}"] = content
    return files


class Shell:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (self.command,)


def batch(values: np.ndarray, labels: object) -> bytes:
    return pickle.dumps({"data": values, "fine_labels": labels}, 2)


SOUND = np.zeros((2, 3072), np.uint8)


CIFAR_ERRORS: dict[str, tuple[cifar.Layout, str, bytes | None, str]] = {
    "a missing batch": (PYTHON10, "data_batch_3", None, "lacks data_batch_3"),
    "missing names": (BINARY10, "batches.meta.txt", None, "lacks batches.meta.txt"),
    "a batch cut short": (PYTHON100, "train", cifar_files(PYTHON100)["cifar-100-python/train"][:99],
                          "cifar-100-python/train is damaged"),
    "no pickle": (PYTHON10, "data_batch_1", b"hello", "data_batch_1 is damaged"),
    "no dictionary": (PYTHON100, "test", pickle.dumps([1]), "test is damaged: it holds a list"),
    "numpy objects": (PYTHON100, "train", batch(np.array([[None]]), [0]), "instead of bytes"),
    "floats": (PYTHON100, "train", batch(np.zeros((2, 3072)), [0, 0]), "instead of bytes"),
    "another width": (PYTHON100, "train", batch(SOUND[:, :-1], [0, 0]), "array of 3072 bytes"),
    "too few labels": (PYTHON100, "train", batch(SOUND, [0]), "2 images have 1 labels"),
    "text for labels": (PYTHON100, "train", batch(SOUND, ["a", "b"]), "class numbers"),
    "labels below zero": (PYTHON100, "train", batch(SOUND, [0, -1]), "class numbers"),
    "labels beyond the classes": (PYTHON100, "train", batch(SOUND, [0, 3]), "labels outside 0..2"),
    "a binary batch cut short": (BINARY100, "train.bin", bytes(3073), "multiple of 3074"),
    "binary labels beyond": (BINARY10, "test_batch.bin", b"\x09" * 3073, "labels outside 0..2"),
    "no names": (BINARY10, "batches.meta.txt", b"\n", "no class names"),
}  # fmt: skip


@pytest.mark.parametrize("case", CIFAR_ERRORS)
def test_damaged_cifar_files_are_refused_by_name(case: str, tmp_path: Path, root: Path) -> None:
    layout, name, content, says = CIFAR_ERRORS[case]
    path = write_tar(tmp_path / "mine.tar.gz", with_file(layout, name, content))
    message = refused(path, root)
    assert says in message
    assert str(path) in message


@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
def test_a_pickle_that_would_run_a_command_is_refused_by_what_it_wanted(
    name: str, tmp_path: Path, root: Path
) -> None:
    marker = tmp_path / "it-ran"
    content = pickle.dumps({"data": Shell(f"touch {marker}")}, 2)
    path = write_tar(tmp_path / "mine.tar.gz", with_file(PYTHON10, name, content))
    message = refused(path, root)
    assert f"{PYTHON10.folder}/{name} tried to load {os.system.__module__}.system" in message
    assert not marker.exists()


@pytest.mark.parametrize(
    "wanted", ["builtins\neval", "numpy\nload", "numpy.core.multiarray\nscalar", "_codecs\nlookup"]
)
def test_no_name_outside_the_list_can_be_loaded(wanted: str, tmp_path: Path, root: Path) -> None:
    content = b"c" + wanted.encode() + b"\n(S'1'\ntR."
    path = write_tar(tmp_path / "mine.tar", with_file(PYTHON100, "train", content))
    assert f"tried to load {wanted.replace(chr(10), '.')}" in refused(path, root)


@pytest.mark.parametrize(
    "put", [b"r\x00\x00\x00\x20", b"p536870912\n", b"q\xff"], ids=["LONG_BINPUT", "PUT", "BINPUT"]
)
def test_a_memo_of_gigabytes_is_refused_before_it_is_made(
    put: bytes, tmp_path: Path, root: Path
) -> None:
    layout = cifar.LAYOUTS[0]
    files = with_file(layout, "data_batch_1", b"\x80\x02}" + put + b".")
    path = write_folder(tmp_path / "cifar-10-batches-py", files)
    tracemalloc.start()
    message = refused(path, root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "data_batch_1 asks for a memo of " in message
    assert peak < 100 << 20
