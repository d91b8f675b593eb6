"""What others have published of norms at a small batch, as data; none of it was measured here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What somebody else has found.

    Attributes:
        measured: network, images and measure, and what the results are listed by.
        results: the numbers; none where the authors' numbers have not been seen.
        smallest: the smallest batch of the results: images that share statistics, or are on one
            GPU. None where there are no numbers, or their batch is not known.
        source: where they are published.
        basis: ``seen`` in a public file, or ``claimed`` by the authors.
    """

    measured: str
    results: Mapping[str, float]
    smallest: int | None = None
    source: str
    basis: Literal["seen", "claimed"]

    def __str__(self) -> str:
        numbers = ", ".join(f"{key}: {value:g}" for key, value in self.results.items())
        return "\n".join(filter(None, (self.measured, numbers, f"{self.basis}: {self.source}")))


MABN_IMAGENET = Published(
    measured="ResNet-50, ImageNet, error in %, norm_batch 2 in a regular batch",
    results={"batch": 35.22, "batch_renorm": 30.29, "moving_batch": 23.67},
    smallest=2,
    source="README of megvii-model/MABN",
    basis="seen",
)

MABN_COCO = Published(
    measured="Mask R-CNN, ResNet-50-FPN, COCO, box AP, from scratch, 2 images per GPU",
    results={
        **{"batch": 32.38, "batch_renorm": 34.07, "moving_batch": 36.50},
        **{"batch over 8 GPUs": 36.80},
    },
    smallest=2,
    source="README of megvii-model/MABN",
    basis="seen",
)
