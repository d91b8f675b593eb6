"""Verdicts in each of their outcomes, and what is said of how alike the comparison is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from normbench.norms import NORMS
from normbench.report.compare.comparisons import Comparison, compare
from normbench.report.compare.differences import between, differences
from normbench.report.compare.published import (
    BEFRANKE,
    MABN,
    ONLINE_CIFAR10,
    PUBLICATIONS,
    SWITCHABLE,
    WU_HE,
)
from normbench.report.compare.statistics import Estimate
from normbench.report.read.cells import collect
from normbench.report.text.verdicts import (
    FLAT,
    HIGHER,
    LARGER,
    LOST,
    LOWER,
    OPEN_SIZE,
    OPPOSITE,
    SAME,
    SMALLER,
    UNCLEAR,
    Judgement,
    Verdict,
    decide,
    judge,
    like,
    shown,
)
from tests.report_helpers import around, write_cell

BATCH = {2: 0.60, 8: 0.68, 32: 0.71}
GROUP = {2: 0.668, 8: 0.667, 32: 0.668}


def write(folder: Path, norm: str, values: Mapping[int, float], spread: float = 0.001) -> None:
    for batch, accuracy in values.items():
        write_cell(folder, norm, batch, around(accuracy, 3, spread))


def only(directory: Path) -> Comparison:
    (comparison,) = compare(collect(directory))
    return comparison


def judgement(directory: Path, key: str = "wu-he-2018") -> Judgement:
    return next(j for j in judge(only(directory)) if j.publication.key == key)


def verdict(directory: Path, statement: str, key: str = "wu-he-2018") -> Verdict:
    found = [v for v in judgement(directory, key).verdicts if v.statement == statement]
    assert len(found) == 1, [v.statement for v in judgement(directory, key).verdicts]
    return found[0]


# --- The rules ------------------------------------------------------------------------------------


def ours(mean: float, half: float) -> Estimate:
    # With so many degrees of freedom an interval of 95 % is 1.96 standard errors to each side.
    return Estimate(mean, mean - half, mean + half, 5, half / 1.96, 1e6)


@pytest.mark.parametrize(
    ("theirs", "value", "outcome"),
    [
        (10.0, ours(9.0, 1.0), SAME),
        (10.0, ours(9.0, 6.0), OPEN_SIZE),
        (10.0, ours(2.0, 1.0), SMALLER),
        (10.0, ours(30.0, 2.0), LARGER),
        (10.0, ours(-3.0, 1.0), OPPOSITE),
        (10.0, ours(3.0, 4.0), UNCLEAR),
        (-10.0, ours(-9.0, 1.0), SAME),
        (-10.0, ours(-2.0, 1.0), SMALLER),
        (0.5, ours(0.2, 0.3), FLAT),
        (-0.5, ours(-12.0, 3.0), LOWER),
        (-0.5, ours(12.0, 3.0), HIGHER),
        (0.5, ours(0.5, 2.0), UNCLEAR),
        (10.0, None, UNCLEAR),
        (10.0, Estimate(9.0, None, None, 1), UNCLEAR),
    ],
)
def test_sign_and_size_decide(theirs: float, value: Estimate | None, outcome: str) -> None:
    assert decide(theirs, value, value, 1) == outcome


def test_a_size_is_held_against_all_contrasts() -> None:
    """Alone 2 ± 2.5 is below half of 10; as one of ten it may be as large."""
    value = ours(2.0, 1.8)

    assert decide(10.0, value, value, 1) == SMALLER
    assert decide(10.0, value, value, 1000) == OPEN_SIZE
    assert decide(0.5, ours(3.0, 1.6), None, 1) == UNCLEAR
    assert decide(0.5, ours(3.0, 1.6), ours(3.0, 1.6), 1) == HIGHER
    assert decide(0.5, ours(3.0, 1.6), ours(3.0, 1.6), 1000) == UNCLEAR


def test_two_norms_at_one_place_are_told_apart_as_in_the_table(tmp_path: Path) -> None:
    """A publication asks of fewer norms than were measured; the family stays the table's."""
    for norm, accuracy in (("batch", 0.67), ("group", 0.66), ("frn", 0.67), ("none", 0.66)):
        write(tmp_path, norm, {32: accuracy}, 0.01)
    found = verdict(tmp_path, "batch norm less group norm at 32")
    comparison = only(tmp_path)
    lines = {line.norm: line for line in comparison.lines}
    table = between(differences(comparison), lines["batch"], lines["group"], 32)

    assert table is not None
    assert found.together == table.together
    assert found.together != found.ours, "the family is larger than what is asked here"


def test_what_has_no_published_group_norm_is_held_against_batch_norm(tmp_path: Path) -> None:
    for norm, accuracy in (("batch", 0.65), ("moving_batch", 0.76)):
        write(tmp_path, norm, {2: accuracy})

    assert verdict(tmp_path, "moving_batch norm less batch norm at 2", MABN.key).outcome == SAME


def test_every_published_norm_is_one_of_ours() -> None:
    assert {norm for p in PUBLICATIONS for norm in p.lines} <= set(NORMS)


def test_twelve_points_are_not_the_same_as_a_half(tmp_path: Path) -> None:
    write(tmp_path, "batch", {32: 0.71})
    write(tmp_path, "group", {32: 0.59})
    found = verdict(tmp_path, "batch norm less group norm at 32")

    assert found.published.mean == pytest.approx(-0.5)
    assert found.outcome == LOWER


# --- What is asked --------------------------------------------------------------------------------


def test_changes_ends_and_the_fall_are_asked(tmp_path: Path) -> None:
    write(tmp_path, "batch", BATCH)
    write(tmp_path, "group", GROUP)
    write(tmp_path, "layer", {32: 0.65})

    assert {v.statement: v.outcome for v in judgement(tmp_path).verdicts} == {
        "batch norm's change from 32 to 2": SAME,
        "group norm's change from 32 to 2": FLAT,
        "batch norm's change from 32 to 2 less group norm's": SAME,
        "batch norm less group norm at 2": SAME,
        "batch norm less group norm at 32": LOWER,
        "layer norm less group norm at 32": SAME,
    }


def test_asking_more_widens_the_intervals(tmp_path: Path) -> None:
    write(tmp_path, "layer", {32: 0.65}, 0.004)
    write(tmp_path, "group", {32: 0.66}, 0.004)
    alone = verdict(tmp_path, "layer norm less group norm at 32")
    write(tmp_path, "instance", {32: 0.66}, 0.004)
    together = verdict(tmp_path, "layer norm less group norm at 32")

    assert alone.ours == alone.together == together.ours
    assert together.together is not None
    assert together.ours is not None
    assert (together.together.half or 0) > (together.ours.half or 0)


def test_the_same_contrast_of_two_publications_counts_once(tmp_path: Path) -> None:
    write(tmp_path, "batch", {32: 0.71, 2: 0.60})
    values = {
        (v.statement, v.together) for j in judge(only(tmp_path)) for v in j.verdicts
        if v.statement == "batch norm's change from 32 to 2"
    }  # fmt: skip

    assert len(values) == 1
    ((_, together),) = values
    assert together is not None
    assert together == together.at(0.95)


def test_what_a_publication_copies_is_not_asked_again(tmp_path: Path) -> None:
    write(tmp_path, "batch", BATCH)
    write(tmp_path, "group", GROUP)

    keys = [j.publication.key for j in judge(only(tmp_path))]

    assert SWITCHABLE.key not in keys
    assert MABN.key in keys
    assert SWITCHABLE.copied == ("batch", "group")
    for norm in SWITCHABLE.copied:
        shared = SWITCHABLE.lines[norm].keys() & WU_HE.lines[norm].keys()
        assert all(SWITCHABLE.lines[norm][x] == WU_HE.lines[norm][x] for x in shared)


def test_one_device_is_asked_at_its_own_batch_size(tmp_path: Path) -> None:
    for norm, accuracy in (("batch", 0.71), ("group", 0.69), ("layer", 0.66)):
        write(tmp_path, norm, {128: accuracy})
    found = judgement(tmp_path, ONLINE_CIFAR10.key)

    assert {v.statement: v.outcome for v in found.verdicts} == {
        "batch norm less group norm at 128": SAME,
        "layer norm less group norm at 128": SAME,
    }


@pytest.mark.parametrize(("one", "outcome"), [(0.658, SAME), (0.70, OPPOSITE)])
def test_one_group_against_several(tmp_path: Path, one: float, outcome: str) -> None:
    for groups, accuracy in ((1, one), (4, 0.665), (8, 0.667)):
        changes = {"norm.groups": groups}
        write_cell(tmp_path, "group", 32, around(accuracy, 3, 0.0005), changes=changes)
    found = verdict(tmp_path, "group norm with groups 1 less with 8")

    assert found.published.mean == pytest.approx(0.9)
    assert found.outcome == (FLAT if outcome == SAME else LOWER)


def test_a_difference_that_their_seeds_do_not_show_is_not_asked() -> None:
    assert not shown(Estimate(1.2, -0.5, 2.9, 5, 0.8, 8.0))
    assert shown(Estimate(1.2, None, None, 1))
    assert shown(Estimate(0.1, -0.3, 0.5, 5, 0.2, 8.0)), "it is shown to be small"


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    for batch in (2, 8, 32):
        write_cell(tmp_path, "batch", batch, [BATCH[batch]])
        write_cell(tmp_path, "group", batch, [GROUP[batch]])

    for found in judge(only(tmp_path)):
        assert {v.outcome for v in found.verdicts} == {UNCLEAR}


def test_seeds_that_diverged_are_no_verdict(tmp_path: Path) -> None:
    write_cell(tmp_path, "batch", 2, [0.6, 0.6, None])
    write(tmp_path, "batch", {32: 0.71})

    assert verdict(tmp_path, "batch norm's change from 32 to 2").outcome == LOST


def test_nothing_published_is_nothing_asked(tmp_path: Path) -> None:
    write(tmp_path, "batch", {3: 0.6})
    write(tmp_path, "group", {3: 0.6})

    assert judge(only(tmp_path)) == []


# --- Like for like --------------------------------------------------------------------------------


def test_what_differs_is_said(tmp_path: Path) -> None:
    write(tmp_path, "batch", BATCH)
    write(tmp_path, "group", GROUP)
    said = "; ".join(judgement(tmp_path).unlike)

    for part in ("ImageNet there", "ResNet-50 there", "100 there, 3 here", "0.0001", "32 groups"):
        assert part in said
    assert "8 GPUs" in said
    assert like(judgement(tmp_path)).endswith(f"{said}.")


def test_nothing_differs_where_nothing_does(tmp_path: Path) -> None:
    for norm, values in (("batch", BATCH), ("group", GROUP)):
        for batch, accuracy in values.items():
            changes: dict[str, Any] = {"epochs": 100, "optim.weight_decay": 1e-4}
            changes |= {"norm.groups": 8} if norm == "group" else {}
            write_cell(
                tmp_path, norm, batch, around(accuracy), data="cifar10", model="ResNet-20",
                changes=changes,
            )  # fmt: skip

    assert judgement(tmp_path, BEFRANKE.key).unlike == ()


def test_published_numbers_are_the_papers() -> None:
    assert WU_HE.lines["batch"] == {32: 23.6, 16: 23.7, 8: 24.8, 4: 27.3, 2: 34.7}
    assert WU_HE.lines["group"] == {32: 24.1, 16: 24.2, 8: 24.0, 4: 24.2, 2: 24.1}
    accuracies: Sequence[Mapping[int, float]] = (
        {2: 80.30, 4: 84.77, 8: 86.14, 16: 86.40, 32: 86.40},
        {2: 85.79, 4: 85.97, 8: 85.77, 16: 85.71, 32: 85.95},
    )
    for norm, line in zip(("batch", "group"), accuracies, strict=True):
        assert BEFRANKE.lines[norm] == pytest.approx({k: 100 - v for k, v in line.items()})
    assert len({p.key for p in PUBLICATIONS}) == len(PUBLICATIONS)
    assert all(p.source and p.cite for p in PUBLICATIONS)
