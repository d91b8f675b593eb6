"""Which test images a seed got right in the final test: ``outcomes.json``, one bit an image.

``correct`` is the bits in hexadecimal: image i is bit i, counted from the highest bit of the first
byte, and bits after the last image are 0. Like a result, the file says of which cell and seed it is
and carries a digest of itself.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from normbench.errors import UnreadableError
from normbench.files import read_json, write_json
from normbench.store.results import MOST_SEED, Result, digest_of, number_in, short

OUTCOMES = "outcomes.json"

MOST_IMAGES = 1 << 20

Outcomes = npt.NDArray[np.bool_]


def write_outcomes(folder: Path, seed: int, correct: Outcomes) -> None:
    """Writes ``outcomes.json`` into a seed's folder; ``correct`` is bool [images]."""
    values = {
        "images": len(correct),
        "correct": np.packbits(correct).tobytes().hex(),
        "cell": folder.absolute().parent.name,
        "seed": seed,
    }
    write_json(folder / OUTCOMES, {**values, "sha256": digest_of(values)})


def read_outcomes(folder: Path, result: Result) -> Outcomes | None:
    """The outcomes in a seed's folder, bool [images]; None where there are none.

    Args:
        folder: of the seed.
        result: the seed's, whose accuracy must be theirs.

    Raises:
        UnreadableError: they are damaged, were edited, or are of another cell, seed or test.
    """
    values = read_json(folder / OUTCOMES)
    if values is None:
        return None
    try:
        correct = _unpacked(values)
        if number_in(values, "seed", 0, MOST_SEED) != result.seed:
            raise UnreadableError(f"they are of seed {short(values.get('seed'))}")
        if values.get("cell") != folder.absolute().parent.name:
            raise UnreadableError(f"they are of {short(values.get('cell'))}")
        if values.pop("sha256", None) != digest_of(values):
            raise UnreadableError("it was changed after it was written: its digest does not fit")
        if result.test_accuracy != int(correct.sum()) / len(correct):
            raise UnreadableError("it has another accuracy than the result")
    except UnreadableError as error:
        raise UnreadableError(f"{OUTCOMES}: {error}") from None
    return correct


def _unpacked(values: dict[str, Any]) -> Outcomes:
    """The bits that ``values`` describe, as many as there are images."""
    count = number_in(values, "images", 1, MOST_IMAGES)
    if count is None or count != int(count):
        raise UnreadableError(f"images is {short(values.get('images'))}")
    try:
        packed = np.frombuffer(bytes.fromhex(values["correct"]), dtype=np.uint8)
    except (KeyError, TypeError, ValueError):
        raise UnreadableError(f"correct is {short(values.get('correct'))}") from None
    bits = np.unpackbits(packed)
    if len(packed) != -(-int(count) // 8) or bits[int(count) :].any():
        raise UnreadableError(f"correct does not hold one bit for each of {int(count)} images")
    return bits[: int(count)].astype(bool)
