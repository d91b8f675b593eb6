"""Trials of learning rates: the same cell at several rates, scored on held-out training images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from normbench.report.compare.recipes import (
    held_out,
    length,
    norm_settings,
    place_of,
    rate_of,
    recipes,
    telling,
    told_apart,
    without_rate,
)
from normbench.report.compare.statistics import Estimate, estimate
from normbench.report.read.cells import CellRun, Collection


@dataclass(frozen=True, slots=True)
class RateLine:
    """One norm at one batch size.

    Attributes:
        norm, batch: which.
        variant: what tells it from others of that norm and batch size, such as ``momentum=0.02``.
        cells: by learning rate (``optim.lr``, before the rule for the batch size), in order.
    """

    norm: str
    batch: int
    variant: str
    cells: Mapping[float, CellRun]

    @property
    def label(self) -> str:
        """``batch, 16``: the norm and the batch size, and what tells it from others of them."""
        return ", ".join(filter(None, (self.norm, str(self.batch), self.variant)))

    @property
    def errors(self) -> dict[float, dict[int, float]]:
        """Errors on the held-out images in %, by rate and seed; finished seeds alone."""
        found = {rate: _errors(cell) for rate, cell in self.cells.items()}
        return {rate: errors for rate, errors in found.items() if errors}

    @property
    def best(self) -> float | None:
        """The rate with the lowest mean error, among those with the most seeds."""
        errors = self.errors
        most = max(map(len, errors.values()), default=0)
        several = [rate for rate in errors if len(errors[rate]) == most]
        return min(several, key=lambda rate: fmean(errors[rate].values()), default=None)

    @property
    def inside(self) -> bool:
        """Whether lower and higher rates than the best were tried."""
        return self.best is not None and min(self.cells) < self.best < max(self.cells)

    def at(self, rate: float) -> Estimate | None:
        """The error at a rate; None where no seed has finished."""
        return estimate(self.errors.get(rate, {}).values())


@dataclass(frozen=True, slots=True)
class RateTrial:
    """Trials that differ in norm, batch size and learning rate alone.

    Attributes:
        title: experiment, network, data set and epochs, and what tells it from the other trials.
        lines: one a norm and batch size.
    """

    title: str
    lines: tuple[RateLine, ...]

    @property
    def rates(self) -> list[float]:
        """All rates that were tried."""
        return sorted({rate for line in self.lines for rate in line.cells})

    @property
    def cells(self) -> list[CellRun]:
        """Each cell once."""
        return [cell for line in self.lines for cell in line.cells.values()]


def rate_trials(collection: Collection) -> list[RateTrial]:
    """The trials among the cells: several rates at one place, and held-out images."""
    found = [trial for cells in recipes(collection) if (trial := _trial(cells)) is not None]
    firsts = [trial.cells[0] for trial in found]
    endings = telling([
        (trial.title, without_rate(cell), cell.sha256)
        for trial, cell in zip(found, firsts, strict=True)
    ])  # fmt: skip
    return [
        replace(trial, title=trial.title + ending)
        for trial, ending in zip(found, endings, strict=True)
    ]


def _trial(cells: list[CellRun]) -> RateTrial | None:
    places: dict[str, dict[float, CellRun]] = defaultdict(dict)
    for cell in cells:
        if held_out(cell.settings) and (rate := _rate(cell)) is not None:
            places[place_of(cell)][rate] = cell
    if not any(len(rates) > 1 for rates in places.values()):
        return None
    first = cells[0]
    experiment = first.experiment
    lines = []
    for rates, variant in zip(places.values(), _variants(places.values()), strict=True):
        one = next(iter(rates.values()))
        lines.append(RateLine(one.norm, one.batch, variant, dict(sorted(rates.items()))))
    title = f"learning rates, {first.model} on {first.data}{length(first.epochs)}"
    return RateTrial(
        f"{experiment}: {title}" if experiment else title,
        tuple(sorted(lines, key=lambda line: (line.norm, line.batch, line.variant))),
    )


def _variants(places: Iterable[Mapping[float, CellRun]]) -> list[str]:
    """What tells the places of one norm and batch size from each other; "" where there is one."""
    firsts = [next(iter(rates.values())) for rates in places]
    variants = [norm_settings(c) | {"norm_batch": c.norm_batch} for c in firsts]
    said = []
    for cell, mine in zip(firsts, variants, strict=True):
        alike = [v for c, v in zip(firsts, variants, strict=True)
                 if (c.norm, c.batch) == (cell.norm, cell.batch)]  # fmt: skip
        said.append(", ".join(told_apart(alike)[alike.index(mine)]))
    return said


def _rate(cell: CellRun) -> float | None:
    try:
        rate = float(rate_of(cell))
    except ValueError:
        return None
    return rate if rate > 0 else None


def _errors(cell: CellRun) -> dict[int, float]:
    scores = {result.seed: result.val_accuracy for result in cell.finished}
    return {seed: 100 * (1 - score) for seed, score in scores.items() if score is not None}
