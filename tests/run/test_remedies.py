"""Advice follows from accuracies, and none follows from what chance alone would make."""

import re

import pytest

from normbench.run.remedies import Accuracy, Gain, advice


def accuracies(
    running: float, anew: float, batches: dict[int, float] | None = None, images: int = 10_000
) -> list[Accuracy]:
    found = [
        Accuracy("running", None, running, images),
        Accuracy("re-estimated", None, anew, images),
    ]
    return [*found, *(Accuracy("batch", n, x, 2_000) for n, x in (batches or {}).items())]


def test_the_error_is_that_of_the_binomial_distribution() -> None:
    one, other = Accuracy("running", None, 0.8, 400), Accuracy("batch", 2, 0.9, 100)

    assert one.error == pytest.approx(1.96 * 0.02)
    assert Gain(other, one).value == pytest.approx(0.1)
    assert Gain(other, one).error == pytest.approx(1.96 * (0.02**2 + 0.03**2) ** 0.5)
    assert str(Gain(other, one)) == "+10.0 ± 7.1 points, 80.0% → 90.0%"


@pytest.mark.parametrize(
    ("images", "gain", "told"),
    [(10_000, 0.005, False), (10_000, 0.02, True), (1_000_000, 0.005, True), (100, 0.08, False)],
)
def test_what_chance_would_make_gets_no_advice(images: int, gain: float, told: bool) -> None:
    assert bool(advice(accuracies(0.8, 0.8 + gain, images=images), 2, 0.1)) is told


def test_a_sound_network_gets_no_advice() -> None:
    sound = accuracies(0.8, 0.8, {8: 0.79, 32: 0.795, 128: 0.805})

    assert advice(sound, 32, 0.1) == []


def test_statistics_that_are_better_as_they_are_get_no_advice() -> None:
    assert advice(accuracies(0.8, 0.7), None, 0.1) == []


@pytest.mark.parametrize("batch", [1, 2, 16, 24])
def test_the_momentum_that_is_advised_averages_over_enough_images(batch: int) -> None:
    first, second = advice(accuracies(0.6, 0.7), batch, 0.1)

    assert first == "re-estimate the running statistics: +10.0 ± 1.3 points, 60.0% → 70.0%"
    assert f"about {19 * batch} images" in second
    found = re.search(r"norm\.momentum=(\S+) makes", second)
    assert found is not None
    momentum = float(found[1])
    assert momentum < 0.1
    assert (2 - momentum) / momentum * batch == pytest.approx(1_000, rel=0.2)


def test_averages_over_many_images_are_not_wrong_for_noise() -> None:
    _, second = advice(accuracies(0.6, 0.7), 128, 0.1)

    assert "about 2,432 images" in second
    assert "norm.momentum=" not in second


def test_where_the_batch_is_not_known_no_momentum_is_computed() -> None:
    _, second = advice(accuracies(0.6, 0.7, {2: 0.5}), None, 0.1)

    assert second == "next time train with a lower momentum than 0.1"


def test_training_on_noisy_statistics_is_told_of_the_size_it_was_trained_with() -> None:
    found = accuracies(0.7, 0.7, {2: 0.5, 8: 0.69})
    (only,) = advice(found, 2, 0.1)

    assert "statistics of 2 images" in only
    assert "20.0 ± 2.4 points worse" in only
    assert "norm=group" in only
    assert advice(found, 8, 0.1) == []


def test_test_images_that_need_statistics_of_their_own_are_told() -> None:
    (only,) = advice(accuracies(0.5, 0.5, {2: 0.3, 8: 0.6, 32: 0.8}), 128, 0.1)

    assert only.startswith("batches of 32 test images do better")
    assert "50.0% → 80.0%" in only
