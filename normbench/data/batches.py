"""The epoch plan: which image, cropped and mirrored how, in which step of which epoch.

A plan is computed from (seed, epoch) alone, so that a solo run, a stacked run and a resumed run see
the same images, and nothing of a loader needs to be saved. The images stay on the device as uint8;
cropping, mirroring and normalizing are done for many steps at once, because at a batch of two the
price of a data path is the number of calls, not the number of pixels.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from normbench.data.base import DataConfig
from normbench.data.library import ImageSet

CHUNK = 512
"""How many images are prepared at once: enough to make calls cheap, few enough to stay in cache."""

PIXELS = CHUNK * 32**2
"""How many pixels, at most."""


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The images of one epoch in order, without the last incomplete batch.

    Attributes:
        order: int64 [steps, batch], indices into the training images.
        top, left: int64 [steps, batch], where each crop starts in the padded image.
        mirrored: bool [steps, batch].
    """

    order: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor


def epoch_plan(*, seed: int, epoch: int, count: int, batch: int, pad: int, flip: bool) -> EpochPlan:
    """The plan of epoch ``epoch`` (from 0) of seed ``seed`` over ``count`` images."""
    # Seeds and epochs are small; the product with a large odd constant keeps the pairs apart.
    generator = torch.Generator().manual_seed(seed * 0x9E3779B1 + epoch + 1)
    shape = (count // batch, batch)
    order = torch.randperm(count, generator=generator)[: shape[0] * batch].view(shape)
    top = torch.randint(2 * pad + 1, shape, generator=generator)
    left = torch.randint(2 * pad + 1, shape, generator=generator)
    mirrored = torch.rand(shape, generator=generator) < (0.5 if flip else 0.0)
    return EpochPlan(order, top, left, mirrored)


class Split:
    """A set of images on a device, ready to be batched.

    Args:
        images: uint8 [N, 3, H, W].
        labels: int64 [N].
        mean, std: float32 [3], of the training images in units of 0..255.
        device: where the images live.
        pad: how many black pixels surround each image.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
        pad: int = 0,
    ) -> None:
        self.size = (images.shape[2], images.shape[3])
        self.pad = pad
        padded = F.pad(images, (pad, pad, pad, pad)) if pad else images
        # Pixels with their colours together: a crop's row is then one run of bytes.
        self.pixels = padded.permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = labels.to(device)
        self.mean = mean.to(device)
        self.scale = (1.0 / std).to(device)
        self._windows = self._windows_of(self.pixels)

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(self, count: int) -> "Split":
        """``count`` of the images in random order, always the same: folders come class by class."""
        other = copy.copy(self)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        order = order[:count].to(self.labels.device)
        other.pixels, other.labels = self.pixels[order], self.labels[order]
        other._windows = self._windows_of(other.pixels)
        return other

    def _windows_of(self, pixels: Tensor) -> Tensor:
        """Every crop of every image as a view [N, 2·pad+1, 2·pad+1, H, 3·W]."""
        height, width = self.size
        stride, places = 3 * (width + 2 * self.pad), 2 * self.pad + 1
        return pixels.as_strided(
            (len(pixels), places, places, height, 3 * width),
            (stride * (height + 2 * self.pad), stride, 3, stride, 1),
        )

    def crops(self, index: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        """Crops as uint8 [*shape, H, W, 3], for index tensors of one shape."""
        crops = self._windows[index, top, left].view(*index.shape, *self.size, 3)
        return torch.where(mirrored[..., None, None, None], crops.flip(-2), crops)

    def normalized(self, crops: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 [..., 3] to ``dtype`` with mean 0 and variance 1 over the training images."""
        return crops.to(torch.float32).sub_(self.mean).mul_(self.scale).to(dtype)


class Batches:
    """The training images of one or more replicas, each with its own order and augmentation.

    Args:
        split: the images, padded for cropping.
        seeds: one seed a replica, K in all.
        batch: how many images each replica sees in a step.
        flip: whether half of the images are mirrored.
        dtype: of the batches.
    """

    def __init__(
        self,
        split: Split,
        *,
        seeds: Sequence[int],
        batch: int,
        flip: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.split = split
        self.seeds = tuple(seeds)
        self.batch = batch
        self.flip = flip
        self.dtype = dtype
        self.steps = len(split) // batch
        """Steps in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields each step's images [N, K·3, H, W] (channels last) and labels [N, K].

        Args:
            epoch: which epoch, from 0.
            start: the first step wanted, from 0.
        """
        plan = self._plan(epoch)
        # Chunks begin at fixed steps: a resumed epoch computes what an undisturbed one does.
        height, width = self.split.size
        count = min(CHUNK, PIXELS // (height * width))
        length = max(1, count // (self.batch * len(self.seeds)))
        for first in range(start - start % length, self.steps, length):
            images, labels = self._chunk(plan, slice(first, first + length))
            for step in range(max(start - first, 0), len(images)):
                yield images[step], labels[step]

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the steps of all epochs from step ``start`` on, without end."""
        first, within = divmod(start, self.steps)
        for epoch in itertools.count(first):
            yield from self.epoch(epoch, within if epoch == first else 0)

    def _plan(self, epoch: int) -> EpochPlan:
        """The replicas' plans side by side: tensors of shape [steps, batch, K]."""
        plans = [
            epoch_plan(
                seed=seed,
                epoch=epoch,
                count=len(self.split),
                batch=self.batch,
                pad=self.split.pad,
                flip=self.flip,
            )
            for seed in self.seeds
        ]
        device = self.split.pixels.device

        def side_by_side(tensors: list[Tensor]) -> Tensor:
            return torch.stack(tensors, dim=-1).to(device)

        return EpochPlan(
            side_by_side([plan.order for plan in plans]),
            side_by_side([plan.top for plan in plans]),
            side_by_side([plan.left for plan in plans]),
            side_by_side([plan.mirrored for plan in plans]),
        )

    def _chunk(self, plan: EpochPlan, part: slice) -> tuple[Tensor, Tensor]:
        index = plan.order[part]
        crops = self.split.crops(index, plan.top[part], plan.left[part], plan.mirrored[part])
        # [S, N, K, H, W, 3] -> [S, N, H, W, K, 3]: the replicas' colours become channels.
        images = self.split.normalized(crops, self.dtype).permute(0, 1, 3, 4, 2, 5).flatten(-2)
        return images.permute(0, 1, 4, 2, 3), self.split.labels[index]


def evaluation_batches(
    split: Split, batch: int, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields all images in order, [N, 3, H, W] (channels last), and their labels [N]."""
    pad, (height, width) = split.pad, split.size
    for start in range(0, len(split), batch):
        pixels = split.pixels[start : start + batch, pad : pad + height, pad : pad + width]
        images = split.normalized(pixels, dtype)
        yield images.permute(0, 3, 1, 2), split.labels[start : start + batch]


@dataclass(frozen=True, slots=True)
class Splits:
    """What a run needs of a data set, on its device."""

    train: Split
    validation: Split | None
    test: Split


def split(images: ImageSet, config: DataConfig, device: torch.device) -> Splits:
    """Shuffles the training images once and for all, holds out, limits, and moves to the device.

    The shuffle does not depend on the run's seed, so that every run with the same ``limit`` and
    ``val_fraction`` trains on the same images. The test images keep their order where they are not
    limited.
    """
    order = torch.randperm(len(images.train_labels), generator=torch.Generator().manual_seed(0))
    count, held_out = config.num_training(len(order))
    held, chosen = order[:held_out], order[config.num_held_out(len(order)) :][:count]
    mean, std = _mean_and_std(images.train_images)

    def part(pixels: Tensor, labels: Tensor, pad: int = 0) -> Split:
        return Split(pixels, labels, mean=mean, std=std, device=device, pad=pad)

    test = part(images.test_images, images.test_labels)
    return Splits(
        train=part(images.train_images[chosen], images.train_labels[chosen], config.pad),
        validation=part(images.train_images[held], images.train_labels[held]) if held_out else None,
        test=test if config.test_limit is None else test.shuffled(config.test_limit),
    )


def _mean_and_std(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a channel, float32 [3], of uint8 [N, 3, H, W]; exact sums."""
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ values
    variance = share @ values**2 - mean**2
    return mean.float(), variance.clamp_min(1.0).sqrt().float()
