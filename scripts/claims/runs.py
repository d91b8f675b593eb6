"""Claims that take the long comparison of norms and batch sizes: small batches, layer norm."""

from __future__ import annotations

from collections.abc import Sequence

from claims.base import (
    HOLDS,
    NOT,
    OPEN,
    PARTLY,
    Finding,
    Table,
    fixed,
    judged,
    said,
    spread,
)
from claims.networks import Cells, Lost, Seeds, accuracies, called
from normbench.report.compare.statistics import Estimate, combine, welch
from normbench.store.results import Result

NORMS = ("batch", "group", "layer", "instance")
PLANNED = ("batch", "group")
"""The norms that the long comparison has; the others are shown where they are there."""

BATCHES = (2, 32, 128)
SEEDS = 5
SMALL, USUAL, LARGE = BATCHES
SHORT = "results/naive"
"""Has all four norms, at one untuned learning rate and for three epochs."""


def missing(cells: Cells, lost: Lost) -> list[str]:
    """The cells of the comparison that have fewer seeds than planned.

    Seeds that came to a bad end are not missing: they are there, and said elsewhere.
    """
    found = []
    for key in ((norm, batch) for norm in PLANNED for batch in BATCHES):
        count = len(cells.get(key, {})) + len(lost.get(key, {}))
        if count < SEEDS:
            found.append(f"{called(*key)} ({count} of {SEEDS} seeds)")
    return found


def lost_of(
    lost: Lost, norms: Sequence[str] = PLANNED, batches: Sequence[int] = (SMALL, USUAL)
) -> dict[str, dict[int, Result]]:
    """The lost seeds of some norms and batch sizes, by what tables call their cells."""
    chosen = ((key, seeds) for key, seeds in sorted(lost.items()))
    return {called(*key): seeds for key, seeds in chosen if key[0] in norms and key[1] in batches}


def labelled(cells: Cells) -> dict[str, Seeds]:
    """The cells that are looked into, at two batch sizes, by what tables call them."""
    order = sorted((key for key in cells if key[1] in (SMALL, USUAL)), key=lambda key: key[::-1])
    return {called(*key): cells[key] for key in order}


def epochs(cells: Cells) -> str:
    """How long the networks were trained."""
    seeds = [seed for each in cells.values() for seed in each.values()]
    return " or ".join(map(str, sorted({seed.config["epochs"] for seed in seeds}))) or "no"


CHOSEN = " Learning rates are chosen on held-out training images ([rates](rates/README.md))."


def rates_of(cells: Cells) -> set[float]:
    """The learning rates of the networks, at batch size 32."""
    return {float(s.config["optim"]["lr"]) for seeds in cells.values() for s in seeds.values()}


def recipe(cells: Cells) -> str:
    """How the networks were trained, from their records."""
    if not cells:
        return "The long comparison (`normbench sweep experiment=batch-size`) is not there."
    rates = {
        called(*key): f"{next(iter(seeds.values())).config['optim']['lr']:g}"
        for key, seeds in sorted(cells.items())
    }
    words = "; ".join(f"{label}: {rate}" for label, rate in rates.items())
    if len(set(rates.values())) == 1:
        words = f"{rates.popitem()[1]} for all"
    return (
        f"ResNet-8 on all 50,000 images, {epochs(cells)} epochs; optimizer and norm see the same"
        " batch. Score: test accuracy after the last step. Learning rates (at batch size 32, scaled"
        f" linearly): {words}."
    )


def _of(cells: Cells, norm: str, batch: int) -> list[float]:
    return list(accuracies(cells.get((norm, batch), {})).values())


def change(cells: Cells, norm: str, against: int = USUAL) -> Estimate | None:
    """The accuracy at batch size 2 minus that at a larger one."""
    return combine([(1, _of(cells, norm, SMALL)), (-1, _of(cells, norm, against))])


def apart(cells: Cells, first: str, second: str, against: int, sign: int = -1) -> Estimate | None:
    """One norm's change minus another's; with ``sign`` = 1 their sum."""
    return combine(
        [
            *((1, _of(cells, first, SMALL)), (-1, _of(cells, first, against))),
            *((sign, _of(cells, second, SMALL)), (-sign, _of(cells, second, against))),
        ]
    )


def moves_less(cells: Cells, first: str, second: str, against: int = USUAL) -> bool | None:
    """Whether ``first`` changes by less than ``second``, up or down; None where that is not clear.

    It does where second - first and second + first are on the same side of 0.
    """
    minus, plus = (judged(apart(cells, second, first, against, sign)) for sign in (-1, 1))
    return None if OPEN in (minus, plus) else minus == plus


def comparison(cells: Cells, lost: Lost) -> Table:
    """Accuracy by norm and batch size."""
    there = [norm for norm in NORMS if any(key[0] == norm for key in (*cells, *lost))]
    rows = []
    for norm in there:
        row = [norm]
        for batch in BATCHES:
            values = _of(cells, norm, batch)
            few = f" (n = {len(values)})" if values else ""
            bad = len(lost.get((norm, batch), {}))
            row.append(spread(values, 1, 100) + few + (f"; {bad} lost" if bad else ""))
        rows.append([*row, *(fixed(change(cells, norm, b), 1, 100) for b in (USUAL, LARGE))])
    head = ["norm", *(f"batch size {b}" for b in BATCHES), "2 minus 32", "2 minus 128"]
    return Table(f"Test accuracy in % after {epochs(cells)} epochs", head, rows)


def _changes(cells: Cells, norms: Sequence[str], against: int) -> str:
    each = (f"{norm} norm {said(change(cells, norm, against), 'up', 'down')}" for norm in norms)
    return f"from {against} to 2, {', '.join(each)}"


def small_batches(cells: Cells, lost: Lost) -> Finding:
    """Group norm with small batches.

    What the cells can show is the first part of the claim, and of the second that the accuracy
    changes less. To train with batches of different sizes takes other cells.
    """
    less, lacking = moves_less(cells, "group", "batch"), missing(cells, lost)
    at_2 = {norm: accuracies(cells.get((norm, SMALL), {})) for norm in PLANNED}
    known = "measured yet" if lacking else "clear"
    first = {
        True: "Group norm's accuracy depends less on the batch size",
        False: "Group norm's accuracy depends more on the batch size",
        None: f"Whose accuracy depends less on the batch size is not {known}",
    }[less]
    still = f" **Not there yet**: {'; '.join(lacking)}." if lacking else ""
    return Finding(
        "Small batches and batches of different sizes",
        "GroupNorm depends less on the batch size, so it is more stable when training with small"
        " batches or with batches of different sizes.",
        f"{recipe(cells)}{CHOSEN} Depending less: a smaller change from 32 to 2, up or"
        f" down.{still}",
        OPEN if less is None else PARTLY if less else NOT,
        f"{first}: {_changes(cells, PLANNED, USUAL)}; {_changes(cells, PLANNED, LARGE)}."
        f" Group norm against batch norm at batch size 2:"
        f" {said(welch(at_2['group'], at_2['batch']), 'better', 'worse')}.",
        [comparison(cells, lost)],
        "Batches of different sizes within one training; larger networks.",
    )


def suited(better: str, steadier: str) -> str:
    """The verdict of two senses of one claim."""
    both = {better, steadier}
    if both == {HOLDS}:
        return HOLDS
    if HOLDS in both:
        return PARTLY
    return NOT if NOT in both else OPEN


def layer_norm(cells: Cells, lost: Lost) -> Finding:
    """Layer norm with small batches.

    To be suited to them is to be better there, and to lose less on the way there.

    Args:
        cells: of the longest comparison that has layer norm.
        lost: the lost seeds of the same.
    """
    at_2 = {norm: accuracies(cells.get((norm, SMALL), {})) for norm in NORMS}
    ahead, group = (welch(at_2["layer"], at_2[norm]) for norm in ("batch", "group"))
    saved = apart(cells, "layer", "batch", USUAL)
    tuned = len(rates_of(cells)) > 1
    return Finding(
        "Layer norm for small batches",
        "Layer norm is better suited than batch norm to small batches.",
        f"{recipe(cells)}{CHOSEN if tuned else ''} Better suited means two things here: a higher"
        " accuracy at batch size 2, and a smaller loss from 32 to 2.",
        suited(judged(ahead), judged(saved)),
        f"After {epochs(cells)} epochs at batch size 2, layer norm against batch norm:"
        f" {said(ahead, 'better', 'worse')}; its loss from 32 to 2 against batch norm's:"
        f" {said(saved, 'smaller', 'larger')}. Against group norm at batch size 2:"
        f" {said(group, 'better', 'worse')}. Changes:"
        f" {_changes(cells, ('batch', 'layer'), USUAL)}.",
        [comparison(cells, lost)],
        "Text, for which the article recommends it; "
        + (
            "larger networks; other lengths: after 3 epochs at one untuned rate it is the other way"
            " round at batch size 2 ([naive](naive/report.md)); the choice of the rates is not in"
            " the intervals; batch norm with re-estimated statistics."
            if tuned
            else "longer training at tuned learning rates."
        ),
    )
