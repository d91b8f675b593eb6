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
from claims import batches, correlation, definitions, figures, gradients, learning
from claims import layers as alone
from claims import runs as long
from claims.base import Finding, Store
from claims.networks import Cells, Images, Seed, found_in, norm_inputs, slots, with_weights
from claims.training import CONVERGENCE, FITTING, Trainer

from normbench.records import Result, write_text

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


def all_findings(
    store: Store, images: Images, cells: Cells, trained: dict[str, Any], pictures: Path
) -> list[Finding]:
    """Every finding in the order of the article, and the pictures."""
    many = learning.own_cells(trained["many"])
    few = learning.own_cells(trained["few"])
    data = images.all.name
    layers = about_layers(store, images, source(cells, many["batch"]), cells)
    chosen = long.looked_into(cells)
    weighed = {key: there for key, seeds in chosen.items() if (there := with_weights(seeds))}
    correlated = correlation.gather(store, images, many["none"], weighed)
    made = store.measure("correlation/constructed", correlation.measure_constructed)
    deep = gradients.gather(store, images)
    in_runs = learning.in_runs(cells)
    own_gaps = learning.gaps(store, images, {f"few/{k}": v for k, v in few.items()})
    gaps = {label.removeprefix("few/"): each for label, each in own_gaps.items()}
    print("  pictures", flush=True)
    figures.gradients(deep, pictures / "article-gradients.png")
    figures.correlations(correlated, pictures / "article-correlation.png")
    figures.convergence(trained["many"], pictures / "article-convergence.png")
    return [
        layers["axes"],
        layers["groups"],
        correlation.finding(correlated, made),
        layers["rules"],
        layers["independence"],
        long.small_batches(cells, data),
        layers["dimensions"],
        layers["convolution"],
        layers["code"],
        layers["steps"],
        gradients.finding(deep),
        learning.convergence(trained["many"]),
        learning.regularization(trained["few"], gaps, learning.gaps(store, images, in_runs)),
        long.robustness(
            long.robust(store, images, {f"own, {k}": v for k, v in many.items()}),
            long.robust(store, images, learning.in_runs(chosen)),
        ),
        layers["example"],
        long.layer_norm(cells, data),
        layers["sequences"],
    ]


def page(findings: list[Finding], images: Images, command: str) -> str:
    """The Markdown."""
    rows = [f"| {n} | {f.title} | {f.verdict} |" for n, f in enumerate(findings, 1)]
    head = [
        "# The article's claims, measured",
        f"Made by `{command}` from `{images.all.name}` (digest {images.all.sha256[:12]}), torch"
        f" {torch.__version__}, Python {platform.python_version()}. The raw numbers are in"
        " [article.json](article.json). Times are no part of this: costs are counted in FLOPs and"
        " bytes. ± is half a 95 % interval (Student's t over seeds); differences are paired by"
        " seed. *holds partly* means that some of the claim, or of its reason, was found otherwise;"
        " the verdicts on training are about the networks, the images and the lengths named, and"
        " all trainings here are short.",
        "| | claim | verdict |\n|---|---|---|\n" + "\n".join(rows),
    ]
    return "\n\n".join([*head, *(f.markdown(n) for n, f in enumerate(findings, 1))]) + "\n"


def _untimed(result: Result) -> dict[str, Any]:
    """How a seed ended, without its times, which are of no use from a busy machine."""
    return {k: v for k, v in asdict(result).items() if k not in ("seconds", "images_per_second")}


def raw(cells: Cells, trained: dict[str, Any], findings: list[Finding]) -> dict[str, Any]:
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
    verdicts = [{"title": f.title, "verdict": f.verdict, "why": f.why} for f in findings]
    return {"findings": verdicts, "runs": runs, "own": own}


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
    trainer = Trainer(arguments.own, arguments.data)
    trained = {
        "many": learning.training(trainer, CONVERGENCE),
        "few": learning.training(trainer, FITTING),
    }
    findings = all_findings(store, images, cells, trained, arguments.out / "figures")
    store.forget_unused()
    store.write(raw(cells, trained, findings))
    command = f"python scripts/article.py --runs runs/naive --data {arguments.data}"
    write_text(arguments.out / "article.md", page(findings, images, command))
    for number, finding in enumerate(findings, 1):
        print(f"{number:2d}  {finding.verdict:<20} {finding.title}")
    for lacking in long.missing(cells):
        print(f"not in {arguments.runs} yet: {lacking}")


if __name__ == "__main__":
    main()
