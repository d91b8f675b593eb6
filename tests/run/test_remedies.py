"""Advice follows from accuracies, and none follows from what chance alone would make."""

import re
from math import comb

import numpy as np
import numpy.typing as npt
import pytest

from normbench.run.remedies import Accuracy, Gain, advice


def outcomes(accuracy: float, images: int) -> npt.NDArray[np.bool_]:
    """So many of the images were right: the first of an order that is the same for all."""
    order = np.random.default_rng(0).permutation(images)
    return np.asarray(order < round(accuracy * images))


def accuracies(
    running: float, anew: float, batches: dict[int, float] | None = None, images: int = 10_000
) -> list[Accuracy]:
    """Where one is better than another, it is so on images that it alone got right."""
    found = [
        Accuracy("running", None, outcomes(running, images)),
        Accuracy("re-estimated", None, outcomes(anew, images)),
    ]
    return [*found, *(Accuracy("batch", n, outcomes(x, 2_000)) for n, x in (batches or {}).items())]


def gain(both: int, won: int, lost: int, neither: int) -> Gain:
    """Two networks that so many images tell apart."""
    counts = (both, won, lost, neither)
    more = np.repeat([True, True, False, False], counts)
    less = np.repeat([True, False, True, False], counts)
    return Gain(Accuracy("batch", 2, more), Accuracy("running", None, less))


def test_the_error_of_an_accuracy_is_that_of_the_binomial_distribution() -> None:
    assert Accuracy("running", None, outcomes(0.8, 400)).half == pytest.approx(1.96 * 0.02)


def test_a_gain_is_of_the_images_that_tell_the_two_apart() -> None:
    found = gain(both=700, won=90, lost=30, neither=180)

    assert found.value == pytest.approx(0.06)
    # By hand: 60 / 1002, and the root of 121 - 60² / 1002 over 1002.
    assert found.interval == pytest.approx((0.05988 - 0.02120, 0.05988 + 0.02120), abs=1e-5)
    assert str(found) == "+6.0 points (95 %: +3.9 to +8.1), 73.0% → 79.0%"
    assert gain(0, 90, 30, 880).interval == gain(880, 90, 30, 0).interval


@pytest.mark.parametrize(
    ("won", "lost", "clear"),
    [(5, 0, False), (6, 0, True), (0, 6, False), (14, 5, False), (15, 5, True), (0, 0, False)],
)
def test_a_gain_is_clear_where_mcnemar_s_exact_test_says_so(
    won: int, lost: int, clear: bool
) -> None:
    p = min(1.0, 2 * sum(comb(won + lost, k) for k in range(lost + 1)) / 2 ** (won + lost))
    assert (p < 0.05 and won > lost) is clear
    assert gain(900, won, lost, 100).clear is clear


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of new images: the number of those that tell the two apart is drawn as well."""
    random, held = np.random.default_rng(0), 0
    for _ in range(2_000):
        drawn = random.multinomial(500, [0.55, 0.20, 0.05, 0.20])
        low, high = gain(*(int(number) for number in drawn)).interval
        held += low < 0.15 < high

    assert 0.94 < held / 2_000 < 0.96


def test_pairs_tell_what_the_binomial_errors_of_both_would_hide() -> None:
    found = gain(both=7_900, won=100, lost=40, neither=1_960)
    apart = (found.more.half**2 + found.less.half**2) ** 0.5

    assert found.clear
    assert found.value < apart


def test_only_images_that_both_have_seen_are_compared() -> None:
    more = Accuracy("batch", 2, np.ones(10, dtype=bool))
    less = Accuracy("running", None, np.repeat([False, True], [10, 990]))

    assert Gain(more, less).value == 1.0
    assert Gain(less, more).value == -1.0


def test_networks_that_are_equally_good_are_seldom_told_apart() -> None:
    """The negative control: both are right on images of their own, equally often."""
    random, clear = np.random.default_rng(0), 0
    for _ in range(1_000):
        sure, wins = random.random(2_000) < 0.6, random.random(2_000) < 0.5
        unsure = ~sure & (random.random(2_000) < 0.2)
        more, less = sure | (unsure & wins), sure | (unsure & ~wins)
        pair = [Accuracy("running", None, less), Accuracy("re-estimated", None, more)]
        clear += bool(advice(pair, 2, 0.1))

    assert clear <= 0.025 * 1_000 + 10, "2.5 % in one direction; 35 or fewer in 98 % of such tests"


def test_a_sound_network_gets_no_advice() -> None:
    sound = accuracies(0.8, 0.8, {8: 0.79, 32: 0.799, 128: 0.801}, images=2_000)

    assert advice(sound, 32, 0.1) == []


def test_statistics_that_are_better_as_they_are_get_no_advice() -> None:
    assert advice(accuracies(0.8, 0.7), None, 0.1) == []


@pytest.mark.parametrize("batch", [1, 2, 8, 16, 24])
def test_the_momentum_that_is_advised_averages_over_enough_images(batch: int) -> None:
    first, second = advice(accuracies(0.6, 0.7), batch, 0.1)

    assert (
        first
        == "re-estimate the running statistics: +10.0 points (95 %: +9.4 to +10.6), 60.0% → 70.0%"
    )
    assert f"about {19 * batch} images" in second
    found = re.search(r"norm\.momentum=(\S+) makes", second)
    assert found is not None
    momentum = float(found[1])
    assert momentum < 0.1
    assert (2 - momentum) / momentum * batch == pytest.approx(1_000, rel=0.2)


def test_a_lower_momentum_is_advised_for_what_it_gives_back() -> None:
    found = accuracies(0.6, 0.7)
    found.insert(2, Accuracy("slow", 2, outcomes(0.7, 10_000)))
    _, second = advice(found, 2, 0.1)

    assert "norm.momentum=0.004 makes it about 1,000; the slowest average gains +10.0" in second


def test_no_momentum_is_advised_where_it_would_give_nothing_back() -> None:
    found = accuracies(0.6, 0.7, {2: 0.7})
    found.insert(2, Accuracy("slow", 2, outcomes(0.6, 10_000)))
    _, second = advice(found, 2, 0.1)

    assert second.startswith("no momentum recovers +10.0 points (95 %:")
    assert "statistics of 2 images at a time" in second
    found[2] = Accuracy("slow", 2, outcomes(0.65, 10_000))
    _, lower, rest = advice(found, 2, 0.1)
    assert "gains +5.0" in lower
    assert "recovers +5.0" in rest


def test_averages_over_many_images_are_not_wrong_for_noise() -> None:
    _, second = advice(accuracies(0.6, 0.7), 128, 0.1)

    assert "about 2,432 images" in second
    assert "norm.momentum=" not in second


def test_averages_run_over_all_images_of_a_step_however_they_share_statistics() -> None:
    _, few = advice(accuracies(0.6, 0.7), 2, 0.1, step=16)
    _, many = advice(accuracies(0.6, 0.7), 2, 0.1, step=64)

    assert "16 images a batch the running averages are over about 304 images" in few
    assert "norm.momentum=0.031 makes it about 1,000" in few
    assert "about 1,216 images" in many
    assert "noise is not the cause" in many


def test_what_ended_with_frozen_statistics_is_not_told_to_freeze_them() -> None:
    found = accuracies(0.7, 0.7, {2: 0.5, 32: 0.7}, images=2_000)

    assert "freeze the statistics" in advice(found, 2, 0.1)[0]
    assert advice(found, 2, 0.1, frozen=True) == []


def test_where_the_batch_is_not_known_no_momentum_is_computed() -> None:
    _, second = advice(accuracies(0.6, 0.7, {2: 0.5}), None, 0.1)

    assert second == "next time train with a lower momentum than 0.1"


def test_training_on_noisy_statistics_is_told_of_the_size_it_was_trained_with() -> None:
    found = accuracies(0.7, 0.7, {2: 0.5, 8: 0.7}, images=2_000)
    (only,) = advice(found, 2, 0.1)

    assert "statistics of 2 images" in only
    assert "those of 8 gain +20.0 points (95 %:" in only
    assert "norm=group" in only
    assert advice(found, 8, 0.1) == []


def test_padded_training_images_alone_are_no_noise() -> None:
    found = accuracies(0.8, 0.8, {2: 0.75, 32: 0.75, 128: 0.75}, images=2_000)

    assert [advice(found, batch, 0.1) for batch in (2, 32, 128)] == [[], [], []]


def test_test_images_that_need_statistics_of_their_own_are_told() -> None:
    (only,) = advice(accuracies(0.5, 0.5, {2: 0.3, 8: 0.6, 32: 0.8}, images=2_000), 128, 0.1)

    assert only.startswith("batches of 32 test images do better")
    assert "50.0% → 80.0%" in only
