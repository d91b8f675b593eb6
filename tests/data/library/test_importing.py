"""Importing: every accepted form gives the same data set; everything else is refused whole."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from normbench.data import library
from normbench.data.library import decoding
from normbench.data.library.importing import import_images
from normbench.errors import UsageError
from tests.data_helpers import (
    WRITERS,
    encode,
    everything_below,
    flat_files,
    image_at,
    picture,
    pixels,
    refused,
    split_files,
    write_folder,
    write_zip,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    monkeypatch.setenv("NORMBENCH_DATA", str(folder))
    return folder


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


def test_the_size_can_be_chosen(tmp_path: Path) -> None:
    done = import_images(write_folder(tmp_path / "mine", split_files()), None, size=8)
    assert done.entry.image_size == (8, 8)
    assert done.num_resized == 10


@pytest.mark.parametrize("size", [0, 3, 513, -1])
def test_a_size_out_of_range_is_refused(size: int, tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "mine", split_files())
    assert f"--size {size}: must be from 4 to 512" in refused(path, root, size=size)


@pytest.mark.parametrize("name", ["auto", "a/b", "cifar10", "CIFAR100"])
def test_a_name_that_is_not_allowed_is_refused(name: str, tmp_path: Path, root: Path) -> None:
    path = write_folder(tmp_path / "mine", split_files())
    assert name in refused(path, root, name=name)


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


@pytest.mark.skipif("NORMBENCH_TEST_ARCHIVE" not in os.environ, reason="names no archive")
def test_all_of_cifar_10_as_jpeg_is_imported() -> None:
    done = import_images(Path(os.environ["NORMBENCH_TEST_ARCHIVE"]), "cifar10-jpeg")
    assert (done.entry.num_train, done.entry.num_test) == (50_000, 10_000)
    assert (done.num_resized, done.num_ignored, done.made_test_split) == (0, 0, False)
    images = library.load("cifar10-jpeg")
    assert images.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert images.train_labels.bincount().tolist() == [5000] * 10
    mean = images.train_images.float().mean(dim=(0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3)


# ---- images that do not fit, or are broken ----


def test_an_image_of_another_shape_is_cropped_or_padded(tmp_path: Path) -> None:
    """White, 64 wide and 32 high: its middle, or all of it between black edges."""
    white = encode(Image.new("RGB", (64, 32), "white"))
    path = write_folder(tmp_path / "mine", split_files() | {"train/cat/a wide one.png": white})
    rows = {}
    for fit in ("crop", "pad"):
        done = import_images(path, fit, fit=fit)
        assert (done.num_resized, done.fit) == (1, fit)
        images = library.load(fit).train_images
        (wide,) = [each for each in images if set(each.unique().tolist()) <= {0, 255}]
        rows[fit] = wide[0, :, 16].tolist()

    assert rows["crop"] == [255] * 32
    assert rows["pad"] == [0] * 8 + [255] * 16 + [0] * 8


@pytest.mark.parametrize("size", [(2000, 20), (20, 2000), (640, 10)])
def test_a_line_of_an_image_is_padded_and_not_lost(size: tuple[int, int], tmp_path: Path) -> None:
    white = encode(Image.new("RGB", size, "white"))
    path = write_folder(tmp_path / "lines", split_files() | {"train/cat/line.png": white})
    import_images(path, "lines", fit="pad")
    (line,) = [
        each
        for each in library.load("lines").train_images
        if set(each.unique().tolist()) <= {0, 255}
    ]
    assert int((line[0] == 255).sum()) == 32


def test_a_name_that_nothing_can_have_is_said_before_anything_is_read(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path / "My Photos", split_files())
    with monkeypatch.context() as patch:
        patch.setattr(decoding.Decoded, "add", lambda *_: pytest.fail("it is decoded"))
        assert "give it a name with --name" in refused(path, root, None)
    assert import_images(path, "photos").entry.num_train == 6


def test_loose_images_are_told_at_once_however_many_they_are(tmp_path: Path, root: Path) -> None:
    images = {f"test_{i}.png": picture(0) for i in range(2000)}
    said = refused(write_folder(tmp_path / "mine", images), root)
    assert "is in no class folder" in said


def test_a_folder_whose_name_is_no_utf_8_can_be_imported(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    done = import_images(write_folder(path, split_files()), "cafe")
    assert done.entry.source == "caf\\xe9"


def test_a_folder_of_torchvision_s_beside_one_s_own_is_not_taken_for_them(
    tmp_path: Path, root: Path
) -> None:
    path = write_folder(tmp_path / "data", flat_files())
    (path / "cifar-10-batches-py").mkdir()
    assert "holds cifar-10-batches-py beside cat, dog: import" in refused(path, root, "pets")


BROKEN = {"train/cat/bad.png": b"no picture", "test/dog/worse.png": b"", "train/cat/x.jpg": b"\xff"}


def test_every_broken_image_is_listed(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UsageError) as raised:
        import_images(write_folder(tmp_path / "mine", split_files() | BROKEN), "mine")
    first, *listed = str(raised.value).splitlines()
    assert everything_below(root) == {}

    assert "3 images are broken; --skip-broken goes on without" in first
    assert len(listed) == 3
    for name in BROKEN:
        assert sum(f"{name} cannot be decoded as an image: " in line for line in listed) == 1


def test_broken_images_can_be_left_out(tmp_path: Path) -> None:
    whole = import_images(write_folder(tmp_path / "whole", split_files()), "whole")
    path = write_zip(tmp_path / "mine.zip", split_files() | BROKEN)
    done = import_images(path, "mine", skip_broken=True)

    assert done.entry.sha256 == whole.entry.sha256, "as if they had not been there"
    assert len(done.broken) == 3


def test_a_class_of_nothing_but_broken_images_is_refused(tmp_path: Path, root: Path) -> None:
    path = write_zip(tmp_path / "mine.zip", split_files() | {"train/cow/0.png": b"no picture"})

    assert "class 'cow' has no images" in refused(path, root, skip_broken=True)


def test_a_set_with_the_classes_of_cifar_is_named_where_cifar_is_missing(tmp_path: Path) -> None:
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    files = {f"{name}/{i}.png": picture(i) for i in range(2) for name in names}
    import_images(write_folder(tmp_path / "mine", files), "mine")

    with pytest.raises(UsageError, match=r"`data=images data\.name=mine`, which has its classes"):
        library.load("cifar10")
    with pytest.raises(UsageError, match="normbench data fetch cifar100") as error:
        library.load("cifar100")
    assert "mine`" not in str(error.value)


def test_a_full_disk_is_said_in_the_system_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UsageError, match=r"cannot write .*: No space left on device; make room"):
        import_images(write_folder(tmp_path / "mine", split_files()), "mine")
