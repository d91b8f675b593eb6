"""Claims that take the long comparison: small batches, layer norm."""

from __future__ import annotations

from claims.base import (
    HOLDS,
    NOT,
    OPEN,
    PARTLY,
    Finding,
    Table,
    fixed,
    judged,
    losses_in_words,
    said,
    spread,
)
from claims.networks import Cells, Lost
from normbench.report.compare.statistics import Estimate, paired
from normbench.store.results import Result

COMMAND = "normbench sweep experiment=naive data=images data.name={data}"
NORMS = ("batch", "group", "layer", "instance")
BATCHES = (2, 4, 8, 32, 128)
SEEDS = 3
SMALL, USUAL = 2, 32


def scores(cells: Cells, norm: str, batch: int) -> dict[int, float]:
    """The test accuracy of each seed that finished."""
    found = {}
    for n, seed in cells.get((norm, batch), {}).items():
        assert seed.result.test_accuracy is not None
        found[n] = seed.result.test_accuracy
    return found


def change(cells: Cells, norm: str, against: int = USUAL) -> dict[int, float]:
    """The accuracy of each seed at a batch of 2, minus that at a larger one."""
    small, usual = scores(cells, norm, SMALL), scores(cells, norm, against)
    return {n: small[n] - usual[n] for n in sorted(small.keys() & usual.keys())}


def missing(cells: Cells, lost: Lost) -> list[str]:
    """The cells of the comparison that have fewer seeds than planned, by norm.

    Seeds that came to a bad end are not missing: they are there, and said elsewhere.
    """
    found = []
    for norm in NORMS:
        there = {
            batch: len(cells.get((norm, batch), {})) + len(lost.get((norm, batch), {}))
            for batch in BATCHES
        }
        lacking = [
            f"{batch}" + (f" ({count} of {SEEDS} seeds)" if count else "")
            for batch, count in there.items()
            if count < SEEDS
        ]
        if lacking:
            found.append(f"{norm} at {', '.join(lacking)}")
    return found


def of_cells(
    lost: Lost, norms: tuple[str, ...] = NORMS, batches: tuple[int, ...] = BATCHES
) -> dict[str, dict[int, Result]]:
    """Those of the lost seeds that belong to some norms and batches, by what a cell is called."""
    return {
        f"{norm} at {batch}": seeds
        for (norm, batch), seeds in sorted(lost.items())
        if norm in norms and batch in batches
    }


def comparison(cells: Cells, lost: Lost) -> Table:
    """Accuracy by norm and batch."""
    rows = []
    for norm in NORMS:
        row = [norm]
        for batch in BATCHES:
            values = list(scores(cells, norm, batch).values())
            bad = len(lost.get((norm, batch), {}))
            few = f" (n = {len(values)})" if 0 < len(values) < SEEDS else ""
            row.append(spread(values, 1, 100) + few + (f"; {bad} lost" if bad else ""))
        moved = change(cells, norm)
        rows.append([*row, fixed(paired(moved, dict.fromkeys(moved, 0.0)), 1, 100)])
    head = ["norm", *(f"batch {b}" for b in BATCHES), "2 minus 32"]
    title = (
        "Test accuracy in % after three epochs; ± is the 95 % interval over n = 3 seeds where not"
        " said; `lost` are seeds that diverged or failed; the difference is paired by seed"
    )
    return Table(title, head, rows)


def _how(data: str, cells: Cells, lost: Lost) -> str:
    lacking = missing(cells, lost)
    still = f" **Not there yet**: {'; '.join(lacking)}." if lacking else ""
    ends = losses_in_words(of_cells(lost))
    bad = f" **Came to a bad end**: {ends}." if ends else ""
    return (
        f"`{COMMAND.format(data=data)}`: ResNet-8 on all 50,000 images, three epochs, learning rate"
        f" 0.1·batch/32, the optimizer's batch is the norm's. Score: the test set after the last"
        f" step.{still}{bad}"
    )


def moves_more(first: dict[int, float], second: dict[int, float]) -> bool | None:
    """Whether ``first`` is farther from 0 than ``second``; None where that is not clear.

    By two intervals, of first - second and of first + second: |first| > |second| where both lie on
    the same side of 0.
    """
    sides = [judged(paired(first, second)), judged(paired(first, _turned(second)))]
    return None if OPEN in sides else sides[0] == sides[1]


def _turned(values: dict[int, float]) -> dict[int, float]:
    return {n: -value for n, value in values.items()}


def _moved(norm: str, moved: dict[int, float]) -> str:
    return norm + said(
        paired(moved, dict.fromkeys(moved, 0.0)),
        " norm gains {} points",
        " norm loses {} points",
        " norm's change is not told from 0 ({} points)",
        1,
        100,
    )


def _placed(ahead: Estimate | None) -> str:
    """Where a norm is next to batch norm."""
    return said(
        ahead,
        "{} points ahead of batch norm",
        "{} points behind batch norm",
        "not told from batch norm ({} points)",
        1,
        100,
    )


def small_batches(cells: Cells, lost: Lost, data: str) -> Finding:
    """Group norm with small batches.

    What the cells can show is the first part, and of the second that the accuracy moves less. To
    be ahead is not claimed, and to train with batches of different sizes takes other cells.
    """
    moved = {norm: change(cells, norm) for norm in ("batch", "group")}
    whole = {norm: change(cells, norm, BATCHES[-1]) for norm in moved}
    less = moves_more(moved["batch"], moved["group"])
    ahead = paired(scores(cells, "group", SMALL), scores(cells, "batch", SMALL))
    moves = {
        True: "group norm's accuracy moves less, whichever way it moves",
        False: "group norm's accuracy moves more",
        None: "whose accuracy moves less is not told",
    }
    sizes = [
        paired(moved["group"], moved["batch"]),
        paired(moved["group"], _turned(moved["batch"])),
    ]
    minus, plus = (fixed(each, 1, 100) for each in sizes)
    return Finding(
        "Small batches and batches of different sizes",
        "GroupNorm depends less on the batch size, so it is more stable when training with small"
        " batches or with batches of different sizes.",
        _how(data, cells, lost),
        OPEN if less is None else PARTLY if less else NOT,
        f"From a batch of 32, the papers' usual one, to one of 2, {moves[less]}:"
        f" {_moved('batch', moved['batch'])}, and {_moved('group', moved['group'])} (group norm's"
        f" change less batch norm's is {minus} points, their sum {plus}). From {BATCHES[-1]} to 2,"
        f" {moves[moves_more(whole['batch'], whole['group'])]}:"
        f" {_moved('batch', whole['batch'])}, and {_moved('group', whole['group'])}; larger batches"
        " take fewer steps here. Whether group norm is better at a small batch is another question,"
        f" of which the claim says nothing: at 2 it is {_placed(ahead)}, after three epochs; in the"
        " public runs of 100 epochs (CIFAR-10, github.com/BeFranke/GroupNorm) it leads there by 5.5"
        " points. Batches of different sizes were not trained.",
        [comparison(cells, lost)],
        "Training with batches of *different* sizes: there is no such cell. That group norm's"
        " output does not change with them holds by the claim before. Longer training and other"
        " learning rates: three epochs at a small batch are more steps, so that a gain from 32 to 2"
        " may be progress. Stability in the sense of the spread over seeds, for which three are too"
        " few.",
    )


def layer_norm(cells: Cells, lost: Lost, data: str) -> Finding:
    """Layer norm with small batches.

    To be suited to them is to be better there, and to lose less on the way there. What holds of the
    two is shown, and the claim partly, if the other does not.
    """
    ahead = paired(scores(cells, "layer", SMALL), scores(cells, "batch", SMALL))
    group = paired(scores(cells, "layer", SMALL), scores(cells, "group", SMALL))
    moved = {norm: change(cells, norm) for norm in ("batch", "layer")}
    saved = paired(moved["layer"], moved["batch"])
    lost_less = said(
        saved,
        "it loses {} points less than batch norm",
        "it loses {} points more than batch norm",
        "who loses more is not told ({} points)",
        1,
        100,
    )
    beside = said(
        group,
        "{} points ahead of group norm",
        "{} points behind group norm",
        "not told from group norm ({} points)",
        1,
        100,
    )
    return Finding(
        "Layer norm for small batches",
        "Layer norm is better suited than batch norm to small batches.",
        _how(data, cells, lost)
        + " Its table stands with the claim on group norm and small batches. Better suited is taken"
        " in two senses: a higher accuracy at a batch of 2, and less lost from 32 to 2.",
        suited(judged(ahead), judged(saved)),
        f"At a batch of 2, after three epochs, layer norm is {_placed(ahead)}, and {beside}. From"
        f" 32 to 2 {lost_less}: {_moved('batch', moved['batch'])}, and"
        f" {_moved('layer', moved['layer'])}.",
        [],
        "Text, for which the article recommends it; longer training, in which what learns more"
        " slowly may catch up.",
    )


def suited(better: str, steadier: str) -> str:
    """The verdict of two senses of one claim."""
    both = {better, steadier}
    if both == {HOLDS}:
        return HOLDS
    if HOLDS in both:
        return PARTLY
    return NOT if NOT in both else OPEN


def looked_into(cells: Cells) -> Cells:
    """The cells whose networks are looked into: those at a batch of 2 and of 32."""
    return {key: seeds for key, seeds in cells.items() if key[1] in (SMALL, USUAL)}
