"""Decoding: what becomes of a picture, whatever its format, mode and size."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from normbench.data import library
from normbench.data.library import decoding
from normbench.data.library.importing import import_images
from tests.data_helpers import (
    encode,
    flat_files,
    image_at,
    picture,
    refused,
    write_folder,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    monkeypatch.setenv("NORMBENCH_DATA", str(folder))
    return folder


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


def test_sixteen_bit_gray_has_its_transparent_value_and_its_other_format(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    wanted = np.rint(values / 257).astype(np.uint8)
    clear = int(values[3, 5])
    image = import_one(encode(Image.fromarray(values), transparency=clear), "png", tmp_path)
    wanted[3, 5] = 255
    assert np.array_equal(image[..., 0], wanted)
    graymap = b"P5 32 32 65535\n" + values.astype(">u2").tobytes()
    image = import_one(graymap, "pgm", tmp_path)
    assert image[0, 0].tolist() == [0, 0, 0]
    wanted[3, 5] = np.rint(clear / 257)
    assert np.array_equal(image[..., 0], wanted)


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


def test_a_small_image_of_huge_dimensions_is_refused_unread(tmp_path: Path, root: Path) -> None:
    header = picture(0)
    huge = header[:16] + struct.pack(">II", 60_000, 60_000) + header[24:]
    files = flat_files() | {"cat/huge.png": huge}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "cat/huge.png" in refused(write_folder(tmp_path / "mine", files), root)


def test_images_that_do_not_fit_into_memory_are_refused_in_time(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_RESULT_BYTES", 20 * 3 * 32 * 32)
    message = refused(write_folder(tmp_path / "mine", flat_files()), root)
    assert "more than 20 images of 32 x 32 pixels do not fit" in message
