"""What the sections of article.py share: findings, remembered measurements, numbers as text."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from normbench.errors import UnreadableError
from normbench.files import read_json, write_json
from normbench.report.compare.statistics import Estimate, estimate
from normbench.store.results import Result
from normbench.terminal import words

HOLDS = "holds"
PARTLY = "holds partly"
NOT = "does not hold"
OPEN = "not decided"
VERDICTS = (HOLDS, PARTLY, NOT, OPEN)


def row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    safe = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(safe)} |"


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers as a page shows them.

    Attributes:
        title: a line above it; what n counts and what ± means where that is not said elsewhere.
        head: the names of the columns.
        rows: the cells.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return f"*{self.title}*\n\n" + "\n".join(map(row, lines))


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one claim.

    Attributes:
        title: a few words.
        claim: what the article says, in short.
        how: what was measured and how.
        verdict: one of VERDICTS.
        why: the answer; its first sentence goes into the list of all claims.
        tables: the numbers; those without rows are left out.
        unshown: what this does not show; empty where nothing comes to mind.
        figure: a picture's file name; empty where there is none.
    """

    title: str
    claim: str
    how: str
    verdict: str
    why: str
    tables: Sequence[Table] = ()
    unshown: str = ""
    figure: str = ""

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS, self.verdict

    @property
    def short(self) -> str:
        """The first sentence of the answer."""
        return self.why.partition(". ")[0].rstrip(".") + "."

    def markdown(self, number: int) -> str:
        """The finding as a section."""
        parts = [
            f"## {number}. {self.title}",
            f"**Claim.** {self.claim}",
            f"**{self.verdict[0].upper()}{self.verdict[1:]}.** {self.why}",
            f"**Measured.** {self.how}",
            *(table.markdown() for table in self.tables if table.rows),
        ]
        if self.figure:
            parts.append(f"![{self.title}](figures/{self.figure})")
        if self.unshown:
            parts.append(f"**Not shown.** {self.unshown}")
        return "\n\n".join(parts)


@dataclass(slots=True)
class Store:
    """Measurements that are remembered, in a JSON file, by name and by what went into them.

    A measurement whose function has changed since is made again.

    Attributes:
        path: the file.
        values: by name, what went in and what came out.
        used: the names asked for; the others are not written again.
    """

    path: Path
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @classmethod
    def at(cls, path: Path) -> Store:
        """The store in a file, empty where there is none."""
        try:
            values = (read_json(path) or {}).get("measurements")
        except UnreadableError:  # measured again
            values = None
        return cls(path, values if isinstance(values, dict) else {})

    def measure(
        self, name: str, function: Callable[..., dict[str, Any]], /, *arguments: Any, **given: Any
    ) -> dict[str, Any]:
        """``function(*arguments)``, or what it gave the last time with the same ``given``.

        Args:
            name: of the measurement.
            function: makes it; its result is plain JSON.
            arguments: for the function; what ``given`` says has to tell them apart.
            given: plain values that go into it, such as digests of files.
        """
        self.used.add(name)
        if not self.knows(name, function, **given):
            print(f"  measuring {name}", flush=True)
            value = json.loads(json.dumps(function(*arguments)))
            self.values[name] = {"inputs": _inputs(function, given), "value": value}
            self.write({})
        found: dict[str, Any] = self.values[name]["value"]
        return found

    def knows(self, name: str, function: Callable[..., dict[str, Any]], /, **given: Any) -> bool:
        """Whether a measurement is remembered."""
        return self.values.get(name, {}).get("inputs") == _inputs(function, given)

    def write(self, more: Mapping[str, Any]) -> None:
        """Writes all measurements, and ``more`` before them."""
        write_json(self.path, {**more, "measurements": dict(sorted(self.values.items()))})

    def forget_unused(self) -> None:
        """Drops what nobody has asked for."""
        self.values = {name: self.values[name] for name in sorted(self.used)}


def _inputs(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    source = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    return {"function": f"{function.__name__} {source}", **given}


def number(value: float, digits: int = 3) -> str:
    """A number for a table: few digits, powers of ten where it is very large or small."""
    if not isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        mantissa, _, power = f"{value:.1e}".partition("e")
        return f"{mantissa}·10^{int(power)}"
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def fixed(found: Estimate | None, digits: int = 2, scale: float = 1.0) -> str:
    """Mean ± half the 95 % interval, times ``scale``; ``-`` where there is none."""
    if found is None:
        return "-"
    mean = words.fixed(scale * found.mean, digits)
    if found.half is None:
        return mean
    return f"{mean} ± {words.fixed(abs(scale) * found.half, digits)}"


def spread(values: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """:func:`fixed` of the mean of ``values``."""
    return fixed(estimate(values), digits, scale)


def judged(found: Estimate | None) -> str:
    """The verdict of an interval: on which side of 0 it lies as a whole; else it is open."""
    if found is None:
        return OPEN
    return HOLDS if found.above(0) else NOT if found.below(0) else OPEN


def said(
    found: Estimate | None,
    more: str,
    less: str,
    unit: str = " points",
    digits: int = 1,
    scale: float = 100,
) -> str:
    """A difference in words, by the side of 0 on which its interval lies.

    ``4.4 ± 1.0 points higher``, or ``not clearly different (0.3 ± 1.2 points)``: the interval
    holds 0, which is not to say that the two are equal.

    Args:
        found: the difference.
        more, less: said after its size where the interval lies above or below 0.
        unit: follows the number.
        digits: after the point.
        scale: multiplies the numbers.
    """
    if found is None:
        return "not measured"
    if not found.clear:
        few = ", one seed" if found.half is None else ""
        return f"not clearly different ({fixed(found, digits, scale)}{unit}{few})"
    above = found.above(0)
    size = fixed(found, digits, scale if above else -scale)
    return f"{size}{unit} {more if above else less}"


Losses = Mapping[str, Mapping[int, Result]]
"""Seeds that came to a bad end, by what they are called and number."""


def losses_in_words(lost: Losses) -> str:
    """``batch at 2: seed 1 diverged at step 40; …``; empty where there are none."""
    parts = []
    for label, seeds in lost.items():
        each = [f"seed {n} {result.said}" for n, result in sorted(seeds.items())]
        if each:
            parts.append(f"{label}: {', '.join(each)}")
    return "; ".join(parts)


def with_losses(finding: Finding, lost: Losses) -> Finding:
    """The finding with the seeds that its verdict would need and that did not finish.

    The others may be no fair sample, and so decide nothing.
    """
    if not (words := losses_in_words(lost)):
        return finding
    why = f"Seeds were lost ({words}), and the others decide nothing. {finding.why}"
    return replace(finding, verdict=OPEN, why=why)
