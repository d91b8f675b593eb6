"""Cells -> comparisons: lines that may stand in one picture because all else was equal.

A comparison holds cells of one experiment (``runs/NAME``), one data set (name and content), one
network and one recipe. Its lines are norms; a norm that comes in several variants is several lines.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normbench.report.compare.recipes import (
    COMPARED,
    NO_PART,
    length,
    norm_settings,
    rate_of,
    recipes,
    same_rates,
    telling,
    told_apart,
    unknown,
)
from normbench.report.compare.regimes import (
    SIGNS,
    Regime,
    axis_setting,
    is_batch_dependent,
    regimes,
)
from normbench.report.read.cells import CellRun, Collection
from normbench.store.results import DIVERGED

AXES = {
    "batch": "batch size",
    "norm_batch": "images that share statistics (norm_batch)",
    "groups": "number of groups G",
    "channels_per_group": "channels per group C/G",
}
"""What may stand on the horizontal axis."""

NAMES = {
    "batch": "batch size",
    "norm_batch": "norm batch size",
    "groups": "G =",
    "channels_per_group": "C/G =",
}
"""The same in a few words, before a value."""


def axis_value(axis: str, x: float) -> str:
    """``batch size 2``, ``norm batch size 2``, ``G = 4``, ``C/G = 4``."""
    return f"{NAMES[axis]} {x:g}"


@dataclass(frozen=True, slots=True)
class Point:
    """A cell at its place on the axis."""

    x: int
    cell: CellRun

    @property
    def errors(self) -> dict[int, float]:
        """Test error in % by seed, of the seeds that finished."""
        return self.cell.errors

    @property
    def diverged(self) -> int:
        """How many seeds diverged: means over the others flatter the norm."""
        return sum(run.state == DIVERGED for run in self.cell.seeds)

    @property
    def ended(self) -> bool:
        """Whether a seed came to an end that says something of the norm."""
        return bool(self.errors) or self.diverged > 0

    @property
    def whole(self) -> bool:
        """Whether a seed finished and none diverged, so that it may be compared."""
        return bool(self.errors) and not self.diverged


@dataclass(frozen=True, slots=True)
class Line:
    """One norm along the axis.

    Attributes:
        label: the norm's name, with what tells it from others of that name.
        norm: the norm's name.
        points: by x.
        level: whether it is one cell, drawn at every x because the axis means nothing to it.
        batch_dependent: whether in training its output depends on the batch.
    """

    label: str
    norm: str
    points: tuple[Point, ...]
    level: bool
    batch_dependent: bool

    @property
    def named(self) -> str:
        """``batch norm``, ``batch norm (momentum=0.01)``."""
        _, _, variant = self.label.partition(", ")
        return f"{self.norm} norm" + (f" ({variant})" if variant else "")

    def at(self, x: int) -> Point | None:
        """The point at ``x``, or None."""
        return next((point for point in self.points if point.x == x), None)

    @property
    def own(self) -> Sequence[Point]:
        """The points that tell something each; of a level line, one."""
        return self.points[:1] if self.level else self.points

    @property
    def measured(self) -> list[Point]:
        """The points at which a seed finished; for a level line, one."""
        points = [point for point in self.points if point.errors]
        return points[:1] if self.level else points

    @property
    def whole(self) -> list[Point]:
        """Those of the measured points that may be compared."""
        return [point for point in self.measured if point.whole]

    @property
    def errors(self) -> dict[float, dict[int, float]]:
        """Test errors in % by x and seed, of the places that may be compared."""
        return {float(point.x): point.errors for point in self.points if point.whole}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Lines that differ in the norm alone.

    Attributes:
        experiment: the folder that its cells are in, below the one that was read; "": that one.
        title: network, data set, epochs, and what tells it from the other comparisons.
        regime: what "batch size" means here, in words.
        axis: a key of AXES.
        settings: of one of its cells, without those that the comparison is about; empty where the
            cells do not say.
        lines: batch-dependent norms first.
        left_out: folders of cells that are in it twice.
    """

    experiment: str
    title: str
    regime: str
    axis: str
    model: str
    data: str
    sha256: str | None
    epochs: float | None
    settings: Mapping[str, Any]
    lines: tuple[Line, ...]
    left_out: tuple[str, ...] = ()

    @property
    def cells(self) -> list[CellRun]:
        """Each cell once, in the order of the lines."""
        found = {p.cell.folder: p.cell for line in self.lines for p in line.points}
        return list(found.values())

    @property
    def xs(self) -> list[int]:
        """The places on the axis."""
        return sorted({point.x for line in self.lines for point in line.points})

    @property
    def rates(self) -> list[str]:
        """The learning rates of its cells before the rule for the batch size; several: chosen."""
        return sorted({rate for cell in self.cells if (rate := rate_of(cell))})


def compare(collection: Collection) -> list[Comparison]:
    """The comparisons that the cells of ``collection`` make; unreadable cells are in none."""
    alike = [same for cells in recipes(collection) for same in same_rates(cells)]
    made = [_comparison(regime, cells) for cells in alike for regime in regimes(cells)]
    return _titled(made)


def _comparison(regime: Regime, cells: Sequence[CellRun]) -> Comparison:
    """Puts the cells of a regime on lines."""
    first = max((c for c, _ in regime.places), key=lambda c: (bool(c.settings), c.sha256 or ""))
    xs = sorted({x for _, x in regime.places if x is not None})
    grouped: dict[tuple[str, str, bool], dict[int, list[CellRun]]] = {}
    variants = _variants(regime)
    for cell, x in regime.places:
        key = (cell.norm, variants[cell.folder], x is None)
        for place in xs if x is None else [x]:
            grouped.setdefault(key, {}).setdefault(place, []).append(cell)
    labels = _labels(grouped)
    lines, left_out = [], []
    for key, places in grouped.items():
        points = []
        for x, found in sorted(places.items()):
            ranked = sorted(found, key=lambda cell: -len(cell.finished))
            points.append(Point(x, ranked[0]))
            # Of a cell that is in an older plan alone it is not known which it is.
            left_out += [cell.folder for cell in ranked[1:] if not unknown(cell)]
        tied = is_batch_dependent(key[0], cells)
        lines.append(Line(labels[key], key[0], tuple(points), key[2], tied))
    lines.sort(key=lambda line: (not line.batch_dependent, line.level, _natural(line.label)))
    settings = {k: v for k, v in first.settings.items() if k not in NO_PART | COMPARED}
    experiment = first.experiment
    return Comparison(
        experiment=experiment,
        title=f"{experiment and experiment + ': '}{first.model} on {first.data}",
        regime=regime.name,
        axis=regime.axis,
        model=first.model,
        data=first.data,
        sha256=first.sha256,
        epochs=first.epochs,
        settings=settings,
        lines=tuple(lines),
        left_out=tuple(dict.fromkeys(left_out)),
    )


def _natural(label: str) -> list[str | float]:
    """Sorts numbers in a label by size: G = 2 before G = 10, 0.003 before 0.01."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?)", label)
    return [float(part) if number % 2 else part for number, part in enumerate(parts)]


def _variants(regime: Regime) -> dict[str, str]:
    """What tells each cell's norm from others of its name, as text, by folder.

    A cell of which that is not known takes what the others of its norm have, if they all have it.
    """
    cells = [cell for cell, _ in regime.places]
    known = defaultdict(set)
    for cell in cells:
        if cell.settings:
            known[cell.norm].add(_variant(cell, regime.axis))
    return {
        cell.folder: next(iter(known[cell.norm]))
        if not cell.settings and len(known[cell.norm]) == 1
        else _variant(cell, regime.axis)
        for cell in cells
    }


def _variant(cell: CellRun, axis: str) -> str:
    values = norm_settings(cell)
    if axis_setting(cell, axis) is not None:
        del values[axis]
    return json.dumps(values, sort_keys=True, default=str)


def _labels(keys: Iterable[tuple[str, str, bool]]) -> dict[tuple[str, str, bool], str]:
    """A name for each line: the norm's, with the settings in which lines of one norm differ."""
    named = defaultdict(list)
    for key in keys:
        named[key[0]].append(key)
    labels = {}
    for norm, same in named.items():
        variants = [json.loads(variant) for _, variant, _ in same]
        for key, said in zip(same, told_apart(variants, SIGNS), strict=True):
            labels[key] = ", ".join([norm, *said])
    return labels


# --- Titles ---------------------------------------------------------------------------------------


def _common(comparison: Comparison) -> Mapping[str, Any]:
    """The settings of all its cells: not the learning rate, where it was chosen for each."""
    settings = comparison.settings
    optim = settings.get("optim")
    if len(comparison.rates) < 2 or not isinstance(optim, Mapping):
        return settings
    return {**settings, "optim": {k: v for k, v in optim.items() if k != "lr"}}


def _titled(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Adds to each title what tells the comparison from the others."""
    endings = telling([(c.title, _common(c), c.sha256) for c in comparisons])
    told = []
    for comparison, ending in zip(comparisons, endings, strict=True):
        title = comparison.title + length(comparison.epochs)
        title += ", chosen learning rates" if len(comparison.rates) > 1 else ""
        told.append(replace(comparison, title=title + ending))
    repeated = Counter(c.title for c in told)
    return [
        replace(c, title=f"{c.title}; {AXES[c.axis] if c.axis in SIGNS else c.regime}")
        if repeated[c.title] > 1
        else c
        for c in told
    ]
