"""Files of a run, read without believing them.

A file may be half written, damaged, or made to do harm. Each function here returns values of the
types and in the ranges that it promises, or raises UnreadableError; nothing is ever written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from normbench.errors import UnreadableError
from normbench.files import as_mapping, read_json, read_text
from normbench.store import curves
from normbench.store.results import BIG, ENVIRONMENT, number_in, short

_MANY = 600  # lines of a curve


@dataclass(frozen=True, slots=True)
class Moment:
    """A line of a curve.

    Attributes:
        epoch: how many times the images have been seen.
        train_loss: mean since the line before, or None.
        eval_accuracy: 0..1 at the end of an epoch, or None.
        learning_rate: of the step, or None.
        speed: training images a second since the line before, or None.
    """

    epoch: float
    train_loss: float | None
    eval_accuracy: float | None
    learning_rate: float | None
    speed: float | None = None


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, through which a small file can mean an endless one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise UnreadableError("it has aliases")
        return super().compose_node(parent, index)


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON or YAML file; None where there is no file.

    Raises:
        UnreadableError: it holds something else.
    """
    if path.suffix == ".json":
        return read_json(path)
    try:
        text = read_text(path)
        return None if text is None else as_mapping(yaml.load(text, _Loader))
    except UnreadableError as error:
        raise UnreadableError(f"{path.name}: {error}") from None
    except (ValueError, yaml.YAMLError, RecursionError):
        raise UnreadableError(f"{path.name}: it is damaged or half written") from None


def read_environment(folder: Path) -> dict[str, Any]:
    """Versions and machine, as a cell's or a seed's folder has them; empty if it does not."""
    try:
        return read_mapping(folder / ENVIRONMENT) or {}
    except UnreadableError:
        return {}


def check_settings(settings: Mapping[str, Any], file: str) -> None:
    """Checks a configuration: groups of names, each with a plain value or a list of them.

    Args:
        settings: the configuration.
        file: the name of its file.

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
        number_in(settings, "epochs", 0, BIG)
        number_in(settings, "threads", 1, BIG)
        for key in ("groups", "channels_per_group"):
            if not isinstance(norm.get(key), str):  # auto
                number_in(norm, key, 1, BIG)
    except UnreadableError as error:
        raise UnreadableError(f"{file}: {error}") from None


def _check_plain(value: object) -> None:
    plain = value is None or isinstance(value, str | bool | int | float)
    if not plain or (isinstance(value, int | float) and not abs(value) <= BIG):
        raise UnreadableError(f"a setting is {short(value)}")


def divisor(shared: int, batch: int) -> int:
    """How many images of a batch share statistics: ``shared``, which has to divide it.

    Raises:
        UnreadableError: it does not.
    """
    if batch % shared:
        raise UnreadableError(f"norm_batch {shared} does not divide batch {batch}")
    return shared


def read_curve(folder: Path) -> tuple[Moment, ...]:
    """The lines of ``metrics.jsonl`` that can be read; a run may be writing its next one."""
    try:
        lines = curves.lines(folder)
    except UnreadableError:
        return ()
    moments = []
    stride = max(1, len(lines) // _MANY)
    for place, line in enumerate(lines, start=1):
        # Of a long curve, the ends of epochs, the newest lines, and enough of the rest to draw.
        if place % stride and '"eval/' not in line and place < len(lines) - 1:
            continue
        values = curves.parse(line) if line.endswith("\n") else None
        if values is not None:
            moments.append(
                Moment(
                    epoch=values["epoch"],
                    train_loss=values.get("train/loss"),
                    eval_accuracy=values.get("eval/accuracy"),
                    learning_rate=values.get("train/learning_rate"),
                    speed=values.get("train/images_per_second"),
                )
            )
    return tuple(moments)


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
