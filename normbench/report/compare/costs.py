"""What a cell costs in time and memory, and whether its times can be believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles
from typing import Any

from normbench.report.compare.comparisons import Comparison
from normbench.report.read.cells import CellRun
from normbench.report.read.seeds import SeedRun
from normbench.store.environment import each_machine, rounding
from normbench.store.results import FINISHED, Result

_STEADY = 1.2
"""Seeds of a cell whose times differ by more were trained beside other work; so was a seed whose
slow stretches are slower than its fast ones by more (in nine of ten)."""

_STRETCHES = 20
"""Of a shorter curve the start, which is slow, is too large a part."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a cell costs; each value None where nothing measured it.

    Attributes:
        rate: the peak learning rate.
        seconds: of training, an epoch and seed: of the median seed.
        images: trained a second in that time.
        memory: bytes that one training step of one seed holds.
        busy: whether the times of the seeds, or the speed of one along its training, differ so much
            that the machine did other work too: ``seconds`` and ``images`` are then None.
        ways: how many seeds were trained together and with how many threads, a pair a seed; none
            where not recorded.
    """

    rate: float | None
    seconds: float | None
    images: float | None
    memory: int | None
    busy: bool
    ways: tuple[tuple[int, int | None], ...]

    def over(self, other: "Cost") -> float | None:
        """The time over another cell's; None where not known, or where stacks or threads were
        others."""
        alike = set(self.ways) == set(other.ways) or not self.ways or not other.ways
        return self.seconds / other.seconds if alike and self.seconds and other.seconds else None


def cost(cell: CellRun) -> Cost:
    """What a cell's finished seeds cost."""
    sizes = [r.memory_bytes for r in cell.finished if r.memory_bytes is not None]
    runs = [
        (run, result)
        for run in cell.seeds
        if (result := run.result) is not None and run.state == FINISHED
        if result.seconds and result.epochs >= 1e-6
    ]
    timed = [result for _, result in runs]
    times = [r.seconds / r.epochs for r in timed]
    busy = _uneven(runs) or any(_unsteady(run) for run in cell.seeds)
    seconds = median(times) if times and not busy else None
    images = fmean(r.images_per_second * r.seconds / r.epochs for r in timed) if timed else None
    return Cost(
        rate=peak_rate(cell),
        seconds=seconds,
        images=images / seconds if seconds and images else None,
        memory=max(sizes, default=None),
        busy=busy,
        ways=tuple((r.stacked, r.threads) for r in timed if r.stacked is not None),
    )


def _differ(times: Sequence[float]) -> bool:
    return max(times) > _STEADY * min(times)


def _uneven(runs: Sequence[tuple[SeedRun, Result]]) -> bool:
    """Whether some seeds took longer than others that were trained in the same way.

    Where the last of several lanes is left alone, a seed in it is charged with the whole machine:
    it takes longer at the same speed.
    """
    for way in {(result.stacked, result.threads) for _, result in runs}:
        alike = [(run, result) for run, result in runs if (result.stacked, result.threads) == way]
        # The mean of what an image takes: short breaks are in it, as in the seconds.
        paces = [fmean([1 / speed for speed in _speeds(run)] or [0.0]) for run, _ in alike]
        slower = not all(paces) or _differ(paces)
        if slower and _differ([result.seconds / result.epochs for _, result in alike]):
            return True
    return False


def _speeds(run: SeedRun) -> list[float]:
    return [moment.speed for moment in run.curve if moment.speed]


def _unsteady(run: SeedRun) -> bool:
    """Whether the speed of a training changed along its way."""
    speeds = _speeds(run)
    if len(speeds) < _STRETCHES:
        return False
    tenths = quantiles(speeds, n=10)
    return tenths[-1] > _STEADY * tenths[0]


def peak_rate(cell: CellRun) -> float | None:
    """The peak learning rate: from the configuration, else the highest that the curves record."""
    from normbench.training.optim import Scaling, SGDConfig  # brings torch

    optim: Any = cell.settings.get("optim")
    try:
        scaling = Scaling(optim["scaling"])
        config = SGDConfig(lr=optim["lr"], scaling=scaling, scaling_batch=optim["scaling_batch"])
        return float(config.peak(cell.batch))
    except (KeyError, TypeError, ValueError, OverflowError):
        rates = [m.learning_rate for run in cell.seeds for m in run.curve if m.learning_rate]
        return max(rates, default=None)


def untimed(comparison: Comparison) -> str:
    """Why the times of a comparison are not to be compared; "" where nothing speaks against it."""
    cells = [cell for cell in comparison.cells if cell.finished]
    busy = sum(cost(cell).busy for cell in cells)
    if busy:
        return (
            f"in {busy} of {len(cells)} cells the times of the seeds, or the speed along the"
            " training, differ by more than 20 %, so the machine was busy with other work"
        )
    machines = [
        _machines(environment, run.result)
        for cell in cells
        for run in cell.seeds
        if (environment := run.environment or cell.environment)
    ]
    if len(set().union(*machines)) < 2:
        return ""
    return "the cells were trained on different machines or with different versions of torch"


def otherwise(comparison: Comparison) -> str:
    """What is to be said beside times of cells whose seeds were stacked otherwise, or had other
    threads; "" where all were trained alike."""
    ways = {way for cell in comparison.cells for way in cost(cell).ways}
    if len(ways) < 2:
        return ""
    return "seeds of some cells were stacked otherwise or had other threads (seeds.csv)"


def _machines(environment: Mapping[str, Any], result: Result | None) -> set[str]:
    """What makes training faster or slower, as text, of each machine that a seed ran on.

    Where the result says how a seed was trained its threads stand with its time, see :class:`Cost`.
    """
    known = {"threads": None} if result is not None and result.stacked is not None else {}
    return {str({**rounding(each), **known}) for each in each_machine(environment)}
