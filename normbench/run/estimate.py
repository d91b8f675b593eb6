"""How long cells will take: as finished seeds took, as was measured before, or as is timed now."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from statistics import fmean, median
from time import perf_counter

import torch

from normbench.data.batches import Split, Splits
from normbench.run.arranging import arrange
from normbench.run.cell import Cell, Replica
from normbench.run.machine import computed_by, prepared
from normbench.run.placement import TURN
from normbench.run.seeds import Replicas
from normbench.store import checkpoint
from normbench.store.advice import Timing
from normbench.store.results import read_results
from normbench.terminal.screen import Screen
from normbench.training.loop import evaluate
from normbench.training.precise_bn import decompose

START = 0.5
"""Seconds that a cell takes beside training and evaluation, about."""

EVALUATED = 256
"""How many images are evaluated to time it."""


class Estimates:
    """Estimates of what is left of cells; each kind of cell is timed once.

    A training takes as long as such seeds took before, else as long as in the arrangement in which
    it will be trained. If that is not known it is measured now; what is measured in full is
    remembered, so that training does not measure it again.

    Args:
        cells: whose finished seeds are taken for what the others will take.
        device: what they are trained on.
    """

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self._device = device
        self._images: dict[str, float] = {}
        self._paces: dict[tuple[str, int], float] = {}
        self._known: dict[str, list[float]] = {}
        for cell in cells:
            known = self._known.setdefault(_kind(cell), [])
            known += [r.seconds / r.steps for r in read_results(cell.directory) if r.steps]

    def seconds(self, replicas: Sequence[Replica]) -> float:
        """The seconds in which replicas, launched together, are trained and evaluated, about."""
        cell = replicas[0].cell
        config, splits = cell.config, cell.splits(self._device)
        steps = config.epochs * (len(splits.train) // config.batch)
        evaluations = ceil(config.epochs / config.evaluate_every)
        images = evaluations * len(splits.validation or splits.test)
        seed = steps * self._step(replicas, splits) + images * self._image(replicas, splits)
        left = sum(max(0.0, 1 - done / steps) for done in _trained(replicas))
        return START + left * seed

    def _step(self, replicas: Sequence[Replica], splits: Splits) -> float:
        """Seconds of a training step of one of ``replicas``."""
        kind, count = _kind(replicas[0].cell), len(replicas)
        if known := self._known.get(kind):
            return fmean(known)
        if (kind, count) not in self._paces:
            self._paces[kind, count] = arrange(replicas, splits, Screen.unseen()).step
        return self._paces[kind, count]

    def _image(self, replicas: Sequence[Replica], splits: Splits) -> float:
        """Seconds of the evaluation of an image."""
        kind = _kind(replicas[0].cell)
        if kind not in self._images:
            self._images[kind] = _evaluation(Replicas.of(replicas[:1], splits), splits.test)
        return self._images[kind]


def _trained(replicas: Sequence[Replica]) -> list[int]:
    """How many steps of each replica a checkpoint holds."""
    done: dict[tuple[object, object], int] = {}
    for replica in replicas:
        for head in checkpoint.heads(replica.folder):
            with suppress(KeyError, TypeError, AttributeError):
                step = int(head["progress"]["step"])
                done |= {(key["cell"], key["seed"]): step for key in head["replicas"]}
                break
    return [done.get((each.cell.directory.name, each.seed), 0) for each in replicas]


def _kind(cell: Cell) -> str:
    """What a step's time depends on."""
    config = cell.config
    parts = (config.norm, config.model, config.batch, config.norm_batch, config.precision)
    return repr((*parts, config.optim.name, cell.images.name, config.device))


def measure(cell: Cell, together: Sequence[int], threads: int | None = None) -> Timing:
    """Times steps, evaluation and decomposition of ``cell``; writes nothing to its folder.

    Args:
        cell: what is timed; its images are loaded, some of them held out.
        together: how many replicas are trained together, beside one alone.
        threads: by how many it will be computed, unless the configuration says; all by default.
    """
    with prepared(cell.config, threads) as device:
        return _measured(cell, cell.splits(device), together)


def _measured(cell: Cell, splits: Splits, together: Sequence[int]) -> Timing:
    config = cell.config
    held_out = splits.validation
    assert held_out is not None
    replicas = [Replica(cell, config.seed + number) for number in range(max(together))]
    one = Replicas.of(replicas[:1], splits)
    steps = {1: arrange(replicas[:1], splits, Screen.unseen()).step}
    begin = perf_counter()
    for number in together:
        pace = arrange(replicas[:number], splits, Screen.unseen())
        steps[number] = number * min(steps[1], pace.step)  # chosen, it is no slower than apart
    arrangement = pace.arrangement
    arranging = (perf_counter() - begin) / len(together)
    with computed_by(arrangement.threads):
        image = _evaluation(one, held_out)
        size = config.statistics_batch
        parts = (one.networks, one.training, splits.test)
        ending = _seconds(lambda: decompose(*parts, epoch=config.epochs, size=size))
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
