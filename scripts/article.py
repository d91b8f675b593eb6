"""The article's claims, each with a measurement and a verdict.

    python scripts/article.py --data cifar10-jpeg

Writes article.md, article.json (the raw numbers) and three pictures. What needs no training is
computed in float64 on seeded random numbers and on trained networks' activations. The long
comparison is read from --runs as far as it is there, and what is missing is said. Networks without
a norm and other networks are trained into --own, some 15 minutes on one core, and a few networks on
sequences; what is there already is used. Slow measurements are remembered in article.json by what
went into them.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
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
    sequences,
)
from claims import layers as alone
from claims import runs as long
from claims.base import Finding, Losses, Store, losses_in_words, row, with_losses
from claims.networks import (
    Cells,
    Images,
    Lost,
    Seed,
    called,
    found_in,
    measured,
    norm_inputs,
    slots,
)
from claims.training import CONVERGENCE, OTHERS, Outcome, Trainer, fitting
from torch import Tensor

from normbench.files import write_text
from normbench.store.results import Result

SLOT = "blocks.1.norm1"
"""The norm whose input serves as activations of a trained network."""

Arms = Mapping[str, Outcome]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The networks that the claims are measured on.

    Attributes:
        cells: of the long comparison, with its lost seeds.
        layer: of the longest comparison that has layer norm, with its lost seeds.
        many: arms that show how fast training goes.
        few: arms that can overfit.
        others: other networks.
    """

    cells: Cells
    lost: Lost
    layer: tuple[Cells, Lost]
    many: Arms
    few: Arms
    others: Arms

    @classmethod
    def gather(cls, runs: Path, own: Path, data: str) -> Evidence:
        """Reads what is there and trains what is missing in ``own``."""
        cells, lost = found_in(runs, data)
        has_layer = {("layer", batch) for batch in (long.SMALL, long.USUAL)} <= cells.keys()
        trainer = Trainer(own, data)
        many = trainer.outcomes(CONVERGENCE)
        return cls(
            cells,
            lost,
            (cells, lost) if has_layer else found_in(Path(long.SHORT), data),
            many,
            trainer.outcomes(fitting({norm: arm.rate for norm, arm in many.items()})),
            trainer.outcomes(OTHERS),
        )

    def sources(self) -> list[Seed]:
        """Networks whose activations the layers may get: those of group norm first."""
        groups = [seeds for (norm, _), seeds in sorted(self.cells.items()) if norm == "group"]
        every = (*groups, self.many["batch"].finished)
        return [seed for seeds in every for seed in seeds.values()]


def losses(of: Evidence) -> dict[str, Losses]:
    """By claim, the lost seeds that its verdict would need."""
    many, few, others = (
        {f"own, {label}": arm.lost for label, arm in arms.items()}
        for arms in (of.many, of.few, of.others)
    )
    return {
        "correlation": {label: each for label, each in many.items() if label == "own, none"},
        "small batches": long.lost_of(of.lost),
        "dimensions": {label: each for label, each in others.items() if label.endswith("group")},
        "convergence": many,
        "regularization": few | dict(long.lost_of(of.lost, batches=[long.USUAL])),
        "robustness": many,
        "layer norm": long.lost_of(of.layer[1], ("batch", "layer")),
    }


def about_layers(store: Store, images: Images, of: Evidence) -> dict[str, Finding]:
    """The findings that need no training of their own."""
    made = store.measure

    @cache
    def looked_into() -> tuple[Seed, Tensor, Tensor, Tensor]:
        """A network, activations [300, C, H, W] before one of its norms, and its γ and β [C]."""
        seed = next((seed for seed in of.sources() if seed.weights), None)
        if seed is None:
            raise SystemExit("no network has weights: give --runs or --own with model.safetensors")
        network = seed.network()
        norm = dict(slots(network))[SLOT]
        assert norm.weight is not None
        assert norm.bias is not None
        x = norm_inputs(network, images.some(300)[0])[SLOT].double()
        return seed, x, norm.weight.detach().double(), norm.bias.detach().double()

    def known(seed: Seed) -> dict[str, Any]:
        return {**seed.identity, "data": images.all.sha256}

    def on_activations(
        name: str, measure: Callable[..., dict[str, Any]], count: int, *, learned: bool = False
    ) -> dict[str, Any]:
        """A measurement on the first ``count`` of them; weights are needed for a new one only."""
        for seed in of.sources():
            if store.knows(name, measure, **known(seed)):
                return made(name, measure, **known(seed))
        seed, x, *more = looked_into()
        return made(name, measure, x[:count], *(more if learned else ()), **known(seed))

    networks = long.labelled(of.cells)
    groups = {label: seeds for label, seeds in networks.items() if label.startswith("group")}
    first = dict(list(groups.items())[:1])
    dealt = measured(store, "dependence", batches.measure_network, networks, images)
    biased = measured(store, "unbiased", batches.measure_unbiased, first, images)
    return {
        "axes": alone.axes(on_activations("axes", alone.measure_axes, 16)),
        "groups": alone.groups(on_activations("groups", alone.measure_groups, 64, learned=True)),
        "rules": alone.rules(made("rules", alone.measure_rules)),
        "independence": batches.independence(
            on_activations("dependence/layers", batches.measure_layers, 300), dealt
        ),
        "dimensions": definitions.dimensions(
            made("dimensions", definitions.measure_dimensions), of.others
        ),
        "convolution": batches.convolution(made("convolution", batches.measure_convolution)),
        "code": definitions.code(
            made("code", definitions.measure_code),
            batches.unbiased_in_words(next(iter(biased.values()), {})),
        ),
        "steps": definitions.steps(made("steps", definitions.measure_steps)),
        "example": definitions.layer_example(
            made("layer example", definitions.measure_layer_example)
        ),
        "sequences": sequences.sequences(
            made("sequences/training", sequences.measure_training),
            made("sequences/padding", sequences.measure_padding),
        ),
    }


ORDER = (
    *("axes", "groups", "correlation", "rules", "independence", "small batches", "dimensions"),
    *("convolution", "code", "steps", "gradients", "convergence", "regularization"),
    *("robustness", "example", "layer norm", "sequences"),
)
"""The claims as the article has them."""


def all_findings(store: Store, images: Images, of: Evidence, pictures: Path) -> list[Finding]:
    """Every finding in the order of the article, and the pictures."""
    correlated = correlation.gather(store, images, of.many["none"].finished, of.cells)
    made = store.measure("correlation/constructed", correlation.measure_constructed)
    deep = gradients.gather(store, images)
    found = about_layers(store, images, of) | {
        "correlation": correlation.finding(correlated, made),
        "gradients": gradients.finding(deep),
        "small batches": long.small_batches(of.cells, of.lost),
        "convergence": learning.convergence(of.many, of.cells),
        "regularization": regularizing.regularization(store, images, of.few, of.cells),
        "robustness": robustness.robustness(store, images, of.many, of.cells),
        "layer norm": long.layer_norm(*of.layer),
    }
    print("  pictures", flush=True)
    figures.gradients(deep, pictures / "article-gradients.png")
    figures.correlations(correlated, pictures / "article-correlation.png")
    figures.convergence(of.many, pictures / "article-convergence.png")
    gone = losses(of)
    return [with_losses(found[name], gone.get(name, {})) for name in ORDER]


def page(findings: list[Finding], images: Images, lost: Losses, command: str) -> str:
    """The Markdown."""
    rows = [row([str(n), f.title, f.verdict, f.short]) for n, f in enumerate(findings, 1)]
    bad = (
        f" Seeds that came to a bad end and are in no number: {words}."
        if (words := losses_in_words(lost))
        else ""
    )
    head = [
        "# The article's claims, measured",
        f"Made by `{command}` from `{images.all.name}` (digest {images.all.sha256[:12]}), torch"
        f" {torch.__version__}, Python {platform.python_version()}. Raw numbers:"
        " [article.json](article.json). Records of the networks: [article](article) (trained by the"
        f" script), [batch-size](batch-size) (the long comparison).{bad}",
        "± is half a 95 % interval over n seeds (Student's t). Networks of different norms are"
        " compared by Welch's interval; only what is measured on one network is paired: before and"
        " after a layer, say. A program draws the verdicts from the numbers by rules that were"
        " fixed on 2026-11-23, before the networks of batch-size were trained (those of claims 4, 9"
        " and 15, which are about formulas, on 2026-11-25). *Holds* and *does not hold* need an"
        " interval wholly on one side of 0, or of another bound that is named. *Holds partly*:"
        " part of the claim is shown, or its reason is another. *Not decided*: these seeds do"
        " not decide it, or networks are missing. Every verdict on training is about the"
        " networks, images and lengths that are named.",
        "| | claim | verdict | found |\n|---|---|---|---|\n" + "\n".join(rows),
    ]
    return "\n\n".join([*head, *(f.markdown(n) for n, f in enumerate(findings, 1))]) + "\n"


def _untimed(result: Result) -> dict[str, Any]:
    """How a seed ended, without times, and without its error, in which there may be a path."""
    left_out = ("seconds", "images_per_second", "error")
    return {k: v for k, v in asdict(result).items() if k not in left_out}


def raw(of: Evidence, findings: list[Finding]) -> dict[str, Any]:
    """What article.json says besides the measurements."""
    own = {
        kind: {
            label: {
                "tried": {f"{rate:g}": loss for rate, loss in arm.tried.items()},
                "rate": arm.rate,
                "seeds": {n: _untimed(seed.result) for n, seed in arm.seeds.items()},
            }
            for label, arm in arms.items()
        }
        for kind, arms in (("many", of.many), ("few", of.few), ("others", of.others))
    }
    runs = {
        called(*key): {n: seed.accuracy for n, seed in sorted(seeds.items())}
        for key, seeds in sorted(of.cells.items())
    }
    verdicts = [{"title": f.title, "verdict": f.verdict, "why": f.why} for f in findings]
    return {"findings": verdicts, "runs": runs, "own": own}


def main() -> None:
    """Measures everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/batch-size"))
    parser.add_argument("--data", default="cifar10-jpeg", help="name of an imported data set")
    parser.add_argument("--own", type=Path, default=Path("runs/article"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.at(arguments.out / "article.json")
    images = Images.of(arguments.data)
    of = Evidence.gather(arguments.runs, arguments.own, arguments.data)
    findings = all_findings(store, images, of, arguments.out / "figures")
    store.forget_unused()
    store.write(raw(of, findings))
    command = f"python scripts/article.py --data {arguments.data}"
    everyone = {
        f"own, {label}": arm.lost
        for arms in (of.many, of.few, of.others)
        for label, arm in arms.items()
    }
    lost = long.lost_of(of.lost, long.NORMS, long.BATCHES) | everyone
    write_text(arguments.out / "article.md", page(findings, images, lost, command))
    for number, finding in enumerate(findings, 1):
        print(f"{number:2d}  {finding.verdict:<12} {finding.title}")
    for lacking in long.missing(of.cells, of.lost):
        print(f"not in {arguments.runs} yet: {lacking}")


if __name__ == "__main__":
    main()
