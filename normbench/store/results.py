"""How seeds ended: ``result.json`` of each, and a cell's ``summary.json``.

A result says of which cell and seed it is and carries a digest of itself, so that one that was
copied to another place, edited or cut short is told from the one that training wrote.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from normbench.errors import UnreadableError, first_line
from normbench.files import read_json, write_json

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"

CONFIG, METRICS = "config.yaml", "metrics.jsonl"
RESULT, SUMMARY = "result.json", "summary.json"
ENVIRONMENT, TIME = "environment.json", "time.json"
"""What is trained; a seed's curves and how it ended; all seeds of a cell; on what and how long."""

MOST_SEEDS = 10_000
"""More are a damaged configuration's."""

MOST_SEED = (1 << 32) - 1
"""The largest seed that a record has: a command may begin with 2³¹ - 1 and go on from there."""

BIG = float(1 << 53)
"""The largest number that a record has: beyond, not every whole number is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one seed ended; ``result.json``.

    Attributes:
        seed: which.
        status: ``finished``, ``diverged`` or ``failed``.
        test_accuracy: 0..1, on the test images after the last step; None unless finished.
        test_loss: mean cross-entropy there; None unless finished.
        test_accuracy_reestimated: of the same weights with batch norm's statistics estimated anew
            from training images; None for norms that are not batch norm, plain or renormalized.
        test_accuracy_batch: likewise with the statistics of test batches of the training size, on
            at most 2,000 of the test images, in a fixed random order.
        test_accuracy_before: where training started from ``model.weights``: of these weights with
            the network's own norms; else None.
        test_accuracy_swapped: likewise, at once after the norms were swapped.
        val_accuracy: on the held-out images; None without ``data.val_fraction``.
        train_loss: mean over the last epoch of training; None where it was not finite.
        train_accuracy: 0..1, likewise, on augmented images.
        epochs: done.
        steps: done.
        seconds: of training, without evaluation. In a stack, the stack's divided by its replicas.
        images_per_second: training images of this seed over ``seconds``.
        memory_bytes: what one training step of one seed holds, see
            :func:`normbench.models.inspection.memory_of_step`; None where it was not measured.
        stacked: how many seeds were trained as one network with this one, itself included; other
            numbers sum in another order, which shows in float32.
        threads: how many processor threads it was trained with; likewise.
        test_images: how many test images the accuracy is of.
        diverged_at: the first step with a loss that was not finite, or None.
        error: why it failed, or None.
    """

    seed: int
    status: str
    test_accuracy: float | None
    test_loss: float | None
    train_loss: float | None
    epochs: float
    steps: int
    seconds: float
    images_per_second: float
    train_accuracy: float | None = None
    test_accuracy_reestimated: float | None = None
    test_accuracy_batch: float | None = None
    test_accuracy_before: float | None = None
    test_accuracy_swapped: float | None = None
    val_accuracy: float | None = None
    memory_bytes: int | None = None
    stacked: int | None = None
    threads: int | None = None
    test_images: int | None = None
    diverged_at: int | None = None
    error: str | None = None

    @property
    def said(self) -> str:
        """How it ended: ``finished``, ``diverged at step 12``."""
        return self.status + ("" if self.diverged_at is None else f" at step {self.diverged_at:,}")


class KilledError(Exception):
    """A process that trained was killed by another, or by the system."""


def failure(seed: int, error: BaseException) -> Result:
    """The result of a seed whose training raised."""
    return Result(
        seed=seed,
        status=FAILED,
        test_accuracy=None,
        test_loss=None,
        train_loss=None,
        epochs=0.0,
        steps=0,
        seconds=0.0,
        images_per_second=0.0,
        error=first_line(error),
    )


def write_result(folder: Path, result: Result) -> None:
    """Writes ``result.json`` into a seed's folder: the last thing a seed does."""
    values = {**asdict(result), "cell": folder.absolute().parent.name}
    write_json(folder / RESULT, {**values, "sha256": digest_of(values)})


def read_result(folder: Path) -> Result | None:
    """The result in a seed's folder; None where there is none.

    Raises:
        UnreadableError: it is damaged, was edited, or is of another cell or seed.
    """
    values = read_json(folder / RESULT)
    if values is None:
        return None
    try:
        result = _parsed(values)
        if f"seed-{result.seed}" != folder.name:
            raise UnreadableError(f"it is the result of seed {result.seed}")
        if values.get("cell") != folder.absolute().parent.name:
            raise UnreadableError(f"it is a result of {short(values.get('cell'))}")
        if values.pop("sha256", None) != digest_of(values):
            raise UnreadableError("it was changed after it was written: its digest does not fit")
    except UnreadableError as error:
        raise UnreadableError(f"{RESULT}: {error}") from None
    return result


def read_results(cell: Path) -> list[Result]:
    """The results of all seeds of a cell that can be believed, by seed."""
    found = [_believed(folder) for folder in cell.glob("seed-*")]
    return sorted((r for r in found if r is not None), key=lambda result: result.seed)


def is_done(folder: Path) -> bool:
    """Whether a seed has a result that another run would only repeat; a failure is tried again."""
    result = _believed(folder)
    return result is not None and result.status != FAILED


def _believed(folder: Path) -> Result | None:
    try:
        return read_result(folder)
    except UnreadableError:
        return None


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of plain values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parsed(values: Mapping[str, Any]) -> Result:
    """The result that ``values`` describe, every one of its type and in its range."""
    status = values.get("status")
    if status not in (FINISHED, DIVERGED, FAILED):
        raise UnreadableError(f"status is {short(status)}")
    found = {each.name: _value(values, each.name, str(each.type)) for each in fields(Result)}
    if status == FINISHED and found["test_accuracy"] is None:
        raise UnreadableError("test_accuracy is missing")
    return Result(**found)


def _value(values: Mapping[str, Any], key: str, kind: str) -> Any:
    if "str" in kind:
        value = values.get(key)
        return None if value is None else _one_line(str(value))
    found = number_in(values, key, 0, 1 if "accuracy" in key else BIG)
    if found is None and "None" not in kind:
        raise UnreadableError(f"{key} is missing")
    if found is None or "float" in kind:
        return found
    if found != int(found):
        raise UnreadableError(f"{key} is {short(values[key])}")
    return int(found)


def number_in(values: Mapping[str, Any], key: str, low: float, high: float) -> float | None:
    """A finite number from ``low`` to ``high``, or None.

    Raises:
        UnreadableError: the value is something else.
    """
    value = values.get(key)
    if value is None:
        return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not low <= value <= high:  # NaN is in no range
        raise UnreadableError(f"{key} is {short(value)}")
    return float(value)


def short(value: object) -> str:
    """A value as an error quotes it: one line of at most 40 characters."""
    try:
        said = repr(value)
    except ValueError:  # a number of thousands of digits
        said = "a huge number"
    return said if len(said) <= 40 else said[:39] + "…"


def _one_line(text: str) -> str:
    """What an error said, on one printable line of at most 300 characters."""
    said = "".join(c if c.isprintable() else "?" for c in " ".join(text[:10_000].split()))
    return said if len(said) <= 300 else said[:299] + "…"


def summarize(results: Sequence[Result]) -> dict[str, Any]:
    """Seeds, their accuracies, and mean and 95 % interval over those that finished."""
    finished = [r.test_accuracy for r in results if r.test_accuracy is not None]
    states = {result.status for result in results}
    worst = next((s for s in (FAILED, DIVERGED) if s in states), FINISHED)
    return {
        "seeds": [result.seed for result in results],
        "test_accuracy": [result.test_accuracy for result in results],
        "test_accuracy_mean": fmean(finished) if finished else None,
        "test_accuracy_ci95": confidence_interval(finished),
        "status": worst,
    }


def confidence_interval(values: Sequence[float], level: float = 0.95) -> list[float] | None:
    """Student's t interval of the mean, [low, high]; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # imported late: it takes a while and few commands need it

    n = len(values)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * stdev(values) / n**0.5
    return [fmean(values) - half, fmean(values) + half]
