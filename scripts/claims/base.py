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
from normbench.store.results import DIVERGED, Result

HOLDS = "holds"
PARTLY = "holds partly"
NOT = "does not hold"
OPEN = "not decided by this"
VERDICTS = (HOLDS, PARTLY, NOT, OPEN)


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
        safe = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        return f"*{self.title}*\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in safe)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one claim.

    Attributes:
        title: a few words.
        claim: what the article says, in short.
        how: what was measured and how.
        verdict: one of VERDICTS.
        why: the sentence that goes with the verdict.
        tables: the numbers.
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

    def markdown(self, number: int) -> str:
        """The finding as a section."""
        parts = [
            f"## {number}. {self.title}",
            f"**Claim.** {self.claim}",
            f"**Measured.** {self.how}",
            *(table.markdown() for table in self.tables),
        ]
        if self.figure:
            parts.append(f"![{self.title}](figures/{self.figure})")
        parts.append(f"**Verdict: {self.verdict}.** {self.why}")
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
        source = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
        inputs = {"function": f"{function.__name__} {source}", **given}
        known = self.values.get(name)
        if known is None or known["inputs"] != inputs:
            print(f"  measuring {name}", flush=True)
            known = {"inputs": inputs, "value": json.loads(json.dumps(function(*arguments)))}
            self.values[name] = known
            self.write({})
        value: dict[str, Any] = known["value"]
        return value

    def write(self, more: Mapping[str, Any]) -> None:
        """Writes all measurements, and ``more`` before them."""
        write_json(self.path, {**more, "measurements": dict(sorted(self.values.items()))})

    def forget_unused(self) -> None:
        """Drops what nobody has asked for."""
        self.values = {name: self.values[name] for name in sorted(self.used)}


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file, shortened."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


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


def _turned(found: Estimate) -> Estimate:
    low, high = found.low, found.high
    return Estimate(
        -found.mean, None if high is None else -high, None if low is None else -low, found.n
    )


def fixed(found: Estimate | None, digits: int = 2, scale: float = 1.0) -> str:
    """Mean ± half the 95 % interval, times ``scale``; ``-`` where there is none."""
    if found is None:
        return "-"
    mean = f"{scale * found.mean:.{digits}f}"
    return mean if found.half is None else f"{mean} ± {scale * found.half:.{digits}f}"


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
    above: str,
    below: str,
    neither: str,
    digits: int = 2,
    scale: float = 1.0,
) -> str:
    """One of three ways to say a difference, by the side of 0 on which its interval lies.

    Args:
        found: the difference.
        above: said where it lies above 0; ``{}`` is its size.
        below: said where it lies below; ``{}`` is its size, without the sign.
        neither: said where it holds 0, which is not to say that the two are equal; ``{}`` is the
            difference with its sign.
        digits: after the point.
        scale: multiplies the numbers.
    """
    if found is None:
        return neither.format("-")
    if found.above(0):
        return above.format(fixed(found, digits, scale))
    if found.below(0):
        return below.format(fixed(_turned(found), digits, scale))
    few = ", one seed" if found.half is None else ""
    return neither.format(fixed(found, digits, scale)) + few


Losses = Mapping[str, Mapping[int, Result]]
"""Seeds that came to a bad end, by what they are called and number."""


def losses_in_words(lost: Losses) -> str:
    """``batch at 2: seed 1 diverged at step 40; …``; empty where there are none."""
    parts = []
    for label, seeds in lost.items():
        each = [f"seed {n} {_end(result)}" for n, result in sorted(seeds.items())]
        if each:
            parts.append(f"{label}: {', '.join(each)}")
    return "; ".join(parts)


def _end(result: Result) -> str:
    # Not the error itself, in which there may be a path of this machine.
    at = "" if result.diverged_at is None else f" at step {result.diverged_at:,}"
    return f"{DIVERGED}{at}" if result.status == DIVERGED else result.status


def with_losses(finding: Finding, decisive: Losses, beside: Losses) -> Finding:
    """The finding with what became of the seeds that are in none of its numbers.

    Args:
        finding: drawn from the seeds that finished.
        decisive: those lost that its verdict would need: the rest may be no fair sample, and so
            decide nothing.
        beside: those lost that only its tables would show.
    """
    verdict, why = finding.verdict, finding.why
    if lost := losses_in_words(decisive):
        verdict = OPEN
        why += (
            f" **Seeds came to a bad end** ({lost}): the numbers are those of the others, and"
            " decide nothing."
        )
    if lost := losses_in_words(beside):
        why += f" Not in the tables, because of a bad end: {lost}."
    return replace(finding, verdict=verdict, why=why)
