"""The verdicts of article.py follow from intervals: here from numbers whose verdict is known."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import yaml

from normbench.store.results import Result, write_result

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import article
from claims import correlation, gradients, regularizing
from claims.base import HOLDS, NOT, OPEN, PARTLY, judged, losses_in_words, said, with_losses
from claims.learning import convergence, lost_seeds, saved
from claims.networks import Cells, Seed, found_in, lost_in
from claims.robustness import CHANGES, kept, robustness
from claims.runs import layer_norm, missing, moves_more, of_cells, small_batches, suited
from claims.training import Trained

from normbench.report.compare.statistics import Estimate

WIDE, NARROW = (-0.1, 0.0, 0.1), (-0.01, 0.0, 0.01)
"""By how much three seeds differ from their mean: too much for a verdict, and not."""


def give_or_take(mean: float, half: float | None, n: int) -> Estimate:
    if half is None:
        return Estimate(mean, None, None, n)
    return Estimate(mean, mean - half, mean + half, n)


def result(seed: int, accuracy: float | None, **more: Any) -> Result:
    values: dict[str, Any] = {"status": "finished", "test_loss": None, "train_loss": None}
    values |= {"epochs": 3.0, "steps": 9, "seconds": 1.0, "images_per_second": 1.0, **more}
    return Result(seed=seed, test_accuracy=accuracy, **values)


def cells_of(
    means: Mapping[tuple[str, int], float], spreads: Mapping[str, tuple[float, ...]]
) -> Cells:
    """Cells of three seeds each around given means."""
    return {
        (norm, batch): {
            n: Seed(Path(), {}, result(n, mean + each)) for n, each in enumerate(spreads[norm])
        }
        for (norm, batch), mean in means.items()
    }


def seeds_around(mean: float, spread: tuple[float, ...]) -> dict[int, float]:
    return {n: mean + each for n, each in enumerate(spread)}


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
        return said(found, "{} more", "{} fewer", "not told apart ({})", 1)

    assert words(give_or_take(2.0, 0.5, 3)) == "2.0 ± 0.5 more"
    assert words(give_or_take(-2.0, 0.5, 3)) == "2.0 ± 0.5 fewer"
    assert words(give_or_take(-2.0, 2.5, 3)) == "not told apart (-2.0 ± 2.5)"
    assert words(give_or_take(-2.0, None, 1)) == "not told apart (-2.0), one seed"
    assert words(None) == "not told apart (-)"


@pytest.mark.parametrize(
    ("small", "usual", "spread", "verdict", "why"),
    [
        (0.7, 0.7, NARROW, HOLDS, ("points ahead of batch norm", "points less than batch norm")),
        (0.5, 0.5, NARROW, PARTLY, ("points behind batch norm", "points less than batch norm")),
        (0.7, 0.9, NARROW, PARTLY, ("points ahead of batch norm", "points more than batch norm")),
        (0.6, 0.6, WIDE, PARTLY, ("not told from batch norm", "points less than batch norm")),
        (0.5, 0.7, NARROW, NOT, ("points behind batch norm", "points more than batch norm")),
        (0.5, 0.6, NARROW, NOT, ("points behind batch norm", "who loses more is not told")),
    ],
)
def test_layer_norm_is_suited_to_small_batches_in_two_senses(
    small: float, usual: float, spread: tuple[float, ...], verdict: str, why: tuple[str, ...]
) -> None:
    means = {("batch", 2): 0.6, ("batch", 32): 0.7, ("layer", 2): small, ("layer", 32): usual}
    found = layer_norm(cells_of(means, {"batch": NARROW[::-1], "layer": spread}), {}, "data")

    assert all(part in found.why for part in why)
    assert found.verdict == verdict


def test_layer_norm_of_which_nothing_is_told_is_not_decided() -> None:
    assert suited(OPEN, OPEN) == OPEN
    assert suited(OPEN, HOLDS) == suited(HOLDS, OPEN) == PARTLY


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (-0.1, 0.02, True),
        (-0.1, -0.02, True),
        (0.1, 0.02, True),
        (-0.02, 0.1, False),  # to gain much is to depend on the batch, too
        (-0.02, -0.1, False),
        (-0.02, 0.02, None),
    ],
)
def test_who_moves_more_is_told_from_0_on_both_sides(
    first: float, second: float, expected: bool | None
) -> None:
    spread = (-0.004, 0.0, 0.004)
    other = seeds_around(second, spread[::-1])
    assert moves_more(seeds_around(first, spread), other) is expected
    assert moves_more(seeds_around(first, (-0.3, 0.0, 0.3)), other) is None


@pytest.mark.parametrize(
    ("group", "spread", "verdict"),
    [(0.6, NARROW, PARTLY), (0.6, WIDE, OPEN), (0.3, NARROW, NOT), (1.1, NARROW, NOT)],
)
def test_group_norm_depends_less_on_the_batch_only_where_its_interval_says_so(
    group: float, spread: tuple[float, ...], verdict: str
) -> None:
    """Its accuracy is 0.6 at a batch of 32 and varies at 2; batch norm loses 0.1."""
    means = {("batch", 2): 0.6, ("batch", 32): 0.7, ("group", 2): group, ("group", 32): 0.6}
    cells = cells_of(means, {"batch": (0.0, 0.001, 0.002), "group": (0.0, 0.0, 0.0)})
    cells["group", 2] = {
        n: Seed(Path(), {}, result(n, group + each)) for n, each in enumerate(spread)
    }
    found = small_batches(cells, {}, "data")
    assert found.verdict == verdict
    assert "level" not in found.why
    if group == 0.6:
        assert "not told from batch norm" in found.why


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
    def networks(mean: float, spread: tuple[float, ...]) -> dict[int, dict[str, float]]:
        return {n: changed_images(each) for n, each in seeds_around(mean, spread).items()}

    own = {"own, batch": networks(batch, spread), "own, none": networks(0.8, NARROW[::-1])}
    runs = {"batch, batch 2": networks(0.5, NARROW), "group, batch 2": networks(0.9, NARROW)}
    found = robustness(own, runs)
    assert found.verdict == verdict
    assert "group norm at a batch of 2: -0.40" in found.why


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


@pytest.mark.parametrize("better", [True, False])
def test_noise_that_only_fits_less_is_said_to_be_perhaps_underfitting(better: bool) -> None:
    def arm(train: float, test: float) -> dict[int, dict[str, float]]:
        return {
            n: {"train": train + each, "test": test, "gap": train + each - test}
            for n, each in enumerate(NARROW)
        }

    curves = {"seeds": {0: Trained(0, result(0, 0.5), Path())}, "curves": {0: FITTED}}
    fitted = dict.fromkeys(("batch", "none", "batch, 4 share"), curves)
    own = {"batch": arm(0.9, 0.5), "none": arm(0.5, 0.4)}
    own["batch, 4 share"] = arm(0.7, 0.6 if better else 0.5)
    found = regularizing.regularization(fitted, own, {})
    assert ("may be underfitting" in found.why) is not better
    assert ("this noise regularizes" in found.why) is better
    assert found.verdict == (PARTLY if better else OPEN)
    assert "the gap is 30.0" in found.why
    assert " -" not in found.why.replace("(-", "(")


FITTED = [
    {"step": 1.0, "train/accuracy": 0.2},
    {"step": 1.0, "eval/accuracy": 0.2},
    {"step": 2.0, "train/accuracy": 0.6},
    {"step": 2.0, "eval/accuracy": 0.4},
]


def falling(steps: int) -> list[dict[str, float]]:
    """A training loss that is at 2 from some step on."""
    return [{"step": float(i), "train/loss": 3.0 if i < steps else 2.0} for i in range(40)]


def arms(batch: tuple[int, ...], status: str = "finished") -> dict[str, Any]:
    """Arms of three seeds, by the steps that each takes."""
    found = {}
    for label, steps in {"batch": batch, "none": (24, 25, 26), "none, γ=0": (24, 25, 99)}.items():
        ends = [status if label == "batch" and n == 2 else "finished" for n in range(3)]
        found[label] = {
            "tried": {"0.1": 1.0},
            "rate": 0.1,
            "seeds": {n: Trained(n, result(n, 0.5, status=ends[n]), Path()) for n in range(3)},
            "curves": {n: falling(each) for n, each in enumerate(steps)},
        }
    return found


@pytest.mark.parametrize(
    ("steps", "verdict"), [((9, 10, 11), HOLDS), ((2, 25, 30), OPEN), ((30, 31, 32), NOT)]
)
def test_faster_or_slower_needs_an_interval(steps: tuple[int, ...], verdict: str) -> None:
    found = convergence(arms(steps))
    assert found.verdict == verdict
    if verdict == NOT:
        assert "steps more than no norm" in found.why
    assert "2 of 3 seeds come down to it" in found.why


def test_a_seed_that_diverged_is_in_no_mean_of_an_arm_and_is_told() -> None:
    trained = arms((9, 10, 300), "diverged")
    assert convergence(trained).verdict == HOLDS  # of the two that are left
    assert saved(trained, 2.0, "none", "batch") == give_or_take(15.0, 0.0, 2)
    lost = lost_seeds(trained, ["batch", "none"])
    assert losses_in_words(lost) == "own, batch: seed 2 diverged"
    assert with_losses(convergence(trained), lost, {}).verdict == OPEN


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
    verdicts = [
        correlation.decide(give_or_take(mean, 0.1, 3), None)[0] for mean in (-0.2, -0.05, 0.05, 0.2)
    ]
    assert verdicts == [PARTLY, OPEN, OPEN, NOT]


# --- Seeds that came to a bad end


def write_seed(cell: Path, found: Result) -> None:
    folder = cell / f"seed-{found.seed}"
    folder.mkdir(parents=True)
    config = {"norm": {"name": "batch"}, "batch": 2, "data": {"name": "photos"}}
    (cell / "config.yaml").write_text(yaml.safe_dump(config))
    write_result(folder, found)


def test_lost_seeds_are_found_and_said_and_their_claims_left_open(tmp_path: Path) -> None:
    write_seed(tmp_path / "batch-b2", result(0, 0.9))
    write_seed(tmp_path / "batch-b2", result(1, None, status="diverged", diverged_at=1234))
    write_seed(tmp_path / "batch-b2", result(2, None, status="failed", error="no /home/me/x"))
    cells, lost = found_in(tmp_path, "photos"), lost_in(tmp_path, "photos")
    assert list(cells["batch", 2]) == [0]
    assert list(lost["batch", 2]) == [1, 2]
    assert lost_in(tmp_path, "others") == {}

    words = "batch at 2: seed 1 diverged at step 1,234, seed 2 failed"
    found = small_batches(cells, lost, "photos")
    assert f"**Came to a bad end**: {words}." in found.how
    assert found.tables[0].rows[0][1] == "90.0 (n = 1); 2 lost"
    assert missing(cells, lost)[0] == "batch at 4, 8, 32, 128"
    assert missing(cells, {})[0] == "batch at 2 (1 of 3 seeds), 4, 8, 32, 128"

    clear = replace(found, verdict=HOLDS)
    decided = with_losses(clear, of_cells(lost), {})
    assert (decided.verdict, words in decided.why) == (OPEN, True)
    beside = with_losses(clear, {}, of_cells(lost))
    assert (beside.verdict, words in beside.why) == (HOLDS, True)
    assert with_losses(clear, of_cells(lost, ("group",)), {}) == clear


def test_every_claim_that_rests_on_lost_seeds_is_told_of_them() -> None:
    lost = {(norm, 2): {0: result(0, None, status="diverged")} for norm in ("batch", "group")}
    trained = {"many": arms((9, 10, 300), "diverged"), "few": arms((9, 10, 300), "diverged")}
    found = article.losses(lost, trained)
    assert found.keys() <= set(article.ORDER)
    decisive = {claim for claim, (needed, _) in found.items() if losses_in_words(needed)}
    training = {"small batches", "layer norm", "convergence", "regularization", "robustness"}
    assert decisive == training
    at_32 = article.losses({("layer", 32): {0: result(0, None, status="diverged")}}, trained)
    assert "layer at 32" in losses_in_words(at_32["layer norm"][0])
    assert "group at 2" in losses_in_words(found["code"][1])
