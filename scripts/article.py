"""The article's claims, each with a measurement and a verdict.

    normbench sweep experiment=naive data=images data.name=cifar10-jpeg
    python scripts/article.py --runs runs/naive --data cifar10-jpeg

Writes article.md, article.json (the raw numbers) and three pictures. What needs no training is
computed in float64 on seeded random numbers and on trained networks' activations. The long
comparison is read from --runs as far as it is there, and what is missing is said. A few small cells
of its own are trained into --own, some twenty minutes on one core; what is there already is used.
Slow measurements are remembered in article.json by what went into them, so that a second run takes
little time.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from claims import (
    batches,
    correlation,
    definitions,
    figures,
    gradients,
    learning,
    regularizing,
    robustness,
)
from claims import layers as alone
from claims import runs as long
from claims.base import Finding, Losses, Store, with_losses
from claims.networks import (
    Cells,
    Images,
    Lost,
    Seed,
    found_in,
    lost_in,
    norm_inputs,
    slots,
    with_weights,
)
from claims.training import CONVERGENCE, FITTING, Trainer

from normbench.files import write_text
from normbench.store.results import Result

SLOT = "blocks.1.norm1"
"""The norm whose input serves as activations of a trained network."""


def source(cells: Cells, own: dict[int, Seed]) -> Seed:
    """The network whose activations the layers get: one of group norm where there is one."""
    for _, seeds in sorted((key, seeds) for key, seeds in cells.items() if key[0] == "group"):
        for seed in with_weights(seeds).values():
            return seed
    return next(iter(own.values()))


def about_layers(store: Store, images: Images, seed: Seed, cells: Cells) -> dict[str, Finding]:
    """The findings that need no training of their own."""
    network = seed.network()
    x = norm_inputs(network, images.some(300)[0])[SLOT].double()
    norm = dict(slots(network))[SLOT]
    assert norm.weight is not None
    assert norm.bias is not None
    of = {"weights": seed.digest, "data": images.all.sha256}
    learned = (norm.weight.detach().double(), norm.bias.detach().double())
    group, biased = {}, {}
    for key, seeds in cells.items():
        if key[0] not in ("batch", "group"):
            continue
        name = f"{key[0]}-b{key[1]}"
        group[key] = {
            n: store.measure(
                f"dependence/{name}/seed-{n}",
                batches.measure_network,
                each,
                images,
                weights=each.digest,
                data=images.all.sha256,
            )
            for n, each in with_weights(seeds).items()
        }
    first = min((key for key in cells if key[0] == "group"), default=None)
    for n, each in with_weights(cells[first]).items() if first is not None else ():
        biased[n] = store.measure(
            f"unbiased/seed-{n}",
            batches.measure_unbiased,
            each,
            images,
            weights=each.digest,
            data=images.all.sha256,
        )
    measured = store.measure
    return {
        "axes": alone.axes(measured("axes", alone.measure_axes, x[:16], **of)),
        "groups": alone.groups(measured("groups", alone.measure_groups, x[:64], *learned, **of)),
        "rules": alone.rules(measured("rules", alone.measure_rules)),
        "independence": batches.independence(
            measured("dependence/layers", batches.measure_layers, x, **of), group
        ),
        "dimensions": definitions.dimensions(
            measured("dimensions", definitions.measure_dimensions)
        ),
        "convolution": batches.convolution(measured("convolution", batches.measure_convolution)),
        "code": definitions.code(
            measured("code", definitions.measure_code), batches.unbiased_in_words(biased)
        ),
        "steps": definitions.steps(measured("steps", definitions.measure_steps)),
        "example": definitions.layer_example(
            measured("layer example", definitions.measure_layer_example)
        ),
        "sequences": definitions.sequences(measured("sequences", definitions.measure_sequences)),
    }


def losses(lost: Lost, trained: dict[str, Any]) -> dict[str, tuple[Losses, Losses]]:
    """By claim, the lost seeds that its verdict would need, and those that its tables would show.

    A claim that is not here takes no trained networks, or no more than one of them.
    """
    runs, of = long.of_cells, learning.lost_seeds
    looked_at = (long.SMALL, long.USUAL)
    many, few = trained["many"], trained["few"]
    return {
        "correlation": (of(many, ["none"]), runs(lost, batches=looked_at)),
        "independence": ({}, runs(lost, ("batch", "group"))),
        "small batches": (runs(lost, ("batch", "group"), looked_at), {}),
        "code": ({}, runs(lost, ("group",))),
        "convergence": (of(many, ["batch", "none"]), of(many, ["none, γ=0"])),
        "regularization": (of(few, list(few)), runs(lost)),
        "robustness": (
            of(many, ["batch", "none"]),
            {**of(many, ["none, γ=0"]), **runs(lost, batches=looked_at)},
        ),
        "layer norm": (runs(lost, ("batch", "layer"), looked_at), {}),
    }


def on_training(
    store: Store, images: Images, cells: Cells, lost: Lost, trained: dict[str, Any]
) -> dict[str, Finding]:
    """The findings that compare how networks of different norms have come out."""
    many, few = (learning.own_cells(trained[kind]) for kind in ("many", "few"))
    own_gaps = regularizing.gaps(store, images, {f"few/{k}": v for k, v in few.items()})
    gaps = {label.removeprefix("few/"): each for label, each in own_gaps.items()}
    run_gaps = regularizing.gaps(store, images, learning.in_runs(cells))
    looked_into = learning.in_runs(long.looked_into(cells))
    data = images.all.name
    return {
        "small batches": long.small_batches(cells, lost, data),
        "convergence": learning.convergence(trained["many"]),
        "regularization": regularizing.regularization(trained["few"], gaps, run_gaps),
        "robustness": robustness.robustness(
            robustness.robust(store, images, {f"own, {k}": v for k, v in many.items()}),
            robustness.robust(store, images, looked_into),
        ),
        "layer norm": long.layer_norm(cells, lost, data),
    }


ORDER = (
    *("axes", "groups", "correlation", "rules", "independence", "small batches", "dimensions"),
    *("convolution", "code", "steps", "gradients", "convergence", "regularization"),
    *("robustness", "example", "layer norm", "sequences"),
)
"""The claims as the article has them."""


def all_findings(
    store: Store,
    images: Images,
    cells: Cells,
    lost: Lost,
    trained: dict[str, Any],
    pictures: Path,
) -> list[Finding]:
    """Every finding in the order of the article, and the pictures."""
    many = learning.own_cells(trained["many"])
    found = about_layers(store, images, source(cells, many["batch"]), cells)
    chosen = long.looked_into(cells)
    weighed = {key: there for key, seeds in chosen.items() if (there := with_weights(seeds))}
    correlated = correlation.gather(store, images, many["none"], weighed)
    made = store.measure("correlation/constructed", correlation.measure_constructed)
    deep = gradients.gather(store, images)
    found |= {
        "correlation": correlation.finding(correlated, made),
        "gradients": gradients.finding(deep),
        **on_training(store, images, cells, lost, trained),
    }
    print("  pictures", flush=True)
    figures.gradients(deep, pictures / "article-gradients.png")
    figures.correlations(correlated, pictures / "article-correlation.png")
    figures.convergence(trained["many"], pictures / "article-convergence.png")
    gone = losses(lost, trained)
    return [with_losses(found[name], *gone.get(name, ({}, {}))) for name in ORDER]


def page(findings: list[Finding], images: Images, command: str) -> str:
    """The Markdown."""
    rows = [f"| {n} | {f.title} | {f.verdict} |" for n, f in enumerate(findings, 1)]
    head = [
        "# The article's claims, measured",
        f"Made by `{command}` from `{images.all.name}` (digest {images.all.sha256[:12]}), torch"
        f" {torch.__version__}, Python {platform.python_version()}. The raw numbers are in"
        " [article.json](article.json). Times are no part of this: costs are counted in FLOPs and"
        " bytes. ± is half a 95 % interval (Student's t over seeds); differences are paired by"
        " seed. *holds partly* means that part of the claim is shown, and the rest of it, or its"
        " reason, was found otherwise or is not shown. What seeds decide is decided by intervals:"
        " *holds* and *does not hold* need one that is wholly on one side of 0, or of another bound"
        " that is said; without it the verdict is *not decided by this*, and *not told from* does"
        " not mean equal. The verdicts on training are about the networks, the images and the"
        " lengths named, and all trainings here are short.",
        "| | claim | verdict |\n|---|---|---|\n" + "\n".join(rows),
    ]
    return "\n\n".join([*head, *(f.markdown(n) for n, f in enumerate(findings, 1))]) + "\n"


def _untimed(result: Result) -> dict[str, Any]:
    """How a seed ended, without its times, which are of no use from a busy machine.

    And without its error, in which there may be a path of this machine.
    """
    left_out = ("seconds", "images_per_second", "error")
    return {k: v for k, v in asdict(result).items() if k not in left_out}


def raw(
    cells: Cells, lost: Lost, trained: dict[str, Any], findings: list[Finding]
) -> dict[str, Any]:
    """What article.json says besides the measurements."""
    own = {
        kind: {
            label: {
                "tried": arm["tried"],
                "rate": arm["rate"],
                "seeds": {n: _untimed(each.result) for n, each in arm["seeds"].items()},
            }
            for label, arm in arms.items()
        }
        for kind, arms in trained.items()
    }
    runs = {
        f"{norm}-b{batch}": {n: seed.result.test_accuracy for n, seed in sorted(seeds.items())}
        for (norm, batch), seeds in sorted(cells.items())
    }
    ends = {
        f"{norm}-b{batch}": {n: _untimed(result) for n, result in sorted(seeds.items())}
        for (norm, batch), seeds in sorted(lost.items())
    }
    verdicts = [{"title": f.title, "verdict": f.verdict, "why": f.why} for f in findings]
    return {"findings": verdicts, "runs": runs, "lost": ends, "own": own}


def main() -> None:
    """Measures everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/naive"))
    parser.add_argument("--data", default="cifar10-jpeg", help="name of an imported data set")
    parser.add_argument("--own", type=Path, default=Path("runs/article"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.at(arguments.out / "article.json")
    images = Images.of(arguments.data)
    cells = found_in(arguments.runs, arguments.data)
    lost = lost_in(arguments.runs, arguments.data)
    trainer = Trainer(arguments.own, arguments.data)
    trained = {
        "many": learning.training(trainer, CONVERGENCE),
        "few": learning.training(trainer, FITTING),
    }
    findings = all_findings(store, images, cells, lost, trained, arguments.out / "figures")
    store.forget_unused()
    store.write(raw(cells, lost, trained, findings))
    command = f"python scripts/article.py --runs runs/naive --data {arguments.data}"
    write_text(arguments.out / "article.md", page(findings, images, command))
    for number, finding in enumerate(findings, 1):
        print(f"{number:2d}  {finding.verdict:<20} {finding.title}")
    for lacking in long.missing(cells, lost):
        print(f"not in {arguments.runs} yet: {lacking}")


if __name__ == "__main__":
    main()
