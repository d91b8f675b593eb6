"""The scripts, run in this process, which has imported already what takes them seconds."""

import runpy
import sys
import warnings
from collections.abc import Mapping
from contextlib import chdir
from functools import partial
from pathlib import Path
from unittest.mock import patch

from normbench.run import placement

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import timing  # noqa: E402


def run_script(name: str, *arguments: str) -> None:
    """``python scripts/NAME``; what it measures is not judged, so that it measures for no time."""
    turns = timing.turns

    def briefly(
        steps: Mapping[str, timing.Step], *, rounds: int, **_: float
    ) -> dict[str, list[float]]:
        return turns(steps, rounds=rounds, seconds=0.0)

    with (
        patch.object(sys, "argv", [name, *arguments]),
        patch.object(timing, "turns", briefly),
        patch.object(timing, "matrix_product_peak", partial(timing.matrix_product_peak, size=64)),
        patch.object(placement, "BUDGET", 0.2),
        chdir(Path.cwd()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
