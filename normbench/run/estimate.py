"""How long cells will take: what their finished seeds took, or a few steps timed now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean, median
from time import perf_counter

import torch

from normbench.data.batches import Splits, evaluation_batches
from normbench.run.cell import Cell, Replica
from normbench.run.seeds import Replicas
from normbench.store.results import read_results
from normbench.training.loop import EVALUATION_BATCH

TURN = 0.1
"""Seconds for which a step is timed, at least, and at least three steps."""

START = 0.5
"""Seconds that a cell takes beside training and evaluation, about."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds of one seed: a training step, and the evaluation of one image."""

    step: float
    image: float


class Estimates:
    """Estimates of what is left of cells; each norm and batch size is timed once.

    They hold for one seed after another; seeds that are trained together take less.

    Args:
        cells: whose finished seeds are taken for what the others will take.
        device: what they are trained on.
    """

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self._device = device
        self._costs: dict[str, _Cost] = {}
        self._known: dict[str, list[float]] = {}
        for cell in cells:
            known = self._known.setdefault(_kind(cell), [])
            known += [r.seconds / r.steps for r in read_results(cell.directory) if r.steps]

    def seconds(self, cell: Cell, seeds: int) -> float:
        """The seconds in which ``seeds`` seeds of a cell are trained and evaluated, about."""
        splits = cell.splits(self._device)
        cost = self._cost(cell, splits)
        config = cell.config
        steps = config.epochs * (len(splits.train) // config.batch)
        evaluations = ceil(config.epochs / config.evaluate_every)
        images = evaluations * len(splits.validation or splits.test)
        return START + seeds * (steps * cost.step + images * cost.image)

    def _cost(self, cell: Cell, splits: Splits) -> _Cost:
        kind = _kind(cell)
        if kind not in self._costs:
            replicas = Replicas.of([Replica(cell, cell.config.seed)], splits)
            known = self._known.get(kind)
            step = fmean(known) if known else _time_step(replicas, cell.config.threads)
            self._costs[kind] = _Cost(step, _time_image(replicas, splits))
        return self._costs[kind]


def _kind(cell: Cell) -> str:
    """What a step's time depends on."""
    config = cell.config
    parts = (config.norm, config.model, config.batch, config.norm_batch, config.precision)
    return repr((*parts, cell.images.name, config.device))


def _time_step(replicas: Replicas, threads: int | None) -> float:
    """Seconds of a training step, by one thread where that is faster and nobody has chosen."""
    step, available = replicas.stepper(), torch.get_num_threads()
    seconds = _time(step)
    if threads is not None or available == 1:
        return seconds
    try:
        torch.set_num_threads(1)
        return min(seconds, _time(step))
    finally:
        torch.set_num_threads(available)


def _time_image(replicas: Replicas, splits: Splits) -> float:
    images, _ = next(evaluation_batches(splits.test, EVALUATION_BATCH))
    model = replicas.model.eval()

    @torch.inference_mode()
    def evaluate() -> None:
        model(images).sum().item()

    return _time(evaluate) / len(images)


def _time(work: Callable[[], None]) -> float:
    """Seconds that ``work`` takes, once it has been done: the median, as others compute as well."""
    work()  # the first time chooses algorithms and fills caches
    found: list[float] = []
    while len(found) < 3 or sum(found) < TURN:
        start = perf_counter()
        work()
        found.append(perf_counter() - start)
    return median(found)
