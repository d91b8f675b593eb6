"""The answer of a race, and its words."""

import re
import subprocess
import sys
from dataclasses import replace
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from normbench.errors import UsageError
from normbench.launch.advise import page, wording
from normbench.launch.advise.answer import Answer, OnTest, judge
from normbench.launch.advise.book import Finish, Standing
from normbench.launch.advise.budget import Candidate, Heat, whole
from normbench.launch.advise.command import extended
from normbench.launch.advise.race import follow
from normbench.launch.compose import load_config
from normbench.norms import NORMS
from tests.launch.advise.worlds import TEST, World, plan

SPREAD = (-0.01, -0.005, 0.0, 0.005, 0.01)


def finish(*norms: str, epochs: int = 20, seeds: int = 5, remaining: float = 0.0) -> Finish:
    """The end of a race that these norms were left in, the leader first."""
    finals = [Heat(Candidate(norm, 0.5), epochs, 1, seeds) for norm in norms]
    standings = [
        Standing(n, "racing", Candidate(n, 0.5), [0.7] * seeds, epochs, 0.01, "") for n in norms
    ]
    leads = {norm: {2: -0.05, 10: -0.01} for norm in norms[1:]}
    return Finish(
        standings, finals, looks=4, pace=1.0, remaining=remaining, leads=leads, decided=False
    )


def on_test(end: Finish, **means: float) -> dict[object, OnTest]:
    """Test accuracies around these means."""
    return {
        entry: OnTest(means[heat.candidate.norm] + SPREAD[i % 5], TEST, 2000 if i else 1000)
        for heat in end.finals
        for i, entry in enumerate(heat.entries)
    }


def answer(end: Finish, **means: float) -> Answer:
    return judge(plan(list(means)), end, on_test(end, **means))  # type: ignore[arg-type]


def test_a_norm_that_leads_by_much_is_the_answer() -> None:
    found = answer(finish("group", "batch"), group=0.77, batch=0.70)

    assert (found.verdict, found.norm, found.seconds) == ("clear", "group", None)
    assert [(row.norm, row.state) for row in found.rows] == [("group", "best"), ("batch", "behind")]
    first, second = wording.headline(found)
    assert first == "use group norm with optim.lr=0.05: 23.0 ± 1.0 % test error"
    assert second == (
        "batch norm 30.0 ± 1.0 %: 7.0 points worse (p < 0.001, corrected); beside the best the same"
        " time a step, the same memory"
    )
    first, *_ = wording.headline(replace(found, peak=0.003125))
    assert "optim.lr=0.05 (a peak learning rate of 0.00313): 23.0" in first


def test_seeds_that_diverged_are_said_where_they_count() -> None:
    end = finish("group", "batch")
    tests = on_test(end, group=0.77, batch=0.70)
    lost = end.finals[1].entries[2]
    found = judge(plan(["group", "batch"]), end, tests | {lost: OnTest(None, TEST)})  # type: ignore[arg-type]

    assert [row.diverged for row in found.rows] == [0, 1]
    assert "1 of 5 seeds of batch norm diverged, which counts as 100 % error" in (
        wording.headline(found)
    )
    assert [row[3] for row in wording.table(found)] == ["5", "5, 1 diverged"]


def test_a_rate_at_the_edge_of_those_tried_is_said_to_be() -> None:
    end = replace(finish("group", "batch"), edges=("batch",))
    found = judge(plan(["group", "batch"]), end, on_test(end, group=0.77, batch=0.70))  # type: ignore[arg-type]

    said = "a rate beside batch norm's optim.lr was not tried: it may do better"
    assert said in wording.headline(found)


def test_where_nothing_was_learned_the_answer_says_so() -> None:
    guessed = answer(finish("group", "batch"), group=0.11, batch=0.10)
    learned = answer(finish("group", "batch"), group=0.16, batch=0.10)

    said = wording.at_chance(guessed, classes=10, images=1_000)
    assert said.startswith("these are errors of guessing among 10 classes: nothing was learned in")
    first, *others = wording.headline(replace(guessed, chance=said))
    assert first == said
    assert others[:2] == ["group norm 89.0 ± 1.0 %", "batch norm 90.0 ± 1.0 %"]
    assert wording.at_chance(learned, classes=10, images=1_000) == ""
    assert wording.at_chance(guessed, classes=100, images=1_000) == ""


def test_a_small_lead_is_too_close_to_call_and_it_is_said_how_long_it_would_take() -> None:
    found = answer(finish("group", "batch"), group=0.771, batch=0.75)

    assert (found.verdict, found.norm) == ("too close to call", "group")
    assert found.seconds is not None
    assert 10 < found.seconds < 10_000
    said = "\n".join(wording.headline(found))
    assert said.startswith("too close to call between group and batch; ahead is group norm")
    assert "batch norm 25.0 ± 1.0 %: 2.1 points worse, not clear (p = " in said
    lead = "group norm's lead over batch norm on held-out images"
    assert f"{lead}: -5.0 points at 2 epochs, -1.0 points at 10 epochs" in said
    minutes = ceil((found.within + found.seconds) / 60)
    assert re.search(rf"a clear answer would take about .* more: .* --within {minutes}m$", said)


def test_where_held_out_and_test_images_disagree_nothing_is_clear() -> None:
    found = answer(finish("group", "batch"), group=0.70, batch=0.77)

    assert (found.verdict, found.seconds) == ("too close to call", None)
    said = wording.headline(found)
    assert said[-1] == "held-out images have group norm ahead, test images batch norm"
    assert said[1].startswith("batch norm 23.0 ± 1.0 %: 7.0 points better, not clear (p = 1.000")
    same = answer(finish("group", "batch"), group=0.751, batch=0.75)
    assert wording.headline(same)[-1].startswith("more than 40 seeds each would be needed to tell")


def test_trainings_shorter_than_planned_are_no_answer_however_clear() -> None:
    end = finish("group", "batch", epochs=10, remaining=3_000.0)
    found = answer(end, group=0.77, batch=0.50)

    assert found.verdict == "cannot tell at this length"
    assert found.seconds is None, "plan() has an hour, in which these could be trained"
    assert wording.headline(found)[0].startswith(
        "cannot tell for 20 epochs: the budget pays for 10; after 10, group norm"
    )


def test_what_the_planned_length_would_take_is_no_clear_answer() -> None:
    end = finish("group", "batch", epochs=10)
    short = replace(plan(["group", "batch"]), within=100.0)
    found = judge(short, end, on_test(end, group=0.77, batch=0.50))  # type: ignore[arg-type]
    said = "\n".join(wording.headline(found))

    assert found.seconds is not None
    minutes = ceil((100 + found.seconds) / 60)
    assert re.search(rf"trainings of 20 epochs take about .* more: .* --within {minutes}m", said)
    assert "a clear answer" not in said
    # With that, the same race has time for the planned length, all that it took counted.
    longer = extended(short, 60.0 * minutes, taken=short.within - short.used)
    assert longer.raced == 20


def test_what_is_left_of_the_budget_is_not_asked_for_again() -> None:
    missing = answer(finish("group", "batch"), group=0.771, batch=0.75).seconds
    left = answer(finish("group", "batch", remaining=60.0), group=0.771, batch=0.75).seconds

    assert missing is not None
    assert left == pytest.approx(missing - 60.0)


def test_where_there_is_time_for_the_seeds_that_would_tell_it_says_how_many() -> None:
    """Held-out images had decided with fewer; the test images have not."""
    found = answer(finish("group", "batch", remaining=5_000.0), group=0.771, batch=0.75)

    assert (found.verdict, found.seconds) == ("too close to call", 0.0)
    assert found.seeds is not None
    said = wording.headline(found)[-1]
    assert said.startswith(
        f"about {found.seeds} seeds each would tell them apart on the test images"
    )


def test_where_held_out_images_have_decided_no_time_is_asked_for_that_would_train_nothing() -> None:
    """On held-out images the norms are ten points apart, on test images much less."""
    raced = plan(["group", "batch"])
    world = World({"group": 0.78, "batch": 0.68}, Random(0), sd=0.002)
    end = follow(raced, lambda step: world.train(raced, step))
    assert end.decided
    behind = zip(end.finals[1].entries, SPREAD, strict=True)
    close = {entry: OnTest(0.75 + spread, TEST) for entry, spread in behind}
    ahead = zip(end.finals[0].entries, SPREAD, strict=True)
    close |= {entry: OnTest(0.771 + spread, TEST) for entry, spread in ahead}
    for decided in (True, False):
        spent = replace(end, remaining=0.0, decided=decided)
        said = "\n".join(wording.headline(judge(raced, spent, close)))
        assert ("more: the same command with --within" in said) != decided
        assert ("the race trains no more" in said) == decided
    # With ten times the time, too, the race trains no more seeds.
    longer, again = replace(raced, within=10 * raced.within), replace(world, random=Random(0))
    longest = follow(longer, lambda step: again.train(longer, step))
    assert {heat.seeds for heat in [*end.finals, *longest.finals]} == {5}


def test_seeds_that_have_not_decided_are_said_to_be_open() -> None:
    raced = plan(["group", "batch"])
    world = World({"group": 0.701, "batch": 0.70}, Random(0))
    assert not follow(raced, lambda step: world.train(raced, step)).decided


def test_of_norms_that_are_close_all_get_the_seeds_that_are_missing_once_and_together() -> None:
    end = finish("group", "batch", "layer")
    tests = on_test(end, group=0.772, batch=0.75, layer=0.749)
    planned = plan(["group", "batch", "layer"])
    alone, three = (judge(replace(planned, workers=n), end, tests) for n in (1, 3))  # type: ignore[arg-type]

    assert alone.seeds is not None
    more = alone.seeds - 5
    each = whole(planned.timings[0], planned.steps, 20, more)
    assert alone.seconds == pytest.approx(3 * each), "the leader too, and once"
    assert three.seconds == pytest.approx(each), "three workers, side by side"


def test_dropped_norms_were_not_compared_at_the_planned_length() -> None:
    end = finish("group", "batch")
    why = "30.0 points behind group after 2 epochs"
    dropped = Standing("layer", "dropped", Candidate("layer", 1.0), [0.4], 2, 0.03, why)
    end = replace(end, standings=[*end.standings, dropped])
    found = judge(plan(["group", "batch", "layer"]), end, on_test(end, group=0.77, batch=0.7))  # type: ignore[arg-type]

    assert f"layer norm was dropped: {why} of 20" in wording.headline(found)
    errors = {row[0]: row[2] for row in wording.table(found)}
    assert errors["layer"] == "60.0 ± 3.0 held-out"
    assert errors["batch"] == "30.0 ± 1.0"


def test_p_is_corrected_for_looks_and_comparisons() -> None:
    two = answer(finish("group", "batch"), group=0.77, batch=0.755)
    three = answer(finish("group", "batch", "layer"), group=0.77, batch=0.755, layer=0.6)
    p = {row.norm: row.p for row in two.rows}, {row.norm: row.p for row in three.rows}

    assert p[0]["batch"] is not None
    assert p[1]["batch"] == pytest.approx(2 * p[0]["batch"])


def test_a_seed_that_diverged_counts_as_an_error_of_all() -> None:
    end = finish("group", "batch")
    scores = on_test(end, group=0.77, batch=0.70)
    scores[end.finals[1].entries[0]] = OnTest(None, TEST)
    found = judge(plan(["group", "batch"]), end, scores)  # type: ignore[arg-type]

    (row,) = (row for row in found.rows if row.norm == "batch")
    assert row.error == pytest.approx((4 * 0.2975 + 1) / 5, abs=0.001)


def test_a_norm_that_was_set_aside_is_not_ruled_out() -> None:
    end = finish("group", "batch")
    aside = Standing(
        "layer", "set aside", Candidate("layer", 1.0), [0.6], 2, 0.03, "no time to train it in full"
    )
    end = replace(end, standings=[*end.standings, aside])
    found = judge(plan(["group", "batch", "layer"]), end, on_test(end, group=0.77, batch=0.7))  # type: ignore[arg-type]

    assert found.aside == {"layer": pytest.approx(0.5 + 5 * (20 * 100 * 0.004 + 20 + 2))}
    assert (
        "layer norm is not ruled out; with 2 min 30 s more it could be placed"
        in wording.headline(found)
    )
    assert found.rows[-1].why == "no time to train it in full"


def test_where_all_diverged_there_is_no_answer() -> None:
    world = World({"batch": 0.7, "group": 0.7}, Random(0), diverges=lambda _: True)
    found = world.run(plan(["batch", "group"]))

    assert found.norm is None
    assert "all diverged" in wording.headline(found)[0]
    assert wording.table(found)[0][1] == "-"


def test_the_answer_is_plain_records_markdown_and_html(tmp_path: Path) -> None:
    found = answer(finish("group", "batch"), group=0.77, batch=0.70)
    found = replace(
        found, command="normbench run norm=group 'data.name=<a>'", code="if x:\n    y = 1"
    )

    records = found.to_records()
    assert [record["norm"] for record in records] == ["group", "batch"]
    assert records[0]["error"] == pytest.approx(0.23)
    html = found._repr_html_()
    assert html.count("<svg viewBox=") == 1
    assert re.search(r'role="img" aria-label="Error of each norm in percent', html)
    assert "://" not in html
    assert '<th scope="row" data-label="norm">group</th>' in html
    assert "&lt;a&gt;" in html
    assert "<a>" not in html
    assert page.write(found, tmp_path) == tmp_path / "answer.html"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("answer.html", "answer.md", "answer.png", "answer.svg")
    }
    markdown = (tmp_path / "answer.md").read_text(encoding="utf-8")
    assert "| group | 0.05 | 23.0 ± 1.0 | 5 | 20 | - | 1.00 | 1.00 | best |" in markdown
    assert "```python\nif x:\n    y = 1\n```" in markdown


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        (["norm=group"], 0.05 * 2 / 32),
        (["norm=batch", "norm.momentum=0.02"], 0.05 * 2 / 32),
        (["norm=group", "optim=adamw", "optim.scaling=none"], 0.05),
        (["norm=layer", "norm.over=channels"], 0.05 * 2 / 32),
    ],
)
def test_the_lines_of_python_put_the_norm_into_a_network_of_one_s_own(
    overrides: list[str], rate: float
) -> None:
    config = load_config([*overrides, "batch=2", "optim.lr=0.05"])
    code = wording.code(config)
    given = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    model, optimizer = run(code, given)

    assert isinstance(model, torch.nn.Sequential)
    assert type(model[1]).__module__ == type(config.norm).__module__
    assert repr(model[1]) == repr(config.norm.build(8, act=False))
    assert getattr(model[1], "momentum", None) == getattr(config.norm, "momentum", None)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert len(re.findall("\n", code)) == 5


def run(code: str, model: torch.nn.Module) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """What the lines make of a network, with nothing else at hand."""
    namespace: dict[str, Any] = {"model": model}
    exec(code, namespace)
    return namespace["model"], namespace["optimizer"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "rises over the first 10 % of the steps, then falls linearly to 0"),
        (["optim.warmup=0", "optim.schedule=cosine"], "falls to 0 along a cosine"),
        (
            ["optim.warmup=0.25", "optim.schedule=constant"],
            "rises over the first 25 % of the steps",
        ),
        (
            ["optim.warmup=0", "optim.schedule=step", "optim.steps_at=[0.5,0.75]"],
            "is multiplied by 0.1 at 50 % and 75 % of them",
        ),
        (["optim.warmup=0", "optim.schedule=constant"], None),
    ],
)
def test_the_lines_of_python_say_how_the_rate_moves(settings: list[str], said: str | None) -> None:
    lines = wording.code(load_config(["norm=group", *settings])).splitlines()
    found = [line for line in lines if line.startswith("# lr is the peak")]

    wanted = [] if said is None else [f"# lr is the peak: in training the learning rate {said}"]
    assert found == wanted


def test_the_lines_of_python_carry_what_the_training_has_carried() -> None:
    code = wording.code(load_config(["norm=group", "model=torchvision", "model.carry=true"]))
    old = torch.nn.BatchNorm2d(8)
    torch.nn.init.constant_(old.weight, 3.0)
    model, _ = run(code, torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), old))

    assert torch.equal(model.get_parameter("1.weight"), torch.full((8,), 3.0))


def test_the_lines_of_python_do_not_decay_what_the_training_has_not_decayed() -> None:
    settings = ["norm=group", "optim.decay_norm=false", "optim.weight_decay=0.25"]
    code = wording.code(load_config(settings))
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 2)]
    model, optimizer = run(code, torch.nn.Sequential(*layers))

    groups = [(len(each["params"]), each["weight_decay"]) for each in optimizer.param_groups]
    assert groups == [(4, 0.25), (2, 0.0)]
    free = [id(parameter) for parameter in optimizer.param_groups[1]["params"]]
    assert free == [id(model.get_parameter(name)) for name in ("1.weight", "1.bias")]
    without = load_config([*settings, "optim.weight_decay=0"])
    assert "groups" not in wording.code(without), "nothing is decayed"


@pytest.mark.parametrize("norm", [name for name, config in NORMS.items() if config.needs])
def test_the_lines_of_python_say_where_a_norm_wants_a_network_of_normbench_s_own(
    norm: str,
) -> None:
    config = load_config([f"norm={norm}", "model=preact_resnet"])
    code = wording.code(config)

    assert f"# {norm} needs the " in code
    assert "model has to be a network of normbench's own\n" in code
    model, _ = run(code, config.model.network(10))
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    with pytest.raises(UsageError, match=f"norm={norm} needs"):
        run(code, torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)))


def test_the_lines_of_python_have_all_that_won() -> None:
    winner = ["batch=32", "norm_batch=2", "optim.nesterov=true"]
    batch, group = (wording.code(load_config([f"norm={n}", *winner])) for n in ("batch", "group"))

    assert 'swap_norm(model, NORMS["batch"](), norm_batch=2)' in batch
    assert 'swap_norm(model, NORMS["group"]())' in group, "its statistics are not the batch's"
    assert "momentum=0.9, nesterov=True, weight_decay=0.0005" in batch
    whole = wording.code(load_config(["norm=batch", "batch=2", "norm_batch=2"]))
    assert 'swap_norm(model, NORMS["batch"]())' in whole
    adamw = wording.code(load_config(["optim=adamw", "optim.eps=1e-5"]))
    assert "betas=(0.9, 0.999), eps=1e-05, weight_decay=0.01" in adamw


@pytest.mark.parametrize(
    "settings",
    [
        ["norm=batch"],
        ["norm=group", "norm.groups=C//16", "optim=adamw", "batch=2"],
        ["norm=batch", "batch=2", "optim.lr=0.0123456", "optim.weight_decay=0.000123456"],
        ["norm=batch", "norm_batch=2", "optim.nesterov=true", "optim.weight_decay=0.000123456"],
        ["norm=norm_free", "model=preact_resnet", "model.carry=true", "optim.decay_norm=false"],
        [
            *("norm=batch_renorm", "norm.momentum=0.0123456", "norm.eps=0.000123456"),
            *("norm_batch=16", "optim=adamw", "optim.beta1=0.91234567", "optim.beta2=0.987654321"),
            *("optim.eps=0.0000123456", "optim.weight_decay=0.000123456", "optim.lr=0.0123456"),
        ],
    ],
)
def test_the_lines_of_python_are_written_as_one_formats_them(settings: list[str]) -> None:
    text = wording.code(load_config(settings)) + "\n"
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "100", "-"]
    done = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True)

    assert done.stdout == text
