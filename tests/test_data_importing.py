"""Importing: every accepted form gives the same data set; everything else is refused whole."""

import dataclasses
import hashlib
import io
import os
import pickle
import random
import struct
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import (
    WRITERS,
    cifar_batches,
    cifar_files,
    encode,
    everything_below,
    flat_files,
    picture,
    pixels,
    split_files,
    tar_info,
    write_folder,
    write_tar,
    write_zip,
)
from PIL import Image

from normbench.data import cifar, containers, decoding, importing, library
from normbench.data.importing import import_images
from normbench.errors import UsageError

PYTHON10, BINARY10, PYTHON100, BINARY100 = cifar.LAYOUTS
JPEGS = "cifar10-jpeg.tar.xz"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    monkeypatch.setenv("NORMBENCH_DATA", str(folder))
    return folder


def image_at(images: torch.Tensor, index: int) -> np.ndarray:
    return images[index].permute(1, 2, 0).numpy()


# ---- what is accepted ----


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_every_container_gives_the_same_data_set(
    suffix: str, wrapped: bool, tmp_path: Path
) -> None:
    files = split_files()
    shuffled = list(files.items())
    random.Random(suffix).shuffle(shuffled)
    prefix = "mine/" if wrapped else ""
    path = tmp_path / f"source{suffix}"
    WRITERS[suffix](path, {prefix + name: content for name, content in shuffled})
    done = import_images(path, "mine")
    entry = done.entry
    assert (entry.num_train, entry.num_test, entry.image_size) == (6, 4, (32, 32))
    assert entry.classes == ("cat", "dog")
    assert entry.source == path.name
    assert (done.existed, done.made_test_split) == (False, False)
    assert (done.num_resized, done.num_ignored) == (0, 0)
    images = library.load("mine")
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.test_labels.tolist() == [0, 0, 1, 1]
    for index, seed in enumerate([0, 1, 2, 100, 101, 102]):
        assert np.array_equal(image_at(images.train_images, index), pixels(seed))
    for index, seed in enumerate([1000, 1001, 1100, 1101]):
        assert np.array_equal(image_at(images.test_images, index), pixels(seed))


@pytest.mark.parametrize("split", ["test", "val", "valid", "Test"])
def test_the_test_set_may_be_called_val(split: str, tmp_path: Path) -> None:
    files = {name.replace("test/", f"{split}/"): data for name, data in split_files().items()}
    done = import_images(write_folder(tmp_path / "mine", files), None)
    assert (done.entry.name, done.entry.num_test, done.left_out) == ("mine", 4, ())


def test_with_both_test_and_val_the_test_set_is_test_and_val_is_left_out(tmp_path: Path) -> None:
    files = split_files() | {"val/cat/0.png": picture(7), "val/dog/0.png": picture(8)}
    done = import_images(write_folder(tmp_path / "mine", files), None)
    assert (done.entry.num_train, done.entry.num_test) == (6, 4)
    assert done.left_out == ("val",)


@pytest.mark.parametrize("prefix", ["", "mine/", "train/", "mine/train/"])
def test_without_a_test_set_a_sixth_of_each_class_becomes_it(prefix: str, tmp_path: Path) -> None:
    files = {prefix + name: content for name, content in flat_files().items()}
    done = import_images(write_tar(tmp_path / "mine.tar.gz", files), None)
    assert done.made_test_split
    images = library.load("mine")
    assert images.train_labels.bincount().tolist() == [10, 10]
    assert images.test_labels.bincount().tolist() == [2, 2]
    # pinned, by the paths below the classes' folder: never another split on another machine
    drawn = [
        next(i for i in range(200) if np.array_equal(image_at(images.test_images, k), pixels(i)))
        for k in range(4)
    ]
    assert drawn == [9, 10, 106, 110]


def test_other_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    junk = {
        "train/cat/.DS_Store": b"x",
        "__MACOSX/train/cat/._0.png": b"x",
        "train/dog/Thumbs.db": b"x",
        "README.txt": b"x",
        ".git/objects/a.png": b"not an image",
    }
    done = import_images(write_zip(tmp_path / "mine.zip", split_files() | junk), None)
    assert done.num_ignored == 5
    plain = import_images(write_zip(tmp_path / "plain.zip", split_files()), None)
    assert plain.entry.sha256 == done.entry.sha256


def test_names_that_are_not_utf8_are_kept_apart_and_printable(tmp_path: Path) -> None:
    path = tmp_path / "mine.tar"
    with tarfile.open(path, "w:", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        for label in ("café", "cafè", "thé"):
            for i in range(2):
                content = picture(i)
                info = tar_info(f"{label}/{i}.png", len(content))
                archive.addfile(info, io.BytesIO(content))
    entry = import_images(path, None).entry
    assert entry.classes == ("caf\\xe8", "caf\\xe9", "th\\xe9")


def test_a_name_composed_or_decomposed_is_the_same_class(tmp_path: Path) -> None:
    files = flat_files(2)
    composed = {name.replace("cat", "caf\u00e9"): data for name, data in files.items()}
    decomposed = {name.replace("cat", "cafe\u0301"): data for name, data in files.items()}
    one = import_images(write_zip(tmp_path / "one.zip", composed), None).entry
    two = import_images(write_tar(tmp_path / "two.tar", decomposed), None).entry
    assert one.sha256 == two.sha256


def test_progress_runs_from_the_start_to_the_whole_in_bytes(tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        path = write(tmp_path / f"p{suffix}", flat_files(200))
        seen: list[tuple[str, int, int | None]] = []
        import_images(path, "p", progress=lambda *args, to=seen: to.append(args), replace=True)
        assert len(seen) > 3
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
        assert {what for what, _, _ in seen} == {f"reading p{suffix}"}
        size = path.stat().st_size if suffix else sum(map(len, flat_files(200).values()))
        assert {total for _, _, total in seen} == {size}
        assert seen[-1][1] == size


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    files = flat_files(6) | {f"train/{i}.png": picture(500 + i) for i in range(6)}
    done = import_images(write_folder(tmp_path / "vehicles", files), None)
    assert done.entry.classes == ("cat", "dog", "train")


# ---- what happens to a picture ----


def import_one(content: bytes, kind: str, tmp_path: Path, size: int = 32) -> np.ndarray:
    """Imports two classes of which one holds the picture, and returns what became of it."""
    background = {f"b/{i}.png": encode(Image.new("RGB", (size, size), "gray")) for i in range(2)}
    files = background | {f"a/{i}.{kind}": content for i in range(2)}
    folder = write_folder(tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}", files)
    import_images(folder, "mine", size=size, replace=True)
    images = library.load("mine")
    assert images.train_labels.tolist() == [0, 1]
    return image_at(images.train_images, 0)


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "webp", "tiff", "ppm", "jpeg"])
def test_each_format_is_read(kind: str, tmp_path: Path) -> None:
    color = (200, 100, 40)
    content = encode(Image.new("RGB", (32, 32), color), kind)
    assert np.abs(import_one(content, kind, tmp_path).astype(int) - color).max() <= 4


def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    image = import_one(encode(Image.fromarray(values)), "png", tmp_path)
    assert (image[..., 0] == image[..., 2]).all()
    assert np.array_equal(image[..., 0], np.rint(values / 257).astype(np.uint8))


def test_transparent_pixels_become_white_whatever_lies_under_them(tmp_path: Path) -> None:
    layer = np.zeros((32, 32, 4), np.uint8)
    layer[:16] = (255, 0, 0, 255)
    image = import_one(encode(Image.fromarray(layer)), "png", tmp_path)
    assert (image[:16] == (255, 0, 0)).all()
    assert (image[16:] == 255).all()
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([9, 8, 7, 0, 0, 255])
    palette.paste(1, (0, 0, 32, 8))
    image = import_one(encode(palette, transparency=0), "png", tmp_path)
    assert (image[:8] == (0, 0, 255)).all()
    assert (image[8:] == 255).all()


def test_cmyk_palette_and_black_and_white_become_rgb(tmp_path: Path) -> None:
    red = import_one(encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "tiff"), "tif", tmp_path)
    assert (red == (255, 0, 0)).all()
    gif = import_one(encode(Image.new("RGB", (32, 32), "blue").quantize(), "gif"), "gif", tmp_path)
    assert (gif == (0, 0, 255)).all()
    white = import_one(encode(Image.new("1", (32, 32), 1)), "png", tmp_path)
    assert (white == 255).all()


def test_a_picture_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    upright = Image.new("RGB", (32, 32), "black")
    upright.paste("white", (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter when shown
    content = encode(upright.rotate(90, expand=True), "png", exif=exif)
    image = import_one(content, "png", tmp_path)
    assert (image[:16] == 255).all()
    assert (image[16:] == 0).all()


def test_another_size_is_scaled_and_cropped_in_the_middle_and_counted(tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 64), "red")
    wide.paste("lime", (16, 0, 80, 64))  # the middle square
    files = flat_files(2) | {"cat/wide.png": encode(wide)}
    done = import_images(write_folder(tmp_path / "mine", files), None)
    assert done.num_resized == 1
    images = library.load("mine")
    # all but the seam, where the colours mix
    everything = torch.cat([images.train_images, images.test_images])[..., 2:-2]
    lime = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]
    assert (everything == lime).all(dim=1).flatten(1).all(dim=1).sum() == 1


def test_the_size_can_be_chosen(tmp_path: Path) -> None:
    done = import_images(write_folder(tmp_path / "mine", split_files()), None, size=8)
    assert done.entry.image_size == (8, 8)
    assert done.num_resized == 10


# ---- what is refused ----


def refused(path: Path, root: Path, name: str | None = "mine", **options: object) -> str:
    """Imports what must not be imported; returns the message, after seeing nothing was written."""
    before = everything_below(root)
    with pytest.raises(UsageError) as raised:
        import_images(path, name, **options)  # type: ignore[arg-type]
    assert everything_below(root) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_path_that_is_missing_or_no_archive_is_refused(tmp_path: Path, root: Path) -> None:
    assert f"{tmp_path / 'nowhere'} does not exist" in refused(tmp_path / "nowhere", root)
    text = tmp_path / "notes.txt"
    text.write_text("x")
    message = refused(text, root)
    assert str(text) in message
    assert ".tar.gz" in message


@pytest.mark.parametrize("size", [0, 7, 513, -1])
def test_a_size_out_of_range_is_refused(size: int, tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "mine", split_files())
    assert f"size={size}: images must be from 8 to 512" in refused(path, root, size=size)


@pytest.mark.parametrize("name", ["auto", "a/b", "cifar10", "CIFAR100"])
def test_a_name_that_is_not_allowed_is_refused(name: str, tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "mine", split_files())
    assert name in refused(path, root, name=name)


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITERS if suffix])
@pytest.mark.parametrize("harm", ["half", "tail", "empty", "noise"])
def test_a_damaged_archive_is_refused(harm: str, suffix: str, tmp_path: Path, root: Path) -> None:
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", flat_files())
    content = path.read_bytes()
    if suffix == ".tar" and harm == "tail":
        content = content.rstrip(b"\0")  # the mark of its end
    harmed = {
        "half": content[: len(content) // 2],
        "tail": content[:-4] if suffix != ".tar" else content,
        "empty": b"",
        "noise": random.Random(0).randbytes(5000),
    }
    path.write_bytes(harmed[harm])
    message = refused(path, root)
    assert str(path) in message
    assert "damaged" in message


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".zip"])
def test_a_flipped_bit_in_an_archive_is_noticed(suffix: str, tmp_path: Path, root: Path) -> None:
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", flat_files())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    assert str(path) in refused(path, root)


def test_a_damaged_header_amid_a_tar_is_not_taken_for_its_end(tmp_path: Path, root: Path) -> None:
    path = write_tar(tmp_path / "mine.tar", flat_files())
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[15].offset
    path.write_bytes(content[:offset] + b"garbage" + content[offset + 7 :])
    assert "damaged" in refused(path, root)


HOSTILE_NAMES = ["/etc/cat/0.png", "../cat/0.png", "cat/../../x/0.png", "C:/cat/0.png"]


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "..\\cat\\0.png", "\\cat\\0.png"])
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_member_that_leads_out_of_its_folder_is_refused_by_name(
    suffix: str, name: str, tmp_path: Path, root: Path
) -> None:
    files = flat_files() | {name: picture(0)}
    message = refused(WRITERS[suffix](tmp_path / f"mine{suffix}", files), root)
    assert repr(name if suffix != ".zip" else name.replace("\\", "/")) in message
    assert "absolute" in message or "leads out" in message


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_tar_with_a_link_or_device_is_refused_by_name(
    kind: bytes, tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "mine.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in flat_files().items():
            archive.addfile(tar_info(name, len(content)), io.BytesIO(content))
        archive.addfile(tar_info("cat/odd.png", type=kind, linkname="/etc/passwd"))
    message = refused(path, root)
    assert "cat/odd.png" in message
    assert "link or device" in message


def test_a_zip_with_a_link_is_refused_by_name(tmp_path: Path, root: Path) -> None:
    path = write_zip(tmp_path / "mine.zip", flat_files())
    info = zipfile.ZipInfo("cat/odd.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    message = refused(path, root)
    assert "cat/odd.png" in message
    assert "link or device" in message


def test_an_encrypted_zip_is_refused_by_name(tmp_path: Path, root: Path) -> None:
    path = write_zip(tmp_path / "mine.zip", flat_files())
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    message = refused(path, root)
    assert "cat/00.png is encrypted" in message


@pytest.mark.parametrize("where", ["file", "folder", "broken", "loop"])
def test_a_link_out_of_the_folder_is_refused_by_name(
    where: str, tmp_path: Path, root: Path
) -> None:
    path = write_folder(tmp_path / "mine", flat_files())
    outside = write_folder(tmp_path / "outside", {"0.png": picture(0)})
    targets = {
        "file": outside / "0.png",
        "folder": outside,
        "broken": tmp_path / "nowhere",
        "loop": path,
    }
    (path / "cat" / "odd.png").symlink_to(targets[where])
    message = refused(path, root)
    assert "cat/odd.png" in message
    assert "link" in message


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "mine", flat_files(6))
    (path / "cat" / "again.png").symlink_to(path / "cat" / "00.png")
    assert import_images(path, None).entry.num_train == 11


def test_a_pipe_in_a_folder_is_refused_instead_of_waited_for(tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "mine", flat_files())
    os.mkfifo(path / "cat" / "pipe.png")
    assert "cat/pipe.png is not a regular file" in refused(path, root)


LAYOUT_ERRORS: dict[str, tuple[Mapping[str, bytes], str]] = {
    "nothing at all": ({}, "no images"),
    "no image among the files": ({"cat/a.txt": b"x", "b.csv": b"x"}, "no images (2 other files)"),
    "images in no folder": ({"0.png": picture(0), "1.png": picture(1)}, "0.png is in no class"),
    "one class": ({f"cat/{i}.png": picture(i) for i in range(3)}, "one class only ('cat')"),
    "a class missing in the test set": (
        split_files() | {"train/cow/0.png": picture(0)},
        "class 'cow' has no images in test",
    ),
    "a class missing in the training set": (
        split_files() | {"test/cow/0.png": picture(0)},
        "class 'cow' has no images in train",
    ),
    "a class folder without images": (
        flat_files() | {"cow/notes.txt": b"x"},
        "class 'cow' has no images",
    ),
    "an image beside the classes": (
        split_files() | {"train/stray.png": picture(0)},
        "stray.png is in no class folder",
    ),
    "a test set without classes": (
        {name: data for name, data in split_files().items() if name.startswith("train")}
        | {"test/0.png": picture(0)},
        "0.png is in no class folder",
    ),
    "splits without classes": (
        {"train/0.png": picture(0), "test/1.png": picture(1)},
        "0.png is in no class folder",
    ),
    "one image of a class, and no test set": (
        flat_files() | {"cow/0.png": picture(0)},
        "class 'cow' has one image",
    ),
    "an image that cannot be decoded": (
        flat_files() | {"cat/bad.png": b"not a picture"},
        "cat/bad.png cannot be decoded",
    ),
    "an image cut short": (
        flat_files() | {"cat/bad.png": picture(0)[:-200]},
        "cat/bad.png cannot be decoded",
    ),
    "an empty image": (flat_files() | {"dog/bad.jpg": b""}, "dog/bad.jpg cannot be decoded"),
    "an image of 32-bit numbers": (
        flat_files() | {"dog/deep.tif": encode(Image.new("F", (32, 32)), "tiff")},
        "dog/deep.tif cannot be decoded as an image: 32-bit pixels",
    ),
    "a format that is not on the list, under another's name": (
        flat_files() | {"dog/odd.png": encode(Image.new("RGB", (32, 32)), "tga")},
        "dog/odd.png cannot be decoded",
    ),
}


@pytest.mark.parametrize("suffix", ["", ".tar.gz", ".zip"])
@pytest.mark.parametrize("case", LAYOUT_ERRORS)
def test_what_is_no_data_set_is_refused_with_the_offender_named(
    case: str, suffix: str, tmp_path: Path, root: Path
) -> None:
    files, says = LAYOUT_ERRORS[case]
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", files)
    message = refused(path, root)
    assert says in message
    assert str(path) in message


def test_an_empty_class_folder_is_refused_even_without_any_file(tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "mine", split_files())
    (path / "train" / "cow").mkdir()
    assert "class 'cow' has no images in train" in refused(path, root)


def test_a_member_given_twice_is_refused_by_name(tmp_path: Path, root: Path) -> None:
    files = flat_files() | {"./cat/00.png": picture(77)}
    message = refused(write_tar(tmp_path / "mine.tar", files), root)
    assert "cat/00.png twice" in message


# ---- bombs ----


def test_a_small_image_of_huge_dimensions_is_refused_unread(tmp_path: Path, root: Path) -> None:
    header = picture(0)
    huge = header[:16] + struct.pack(">II", 60_000, 60_000) + header[24:]
    files = flat_files() | {"cat/huge.png": huge}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "cat/huge.png" in refused(write_folder(tmp_path / "mine", files), root)


@pytest.mark.parametrize("suffix", [".tar.xz", ".zip"])
def test_a_member_that_is_too_large_for_an_image_is_refused_unread(
    suffix: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "MAX_IMAGE_BYTES", 1 << 20)
    files = flat_files() | {"cat/bomb.png": bytes(2 << 20)}
    message = refused(WRITERS[suffix](tmp_path / f"mine{suffix}", files), root)
    assert "cat/bomb.png has 2,097,152 bytes" in message


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".tar.bz2", ".zip"])
def test_an_archive_that_grows_as_no_images_do_is_refused(
    suffix: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "HARMLESS_BYTES", 1 << 20)
    files = flat_files() | {"notes.txt": bytes(64 << 20)}
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", files)
    assert "more than 200 times its size" in refused(path, root)


def test_a_tar_header_that_claims_gigabytes_is_not_read_into_memory(
    tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "mine.tar"
    header = tar_info("x", 7 << 30, type=tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(header + bytes(4096))
    assert "oversized header" in refused(path, root)


@pytest.mark.parametrize("suffix", ["", ".tar", ".zip"])
def test_too_many_files_are_refused(
    suffix: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MAX_MEMBERS", 10)
    path = WRITERS[suffix](tmp_path / f"mine{suffix}", flat_files())
    assert "more than 10 files" in refused(path, root)


def test_images_that_do_not_fit_into_memory_are_refused_in_time(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_RESULT_BYTES", 20 * 3 * 32 * 32)
    message = refused(write_folder(tmp_path / "mine", flat_files()), root)
    assert "more than 20 images of 32 x 32 pixels do not fit" in message


# ---- importing again ----


def test_the_same_again_is_a_no_op_that_says_so(tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "mine", split_files())
    first = import_images(path, None)
    before = everything_below(root), first.entry.path.stat().st_mtime_ns
    again = import_images(write_zip(tmp_path / "other.zip", split_files()), "mine")
    assert again.existed
    assert again.entry == first.entry
    assert (everything_below(root), first.entry.path.stat().st_mtime_ns) == before


def test_other_content_under_a_name_that_exists_needs_replace(tmp_path: Path, root: Path) -> None:
    import_images(write_folder(tmp_path / "mine", split_files()), None)
    path = write_folder(tmp_path / "other", flat_files())
    message = refused(path, root)
    assert "'mine' exists with other content" in message
    assert "--replace" in message
    done = import_images(path, "mine", replace=True)
    assert not done.existed
    assert library.load("mine").sha256 == done.entry.sha256


@pytest.mark.parametrize("position", [-100, 20], ids=["pixel", "header"])
def test_importing_again_mends_a_damaged_set(position: int, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "mine", split_files())
    file = import_images(path, None).entry.path
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)
    assert not import_images(path, None).existed
    assert library.verify("mine").num_train == 6


# ---- CIFAR as published ----


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


# ---- the real thing ----


def test_sixty_thousand_jpegs_import_in_under_a_minute() -> None:
    given = os.environ.get("NORMBENCH_TEST_ARCHIVE")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / JPEGS
    path = Path(given) if given else beside
    if not path.is_file():
        pytest.skip(f"{JPEGS} is not here: name it with NORMBENCH_TEST_ARCHIVE=PATH")
    started = time.perf_counter()
    done = import_images(path, "cifar10-jpeg")
    assert time.perf_counter() - started < 60
    assert (done.entry.num_train, done.entry.num_test) == (50_000, 10_000)
    assert (done.num_resized, done.num_ignored, done.made_test_split) == (0, 0, False)
    images = library.load("cifar10-jpeg")
    assert images.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert images.train_labels.bincount().tolist() == [5000] * 10
    mean = images.train_images.float().mean(dim=(0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3)
