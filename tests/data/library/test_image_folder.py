"""Class folders: which layouts make a data set, and which are refused with the offender named."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.data import library
from normbench.data.library.importing import import_images
from tests.data_helpers import (
    WRITERS,
    encode,
    flat_files,
    image_at,
    picture,
    pixels,
    refused,
    split_files,
    write_folder,
    write_tar,
    write_zip,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    monkeypatch.setenv("NORMBENCH_DATA", str(folder))
    return folder


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


def test_a_name_composed_or_decomposed_is_the_same_class(tmp_path: Path) -> None:
    files = flat_files(2)
    composed = {name.replace("cat", "caf\u00e9"): data for name, data in files.items()}
    decomposed = {name.replace("cat", "cafe\u0301"): data for name, data in files.items()}
    one = import_images(write_zip(tmp_path / "one.zip", composed), None).entry
    two = import_images(write_tar(tmp_path / "two.tar", decomposed), None).entry
    assert one.sha256 == two.sha256


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "Valid")])
def test_training_and_test_folders_have_several_names(
    names: tuple[str, str], tmp_path: Path
) -> None:
    renamed = {
        k.replace("train/", f"{names[0]}/").replace("test/", f"{names[1]}/"): v
        for k, v in split_files().items()
    }
    usual = import_images(write_folder(tmp_path / "usual", split_files()), None).entry
    found = import_images(write_folder(tmp_path / "other", renamed), None)
    assert (found.entry.sha256, found.made_test_split) == (usual.sha256, False)


def test_classes_may_hold_the_same_folders(tmp_path: Path) -> None:
    files = {f"{kind}/{day}/{i}.png": picture(i) for kind in ("cat", "dog") for day in "ab"
             for i in range(3)}  # fmt: skip
    done = import_images(write_folder(tmp_path / "days", files), None)
    assert done.entry.classes == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    files = flat_files(6) | {f"train/{i}.png": picture(500 + i) for i in range(6)}
    done = import_images(write_folder(tmp_path / "vehicles", files), None)
    assert done.entry.classes == ("cat", "dog", "train")


LAYOUT_ERRORS: dict[str, tuple[Mapping[str, bytes], str]] = {
    "nothing at all": ({}, "no images"),
    "no image among the files": ({"cat/a.txt": b"x", "b.csv": b"x"}, "no images (2 other files)"),
    "images in no folder": ({"0.png": picture(0), "1.png": picture(1)}, "0.png is in no class"),
    "one class": ({f"cat/{i}.png": picture(i) for i in range(3)}, "one class only ('cat')"),
    "a test folder of an unknown name": (
        {k.replace("test/", "eval/"): v for k, v in split_files().items()},
        "holds eval/ and train/ with the same folders inside; if these are training and test",
    ),
    "training and test folders of unknown names": (
        {
            k.replace("test/", "seg_test/").replace("train/", "seg_train/"): v
            for k, v in split_files().items()
        },
        "holds seg_test/ and seg_train/ with the same folders inside",
    ),
    "two test folders and nothing to train on": (
        {k.replace("train/", "val/"): v for k, v in split_files().items()},
        "holds test/ and val/ with the same folders inside",
    ),
    "images of a training and a test set in no classes": (
        {f"{top}/{i}.png": picture(i) for top in ("train", "test1") for i in range(3)},
        "test1/ and train/ look like training and test images, but hold no class folders",
    ),
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
