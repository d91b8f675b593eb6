"""How a cell's learning rate was chosen, where ``optim.lr=auto`` did: ``rate.json``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.errors import UnreadableError
from normbench.files import read_json, write_json
from normbench.store.results import number_in

RATE = "rate.json"


def write_rate(
    folder: Path, lr: float, *, tried: Mapping[float, float | None], epochs: int, images: int
) -> None:
    """Writes ``rate.json``.

    Args:
        folder: the cell's.
        lr: the learning rate that was chosen, ``optim.lr``.
        tried: the accuracy on held-out images, 0..1, by learning rate; None if it diverged.
        epochs: of these trainings.
        images: the number of held-out images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = [{"lr": each, "accuracy": value} for each, value in sorted(tried.items())]
    write_json(folder / RATE, {"lr": lr, "epochs": epochs, "images": images, "tried": scores})


def read_rate(folder: Path) -> dict[str, Any] | None:
    """What ``rate.json`` says of how a cell's rate was chosen; None where it says nothing."""
    try:
        found = read_json(folder / RATE)
        if found is None or any(
            number_in(found, key, 0, 1 << 31) is None for key in ("lr", "epochs", "images")
        ):
            return None
    except UnreadableError:
        return None
    return found
