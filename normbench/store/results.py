"""What a run leaves on disk, apart from curves and checkpoints: results, summary, configuration.

Every file is written beside its place, synced and renamed into it, so that a file that is there is
whole, whatever was killed when.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from threading import Lock
from typing import Any

from filelock import FileLock

_UMASK = Lock()

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one seed ended; ``result.json``.

    Attributes:
        seed: which.
        status: ``finished``, ``diverged`` or ``failed``.
        test_accuracy: 0..1, on the whole test set after the last step; None unless finished.
        test_loss: mean cross-entropy there; None unless finished.
        test_accuracy_reestimated: of the same weights with batch norm's statistics estimated anew
            from training images; None for norms without running statistics.
        test_accuracy_batch: likewise with the statistics of test batches of the training size.
        val_accuracy: on the held-out images; None without ``data.val_fraction``.
        train_loss: mean over the last record of training; None where it was not finite.
        train_accuracy: 0..1, over the last epoch of training, on augmented images.
        epochs: done.
        steps: done.
        seconds: of training, without evaluation. In a stack, the stack's divided by its replicas.
        images_per_second: training images of this seed over ``seconds``.
        memory_bytes: what one training step of one seed holds, see
            :func:`normbench.models.inspection.memory_of_step`; None where it was not measured.
        stacked: how many seeds were trained as one network with this one, itself included; other
            numbers sum in another order, which shows in float32.
        threads: how many processor threads it was trained with; likewise.
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
    val_accuracy: float | None = None
    memory_bytes: int | None = None
    stacked: int | None = None
    threads: int | None = None
    diverged_at: int | None = None
    error: str | None = None


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is either wholly there or not there at all."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with :func:`write_text`; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Lets ``write`` make a temporary file, syncs it and renames it to ``path``.

    Raises:
        OSError: it could not be written; ``path`` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        with _UMASK:  # it can only be read by setting it, and other lanes write too
            umask = os.umask(0)
            os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is None:  # a full disk does not say what was being written
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_result(folder: Path) -> Result | None:
    """The result in a seed's folder; None where there is none that can be believed."""
    try:
        result = Result(**json.loads((folder / "result.json").read_text(encoding="utf-8")))
        return result if _makes_sense(result) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _makes_sense(result: Result) -> bool:
    """Whether every value is of its type, and every number one: the file may be anybody's."""
    for field in fields(result):
        value, kind = getattr(result, field.name), str(field.type)
        if value is None:
            fits = "None" in kind
        elif "float" in kind:
            fits = type(value) in (int, float) and abs(value) < 1e300
        elif "int" in kind:
            fits = type(value) is int and 0 <= value < 2**63
        else:
            fits = isinstance(value, str)
        if not fits:
            return False
    return result.status in (FINISHED, DIVERGED, FAILED)


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keeps others who ask for it too from changing ``path`` meanwhile.

    Raises:
        OSError: its folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


class KilledError(Exception):
    """A process that trained was killed by another, or by the system."""


def is_done(folder: Path) -> bool:
    """Whether a seed has a result that another run would only repeat; a failure is tried again."""
    result = read_result(folder)
    return result is not None and result.status != FAILED


def failure(seed: int, error: BaseException) -> Result:
    """The result of a seed whose training raised."""
    reason = str(error).strip().partition("\n")[0]
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
        error=f"{type(error).__name__}: {reason}" if reason else type(error).__name__,
    )


def read_results(cell: Path) -> list[Result]:
    """The results of all seeds of a cell, by seed."""
    found = [read_result(folder) for folder in cell.glob("seed-*")]
    return sorted((r for r in found if r is not None), key=lambda result: result.seed)


def write_result(folder: Path, result: Result) -> None:
    """Writes ``result.json``: the last thing a seed does."""
    write_json(folder / "result.json", asdict(result))


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
