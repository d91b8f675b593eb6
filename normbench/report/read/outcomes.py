"""Which test images a seed got right: ``outcomes.json`` in its folder, one bit an image.

``{"images": N, "correct": "<hex>"}``: bit i, counted from the highest bit of the first byte, is 1
where test image i was classified correctly in the final test; bits after the last image are 0.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from normbench.errors import UnreadableError
from normbench.files import read_json

MOST_IMAGES = 1 << 20


def read_outcomes(folder: Path) -> npt.NDArray[np.bool_] | None:
    """The outcomes in a seed's folder, one a test image; None where there are none to believe."""
    try:
        values = read_json(folder / "outcomes.json") or {}
        packed = bytes.fromhex(values["correct"])
    except (UnreadableError, KeyError, TypeError, ValueError):
        return None
    count = values.get("images")
    if type(count) is not int or not 0 < count <= MOST_IMAGES or len(packed) != -(-count // 8):
        return None
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    return bits[:count].astype(bool) if not bits[count:].any() else None
