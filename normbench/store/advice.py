"""What a race was planned with: ``advise.json``, beside the cells that it trains.

All else about a race follows from this file and from the results of its cells.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normbench.errors import UnreadableError
from normbench.files import read_json, write_json
from normbench.norms import NORMS
from normbench.store.results import BIG, number, short

ADVICE = "advise.json"

_MOST_NORMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What training with a norm takes on this machine, in seconds.

    Attributes:
        norm: its name.
        start: what a cell takes before its first step.
        step: a training step in the short trainings, where a norm's rates are trained together.
        stacked: a training step of a seed in the last trainings, where five are together.
        evaluation: one evaluation of a seed on the held-out images.
        ending: what a seed takes after its last step.
        momentum: the momentum of the norm's running statistics; None where it has none.
    """

    norm: str
    start: float
    step: float
    stacked: float
    evaluation: float
    ending: float
    momentum: float | None


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
        costs: one a norm.
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
    costs: list[Cost]

    def cost(self, norm: str) -> Cost:
        """The cost of a norm."""
        return next(each for each in self.costs if each.norm == norm)

    @property
    def norms(self) -> list[str]:
        """The norms that race."""
        return [each.norm for each in self.costs]


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


def _parsed(values: dict[str, Any]) -> Plan:
    costs = [_cost(each) for each in _list(values, "costs", _MOST_NORMS)]
    epochs = _whole(values, "epochs", 1)
    raced = _whole(values, "raced", 1, epochs)
    lengths = [_whole({"lengths": each}, "lengths", 1, raced) for each in _list(values, "lengths")]
    if not costs or not lengths or sorted(set(lengths)) != lengths:
        raise UnreadableError("costs or lengths make no sense")
    if len({each.norm for each in costs}) != len(costs):
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
        costs=costs,
    )


def _cost(entry: Any) -> Cost:
    if not isinstance(entry, dict) or entry.get("norm") not in NORMS:
        raise UnreadableError(f"a cost is {short(entry)}")
    seconds = {
        key: _seconds(entry, key) for key in ("start", "step", "stacked", "evaluation", "ending")
    }
    momentum = number(entry, "momentum", 0, 1)
    return Cost(norm=entry["norm"], momentum=momentum, **seconds)


def _list(values: dict[str, Any], key: str, most: int = 10_000) -> list[Any]:
    found = values.get(key)
    if not isinstance(found, list) or len(found) > most:
        raise UnreadableError(f"{key} is {short(found)}")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 4096:
        raise UnreadableError(f"a text is {short(value)}")
    return value


def _seconds(values: dict[str, Any], key: str) -> float:
    found = number(values, key, 0, BIG)
    if found is None:
        raise UnreadableError(f"{key} is missing")
    return found


def _whole(values: dict[str, Any], key: str, low: int, high: float = BIG) -> int:
    found = number(values, key, low, high)
    if found is None or found != int(found):
        raise UnreadableError(f"{key} is {short(values.get(key))}")
    return int(found)
