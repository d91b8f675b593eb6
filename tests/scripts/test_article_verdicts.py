"""The verdicts of article.py follow from intervals: here from numbers whose verdict is known."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import yaml

from normbench.store.results import Result, write_result

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import article
from claims import correlation, gradients, regularizing, robustness
from claims.base import HOLDS, NOT, OPEN, PARTLY, judged, losses_in_words, said, with_losses
from claims.definitions import dimensions
from claims.learning import convergence, saved
from claims.networks import Cells, Seed, found_in
from claims.robustness import CHANGES, kept
from claims.runs import layer_norm, lost_of, missing, moves_less, small_batches, suited
from claims.sequences import ARMS, sequences
from claims.training import LENGTHS, Outcome

from normbench.report.compare.statistics import Estimate

WIDE, NARROW = (-0.1, 0.0, 0.1), (-0.01, 0.0, 0.01)
"""By how much three seeds differ from their mean: too much for a verdict, and not."""

CONFIG = {"epochs": 20, "optim": {"lr": 0.1}}


def give_or_take(mean: float, half: float | None, n: int) -> Estimate:
    if half is None:
        return Estimate(mean, None, None, n)
    return Estimate(mean, mean - half, mean + half, n)


def result(seed: int, accuracy: float | None, **more: Any) -> Result:
    values: dict[str, Any] = {"status": "finished", "test_loss": None, "train_loss": None}
    values |= {"epochs": 3.0, "steps": 9, "seconds": 1.0, "images_per_second": 1.0, **more}
    return Result(seed=seed, test_accuracy=accuracy, **values)


def seeds_of(accuracies: Iterable[float]) -> dict[int, Seed]:
    return {n: Seed(Path(), CONFIG, result(n, each)) for n, each in enumerate(accuracies)}


def around(mean: float, spread: Sequence[float] = NARROW) -> list[float]:
    return [mean + each for each in spread]


def cells_of(means: Mapping[tuple[str, int], float], **spreads: Sequence[float]) -> Cells:
    """Cells of three seeds each around given means."""
    return {key: seeds_of(around(each, spreads.get(key[0], NARROW))) for key, each in means.items()}


def test_a_verdict_needs_an_interval_that_is_clear_of_0() -> None:
    assert [judged(give_or_take(mean, 0.5, 3)) for mean in (0.6, -0.6)] == [HOLDS, NOT]
    for undecided in (
        give_or_take(0.4, 0.5, 3),
        give_or_take(-0.4, 0.5, 3),
        give_or_take(-9.0, None, 1),
        None,
    ):
        assert judged(undecided) == OPEN


def test_differences_are_said_without_their_sign_and_never_as_equal() -> None:
    def words(found: Estimate | None) -> str:
        return said(found, "more", "fewer", "", 1, 1)

    assert words(give_or_take(2.0, 0.5, 3)) == "2.0 ± 0.5 more"
    assert words(give_or_take(-2.0, 0.5, 3)) == "2.0 ± 0.5 fewer"
    assert words(give_or_take(-2.0, 2.5, 3)) == "not clearly different (−2.0 ± 2.5)"
    assert words(give_or_take(-2.0, None, 1)) == "not clearly different (−2.0, one seed)"
    assert words(None) == "not measured"


# --- Small batches


@pytest.mark.parametrize(
    ("small", "usual", "spread", "verdict", "why"),
    [
        (0.7, 0.7, NARROW, HOLDS, ("points better", "points smaller")),
        (0.5, 0.5, NARROW, PARTLY, ("points worse", "points smaller")),
        (0.7, 0.9, NARROW, PARTLY, ("points better", "points larger")),
        (0.6, 0.6, WIDE, OPEN, ("not clearly different",)),
        (0.5, 0.7, NARROW, NOT, ("points worse", "points larger")),
        (0.5, 0.6, NARROW, NOT, ("points worse", "batch norm's: not clearly different")),
    ],
)
def test_layer_norm_is_suited_to_small_batches_in_two_senses(
    small: float, usual: float, spread: tuple[float, ...], verdict: str, why: tuple[str, ...]
) -> None:
    means = {("batch", 2): 0.6, ("batch", 32): 0.7, ("layer", 2): small, ("layer", 32): usual}
    found = layer_norm(cells_of(means, layer=spread), {})
    assert found.why.startswith("After 20 epochs")
    assert all(part in found.why for part in why)
    assert found.verdict == verdict


def test_layer_norm_of_which_nothing_is_told_is_not_decided() -> None:
    assert suited(OPEN, OPEN) == OPEN
    assert suited(OPEN, HOLDS) == suited(HOLDS, OPEN) == PARTLY


@pytest.mark.parametrize(
    ("batch", "group", "expected"),
    [
        (-0.1, 0.02, True),
        (-0.1, -0.02, True),
        (0.1, 0.02, True),
        (-0.02, 0.1, False),  # to gain much is to depend on the batch, too
        (-0.02, -0.1, False),
        (-0.02, 0.02, None),
    ],
)
def test_who_changes_less_is_told_from_0_on_both_sides(
    batch: float, group: float, expected: bool | None
) -> None:
    means = {("batch", 2): 0.6 + batch, ("group", 2): 0.6 + group}
    means |= {("batch", 32): 0.6, ("group", 32): 0.6}
    assert moves_less(cells_of(means), "group", "batch") is expected
    assert moves_less(cells_of(means, batch=(-0.3, 0.0, 0.3)), "group", "batch") is None


def test_seeds_of_different_networks_are_not_paired() -> None:
    """Which seed has which accuracy changes nothing."""
    means = {("batch", 2): 0.6, ("batch", 32): 0.7, ("group", 2): 0.6, ("group", 32): 0.6}
    cells = cells_of(means)
    turned = {key: seeds_of(each[n].accuracy for n in (2, 0, 1)) for key, each in cells.items()}
    turned["batch", 32] = cells["batch", 32]
    assert small_batches(cells, {}).why == small_batches(turned, {}).why


@pytest.mark.parametrize(
    ("group", "spread", "verdict"),
    [(0.6, NARROW, PARTLY), (0.6, WIDE, OPEN), (0.3, NARROW, NOT), (1.1, NARROW, NOT)],
)
def test_group_norm_depends_less_on_the_batch_only_where_its_interval_says_so(
    group: float, spread: tuple[float, ...], verdict: str
) -> None:
    """Its accuracy is 0.6 at batch size 32 and varies at 2; batch norm loses 0.1."""
    means = {("batch", 2): 0.6, ("batch", 32): 0.7, ("group", 2): group, ("group", 32): 0.6}
    found = small_batches(cells_of(means, group=spread), {})
    assert found.verdict == verdict
    if group == 0.6:
        assert "not clearly different" in found.why


def test_without_the_long_comparison_nothing_is_decided_and_what_is_missing_is_said() -> None:
    found = small_batches({}, {})
    assert found.verdict == OPEN
    assert "not measured yet" in found.why
    assert "batch, batch size 2 (0 of 5 seeds)" in found.how


# --- Robustness, regularizing, convergence


def changed_images(kept_share: float, clean: float = 0.5) -> dict[str, float]:
    return {"clean": clean, **dict.fromkeys(CHANGES, 0.1 + kept_share * (clean - 0.1))}


def test_accuracy_kept_is_counted_above_chance() -> None:
    assert kept(changed_images(0.75, clean=0.4)) == pytest.approx(0.75)
    assert kept(changed_images(0.0)) == pytest.approx(0.0)
    assert isnan(kept(changed_images(1.0, clean=0.1)))


@pytest.mark.parametrize(
    ("batch", "spread", "verdict"),
    [(0.8, NARROW, OPEN), (0.6, NARROW, NOT), (0.6, WIDE, OPEN), (0.9, NARROW, HOLDS)],
)
def test_robustness_is_decided_next_to_no_norm_and_not_by_a_ranking(
    batch: float, spread: tuple[float, ...], verdict: str
) -> None:
    def networks(mean: float, spread: tuple[float, ...] = NARROW) -> dict[int, dict[str, float]]:
        return {n: changed_images(each) for n, each in enumerate(around(mean, spread))}

    own = {"own, batch": networks(batch, spread), "own, none": networks(0.8)}
    runs = {"batch, batch size 2": networks(0.5), "group, batch size 2": networks(0.9)}
    found = robustness.finding({**own, **runs})
    assert found.verdict == verdict
    assert "batch size 2: 0.40" in found.why


def of_three(mean: float) -> Estimate:
    return give_or_take(mean, 1.0, 3)


@pytest.mark.parametrize(
    ("fit", "gap", "test", "verdict"),
    [
        (-0.5, -5.0, -0.5, OPEN),  # a smaller gap alone may be underfitting
        (-0.5, -5.0, 5.0, PARTLY),
        (-0.5, -0.5, 5.0, OPEN),
        (5.0, 0.0, 0.0, HOLDS),
        (-5.0, -5.0, -0.5, NOT),
    ],
)
def test_a_smaller_gap_is_not_regularizing_by_itself(
    fit: float, gap: float, test: float, verdict: str
) -> None:
    assert regularizing.decide(of_three(fit), of_three(gap), of_three(test)) == verdict
    assert regularizing.decide(None, None, None) == OPEN


def test_the_fit_is_the_best_that_every_seed_reaches() -> None:
    """Training accuracy rises by 0.2 a length, without a norm from 0.3 and with one from 0.4."""
    own = {
        f"{norm}, {epochs} epochs": {
            n: {"train": start + 0.2 * i, "test": 0.2 + 0.1 * i} for n in range(3)
        }
        for norm, start in (("none", 0.3), ("batch", 0.4))
        for i, epochs in enumerate(LENGTHS[norm])
    }
    level, there = regularizing.at_one_fit(own)
    assert level == pytest.approx(0.7)
    assert there["none"][0] == pytest.approx(0.4)
    assert there["batch"][0] == pytest.approx(0.35)


def arm(folder: Path, steps: Sequence[int], status: str = "finished") -> Outcome:
    """An arm of seeds whose training loss is at 2 from some step on; ``status`` is the last's."""
    seeds = {}
    for n, first in enumerate(steps):
        place = folder / f"seed-{n}"
        place.mkdir(parents=True)
        lines = [{"step": i, "train/loss": 3.0 if i < first else 2.0} for i in range(40)]
        (place / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        end = status if n == len(steps) - 1 else "finished"
        seeds[n] = Seed(place, CONFIG, result(n, 0.5, status=end))
    return Outcome({0.1: 1.0}, 0.1, seeds)


@pytest.mark.parametrize(
    ("steps", "verdict"), [((9, 10, 11), HOLDS), ((2, 25, 30), OPEN), ((30, 31, 32), NOT)]
)
def test_faster_or_slower_needs_an_interval(
    tmp_path: Path, steps: tuple[int, ...], verdict: str
) -> None:
    arms = {"batch": arm(tmp_path / "a", steps), "none": arm(tmp_path / "b", (24, 25, 26))}
    found = convergence(arms, {})
    assert found.verdict == verdict
    if verdict == NOT:
        assert "more (" in found.why


def test_a_seed_that_diverged_is_in_no_mean_of_an_arm_and_is_told(tmp_path: Path) -> None:
    fast, slow = arm(tmp_path / "a", (9, 10, 30), "diverged"), arm(tmp_path / "b", (24, 25, 26))
    less = saved(slow.finished, fast.finished, 2.0)
    assert less is not None
    assert less.mean == pytest.approx(15.5)
    assert losses_in_words({"own": fast.lost}) == "own: seed 2 diverged"
    found = convergence({"batch": fast, "none": slow}, {})
    assert found.verdict == HOLDS  # of the two that are left
    assert with_losses(found, {"own": fast.lost}).verdict == OPEN


# --- Gradients, correlation, dimensions, sequences


@pytest.mark.parametrize(
    ("deep", "doubled", "verdict"),
    [
        ((4.0, 0.5), (9.0, 0.5), PARTLY),  # batch norm explodes in the plain stack
        ((4.0, 0.5), (9.0, 8.0), PARTLY),
        ((4.0, 3.5), (9.0, 8.0), OPEN),
        ((-4.0, 0.5), (9.0, 8.0), NOT),
    ],
)
def test_gradients_are_judged_by_intervals(
    deep: tuple[float, float], doubled: tuple[float, float], verdict: str
) -> None:
    steady, halved = give_or_take(0.5, 0.1, 5), give_or_take(-9.0, doubled[1], 5)
    grown = give_or_take(3.0, 0.1, 5)
    moved = {"none": (halved, give_or_take(*doubled, 5)), "batch": (steady, steady)}
    of = gradients.Seen(give_or_take(*deep, 5), moved, {"none": steady, "batch": grown}, grown)
    assert gradients.decide(of) == verdict
    assert gradients.worse(of)
    tame = replace(of, apart=give_or_take(3.0, 3.0, 5))
    assert not gradients.worse(tame)
    if doubled[1] == 0.5:
        assert gradients.decide(tame) == HOLDS


def test_correlation_that_is_not_told_from_unchanged_stays_open() -> None:
    means = (-0.2, -0.05, 0.05, 0.2)
    verdicts = [correlation.decide(give_or_take(mean, 0.1, 3)) for mean in means]
    assert verdicts == [PARTLY, OPEN, OPEN, NOT]


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.3, HOLDS), (0.105, PARTLY)])
def test_group_norm_works_on_a_network_where_it_is_above_chance(
    accuracy: float, verdict: str
) -> None:
    exact = {"definition": 0.0, "gradient": 0.0, "PyTorch": 0.0, "article": "runs"}
    arms = {f"Net, {norm}": Outcome({}, 0.1, seeds_of(around(accuracy))) for norm in ("group", "x")}
    assert dimensions({"N×C": exact}, arms).verdict == verdict
    assert dimensions({"N×C": {**exact, "PyTorch": 0.1}}, arms).verdict == NOT


@pytest.mark.parametrize(
    ("padded", "real", "verdict"),
    [(0.8, 0.8, HOLDS), (0.8, 0.9, PARTLY), (0.95, 0.9, NOT), (0.9, 0.9, OPEN)],
)
def test_layer_norm_is_suited_to_sequences_next_to_both_batch_norms(
    padded: float, real: float, verdict: str
) -> None:
    found = {
        label: {"tried": {"0.01": 1.0}, "rate": 0.01, "tests": dict(enumerate(around(mean)))}
        for label, mean in zip(ARMS, (0.9, padded, real), strict=True)
    }
    assert sequences(found, {"batch": 0.5}).verdict == verdict


# --- Seeds that came to a bad end


def write_seed(cell: Path, found: Result) -> None:
    folder = cell / f"seed-{found.seed}"
    folder.mkdir(parents=True)
    config = {"norm": {"name": "batch"}, "batch": 2, "data": {"name": "photos"}, **CONFIG}
    (cell / "config.yaml").write_text(yaml.safe_dump(config))
    write_result(folder, found)


def test_lost_seeds_are_found_and_said_and_their_claims_left_open(tmp_path: Path) -> None:
    write_seed(tmp_path / "batch-b2", result(0, 0.9))
    write_seed(tmp_path / "batch-b2", result(1, None, status="diverged", diverged_at=1234))
    write_seed(tmp_path / "batch-b2", result(2, None, status="failed", error="no /home/me/x"))
    cells, lost = found_in(tmp_path, "photos")
    assert list(cells["batch", 2]) == [0]
    assert list(lost["batch", 2]) == [1, 2]
    assert found_in(tmp_path, "others") == ({}, {})

    found = small_batches(cells, lost)
    assert found.tables[0].rows[0][1] == "90.0 (n = 1); 2 lost"
    assert missing(cells, lost)[0] == "batch, batch size 2 (3 of 5 seeds)"

    clear = replace(found, verdict=HOLDS)
    decided = with_losses(clear, lost_of(lost))
    words = "batch, batch size 2: seed 1 diverged at step 1,234, seed 2 failed"
    assert (decided.verdict, words in decided.why) == (OPEN, True)
    assert with_losses(clear, lost_of(lost, ("group",))) == clear


def test_every_claim_that_rests_on_lost_seeds_is_told_of_them(tmp_path: Path) -> None:
    lost = {("layer", 2): {0: result(0, None, status="diverged")}}
    bad = {"batch": arm(tmp_path, (9, 10, 11), "diverged")}
    of = article.Evidence({}, lost, ({}, lost), bad, bad, {"Net, group": bad["batch"]})
    found = article.losses(of)
    assert found.keys() <= set(article.ORDER)
    told = {claim for claim, seeds in found.items() if losses_in_words(seeds)}
    assert told == {"convergence", "regularization", "robustness", "dimensions", "layer norm"}
