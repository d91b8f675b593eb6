"""Each verdict in each of its outcomes, and what is said of how alike the comparison is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.published import BEFRANKE, PUBLICATIONS, WU_HE
from normbench.report.read.cells import collect
from normbench.report.text.verdicts import (
    DIFFERENT,
    LOST,
    SAME,
    UNDECIDED,
    Judgement,
    Verdict,
    judge,
)
from tests.report_helpers import around, write_cell, write_sweep

BATCH = {2: 0.60, 8: 0.68, 32: 0.71}
GROUP = {2: 0.665, 8: 0.667, 32: 0.668}
NOISY = (-0.05, 0.0, 0.05)


def write(
    folder: Path,
    norm: str,
    values: Mapping[int, float],
    spread: Sequence[float] = (-0.001, 0, 0.001),
) -> None:
    """A line whose seeds lie at ``spread`` at the smallest batch, and apart by little elsewhere."""
    for batch, accuracy in values.items():
        offsets = spread if batch == min(values) else [-s / 50 for s in spread]
        write_cell(folder, norm, batch, [accuracy + s for s in offsets])


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


def judgement(directory: Path, key: str = "befranke-groupnorm") -> Judgement:
    return next(j for j in judge(only(directory)) if j.publication.key == key)


def verdict(directory: Path, words: str, key: str = "befranke-groupnorm") -> Verdict:
    found = [v for v in judgement(directory, key).verdicts if words in v.statement]
    assert len(found) == 1, [v.statement for v in found]
    return found[0]


# --- The four questions, each in its three outcomes -----------------------------------------------


@pytest.mark.parametrize(
    ("group", "spread", "outcome"),
    [
        (GROUP, (-0.001, 0, 0.001), SAME),
        ({2: 0.60, 8: 0.66, 32: 0.67}, (-0.001, 0, 0.001), DIFFERENT),
        (GROUP, NOISY, UNDECIDED),
    ],
)
def test_group_norm_hardly_moves(
    tmp_path: Path, group: Mapping[int, float], spread: Sequence[float], outcome: str
) -> None:
    write(tmp_path, "group", group, spread)

    found = verdict(tmp_path, "hardly moves")

    assert found.outcome == outcome
    assert found.published == "0.3 points from best to worst"


@pytest.mark.parametrize(
    ("batch", "spread", "outcome"),
    [
        (BATCH, (-0.001, 0, 0.001), SAME),
        ({2: 0.705, 8: 0.70, 32: 0.71}, (-0.001, 0, 0.001), DIFFERENT),
        (BATCH, NOISY, UNDECIDED),
    ],
)
def test_batch_norm_loses_more_than_group_norm(
    tmp_path: Path, batch: Mapping[int, float], spread: Sequence[float], outcome: str
) -> None:
    write(tmp_path, "batch", batch, spread)
    write(tmp_path, "group", GROUP)

    found = verdict(tmp_path, "loses more")

    assert found.statement == "from 32 to 2 batch norm loses more than group norm"
    assert found.outcome == outcome
    assert found.published == "batch's loss - group's: +5.9 ± 0.8 points (5 seeds)"
    theirs = verdict(tmp_path, "loses more", "wu-he-2018").published
    assert theirs == "batch's loss - group's: +11.1 points"


def test_a_loss_that_every_norm_has_is_not_batch_norm_s(tmp_path: Path) -> None:
    write(tmp_path, "batch", {2: 0.60, 32: 0.71})
    write(tmp_path, "group", {2: 0.56, 32: 0.67})

    assert verdict(tmp_path, "loses more").outcome == DIFFERENT


@pytest.mark.parametrize(
    ("batch", "spread", "outcome"),
    [
        (BATCH, (-0.001, 0, 0.001), SAME),
        ({2: 0.69, 8: 0.70, 32: 0.71}, (-0.001, 0, 0.001), DIFFERENT),
        ({2: 0.60, 8: 0.61, 32: 0.62}, (-0.001, 0, 0.001), DIFFERENT),
        (BATCH, NOISY, UNDECIDED),
    ],
    ids=["crosses", "batch wins at both ends", "group wins at both ends", "noisy"],
)
def test_they_cross(
    tmp_path: Path, batch: Mapping[int, float], spread: Sequence[float], outcome: str
) -> None:
    write(tmp_path, "batch", batch, spread)
    write(tmp_path, "group", GROUP)

    found = verdict(tmp_path, "they cross", "wu-he-2018")

    assert found.outcome == outcome
    assert found.published == "at 12.3, interpolated"


def test_where_the_published_lines_cross_is_interpolated(tmp_path: Path) -> None:
    write(tmp_path, "batch", {2: 0.60, 16: 0.71})
    write(tmp_path, "group", {2: 0.66, 16: 0.67})

    # Between 4 and 8: +1.20 and -0.37 points.
    assert verdict(tmp_path, "they cross").published == "at 6.8, interpolated"


@pytest.mark.parametrize(
    ("large", "spread", "outcome"),
    [
        (0.71, (-0.001, 0, 0.001), SAME),
        (0.62, (-0.001, 0, 0.001), DIFFERENT),
        (0.668, (-0.5, 0.0, 0.5), UNDECIDED),
    ],
)
def test_batch_norm_wins_at_large_batches(
    tmp_path: Path, large: float, spread: Sequence[float], outcome: str
) -> None:
    write_cell(tmp_path, "batch", 32, [large + s / 10 for s in spread])
    write_cell(tmp_path, "group", 32, around(0.668))

    assert verdict(tmp_path, "large batch", "wu-he-2018").outcome == outcome


@pytest.mark.parametrize(
    ("layer", "outcome"),
    [(around(0.60), SAME), (around(0.70), DIFFERENT), ([0.60, 0.70, 0.65], UNDECIDED)],
)
def test_layer_norm_is_behind_group_norm(
    tmp_path: Path, layer: Sequence[float], outcome: str
) -> None:
    write_cell(tmp_path, "layer", 32, layer)
    write_cell(tmp_path, "group", 32, around(0.668))

    assert verdict(tmp_path, "layer norm is worse", "wu-he-2018").outcome == outcome
    assert not judgement(tmp_path).verdicts  # the other has no layer norm


@pytest.mark.parametrize(
    ("one", "outcome"),
    [(around(0.60), SAME), (around(0.70), DIFFERENT), ([0.60, 0.70, 0.65], UNDECIDED)],
)
def test_one_group_is_worse_than_several(
    tmp_path: Path, one: Sequence[float], outcome: str
) -> None:
    write_cell(tmp_path, "group", 32, one, changes={"norm.groups": 1})
    write_cell(tmp_path, "group", 32, around(0.66), changes={"norm.groups": 4})
    write_cell(tmp_path, "group", 32, around(0.67), changes={"norm.groups": 8})

    found = verdict(tmp_path, "worse with G = 1 than with G = 8", "wu-he-2018")

    assert found.outcome == outcome
    assert found.published == "(G = 1) - (G = 8): +0.9 points"


# --- Honesty --------------------------------------------------------------------------------------


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    for batch in (2, 8, 32):
        write_cell(tmp_path, "batch", batch, [BATCH[batch]])
        write_cell(tmp_path, "group", batch, [GROUP[batch]])

    for found in judge(only(tmp_path)):
        assert {v.outcome for v in found.verdicts} == {UNDECIDED}


def test_what_cannot_be_asked_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, around(0.6))
    write_cell(tmp_path, "group", 2, around(0.6))

    found = judgement(tmp_path)

    assert found.verdicts == ()
    assert len(found.missing) == 3


def test_what_is_not_shown_there_is_not_asked_of_ours(tmp_path: Path) -> None:
    # 0.45 points with standard deviations of 0.34 and 0.29 over five seeds each.
    write(tmp_path, "batch", BATCH)
    write(tmp_path, "group", GROUP)

    found = judgement(tmp_path)

    assert not [v for v in found.verdicts if "large batch" in v.statement]
    assert any(
        "large batch (32): it is not shown there either" in why
        and why.endswith("(group - batch: +0.45 ± 0.46 points (5 seeds))")
        for why in found.missing
    )


def test_a_fall_that_was_not_published_is_not_asked_of_ours(tmp_path: Path) -> None:
    write(tmp_path, "batch", {8: 0.68, 32: 0.71})
    write(tmp_path, "group", {8: 0.67, 32: 0.67})

    found = judgement(tmp_path)

    assert not [v for v in found.verdicts if "loses more" in v.statement]
    assert any("hardly more than group norm's" in why for why in found.missing)


def test_seeds_that_diverged_are_the_verdict(tmp_path: Path) -> None:
    write(tmp_path, "group", GROUP)
    write_cell(tmp_path, "batch", 2, [0.70, 0.71, None])
    write_cell(tmp_path, "batch", 32, around(0.71))

    found = verdict(tmp_path, "loses more")

    assert found.outcome == LOST
    assert found.ours == "diverged: 1 of batch norm's 3 seeds at 2"
    assert verdict(tmp_path, "hardly moves").outcome == SAME


def test_of_several_variants_none_of_them_the_usual_one_is_judged(tmp_path: Path) -> None:
    for eps in (0.001, 0.01):
        write_cell(tmp_path, "group", 2, around(0.6), changes={"norm.eps": eps})
        write_cell(tmp_path, "group", 32, around(0.6), changes={"norm.eps": eps})

    found = judgement(tmp_path)

    assert found.verdicts == ()
    assert "group norm: several variants, none with the default settings" in found.missing


def test_the_range_is_the_one_that_both_have(tmp_path: Path) -> None:
    write(tmp_path, "batch", {1: 0.2, 2: 0.60, 32: 0.71, 128: 0.9})
    write(tmp_path, "group", GROUP)

    assert verdict(tmp_path, "loses more").statement.startswith("from 32 to 2 ")


def test_other_images_networks_and_epochs_are_said_plainly(tmp_path: Path) -> None:
    write_sweep(tmp_path)

    there = " ".join(judgement(tmp_path).unlike)
    assert "CIFAR-10 there, cifar10-jpeg here" in there
    assert "ResNet-20 there, ResNet-8 here" in there
    assert "100 there, 3 here" in there
    papers = " ".join(judgement(tmp_path, "wu-he-2018").unlike)
    assert "8 GPUs" in papers
    assert "group norm: 32 groups there, G × C/G = 8 × 2, 16 × 2, 32 × 2 here" in papers
    assert "weight decay: 0.0001 there, 0.0005 here" in papers
    assert "schedule: step there, linear here" in papers


def test_like_is_compared_with_like(tmp_path: Path) -> None:
    for norm, values in (("batch", BATCH), ("group", GROUP)):
        for batch, accuracy in values.items():
            changes: dict[str, Any] = {"epochs": 100, "model.depth": 20}
            changes |= {"optim.schedule": "step", "optim.weight_decay": 1e-4}
            changes |= {"norm.groups": 8} if norm == "group" else {}
            write_cell(
                tmp_path, norm, batch, around(accuracy), data="cifar10", model="ResNet-20",
                changes=changes,
            )  # fmt: skip

    assert judgement(tmp_path).unlike == ()


def test_published_numbers_are_the_papers() -> None:
    assert WU_HE.lines["batch"] == {32: 23.6, 16: 23.7, 8: 24.8, 4: 27.3, 2: 34.7}
    assert WU_HE.lines["group"] == {32: 24.1, 16: 24.2, 8: 24.0, 4: 24.2, 2: 24.1}
    assert (WU_HE.lines["layer"], WU_HE.lines["instance"]) == ({32: 25.3}, {32: 28.4})
    accuracies = {2: 80.30, 4: 84.77, 8: 86.14, 16: 86.40, 32: 86.40}
    assert BEFRANKE.lines["batch"] == pytest.approx({k: 100 - v for k, v in accuracies.items()})
    accuracies = {2: 85.79, 4: 85.97, 8: 85.77, 16: 85.71, 32: 85.95}
    assert BEFRANKE.lines["group"] == pytest.approx({k: 100 - v for k, v in accuracies.items()})
    assert len({p.key for p in PUBLICATIONS}) == len(PUBLICATIONS)
