"""What article.py measures, where the answer is known."""

import sys
from math import inf, sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from claims.base import NOT, Finding, Store, Table, number
from claims.batches import dependence
from claims.correlation import correlation, correlation_within_images, look, mean_off_diagonal
from claims.definitions import ArticleGroupNorm
from claims.layers import (
    STATED,
    layer,
    measured_shortfall,
    normalized_axes,
    random,
    reach,
    theory,
    unbiased_group_norm,
)
from claims.learning import smooth, steps_to
from claims.networks import WEIGHTS, Seed, measured
from claims.regularizing import score_at
from claims.sequences import (
    ARMS,
    LONGEST,
    MARKER,
    PAD,
    SHORTEST,
    SYMBOLS,
    Transformer,
    sequences_of,
)
from claims.training import Arm, Trainer

from normbench.report.compare.statistics import Estimate, estimate, paired
from normbench.store.results import Result


def test_numbers_as_text() -> None:
    assert number(0) == "0"
    assert number(3.06e-5) == "3.1·10^-5"
    assert number(0.3912) == "0.391"
    assert number(2417.3) == "2,417"


def test_estimates_have_intervals_from_two_seeds_on() -> None:
    assert estimate([]) is None
    assert estimate([0.5]) == Estimate(0.5, None, None, 1)
    found = paired({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.5, 1: 0.5})
    assert found is not None
    assert (found.mean, found.n) == (1.0, 2)
    assert found.half == pytest.approx(12.706 * 0.5, rel=1e-3)  # t of one degree of freedom
    assert not found.above(0)


def test_a_measurement_is_made_once_for_the_same_inputs(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure(value: int) -> dict[str, int]:
        calls.append(value)
        return {"value": value}

    for digest in ("a", "a", "b"):
        store = Store.at(tmp_path / "store.json")
        assert store.measure("name", measure, 7, of=digest) == {"value": 7}
    assert len(calls) == 2


def test_pipes_do_not_break_tables() -> None:
    text = Finding("t", "c", "h", NOT, "w", [Table("x", ["|r|"], [["1"]])]).markdown(1)
    assert "| \\|r\\| |" in text


@pytest.mark.parametrize("name", ["batch", "layer", "instance", "group", "none"])
def test_the_axes_of_a_norm_are_found_on_its_output(name: str) -> None:
    x = random(4, 8, 5, 3)
    settings = {"groups": 4} if name == "group" else {}
    norm = layer(name, 8, eps=1e-12, **settings)
    assert normalized_axes(norm(x), 4) == STATED.get(name)
    expected = {"batch": 4 * 15, "layer": 8 * 15, "instance": 15, "group": 2 * 15, "none": 1}
    assert reach(norm, x) == expected[name]


@pytest.mark.parametrize(("shape", "groups"), [((6, 8), 4), ((2, 8, 3), 2), ((2, 8, 4, 4), 8)])
def test_the_unbiased_variance_shrinks_the_output_as_theory_says(
    shape: tuple[int, ...], groups: int
) -> None:
    x = random(*shape)
    size = x[0].numel() // groups
    assert theory(size) == pytest.approx(1 - sqrt((size - 1) / size))
    assert measured_shortfall(x, groups) == pytest.approx(theory(size), abs=1e-6)


def test_the_formula_in_any_dimension_is_the_articles_module() -> None:
    x = random(2, 8, 4, 3)
    torch.testing.assert_close(ArticleGroupNorm(2, 8)(x), unbiased_group_norm(x, 2))


def test_correlations_are_those_of_their_definition() -> None:
    x = random(3, 4, 5, 2)
    columns = [x[:, c].flatten() for c in range(4)]
    expected = torch.corrcoef(torch.stack(columns))
    torch.testing.assert_close(correlation(x), expected)
    torch.testing.assert_close(correlation_within_images(x)[1], torch.corrcoef(x[1].flatten(1)))


def test_pairs_within_and_between_groups_are_told_apart() -> None:
    found = torch.tensor([[1.0, 0.5, 0.1, -0.1], [0.5, 1, 0.1, 0.1], [0.1] * 4, [0.1] * 4])
    found[2, 3] = found[3, 2] = -0.7
    means = mean_off_diagonal(found, 2)
    assert means["within"] == pytest.approx(0.6)
    assert means["between"] == pytest.approx(0.1)
    assert means["all"] == pytest.approx((4 * 0.6 + 8 * 0.1) / 12)


def test_a_constant_channel_has_no_correlation_within_its_image() -> None:
    x = random(2, 4, 5, 2)
    x[0, 1] = 3.0
    found = correlation_within_images(x)
    assert found[0, 1].isnan().all()
    assert not found[1].isnan().any()
    assert not torch.tensor(mean_off_diagonal(found, 2)["all"]).isnan()


def test_norms_change_correlation_only_where_images_are_pooled() -> None:
    x = random(20, 4, 5, 5)
    moved = {name: look(x, layer(name, 4)(x), 2) for name in ("batch", "layer", "instance")}
    moved["group"] = look(x, layer("group", 4, groups=2)(x), 2)
    assert all(each["moved"] < 1e-9 for each in moved.values())
    assert moved["batch"]["after"]["all"] == pytest.approx(moved["batch"]["before"]["all"])
    assert abs(moved["group"]["after"]["all"] - moved["group"]["before"]["all"]) > 1e-3


def test_two_features_a_group_become_each_others_negative() -> None:
    x = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = correlation(layer("group", 8, eps=1e-12, groups=4)(x))
    assert all(float(found[2 * g, 2 * g + 1]) == pytest.approx(-1) for g in range(4))


def test_only_batch_norm_looks_at_batch_mates_and_only_in_training() -> None:
    x = random(40, 8, 3, 3)
    batch = layer("batch", 8)
    small, large = dependence(batch, x, 2, trials=5), dependence(batch, x, 16, trials=5)
    assert small > large > 0
    assert dependence(batch.eval(), x, 2, trials=2) == 0
    for name in ("group", "layer", "instance", "none"):
        assert dependence(layer(name, 8), x, 4, trials=2) == 0


LINES = [
    {"step": 10.0 * i, "train/loss": 3.0 - 0.1 * i, "train/accuracy": 0.1 * i} for i in range(1, 9)
]


def test_steps_to_a_loss_are_counted_on_the_smoothed_curve() -> None:
    assert smooth(LINES)[0][0] == 50
    assert smooth(LINES)[0][1] == pytest.approx(2.7)
    assert steps_to(LINES, 2.65) == 60
    assert steps_to(LINES, 0.0) == inf


def test_the_test_accuracy_at_an_equal_fit_lies_between_two_lengths() -> None:
    points = [{"train": 0.25, "test": 0.2}, {"train": 0.65, "test": 0.4}]
    assert score_at(points, 0.45) == pytest.approx(0.3)
    assert score_at(points, 0.9) is None


def test_a_measurement_that_is_remembered_needs_no_weights(tmp_path: Path) -> None:
    result = Result(
        seed=0,
        status="finished",
        test_accuracy=0.5,
        test_loss=1.25,
        train_loss=1.5,
        epochs=1.0,
        steps=1,
        seconds=1.0,
        images_per_second=1.0,
    )
    seed = Seed(tmp_path / "cell" / "seed-0", {}, result)
    images: Any = SimpleNamespace(all=SimpleNamespace(sha256="x"))
    store = Store(tmp_path / "store.json")

    def measure(_: Seed, __: Any) -> dict[str, Any]:
        return {"value": 7}

    assert measured(store, "name", measure, {"cell": {0: seed}}, images) == {}
    seed.folder.mkdir(parents=True)
    (seed.folder / WEIGHTS).touch()
    found = measured(store, "name", measure, {"cell": {0: seed}}, images)
    (seed.folder / WEIGHTS).unlink()
    assert found == {"cell": {0: {"value": 7}}}
    assert measured(store, "name", measure, {"cell": {0: seed}}, images) == found


def test_an_answer_comes_after_the_marker_and_padding_at_the_end() -> None:
    tokens, answers = sequences_of(200, torch.Generator().manual_seed(0))
    lengths = (tokens != PAD).sum(1)
    assert SHORTEST <= int(lengths.min()) < int(lengths.max()) <= LONGEST
    for row, length, answer in zip(tokens, lengths.tolist(), answers.tolist(), strict=True):
        (place,) = (row == MARKER).nonzero().flatten().tolist()
        assert int(row[place + 1]) == answer < SYMBOLS
        assert bool((row[length:] == PAD).all())


def test_only_batch_norm_over_padding_sees_how_far_a_sequence_is_padded() -> None:
    torch.manual_seed(0)
    tokens, _ = sequences_of(4, torch.Generator().manual_seed(0))
    short = tokens[:, : int((tokens != PAD).sum(1).max())]
    longer = torch.nn.functional.pad(short, (0, LONGEST - short.shape[1]), value=PAD)
    for label, (name, padded) in ARMS.items():
        network = Transformer(name, padded)
        same = torch.allclose(network(short), network(longer), atol=1e-5)
        assert same is (label != "batch" or short.shape == longer.shape)


def test_the_grid_grows_until_its_best_rate_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(_: Trainer, __: Arm, rate: float) -> float:
        return inf if rate > 0.1 else abs(rate - 0.0125)

    monkeypatch.setattr(Trainer, "_held_out_loss", loss)
    trainer = Trainer(Path("own"), "data")
    arm = Arm("a", (), (0.05, 0.1, 0.2))
    assert trainer.best_rate(arm) == 0.0125
    assert sorted(trainer.tried(arm)) == [
        0.00625,
        0.0125,
        0.025,
        0.05,
        0.1,
        0.2,
    ]
