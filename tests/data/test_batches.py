"""The epoch plan, and the batches made from it, against slow code that does one image at a time."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from normbench.data.batches import (
    CHUNK,
    Batches,
    EpochPlan,
    Split,
    epoch_plan,
    evaluation_batches,
    split,
)
from normbench.data.library import ImageSet
from normbench.data.sources import SyntheticConfig

CPU = torch.device("cpu")
MEAN, STD = torch.tensor([100.0, 120.0, 90.0]), torch.tensor([50.0, 60.0, 70.5])


def random_images(n: int, height: int = 5, width: int = 7, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


def make_split(n: int, pad: int = 2, height: int = 5, width: int = 7) -> tuple[Split, Tensor]:
    """A split whose label i belongs to image i, and the images."""
    images = random_images(n, height, width)
    return Split(images, torch.arange(n), mean=MEAN, std=STD, device=CPU, pad=pad), images


def image_set(n: int = 40, tests: int = 12) -> ImageSet:
    """Every image tells by its first pixel which it is, and its label is that number."""
    train, test = random_images(n, 6, 6, seed=1), random_images(tests, 6, 6, seed=2)
    train[:, 0, 0, 0] = torch.arange(n)
    test[:, 0, 0, 0] = torch.arange(tests)
    names = tuple(str(number) for number in range(max(n, tests)))
    return ImageSet("toy", "0" * 64, names, train, torch.arange(n), test, torch.arange(tests))


def plan(
    seed: int = 0, epoch: int = 0, count: int = 50, batch: int = 4, pad: int = 2, flip: bool = True
) -> EpochPlan:
    return epoch_plan(seed=seed, epoch=epoch, count=count, batch=batch, pad=pad, flip=flip)


def tensors(plan: EpochPlan) -> list[Tensor]:
    return [plan.order, plan.top, plan.left, plan.mirrored]


def slow_batch(
    images: Tensor, plan: EpochPlan, step: int, pad: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The batch of one step, image by image and row by row, in numpy's float32."""
    height, width = images.shape[2:]
    mean, scale = MEAN.numpy(), np.float32(1) / STD.numpy()
    batch = []
    for number in range(plan.order.shape[1]):
        image = images[plan.order[step, number]].numpy()
        black = np.zeros((3, height + 2 * pad, width + 2 * pad), np.uint8)
        black[:, pad : pad + height, pad : pad + width] = image
        top, left = int(plan.top[step, number]), int(plan.left[step, number])
        crop = black[:, top : top + height, left : left + width]
        if plan.mirrored[step, number]:
            crop = crop[:, :, ::-1]
        colours = [(crop[c].astype(np.float32) - mean[c]) * scale[c] for c in range(3)]
        batch.append(np.stack(colours))
    return np.stack(batch)


# The plan.


def test_a_plan_is_a_function_of_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = plan(seed=3, epoch=2)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = plan(seed=3, epoch=2)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(again), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_seed_and_epoch_has_an_order_crops_and_flips_of_its_own() -> None:
    plans = [plan(seed, epoch) for seed in (*range(12), 2**31 - 1) for epoch in range(12)]
    for position in range(4):
        distinct = {tuple(tensors(p)[position].flatten().tolist()) for p in plans}
        assert len(distinct) == len(plans)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 1000),
    count=st.integers(1, 200),
    batch=st.integers(1, 50),
    pad=st.integers(0, 4),
)
def test_an_epoch_has_each_image_at_most_once_and_only_whole_batches(
    seed: int, epoch: int, count: int, batch: int, pad: int
) -> None:
    made = plan(seed, epoch, count, batch, pad)
    steps = count // batch
    for tensor in tensors(made):
        assert tensor.shape == (steps, batch)
    order = made.order.flatten().tolist()
    assert len(set(order)) == steps * batch
    assert set(order) <= set(range(count))
    for offset in (made.top, made.left):
        assert ((offset >= 0) & (offset <= 2 * pad)).all()


def test_all_images_take_turns_at_being_left_out() -> None:
    left_out = [set(range(10)) - set(plan(0, e, 10, 4).order.flatten().tolist()) for e in range(40)]
    assert all(len(images) == 2 for images in left_out)
    assert set.union(*left_out) == set(range(10))


def test_crops_and_flips_are_uniform_and_independent() -> None:
    made = plan(count=50_000, batch=50, pad=2)
    positions = (made.top * 5 + made.left) * 2 + made.mirrored
    counts = torch.bincount(positions.flatten(), minlength=50)
    assert counts.shape == (50,)
    # A thousand expected in each of the fifty cells; five standard deviations are 157.
    assert (counts - 1000).abs().max() < 157


def test_the_order_is_uniform_over_the_places_of_an_image() -> None:
    places = [plan(0, epoch, 5, 1).order.flatten().tolist().index(0) for epoch in range(1000)]
    counts = np.bincount(places, minlength=5)
    assert np.abs(counts - 200).max() < 5 * np.sqrt(1000 * 0.2 * 0.8)


def test_without_flip_nothing_is_mirrored_and_the_order_stays_the_same() -> None:
    without, with_flips = plan(flip=False), plan(flip=True)
    assert not without.mirrored.any()
    assert with_flips.mirrored.any()
    assert torch.equal(without.order, with_flips.order)
    assert torch.equal(without.top, with_flips.top)


def test_without_padding_every_crop_is_the_whole_image() -> None:
    made = plan(pad=0)
    assert not made.top.any()
    assert not made.left.any()


# The batches.


@pytest.mark.parametrize("flip", [True, False], ids=["flip", "plain"])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_batches_equal_images_padded_cropped_mirrored_and_normalized_one_by_one(
    pad: int, flip: bool
) -> None:
    part, images = make_split(23, pad)
    training = Batches(part, seeds=[7], batch=4, flip=flip)
    for epoch in (0, 3):
        made = plan(7, epoch, 23, 4, pad, flip)
        batches = list(training.epoch(epoch))
        assert len(batches) == training.steps == 5
        for step, (batch, labels) in enumerate(batches):
            assert batch.dtype == torch.float32
            assert np.array_equal(batch.numpy(), slow_batch(images, made, step, pad))
            assert torch.equal(labels, made.order[step][:, None])


@pytest.mark.parametrize("batch", [1, 3, CHUNK - 1, CHUNK, CHUNK + 1])
def test_batches_are_the_same_wherever_chunks_begin(batch: int) -> None:
    count = 2 * CHUNK + 100
    part, images = make_split(count, 1, 2, 3)
    made = plan(0, 1, count, batch, 1)
    batches = list(Batches(part, seeds=[0], batch=batch, flip=True).epoch(1))
    assert len(batches) == count // batch
    for step in {0, 1, len(batches) // 2, len(batches) - 1, min(CHUNK // batch, len(batches) - 1)}:
        assert np.array_equal(batches[step][0].numpy(), slow_batch(images, made, step, 1))
    labels = torch.stack([labels for _, labels in batches])
    assert torch.equal(labels[..., 0], made.order)


def test_batches_are_channels_last_in_memory() -> None:
    part, _ = make_split(23)
    for seeds in ([0], [0, 1]):
        for images, _ in Batches(part, seeds=seeds, batch=4, flip=True).epoch(0):
            assert images.shape == (4, 3 * len(seeds), 5, 7)
            assert images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_that_starts_later_yields_the_batches_that_are_left() -> None:
    part, _ = make_split(700, 1, 2, 3)
    for seeds, batch in (([5], 2), ([5, 6, 7], 10), ([5], CHUNK + 1)):
        training = Batches(part, seeds=seeds, batch=batch, flip=True)
        length = max(1, CHUNK // (batch * len(seeds)))
        whole = list(training.epoch(2))
        steps = len(whole)
        assert steps == training.steps
        starts = {0, 1, length - 1, length, length + 1, steps - 1, steps, steps + 1}
        for start in sorted(starts):
            rest = list(training.epoch(2, start))
            assert len(rest) == max(0, steps - start)
            for (images, labels), (images2, labels2) in zip(rest, whole[start:], strict=True):
                assert torch.equal(images, images2)
                assert torch.equal(labels, labels2)


def test_training_goes_through_the_epochs_one_after_another() -> None:
    part, _ = make_split(23)
    training = Batches(part, seeds=[5], batch=4, flip=True)
    expected = [batch for epoch in range(3) for batch in training.epoch(epoch)]
    for (images, labels), (images2, labels2) in zip(training.batches(), expected, strict=False):
        assert torch.equal(images, images2)
        assert torch.equal(labels, labels2)
    assert len(expected) == 15


def test_several_seeds_side_by_side_are_each_seed_alone() -> None:
    part, _ = make_split(230)
    seeds = [4, 0, 9]
    together = list(Batches(part, seeds=seeds, batch=4, flip=True).epoch(1))
    for replica, seed in enumerate(seeds):
        alone = list(Batches(part, seeds=[seed], batch=4, flip=True).epoch(1))
        for (images, labels), (images2, labels2) in zip(together, alone, strict=True):
            assert torch.equal(images[:, 3 * replica : 3 * replica + 3], images2)
            assert torch.equal(labels[:, replica], labels2[:, 0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_batches_come_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    part, _ = make_split(23)
    single = list(Batches(part, seeds=[0], batch=4, flip=True).epoch(0))
    other = list(Batches(part, seeds=[0], batch=4, flip=True, dtype=dtype).epoch(0))
    for (images, _), (images2, _) in zip(single, other, strict=True):
        assert images2.dtype == dtype
        assert torch.equal(images2, images.to(dtype))


def test_an_epoch_leaves_the_images_as_they_were() -> None:
    part, images = make_split(23)
    before, pixels = images.clone(), part.pixels.clone()
    for batch, _ in Batches(part, seeds=[0], batch=4, flip=True).epoch(0):
        batch.zero_()
    assert torch.equal(images, before)
    assert torch.equal(part.pixels, pixels)


def test_evaluation_sees_every_image_once_in_order_and_as_it_is() -> None:
    part, images = make_split(23, pad=0)
    batches = list(evaluation_batches(part, 10))
    assert [len(labels) for _, labels in batches] == [10, 10, 3]
    together = torch.cat([batch for batch, _ in batches])
    expected = (images.float() - MEAN[:, None, None]) * (1 / STD)[:, None, None]
    assert torch.equal(together, expected)
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(23))


def test_images_padded_for_training_are_evaluated_without_their_border() -> None:
    padded, _ = make_split(23, pad=2)
    plain, _ = make_split(23, pad=0)
    for (images, _), (expected, _) in zip(
        evaluation_batches(padded, 10), evaluation_batches(plain, 10), strict=True
    ):
        assert torch.equal(images, expected)


# The splits.


def numbers(part: Split) -> list[int]:
    """Which images a split holds, by their pixels; the labels have to agree."""
    pad = part.pad
    found = part.pixels[:, pad, pad, 0].long()
    assert torch.equal(found, part.labels)
    return [int(number) for number in found]


def test_without_settings_all_images_are_used_shuffled() -> None:
    splits = split(image_set(), SyntheticConfig(pad=2), CPU)
    assert splits.validation is None
    assert sorted(numbers(splits.train)) == list(range(40))
    assert numbers(splits.train) != list(range(40))
    assert numbers(splits.test) == list(range(12))
    assert (splits.train.pad, splits.test.pad) == (2, 0)
    assert splits.train.size == splits.test.size == (6, 6)


def test_the_validation_images_are_held_out_of_training() -> None:
    splits = split(image_set(), SyntheticConfig(val_fraction=0.25), CPU)
    assert splits.validation is not None
    held, chosen = numbers(splits.validation), numbers(splits.train)
    assert (len(held), len(chosen)) == (10, 30)
    assert sorted(held + chosen) == list(range(40))
    assert splits.validation.pad == 0
    assert numbers(splits.test) == list(range(12))


def test_a_limit_takes_the_first_of_one_fixed_shuffle() -> None:
    chosen = [
        numbers(split(image_set(), SyntheticConfig(limit=limit), CPU).train)
        for limit in (5, 20, None, 1000)
    ]
    assert [len(part) for part in chosen] == [5, 20, 40, 40]
    for smaller, larger in pairwise(chosen):
        assert larger[: len(smaller)] == smaller


def test_a_limit_of_the_test_images_takes_the_first_of_one_fixed_shuffle() -> None:
    five, seven, everything, beyond = (
        split(image_set(), SyntheticConfig(test_limit=limit), CPU).test.labels.tolist()
        for limit in (5, 7, None, 1000)
    )
    assert everything == list(range(12))
    assert (len(five), len(seven)) == (5, 7)
    assert seven[:5] == five == beyond[:5] != everything[:5]
    assert sorted(beyond) == everything


def test_limit_and_val_fraction_go_together() -> None:
    config = SyntheticConfig(limit=7, val_fraction=0.5)
    splits = split(image_set(), config, CPU)
    assert splits.validation is not None
    held, chosen = numbers(splits.validation), numbers(splits.train)
    assert (len(held), len(chosen)) == (20, 7)
    assert not set(held) & set(chosen)
    unlimited = split(image_set(), SyntheticConfig(val_fraction=0.5), CPU)
    assert unlimited.validation is not None
    assert numbers(unlimited.validation) == held


def test_a_limit_of_the_test_images_is_one_of_the_held_out_images_as_well() -> None:
    whole = split(image_set(), SyntheticConfig(val_fraction=0.5), CPU)
    few = split(image_set(), SyntheticConfig(val_fraction=0.5, test_limit=5), CPU)
    assert whole.validation is not None
    assert few.validation is not None
    assert numbers(few.validation) == numbers(whole.validation)[:5]
    assert numbers(few.train) == numbers(whole.train)
    assert len(few.test) == 5


def test_splitting_does_not_depend_on_the_global_random_state() -> None:
    torch.manual_seed(1)
    first = numbers(split(image_set(), SyntheticConfig(limit=20), CPU).train)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert numbers(split(image_set(), SyntheticConfig(limit=20), CPU).train) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_normalized_by_mean_and_deviation_of_all_training_images() -> None:
    images = image_set()
    pixels = images.train_images.numpy().astype(np.float64)
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    for config in (SyntheticConfig(), SyntheticConfig(limit=3), SyntheticConfig(val_fraction=0.5)):
        splits = split(images, config, CPU)
        for part in (splits.train, splits.test):
            np.testing.assert_allclose(part.mean.numpy(), mean, rtol=1e-6)
            np.testing.assert_allclose(1 / part.scale.numpy(), std, rtol=1e-6)
    whole = split(images, SyntheticConfig(pad=0), CPU).train
    seen = torch.cat([batch for batch, _ in evaluation_batches(whole, 16)]).double()
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        seen.var((0, 2, 3), correction=0), torch.ones(3).double(), rtol=1e-6, atol=0
    )


def test_a_colour_that_never_varies_does_not_become_infinite() -> None:
    images = image_set()
    images.train_images[:, 1] = 17
    part = split(images, SyntheticConfig(pad=0), CPU).train
    for batch, _ in evaluation_batches(part, 16):
        assert batch.isfinite().all()
        assert (batch[:, 1] == 0).all()
