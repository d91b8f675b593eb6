"""Replays races of `normbench advise` where the truth is known, and counts the wrong answers.

    python scripts/replay_races.py --records results --out results/advise

Nothing is trained. Three kinds of worlds:

recorded   a world for each batch size in RECORDS/naive (3 epochs, four norms) and in
           RECORDS/batch-size (20 epochs; batch and group norm, at 2 and 32 layer norm as well). The
           means of the committed cells are the truth. A seed's accuracy is its cell's mean and the
           deviation of one of the cell's seeds, drawn again (times sqrt(n/(n-1)), as few seeds
           scatter too little). After shorter trainings it is that of the shorter cells (one-epoch,
           naive), on a line over log2 of the length, where all norms have them; else length changes
           no lead. What a rate costs is what it cost on held-out images in RECORDS/rates, for that
           norm and the nearest batch size; norms that were not tried there cost nothing.
simulated  four norms with accuracies drawn at random, leads that move with the length as the race
           assumes (sd 0.03 a doubling), rates of which one is the best, seeds of three spreads.
harsh      the same, but leads move by sd 0.04 a doubling, and seeds of short trainings scatter
           twice as much as those of long ones: more than the race allows for.

Held-out accuracies have the binomial error of 5,000 images. Writes replay.csv, a line a race, and
replay.md. A firm answer is wrong if it calls a norm worse than another that is at least as good.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log2, sqrt
from pathlib import Path
from random import Random
from statistics import fmean

from normbench.launch.advise.answer import Answer, OnTest, judge
from normbench.launch.advise.book import Round
from normbench.launch.advise.budget import Entrant, Score, Scores, lengths_within
from normbench.launch.advise.race import DRIFT, follow
from normbench.store.advice import Plan, Timing

HELD_OUT, TEST, STEPS = 5_000, 10_000, 1_000
BUDGETS = (1.5, 2.5, 5.0)
FIRST = 1_000
"""The number of the first race: races 0 to 499 were looked at while the race was written."""
FIELDS = ("world", "budget", "race", "verdict", "norm", "truth", "behind", "wrong", "missed")


@dataclass(frozen=True)
class World:
    """Norms whose accuracies are known.

    Attributes:
        name: what it is called.
        epochs: the planned length.
        means: a norm's accuracy by length in epochs, with the planned one.
        deviations: from that mean, one a seed, by norm: what a seed's is drawn from.
        rates: what a factor of the learning rate costs, by norm; between factors on a line over
            log2, outside as at the end.
        short: how many times as far seeds scatter after trainings shorter than planned.
    """

    name: str
    epochs: int
    means: Mapping[str, Mapping[int, float]]
    deviations: Mapping[str, Sequence[float]]
    rates: Mapping[str, Mapping[float, float]]
    short: float = 1.0

    @property
    def truth(self) -> dict[str, float]:
        """Each norm's accuracy after the planned length."""
        return {norm: means[self.epochs] for norm, means in self.means.items()}

    def mean(self, entry: Entrant) -> float:
        """The mean accuracy of a training, between known lengths on a line over log2."""
        norm, factor = entry.candidate.norm, entry.candidate.factor
        found = between(self.means[norm], entry.epochs)
        return found - between(self.rates.get(norm, {1.0: 0.0}), factor)

    def draw(self, entry: Entrant, random: Random) -> float:
        """The accuracy of one training."""
        scatter = random.choice(self.deviations[entry.candidate.norm])
        return self.mean(entry) + scatter * (self.short if entry.epochs < self.epochs else 1.0)


def between(known: Mapping[float, float] | Mapping[int, float], at: float) -> float:
    """The value at a place, on a line over log2 between the known ones; beyond them, the last."""
    places = sorted(known)
    above = next((i for i, place in enumerate(places) if place >= at), len(places))
    if above == 0 or above == len(places):
        return known[places[min(above, len(places) - 1)]]  # type: ignore[index]
    left, right = places[above - 1], places[above]
    share = log2(at / left) / log2(right / left)
    return known[left] + share * (known[right] - known[left])  # type: ignore[index]


def seen(truth: float, images: int, random: Random) -> float:
    """An accuracy as so many images show it."""
    share = min(0.999, max(0.001, truth))
    return share + random.gauss(0, sqrt(share * (1 - share) / images))


def replay(world: World, plan: Plan, random: Random) -> Answer:
    """One race."""
    truths: dict[Entrant, float] = {}

    def train(step: Round) -> Scores:
        scores = {}
        for heat, seconds in zip(step.heats, step.seconds, strict=True):
            for entry in heat.entries:
                truths[entry] = world.draw(entry, random)
                accuracy = seen(truths[entry], plan.held_out, random)
                scores[entry] = Score(accuracy, seconds / heat.seeds)
        return scores

    finish = follow(plan, train)
    last = [entry for heat in finish.finals for entry in heat.entries]
    return judge(plan, finish, {entry: OnTest(truths[entry], TEST) for entry in last})


def planned(world: World, budget: float) -> Plan:
    """A plan whose budget is so many times what five seeds of every norm take in full."""
    timings = [
        Timing(
            norm=norm,
            start=0.5,
            steps={1: 0.01, 3: 0.018, 5: 0.02},
            evaluation=2.0,
            ending=4.0,
            momentum=0.1 if norm == "batch" else None,
        )
        for norm in world.means
    ]
    full = sum(5 * world.epochs * (STEPS * each.step(5) / 5 + each.evaluation) for each in timings)
    within = budget * full + 60
    raced, lengths = lengths_within(timings, STEPS, world.epochs, within, 10.0)
    return Plan(
        question="replay",
        settings=[world.name],
        within=within,
        epochs=world.epochs,
        raced=raced,
        lengths=lengths,
        steps=STEPS,
        seed=0,
        held_out=HELD_OUT,
        lr=0.1,
        used=10.0,
        timings=timings,
    )


def cells(folder: Path) -> dict[tuple[str, int], list[float]]:
    """The test accuracies of the finished seeds of each norm and batch size in a folder."""
    found: dict[tuple[str, int], list[float]] = {}
    for path in sorted(folder.glob("*-b*-*/summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        known = [value for value in summary["test_accuracy"] if value is not None]
        found[str(summary["norm"]), int(summary["batch"])] = known
    return found


def deviations(values: Sequence[float]) -> list[float]:
    """How far seeds are from their mean, widened because they are few."""
    return [(v - fmean(values)) * sqrt(len(values) / (len(values) - 1)) for v in values]


def tried(folder: Path) -> dict[tuple[str, int], dict[float, float]]:
    """What rates cost on held-out images, by norm and batch size: accuracy below the best's, by
    the factor of the rule 0.1, over the seeds that were tried at all rates."""
    found: dict[tuple[str, int], dict[float, float]] = {}
    with (folder / "rates.csv").open(encoding="utf-8", newline="") as file:
        for each in csv.DictReader(file):
            if each["seed"] == "0":
                rates = found.setdefault((each["norm"], int(each["batch"])), {})
                rates[float(each["learning_rate"]) / 0.1] = float(each["held_out_error"]) / 100
    return {
        key: {factor: error - min(rates.values()) for factor, error in rates.items()}
        for key, rates in found.items()
    }


def recorded(records: Path) -> list[World]:
    """The worlds of the committed results."""
    by_length = {1: "one-epoch", 3: "naive", 20: "batch-size"}
    found = {length: cells(records / name) for length, name in by_length.items()}
    costs = tried(records / "rates")
    worlds = []
    for epochs in (3, 20):
        sizes = {batch for _, batch in found[epochs]}
        for batch in sorted(sizes):
            norms = [norm for norm, b in found[epochs] if b == batch]
            if len(norms) < 2:
                continue
            means = {
                norm: {
                    length: fmean(found[length][norm, batch])
                    for length in by_length
                    if length <= epochs and all((n, batch) in found[length] for n in norms)
                }
                for norm in norms
            }
            scatter = {norm: deviations(found[epochs][norm, batch]) for norm in norms}
            rates = {norm: nearest(costs, norm, batch) for norm in norms}
            worlds.append(World(f"batch {batch}, {epochs} epochs", epochs, means, scatter, rates))
    return worlds


def nearest(
    costs: Mapping[tuple[str, int], Mapping[float, float]], norm: str, batch: int
) -> Mapping[float, float]:
    """What rates cost a norm at the batch size that is nearest among those tried."""
    sizes = [size for name, size in costs if name == norm]
    if not sizes:
        return {1.0: 0.0}
    return costs[norm, min(sizes, key=lambda size: abs(log2(size / batch)))]


def simulated(random: Random, name: str = "simulated") -> World:
    """A world at random."""
    harsh = name == "harsh"
    norms = ("batch", "group", "layer", "instance")
    gap = random.choice([0.005, 0.01, 0.02, 0.04])
    sd = random.choice([0.004, 0.008, 0.015])
    drift = 0.04 if harsh else DRIFT
    means = {}
    for norm in norms:
        accuracy, move = 0.75 + random.gauss(0, gap), random.gauss(0, drift / sqrt(2))
        means[norm] = {n: accuracy - (0.03 + move) * log2(20 / n) for n in (1, 20)}
    best = random.choice([0.25, 0.5, 1.0, 2.0, 4.0])
    rates = {best * 2.0**power: 0.01 * power**2 for power in range(-6, 7)}
    scatter = [random.gauss(0, sd) for _ in range(1000)]
    return World(
        name,
        20,
        means,
        dict.fromkeys(norms, scatter),
        dict.fromkeys(norms, rates),
        2.0 if harsh else 1.0,
    )


@dataclass(frozen=True)
class Line:
    """How one race went."""

    world: str
    budget: float
    race: int
    verdict: str
    norm: str
    truth: str
    behind: float
    wrong: bool
    missed: bool


def line(world: World, budget: float, number: int) -> Line:
    """Replays race ``number``."""
    answer = replay(world, planned(world, budget), Random(f"{world.name} {budget} {number}"))
    truth = world.truth
    best = max(truth, key=lambda norm: truth[norm])
    norm = answer.norm or "-"
    beaten = [row.norm for row in answer.rows if row.state in ("behind", "dropped")]
    return Line(
        world=world.name,
        budget=budget,
        race=number,
        verdict=answer.verdict,
        norm=norm,
        truth=best,
        behind=round(truth[best] - truth.get(norm, 0.0), 4),
        wrong=any(truth[each] >= truth.get(norm, 0.0) for each in beaten),
        missed=any(truth[each] > truth.get(norm, 0.0) for each in answer.aside),
    )


def table(lines: Sequence[Line]) -> list[str]:
    """A row a world and budget, in Markdown."""
    head = (
        "world",
        "budget",
        "races",
        "firm",
        "wrong",
        "too close",
        "missed",
        "within a point",
    )
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key in dict.fromkeys((each.world, each.budget) for each in lines):
        rows.append(row(f"{key[0]} | {key[1]:g}", [e for e in lines if (e.world, e.budget) == key]))
    return [*rows, row("all | ", lines)]


def row(title: str, mine: Sequence[Line]) -> str:
    """One row."""
    firm = [each for each in mine if each.verdict == "clear"]
    wrong = sum(each.wrong for each in firm)
    share = f" ({wrong / len(firm):.1%})" if firm else ""
    close = sum(each.verdict == "too close to call" for each in mine)
    missed = sum(each.missed for each in firm)
    near = sum(each.behind <= 0.01 or each.verdict != "clear" for each in mine) / len(mine)
    counts = f"{len(mine)} | {len(firm)} | {wrong}{share} | {close} | {missed} | {near:.0%}"
    return f"| {title} | {counts} |"


def leads(worlds: Sequence[World]) -> str:
    """By how much the best norm leads the second in each world, the close ones by name."""
    apart = {}
    for world in worlds:
        best, second, *_ = sorted(world.truth.values(), reverse=True)
        apart[world.name] = 100 * (best - second)
    close = [f"by {lead:.1f} points ({name})" for name, lead in apart.items() if lead < 2]
    return ", ".join([*close, "else by more than two" if close else "by more than two"])


def _numbers(races: int) -> range:
    return range(FIRST, FIRST + races)


def main() -> None:
    """Replays the races."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("results/advise"))
    parser.add_argument("--races", type=int, default=100, help="of each recorded world and budget")
    parser.add_argument("--simulated", type=int, default=500, help="simulated races a budget")
    arguments = parser.parse_args()
    lines = []
    for budget in BUDGETS:
        for world in recorded(arguments.records):
            lines += [line(world, budget, number) for number in _numbers(arguments.races)]
        for name in ("simulated", "harsh"):
            for number in _numbers(arguments.simulated):
                lines.append(line(simulated(Random(number), name), budget, number))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "replay.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in lines)
    said = [
        "# Replayed races",
        "",
        "Made by `python scripts/replay_races.py`, which says how; nothing is trained. A budget",
        "of 1 pays for five seeds of every norm in full, without short trainings.",
        "",
        f"In the recorded worlds the best norm leads {leads(recorded(arguments.records))}.",
        "The simulated ones have leads of any size, and scatter as the race assumes; in the harsh",
        "ones leads move with the length, and seeds of short trainings scatter, more than it",
        "assumes.",
        "",
        "- firm: one norm is named as clearly the best of those that were trained in full",
        "- wrong: it calls a norm worse, or drops one, that is at least as good",
        "- missed: firm, and a norm that it says it could not rule out is better",
        "- within a point: the norm that is named is at most a point below the best, or none is",
        "  named firmly",
        "",
        *table(lines),
    ]
    (arguments.out / "replay.md").write_text("\n".join(said) + "\n", encoding="utf-8")
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
