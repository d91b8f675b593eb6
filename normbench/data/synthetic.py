"""The built-in images: shapes drawn from arithmetic alone, for a machine with nothing else.

Ten classes of shapes in varying places, sizes and orientations, in front of and behind clutter.
Every image has its own brightness, contrast and colour cast, as photographs do.

The images are the same on every machine, to the bit: the random numbers come from a generator whose
stream numpy has frozen, and a pixel is computed by additions, multiplications, divisions, square
roots and comparisons of float64, one element at a time, which IEEE 754 fixes.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from normbench.data.library import Description, ImageSet, content_digest

SIZE = 32
TRAIN, TEST = 6_000, 2_000

# How hard the images are to tell apart: with these, four epochs of the default network end between
# 65 and 80 % depending on the norm and the batch, neither at chance nor at the ceiling.
CONTRAST = 0.25  # the lowest contrast of an image
NOISE = 0.18  # the highest deviation of a pixel
SMALL, LARGE = 0.26, 0.46  # a shape's radius; 1 is half an image

Array = NDArray[np.float64]


def _disc(x: Array, y: Array) -> Array:
    return x * x + y * y - 0.72


def _ring(x: Array, y: Array) -> Array:
    r = np.sqrt(x * x + y * y)
    return np.abs(r - 0.72) - 0.22


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.75


def _frame(x: Array, y: Array) -> Array:
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.66) - 0.2


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(0.866 * np.abs(x) + 0.5 * y, -y) - 0.5


def _cross(x: Array, y: Array) -> Array:
    a, b = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(a, b) - 0.27, np.maximum(a, b) - 0.95)


def _ellipse(x: Array, y: Array) -> Array:
    return x * x + 5.0 * y * y - 0.95


def _half_disc(x: Array, y: Array) -> Array:
    return np.maximum(x * x + y * y - 0.95, -y - 0.1)


def _crescent(x: Array, y: Array) -> Array:
    shifted = x - 0.45
    return np.maximum(x * x + y * y - 0.9, 0.5 - (shifted * shifted + y * y))


def _two_discs(x: Array, y: Array) -> Array:
    a = np.abs(x) - 0.55
    return a * a + y * y - 0.19


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "cross": _cross,
    "ellipse": _ellipse,
    "half-disc": _half_disc,
    "crescent": _crescent,
    "two-discs": _two_discs,
}
"""Each class: a function of a point that is below zero inside the shape, which fits ±1."""


DESCRIPTION = Description(
    name="synthetic",
    sha256="45c9c6505d4fbb534b28fc05992c813625024b909788b5eaa3838caf75059728",
    classes=tuple(SHAPES),
    num_train=TRAIN,
    num_test=TEST,
    image_size=(SIZE, SIZE),
)
"""What is known of the set before it is drawn."""


@cache
def draw() -> ImageSet:
    """Draws the whole set: 6,000 training and 2,000 test images, balanced over ten classes."""
    train_images, train_labels = _draw(TRAIN, seed=1)
    test_images, test_labels = _draw(TEST, seed=2)
    classes = tuple(SHAPES)
    digest = content_digest(classes, train_images, train_labels, test_images, test_labels)
    assert digest == DESCRIPTION.sha256, "the drawing has changed: write down its new digest"
    return ImageSet(
        name=DESCRIPTION.name,
        sha256=digest,
        classes=classes,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` images as uint8 [count, 3, 32, 32] and their labels as int64 [count]."""
    random = np.random.RandomState(seed)
    labels = np.arange(count) % len(SHAPES)
    random.shuffle(labels)
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    for start in range(0, count, 1000):
        part = slice(start, start + 1000)
        images[part] = _draw_part(labels[part], random)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _draw_part(labels: NDArray[np.int64], random: np.random.RandomState) -> NDArray[np.uint8]:
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Array:
        return low + (high - low) * random.random_sample((n, *shape))

    picture = _background(uniform)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        inside = _place(labels, row, column, uniform)
        # Lighter or darker than the background, in any colour: only the outline tells the class.
        sign = np.where(uniform(0.0, 1.0, 1, 1, 1) < 0.5, -1.0, 1.0)
        colour = 0.5 + sign * uniform(0.15, 0.5, 3, 1, 1)
        picture = np.where(inside[:, None], colour, picture)
    # A photograph's accidents: contrast, brightness, colour cast, noise.
    contrast = uniform(CONTRAST, 1.0, 1, 1, 1)
    brightness = uniform(-0.3, 0.3, 1, 1, 1) * (1.2 - contrast)
    cast = uniform(-0.1, 0.1, 3, 1, 1)
    noise = uniform(-NOISE, NOISE, 3, SIZE, SIZE)
    picture = (picture - 0.5) * contrast + 0.5 + brightness + cast + noise
    clipped: NDArray[np.uint8] = (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return clipped


def _grid() -> tuple[Array, Array]:
    """Pixel centres from -1 to 1: x [1, 1, 32] and y [1, 32, 1]."""
    axis: Array = (np.arange(SIZE, dtype=np.float64) + 0.5) * (2.0 / SIZE) - 1.0
    return axis[None, None, :], axis[None, :, None]


def _direction(uniform: Callable[..., Array]) -> tuple[Array, Array]:
    """A random direction without trigonometry, whose last bit differs between machines."""
    a, b = uniform(-1.0, 1.0, 1, 1), uniform(-1.0, 1.0, 1, 1)
    length = np.sqrt(a * a + b * b) + 1e-9
    cos: Array = a / length
    sin: Array = b / length
    return cos, sin


def _place(
    labels: NDArray[np.int64], row: int, column: int, uniform: Callable[..., Array]
) -> NDArray[np.bool_]:
    """Where a copy of each image's shape, in one quarter of it, covers the image: [n, 32, 32]."""
    x, y = _grid()
    size = uniform(SMALL, LARGE, 1, 1)
    x = (x - (column - 0.5) - uniform(-0.2, 0.2, 1, 1)) / size
    y = (y - (row - 0.5) - uniform(-0.2, 0.2, 1, 1)) / size
    cos, sin = _direction(uniform)
    u, v = cos * x + sin * y, cos * y - sin * x
    inside = np.zeros((len(labels), SIZE, SIZE), np.bool_)
    for label, shape in enumerate(SHAPES.values()):
        mine = labels == label
        inside[mine] = shape(u[mine], v[mine]) < 0.0
    return inside


def _background(uniform: Callable[..., Array]) -> Array:
    """A mid-grey gradient in a random direction, tinted: [n, 3, 32, 32]."""
    x, y = _grid()
    a, b = _direction(uniform)
    slope = (a * x + b * y)[:, None]
    picture: Array = 0.5 + slope * uniform(-0.15, 0.15, 3, 1, 1)
    return picture
