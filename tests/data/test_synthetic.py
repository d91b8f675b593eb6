"""The built-in images: what they are, and that they are the same everywhere."""

import numpy as np
import pytest
import torch

from normbench.data.library import ImageSet, content_digest
from normbench.data.synthetic import SHAPES, SIZE, TEST, TRAIN, _draw, draw

PINNED_SHA256 = "45c9c6505d4fbb534b28fc05992c813625024b909788b5eaa3838caf75059728"
"""The digest of the whole set, the same on every machine; a change of it
changes every result on the built-in images."""


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return draw()


def test_ten_thousand_training_and_two_thousand_test_images_of_32_by_32_pixels(
    images: ImageSet,
) -> None:
    assert (TRAIN, TEST, SIZE) == (6_000, 2_000, 32)
    assert images.name == "synthetic"
    assert images.train_images.shape == (6_000, 3, 32, 32)
    assert images.test_images.shape == (2_000, 3, 32, 32)
    assert images.train_labels.shape == (6_000,)
    assert images.test_labels.shape == (2_000,)
    assert images.train_images.dtype == images.test_images.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.train_images.is_contiguous()


def test_ten_classes_are_named_and_balanced(images: ImageSet) -> None:
    assert images.classes == tuple(SHAPES)
    assert len(set(images.classes)) == 10
    assert torch.bincount(images.train_labels).tolist() == [600] * 10
    assert torch.bincount(images.test_labels).tolist() == [200] * 10


def test_the_classes_come_in_no_order(images: ImageSet) -> None:
    for labels in (images.train_labels, images.test_labels):
        repeats = (labels[1:] == labels[:-1]).double().mean().item()
        assert repeats == pytest.approx(0.1, abs=0.03)
        counts = torch.bincount(labels[:500], minlength=10)
        assert counts.min() > 25
        assert counts.max() < 80


def test_no_image_comes_twice_nor_is_in_both_parts(images: ImageSet) -> None:
    everything = torch.cat([images.train_images, images.test_images])
    assert len({image.numpy().tobytes() for image in everything}) == 8_000


def test_the_digest_is_that_of_the_content(images: ImageSet) -> None:
    assert images.sha256 == content_digest(
        images.classes,
        images.train_images,
        images.train_labels,
        images.test_images,
        images.test_labels,
    )


def test_the_images_are_the_ones_that_published_results_used(images: ImageSet) -> None:
    assert images.sha256 == PINNED_SHA256


def test_drawing_leaves_the_global_random_states_alone() -> None:
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    torch_before = torch.get_rng_state()
    _draw(20, seed=1)
    after = np.random.get_state(legacy=False)["state"]["key"]
    assert np.array_equal(before, after)
    assert torch.equal(torch_before, torch.get_rng_state())


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_fits_its_square_and_is_neither_empty_nor_full(name: str) -> None:
    axis = np.linspace(-1.5, 1.5, 301)
    x, y = np.meshgrid(axis, axis)
    inside = SHAPES[name](x, y) < 0
    assert not inside[np.maximum(np.abs(x), np.abs(y)) > 1].any()
    share = inside.sum() * (axis[1] - axis[0]) ** 2 / 4
    assert 0.1 < share < 0.75


def test_no_two_classes_are_the_same_shape_even_when_turned() -> None:
    axis = np.linspace(-1.2, 1.2, 121)
    x, y = np.meshgrid(axis, axis)

    def turned(name: str, angle: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        return SHAPES[name](u, v) < 0

    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    for one in SHAPES:
        still = turned(one, 0.0)
        for other in SHAPES:
            if other != one:
                overlaps = []
                for angle in angles:
                    moved = turned(other, angle)
                    overlaps.append((still & moved).sum() / (still | moved).sum())
                assert max(overlaps) < 0.9, (one, other)


def test_images_differ_in_brightness_contrast_and_colour(images: ImageSet) -> None:
    pixels = images.train_images[:1000].double()
    assert pixels.mean((1, 2, 3)).std() > 10  # brightness
    contrast = pixels.std((1, 2, 3))
    assert contrast.max() > 2 * contrast.min()
    casts = pixels.mean((2, 3)) - pixels.mean((1, 2, 3))[:, None]
    assert casts.std() > 3
    assert 90 < pixels.mean() < 165


def test_the_class_cannot_be_told_from_the_colours_alone(images: ImageSet) -> None:
    # Nearest class mean of the six numbers that colour statistics give: hardly above chance.
    def features(pixels: torch.Tensor) -> torch.Tensor:
        flat = pixels.double().flatten(2)
        return torch.cat([flat.mean(2), flat.std(2)], dim=1)

    train, test = features(images.train_images), features(images.test_images)
    mean, std = train.mean(0), train.std(0)
    train, test = (train - mean) / std, (test - mean) / std
    centres = torch.stack([train[images.train_labels == label].mean(0) for label in range(10)])
    guesses = torch.cdist(test, centres).argmin(1)
    accuracy = (guesses == images.test_labels).double().mean().item()
    assert accuracy < 0.25
