"""Encoded images to pixels of one size.

Pillow is imported where it is needed: it takes a while, and a training run does without.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from normbench.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_IMAGE_PIXELS = 64_000_000
MAX_RESULT_BYTES = 16 << 30

# Only plain raster formats: some of Pillow's others start programs (EPS) or open further files.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_ORIENTATION = 0x0112
_BLOCK_BYTES = 64 << 20


Fit = Literal["crop", "pad"]
"""How an image becomes a square: scaled so that its shorter side fits and the middle of the longer
one is kept, or so that its longer side fits and the rest is black."""


class BrokenImageError(UsageError):
    """An image that cannot be decoded."""


class Decoded:
    """Images decoded one after another, kept in blocks, since nobody knows how many there will be.

    Args:
        size: height and width of the images, in pixels.
        path: where they come from, for messages.
        fit: how an image of another shape becomes a square.
    """

    def __init__(self, size: int, path: Path, fit: Fit = "crop") -> None:
        self.size = size
        self.path = path
        self.fit = fit
        self.num_resized = 0
        self._count = 0
        self._image_bytes = 3 * size**2
        self._block_size = max(1, _BLOCK_BYTES // self._image_bytes)
        self._blocks: list[Pixels] = []

    def add(self, name: str, content: bytes) -> None:
        """Decodes one more image. Threads were tried, and gained nothing for images this small.

        Raises:
            BrokenImageError: it cannot be decoded; the stack is as it was.
            UsageError: the images do not fit into memory.
        """
        if (self._count + 1) * self._image_bytes > MAX_RESULT_BYTES:
            raise UsageError(
                f"{self.path}: more than {self._count:,} images of {self.size} x {self.size} "
                f"pixels do not fit into {MAX_RESULT_BYTES >> 30} GiB: choose a smaller --size"
            )
        image, resized = decode(f"{self.path}: {name}", content, self.size, self.fit)
        at = self._count % self._block_size
        if at == 0:
            self._blocks.append(np.empty((self._block_size, 3, self.size, self.size), np.uint8))
        self._blocks[-1][at] = image.transpose(2, 0, 1)
        self._count += 1
        self.num_resized += resized

    def take(self, orders: Sequence[Sequence[int]]) -> list[Pixels]:
        """Picks images, each at most once an order, and empties the stack, which saves memory.

        Args:
            orders: indices into the images.

        Returns:
            For each order, its images: uint8 [_, 3, size, size].
        """
        results = [np.empty((len(it), 3, self.size, self.size), np.uint8) for it in orders]
        places = [np.full(len(self._blocks) * self._block_size, -1) for _ in orders]
        for place, order in zip(places, orders, strict=True):
            place[np.array(order, np.int64)] = np.arange(len(order))
        while self._blocks:
            block = self._blocks.pop()
            start = len(self._blocks) * self._block_size
            for result, place in zip(results, places, strict=True):
                at = place[start : start + self._block_size]
                result[at[at >= 0]] = block[at >= 0]
        self._count = 0
        return results


def decode(what: str, content: bytes, size: int, fit: Fit = "crop") -> tuple[Pixels, bool]:
    """Decodes an image, and makes it a square.

    Args:
        what: its name, for messages.
        content: the encoded image.
        size: height and width wanted, in pixels.
        fit: how an image of another shape becomes a square.

    Returns:
        The pixels, uint8 [size, size, 3], and whether the image had another size.

    Raises:
        BrokenImageError: it is damaged, too large, or of a format that is not on the list.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # our own limit on pixels is below the one Pillow warns of
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=_FORMATS)
        with opened as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            image.load()
            upright: Image.Image = image
            if image.getexif().get(_ORIENTATION, 1) != 1:
                upright = ImageOps.exif_transpose(image)
            rgb = _to_rgb(upright)
            resized = rgb.size != (size, size)
            if resized:
                if fit == "pad" and 2 * size * min(rgb.size) <= max(rgb.size):
                    # ImageOps.pad rounds such a thin side to nothing, and leaves all black.
                    line = (size, 1) if rgb.width > rgb.height else (1, size)
                    rgb = rgb.resize(line, Image.Resampling.BICUBIC)
                square = ImageOps.fit if fit == "crop" else ImageOps.pad
                rgb = square(rgb, (size, size), Image.Resampling.BICUBIC)
            return np.asarray(rgb), resized
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImageError(f"{what} cannot be decoded as an image: {reason}") from None


def _to_rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _of_16_bits(image).convert("RGB")  # convert() alone would clip at 255
    if image.has_transparency_data:  # what lies under transparent pixels is often garbage
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no agreed range: save it with 8 or 16 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


def _of_16_bits(image: "Image") -> "Image":
    """Grey of 16 bits as grey of 8; the value that stands for transparency becomes white."""
    from PIL import Image

    wide = np.asarray(image).astype(np.uint32)
    grey = ((wide + 128) // 257).astype(np.uint8)
    grey[wide == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)
