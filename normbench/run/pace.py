"""What training a cell takes here, measured before it is trained; the arrangements are kept."""

from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from normbench.data.batches import Splits
from normbench.run.cell import Cell, Replica
from normbench.run.placement import Step, seconds_a_step
from normbench.run.run import choose_device
from normbench.run.seeds import Replicas
from normbench.run.stacks import arrange
from normbench.store.advice import Cost
from normbench.terminal.screen import Screen
from normbench.training.loop import evaluate
from normbench.training.precise_bn import decompose

START = 0.5
"""Seconds that a cell takes before its first step."""


def measure(cell: Cell, rates: int, seeds: int, screen: Screen) -> Cost:
    """Times steps, evaluation and decomposition of ``cell``; writes nothing to its folder.

    Args:
        cell: what is timed; its images are loaded, some of them held out.
        rates: how many learning rates are trained together, a seed each.
        seeds: how many seeds of one are.
        screen: where it is shown what was found.
    """
    if cell.config.threads is not None:
        torch.set_num_threads(cell.config.threads)
    splits = cell.splits(choose_device(cell.config.device))
    replicas = [Replica(cell, cell.config.seed + number) for number in range(seeds)]
    step, _ = _step(replicas[:rates], splits, screen)
    stacked, threads = _step(replicas, splits, screen)
    all_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        evaluation, ending = _around(cell, splits)
    finally:
        torch.set_num_threads(all_threads)
    return Cost(
        norm=cell.config.norm.name,
        start=START,
        step=step,
        stacked=stacked,
        evaluation=evaluation,
        ending=ending,
        momentum=getattr(cell.config.norm, "momentum", None),
    )


def _step(replicas: Sequence[Replica], splits: Splits, screen: Screen) -> tuple[float, int]:
    """Seconds a step and replica, and the threads of each lane."""
    arrangement = arrange(replicas, splits, screen)

    def prepare(size: int) -> Step:
        return Replicas.of(replicas[:size], splits).stepper()

    count = len(replicas)
    at_once = arrangement.lanes * arrangement.size  # the last round may have empty places
    time = seconds_a_step(prepare, arrangement) * arrangement.rounds(count) * at_once / count
    return time, arrangement.threads


def _around(cell: Cell, splits: Splits) -> tuple[float, float]:
    """Seconds of an evaluation on the held-out images, and of all after the last step, a seed."""
    replicas = Replicas.of([Replica(cell, cell.config.seed)], splits)
    held_out = splits.validation
    assert held_out is not None
    evaluation = _timed(lambda: evaluate(replicas.networks, held_out))
    test = evaluation * len(splits.test) / len(held_out)
    decomposition = _timed(
        lambda: decompose(
            replicas.networks,
            replicas.training,
            splits.test,
            epoch=cell.config.epochs,
            size=cell.config.norm_batch or cell.config.batch,
        )
    )
    return evaluation, test + decomposition


def _timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
