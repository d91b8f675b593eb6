"""What a race was planned with, and how long its trainings took: beside the cells that it trains.

All else about a race follows from ``advise.json``, ``advise-time.json`` and the results of its
cells.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normbench.errors import UnreadableError
from normbench.files import read_json, write_json
from normbench.norms import NORMS
from normbench.store.results import BIG, number_in, short

ADVICE, TAKEN = "advise.json", "advise-time.json"

MOST_WORKERS = 1000
"""A plan reckons with no more."""

MOST_TEXT = 4096
"""Of a longer setting a plan takes no more."""

LOCK = ".advise.lock"
"""The lock of the process that races in a folder."""

_MOST_NORMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What training with a norm takes on this machine, in seconds.

    Attributes:
        norm: its name.
        start: what trainings that go together take before their first step.
        steps: in which so many replicas, trained together, take a step each; by their number.
        evaluation: one evaluation of a replica on the held-out images.
        ending: what a replica takes after its last step.
        momentum: the momentum of the norm's running statistics; None where it has none.
    """

    norm: str
    start: float
    steps: dict[int, float]
    evaluation: float
    ending: float
    momentum: float | None

    def step(self, replicas: int) -> float:
        """Seconds in which ``replicas`` take a step each: on a line between what was measured."""
        below = max(number for number in self.steps if number <= replicas)
        above = min((number for number in self.steps if number > replicas), default=None)
        if above is None:
            return self.steps[below] * replicas / below
        share = (replicas - below) / (above - below)
        return self.steps[below] + share * (self.steps[above] - self.steps[below])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A race between norms, as planned.

    Attributes:
        question: SHA-256 (hex) of the settings and norms that the race is about.
        settings: the settings as they were typed, for people.
        within: the budget in seconds.
        epochs: the length that the answer is wanted for.
        raced: the length of the last trainings; shorter than ``epochs`` if the budget is small.
        lengths: the lengths of the short trainings, in epochs, in order.
        steps: training steps an epoch.
        seed: of the short trainings; the seeds of the last ones follow it.
        held_out: the number of held-out images.
        lr: the learning rate that the factors multiply, ``optim.lr``.
        used: seconds that had gone by when the race began.
        timings: one a norm.
        workers: how many work side by side.
        divided: whether trainings that go together are divided among them.
    """

    question: str
    settings: list[str]
    within: float
    epochs: int
    raced: int
    lengths: list[int]
    steps: int
    seed: int
    held_out: int
    lr: float
    used: float
    timings: list[Timing]
    workers: int = 1
    divided: bool = True

    def timing(self, norm: str) -> Timing:
        """What training with a norm takes."""
        return next(each for each in self.timings if each.norm == norm)

    @property
    def norms(self) -> list[str]:
        """The norms that race."""
        return [each.norm for each in self.timings]


def write_plan(folder: Path, plan: Plan) -> None:
    """Writes ``advise.json``.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_json(folder / ADVICE, asdict(plan))


def read_plan(folder: Path) -> Plan | None:
    """The plan of the race in ``folder``; None where there is none.

    Raises:
        UnreadableError: it makes no sense.
    """
    values = read_json(folder / ADVICE)
    if values is None:
        return None
    try:
        return _parsed(values)
    except UnreadableError as error:
        raise UnreadableError(f"{ADVICE}: {error}") from None


@dataclass(frozen=True, slots=True)
class Took:
    """What a training took.

    Attributes:
        seconds: its share of the time that its round took.
        whole: whether the round was trained from its beginning in that time. Where it had begun
            before and went on, its time says nothing of how long such a round takes.
    """

    seconds: float
    whole: bool = True


NOTHING = Took(0.0)
"""Of what was trained before the budget was changed: its time is counted as used."""


def write_taken(folder: Path, taken: Mapping[str, Took]) -> None:
    """Writes ``advise-time.json``: what each training took."""
    values = {
        name: took.seconds if took.whole else {"rest": took.seconds} for name, took in taken.items()
    }
    write_json(folder / TAKEN, values)


def read_taken(folder: Path) -> dict[str, Took]:
    """What :func:`write_taken` wrote, as far as it makes sense."""
    try:
        values = read_json(folder / TAKEN) or {}
        return {name: _took(values, name) for name in values}
    except UnreadableError:
        return {}


def _took(values: dict[str, Any], name: str) -> Took:
    value = values[name]
    if isinstance(value, dict):
        return Took(_seconds(value, "rest"), whole=False)
    return Took(_seconds(values, name))


def _parsed(values: dict[str, Any]) -> Plan:
    timings = [_timing(each) for each in _list(values, "timings", _MOST_NORMS)]
    epochs = _whole(values, "epochs", 1)
    raced = _whole(values, "raced", 1, epochs)
    lengths = [_whole({"lengths": each}, "lengths", 1, raced) for each in _list(values, "lengths")]
    if not timings or not lengths or sorted(set(lengths)) != lengths:
        raise UnreadableError("timings or lengths make no sense")
    if len({each.norm for each in timings}) != len(timings):
        raise UnreadableError("a norm is there twice")
    return Plan(
        question=_text(values.get("question")),
        settings=[_text(each) for each in _list(values, "settings")],
        within=_seconds(values, "within"),
        epochs=epochs,
        raced=raced,
        lengths=lengths,
        steps=_whole(values, "steps", 1),
        seed=_whole(values, "seed", 0, 2**31),
        held_out=_whole(values, "held_out", 1),
        lr=_seconds(values, "lr"),
        used=_seconds(values, "used"),
        timings=timings,
        workers=_whole({"workers": 1} | values, "workers", 1, MOST_WORKERS),
        divided=_flag({"divided": True} | values, "divided"),
    )


def _timing(entry: Any) -> Timing:
    if not isinstance(entry, dict) or entry.get("norm") not in NORMS:
        raise UnreadableError(f"a timing is {short(entry)}")
    seconds = {key: _seconds(entry, key) for key in ("start", "evaluation", "ending")}
    steps = entry.get("steps")
    if not isinstance(steps, dict) or "1" not in steps or not all(map(_is_count, steps)):
        raise UnreadableError(f"steps is {short(steps)}")
    together = {int(count): _seconds(steps, count) for count in steps}
    momentum = number_in(entry, "momentum", 0, 1)
    return Timing(norm=entry["norm"], steps=together, momentum=momentum, **seconds)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 3 and not text.startswith("0")


def _list(values: dict[str, Any], key: str, most: int = 10_000) -> list[Any]:
    found = values.get(key)
    if not isinstance(found, list) or len(found) > most:
        raise UnreadableError(f"{key} is {short(found)}")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > MOST_TEXT:
        raise UnreadableError(f"a text is {short(value)}")
    return value


def _seconds(values: dict[str, Any], key: str) -> float:
    found = number_in(values, key, 0, BIG)
    if found is None:
        raise UnreadableError(f"{key} is missing")
    return found


def _flag(values: dict[str, Any], key: str) -> bool:
    found = values[key]
    if not isinstance(found, bool):
        raise UnreadableError(f"{key} is {short(found)}")
    return found


def _whole(values: dict[str, Any], key: str, low: int, high: float = BIG) -> int:
    found = number_in(values, key, low, high)
    if found is None or found != int(found):
        raise UnreadableError(f"{key} is {short(values.get(key))}")
    return int(found)
