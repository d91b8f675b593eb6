"""How long cells will take: as finished seeds took, as was measured before, or as is timed now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from math import ceil
from statistics import fmean, median
from time import perf_counter

import torch
from rich.console import Console

from normbench.data.batches import Split, Splits
from normbench.run.arranging import arrange
from normbench.run.cell import Cell, Replica
from normbench.run.placement import TURN
from normbench.run.remembered import case_of, recall
from normbench.run.run import choose_device
from normbench.run.seeds import Replicas
from normbench.store.advice import Timing
from normbench.store.results import read_results
from normbench.terminal.screen import Screen
from normbench.training.loop import evaluate
from normbench.training.precise_bn import decompose

START = 0.5
"""Seconds that a cell takes beside training and evaluation, about."""

EVALUATED = 256
"""How many images are evaluated to time it."""


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds of one seed: a training step, and the evaluation of one image."""

    step: float
    image: float


class Estimates:
    """Estimates of what is left of cells; each norm and batch size is timed once.

    They hold for one seed after another, unless it has been measured how fast so many seeds train
    together.

    Args:
        cells: whose finished seeds are taken for what the others will take.
        device: what they are trained on.
    """

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self._device = device
        self._times: dict[str, _Times] = {}
        self._known: dict[str, list[float]] = {}
        for cell in cells:
            known = self._known.setdefault(_kind(cell), [])
            known += [r.seconds / r.steps for r in read_results(cell.directory) if r.steps]

    def seconds(self, cell: Cell, seeds: int) -> float:
        """The seconds in which ``seeds`` seeds of a cell are trained and evaluated, about."""
        config, splits = cell.config, cell.splits(self._device)
        times = self._timed(cell, splits)
        pace = recall(case_of(cell, seeds, self._device))
        step = times.step if pace is None else pace.step
        steps = config.epochs * (len(splits.train) // config.batch)
        evaluations = ceil(config.epochs / config.evaluate_every)
        images = evaluations * len(splits.validation or splits.test)
        return START + seeds * (steps * step + images * times.image)

    def _timed(self, cell: Cell, splits: Splits) -> _Times:
        kind = _kind(cell)
        if kind not in self._times:
            replicas = Replicas.of([Replica(cell, cell.config.seed)], splits)
            known = self._known.get(kind)
            step = fmean(known) if known else _step(replicas, cell.config.threads)
            self._times[kind] = _Times(step, _evaluation(replicas, splits.test))
        return self._times[kind]


def _kind(cell: Cell) -> str:
    """What a step's time depends on."""
    config = cell.config
    parts = (config.norm, config.model, config.batch, config.norm_batch, config.precision)
    return repr((*parts, config.optim.name, cell.images.name, config.device))


def _step(replicas: Replicas, threads: int | None) -> float:
    """Seconds of a training step, by one thread where that is faster and nobody has chosen."""
    step, available = replicas.stepper(), torch.get_num_threads()
    seconds = _median(step)
    if threads is not None or available == 1:
        return seconds
    try:
        torch.set_num_threads(1)
        return min(seconds, _median(step))
    finally:
        torch.set_num_threads(available)


def measure(cell: Cell, together: Sequence[int]) -> Timing:
    """Times steps, evaluation and decomposition of ``cell``; writes nothing to its folder.

    Args:
        cell: what is timed; its images are loaded, some of them held out.
        together: how many replicas are trained together, beside one alone.
    """
    config, quiet = cell.config, Screen(Console(file=StringIO()))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    splits = cell.splits(choose_device(config.device))
    held_out = splits.validation
    assert held_out is not None
    replicas = [Replica(cell, config.seed + number) for number in range(max(together))]
    one = Replicas.of(replicas[:1], splits)
    steps = {1: _step(one, config.threads)}
    begin = perf_counter()
    for number in together:
        pace = arrange(replicas[:number], splits, quiet)
        steps[number] = number * min(steps[1], pace.step)  # chosen, it is no slower than apart
    arrangement = pace.arrangement
    arranging = (perf_counter() - begin) / len(together)
    all_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(arrangement.threads)
        image = _evaluation(one, held_out)
        size = config.norm_batch or config.batch
        parts = (one.networks, one.training, splits.test)
        ending = _seconds(lambda: decompose(*parts, epoch=config.epochs, size=size))
    finally:
        torch.set_num_threads(all_threads)
    lanes = min(1.0, arrangement.rounds(number) * arrangement.size / number)
    return Timing(
        norm=config.norm.name,
        start=START + arranging,
        steps=steps,
        evaluation=lanes * image * len(held_out),
        ending=lanes * (image * len(splits.test) + ending),
        momentum=getattr(config.norm, "momentum", None),
    )


def _median(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes, once it has been done: the median, as others compute as well."""
    work()  # the first time chooses algorithms and fills caches
    found: list[float] = []
    while len(found) < 3 or sum(found) < TURN:
        found.append(_seconds(work))
    return median(found)


def _evaluation(replicas: Replicas, split: Split) -> float:
    """Seconds of an image and seed."""
    some = split.shuffled(EVALUATED)
    return _median(lambda: evaluate(replicas.networks, some)) / len(some)


def _seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
