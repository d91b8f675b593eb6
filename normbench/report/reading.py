"""Files of a run, read without believing them.

A file may be half written, damaged, or made to do harm. Each function here returns values of the
types and in the ranges that it promises, or raises UnreadableError; nothing is ever written.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from normbench.store.results import DIVERGED, FAILED, FINISHED, Result

_SMALL, _LARGE = 1 << 20, 1 << 28  # bytes of one record, of a curve
_BIG = float(1 << 53)
_MANY = 600  # lines of a curve


class UnreadableError(Exception):
    """A file that does not say what it should; the message says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A line of a curve.

    Attributes:
        epoch: how many times the images have been seen.
        train_loss: mean since the line before, or None.
        eval_accuracy: 0..1 at the end of an epoch, or None.
        learning_rate: of the step, or None.
    """

    epoch: float
    train_loss: float | None
    eval_accuracy: float | None
    learning_rate: float | None


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, through which a small file can mean an endless one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise UnreadableError("it has aliases")
        return super().compose_node(parent, index)


def _text(path: Path, limit: int) -> str | None:
    """What a file says; None where there is none.

    Raises:
        UnreadableError: it is no plain file, too long, or not text.
    """
    try:
        if not path.is_file():  # a pipe would be waited for without end
            if path.exists():
                raise UnreadableError("it is no plain file")
            return None
        if path.stat().st_size > limit:
            raise UnreadableError(f"it is longer than {limit >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(error.strerror or "it cannot be read") from None
    except UnicodeDecodeError:
        raise UnreadableError("it is not text") from None


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON or YAML file; None where there is no file.

    Raises:
        UnreadableError: it holds something else.
    """
    try:
        text = _text(path, _SMALL)
        if text is None:
            return None
        yaml_file = path.suffix == ".yaml"
        value = yaml.load(text, _Loader) if yaml_file else json.loads(text)
    except UnreadableError as error:
        raise UnreadableError(f"{path.name}: {error}") from None
    except (ValueError, yaml.YAMLError, RecursionError):
        raise UnreadableError(f"{path.name}: it is damaged or half written") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UnreadableError(f"{path.name}: it is no mapping of names to values")
    return value


def number(values: Mapping[str, Any], key: str, low: float, high: float) -> float | None:
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


def read_environment(folder: Path) -> dict[str, Any]:
    """Versions and machine, as a cell's or a seed's folder has them; empty if it does not."""
    try:
        return read_mapping(folder / "environment.json") or {}
    except UnreadableError:
        return {}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Checks a ``config.yaml``: groups of names, each with a plain value or a list of them.

    Raises:
        UnreadableError: it has something else, or a number that means nothing.
    """
    norm = settings.get("norm", {})
    try:
        for group in settings.values():
            if isinstance(group, dict) and not all(isinstance(name, str) for name in group):
                raise UnreadableError(f"a setting is {short(group)}")
            for value in group.values() if isinstance(group, dict) else [group]:
                for each in value if isinstance(value, list) else [value]:
                    _check_plain(each)
        number(settings, "epochs", 0, _BIG)
        number(settings, "threads", 1, _BIG)
        for key in ("groups", "channels_per_group"):
            if not isinstance(norm.get(key), str):  # auto
                number(norm, key, 1, _BIG)
    except UnreadableError as error:
        raise UnreadableError(f"config.yaml: {error}") from None


def _check_plain(value: object) -> None:
    plain = value is None or isinstance(value, str | bool | int | float)
    if not plain or (isinstance(value, int | float) and not abs(value) <= _BIG):
        raise UnreadableError(f"a setting is {short(value)}")


def divisor(shared: int, batch: int) -> int:
    """How many images of a batch share statistics: ``shared``, which has to divide it.

    Raises:
        UnreadableError: it does not.
    """
    if batch % shared:
        raise UnreadableError(f"norm_batch {shared} does not divide batch {batch}")
    return shared


def _needed(values: Mapping[str, Any], key: str, low: float, high: float) -> float:
    found = number(values, key, low, high)
    if found is None:
        raise UnreadableError(f"{key} is missing")
    return found


def short(value: object) -> str:
    """A value as an error quotes it: one line of at most 40 characters."""
    try:
        said = repr(value)
    except ValueError:  # a number of thousands of digits
        said = "a huge number"
    return said if len(said) <= 40 else said[:39] + "…"


def string(values: Mapping[str, Any], key: str, default: str = "") -> str:
    """A printable string of less than 200 characters, or ``default``."""
    value = values.get(key, default)
    return value if isinstance(value, str) and value.isprintable() and len(value) < 200 else default


def _sentence(value: object) -> str | None:
    """What an error said, on one line of at most 300 characters; None where it is no text."""
    if not isinstance(value, str):
        return None
    said = printable(" ".join(value[:10_000].split()))
    return (said if len(said) <= 300 else said[:299] + "…") or None


def _whole(values: Mapping[str, Any], key: str) -> int | None:
    value = number(values, key, 0, _BIG)
    return None if value is None else int(value)


def parse_result(values: Mapping[str, Any], seed: int) -> Result:
    """The result that the content of a ``result.json`` describes; keys not known are passed over.

    Raises:
        UnreadableError: a value has the wrong type, is out of range, or belongs to another seed.
    """
    status = values.get("status")
    if status not in (FINISHED, DIVERGED, FAILED):
        raise UnreadableError(f"status is {short(status)}")
    if values.get("seed") != seed or isinstance(values.get("seed"), bool):
        raise UnreadableError(f"seed is {short(values.get('seed'))}")
    finished = status == FINISHED
    return Result(
        seed=seed,
        status=status,
        test_accuracy=(_needed if finished else number)(values, "test_accuracy", 0, 1),
        test_loss=number(values, "test_loss", 0, _BIG),
        train_loss=number(values, "train_loss", 0, _BIG),
        epochs=number(values, "epochs", 0, _BIG) or 0.0,
        steps=int(number(values, "steps", 0, _BIG) or 0),
        seconds=number(values, "seconds", 0, _BIG) or 0.0,
        images_per_second=number(values, "images_per_second", 0, _BIG) or 0.0,
        test_accuracy_reestimated=number(values, "test_accuracy_reestimated", 0, 1),
        test_accuracy_batch=number(values, "test_accuracy_batch", 0, 1),
        val_accuracy=number(values, "val_accuracy", 0, 1),
        train_accuracy=number(values, "train_accuracy", 0, 1),
        memory_bytes=_whole(values, "memory_bytes"),
        stacked=_whole(values, "stacked"),
        threads=_whole(values, "threads"),
        diverged_at=_whole(values, "diverged_at"),
        error=_sentence(values.get("error")),
    )


def read_curve(folder: Path) -> tuple[Moment, ...]:
    """The lines of ``metrics.jsonl`` that can be read; a run may be writing its next one."""
    try:
        text = _text(folder / "metrics.jsonl", _LARGE) or ""
    except UnreadableError:
        return ()
    moments = []
    lines = text.splitlines(keepends=True)
    stride = max(1, len(lines) // _MANY)
    for number, line in enumerate(lines, start=1):
        # Of a long curve, the ends of epochs, the newest lines, and enough of the rest to draw.
        if number % stride and '"eval/' not in line and number < len(lines) - 1:
            continue
        try:
            values = json.loads(line) if line.endswith("\n") else None
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and (epoch := _finite(values, "epoch")) is not None:
            loss, accuracy = _finite(values, "train/loss"), _finite(values, "eval/accuracy")
            moments.append(Moment(epoch, loss, accuracy, _finite(values, "train/learning_rate")))
    return tuple(moments)


def _finite(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _BIG:
        return None
    return float(value) if isfinite(value) else None


def is_held(lock: Path) -> bool:
    """Whether a living process holds the lock; without a trace, and where nothing can be written.

    A shared lock on a descriptor that only reads is refused exactly while another process has the
    exclusive one (flock, as FileLock takes it), and is given back at once.
    """
    import fcntl

    try:
        if not lock.is_file():
            return False
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def folders(directory: Path, depth: int) -> Iterator[Path]:
    """``directory`` and the folders down to ``depth`` below it, hidden ones and seeds' left out.

    Raises:
        OSError: ``directory`` cannot be read.
    """
    yield directory
    if depth == 0:
        return
    for path in sorted(directory.iterdir()):
        if _is_folder(path) and not path.name.startswith((".", "seed-")):
            try:
                yield from folders(path, depth - 1)
            except PermissionError:  # itself it has been given out
                continue


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def printable(name: str) -> str:
    """A file's name as it may be shown anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
