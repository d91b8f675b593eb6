"""How some replicas share the machine: as wanted, or as was found to be the fastest."""

from collections.abc import Sequence
from threading import Event

import torch

from normbench.data.batches import Splits
from normbench.run.cell import Replica
from normbench.run.placement import (
    BUDGET,
    TURN,
    Arrangement,
    Pace,
    Step,
    fastest,
    time_to_measure,
    timed,
)
from normbench.run.remembered import busy, case_of, recall, remember
from normbench.run.seeds import Replicas, StoppedError
from normbench.run.signals import asking
from normbench.run.views import show_pace
from normbench.terminal.screen import Screen
from normbench.training.stacking import StackError, stack


def arrange(replicas: Sequence[Replica], splits: Splits, screen: Screen) -> Pace:
    """How ``replicas`` share the machine: as wanted, or as is fastest here."""
    config = replicas[0].cell.config
    wanted, several = config.stack, len(replicas) > 1
    if wanted == 1 and several:
        return _only(Arrangement(), replicas, splits, screen)
    try:
        prove_stack(replicas[:2])
        pace = _arranged(replicas, splits, screen)
        for part in {len(part): part for part in pace.arrangement.divide(replicas)}.values():
            if len(part) > 2:
                prove_stack(part)
    except StackError as error:
        screen.line(f"  the seeds are not stacked: {error}")
        return _only(Arrangement(), replicas, splits, screen)
    return pace


def _arranged(replicas: Sequence[Replica], splits: Splits, screen: Screen) -> Pace:
    """An arrangement of replicas of which two have been stacked."""
    config = replicas[0].cell.config
    wanted, several = config.stack, len(replicas) > 1
    if isinstance(wanted, int) and several:
        return _only(Arrangement(size=min(wanted, len(replicas))), replicas, splits, screen)
    chosen_threads = config.threads is not None or torch.get_num_threads() == 1
    if not several and (chosen_threads or most_lanes(splits) == 1):
        return _only(Arrangement(), replicas, splits, screen)
    return _fastest(replicas, splits, screen)


def _only(
    arrangement: Arrangement, replicas: Sequence[Replica], splits: Splits, screen: Screen
) -> Pace:
    """An arrangement beside which nothing is to be timed; some steps tell how long it takes."""
    members, steps = replicas[: arrangement.size], _steps(replicas, splits)
    step = Replicas.of(members, splits).stepper()
    step()  # the first chooses algorithms and fills caches
    about = timed(step, 0.0) / len(members)
    pace = Pace(arrangement, timed(step, min(TURN, time_to_measure(steps * about))) / len(members))
    show_pace(screen, pace, steps)
    return pace


def _steps(replicas: Sequence[Replica], splits: Splits) -> int:
    """How many steps of one seed there are to train."""
    config = replicas[0].cell.config
    return len(replicas) * config.epochs * (len(splits.train) // config.batch)


def _fastest(replicas: Sequence[Replica], splits: Splits, screen: Screen) -> Pace:
    """The fastest arrangement, as measured before on this machine or now."""
    seeds, steps = len(replicas), _steps(replicas, splits)
    case = case_of(replicas[0].cell, seeds, splits.train.pixels.device)
    known = recall(case)
    if known is not None:
        show_pace(screen, known, steps)
        return known
    stop = Event()

    def prepare(size: int) -> Step:
        step = Replicas.of(replicas[:size], splits).stepper()

        def unless_stopped() -> None:
            if stop.is_set():
                raise StoppedError
            step()

        return unless_stopped

    with screen.working("measuring how to train") as bar, asking(stop.set):
        lanes = most_lanes(splits)
        best, times = fastest(prepare, seeds, bar.update, steps=steps // seeds, lanes=lanes)
    pace = Pace(best, best.occupied(seeds) * times[best] / seeds)
    if time_to_measure(steps * times[Arrangement()]) == BUDGET:  # else it was done in haste
        remember(case, pace, lasting=not busy())
    show_pace(screen, pace, steps, times)
    return pace


def prove_stack(replicas: Sequence[Replica]) -> None:
    """Raises StackError if ``replicas`` are several that a stack is not right for."""
    if len(replicas) > 1:
        stack([replica.build_model() for replica in replicas], replicas[0].cell.example())


def most_lanes(splits: Splits) -> int:
    """How many stacks may be trained at a time: on a GPU one, for graphs are recorded alone."""
    on_cpu = splits.train.pixels.device.type == "cpu"
    return torch.get_num_threads() if on_cpu else 1
