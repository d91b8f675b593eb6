"""The three pictures of article.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.correlation import Found
from claims.gradients import LAYERS
from claims.learning import smooth
from claims.training import Outcome

COLOURS = {
    "none": "#999999",
    "none, γ=0": "#56B4E9",
    "batch": "#D55E00",
    "group": "#0072B2",
    "layer": "#009E73",
    "instance": "#CC79A7",
}


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, format="png", dpi=110, metadata={"Software": None})
    beside.replace(path)


def _axes(count: int, titles: list[str]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.6 * count, 3.6), layout="constrained")
    axes = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for each, title in zip(axes, titles, strict=True):
        each.set_title(title)
        each.grid(alpha=0.3)
    return figure, axes


def gradients(found: dict[tuple[str, str, float], dict[str, Any]], path: Path) -> None:
    """Gradients by depth."""
    titles = ["ResNet-56", f"{LAYERS} convolutions, no shortcuts", "the same, weights doubled"]
    figure, axes = _axes(3, titles)
    for (kind, norm, gain), each in found.items():
        place = {("ResNet-56", 1.0): 0, ("plain", 1.0): 1, ("plain", 2.0): 2}.get((kind, gain))
        profiles = [sizes for sizes in each["sizes"] if None not in sizes]
        if place is None or not profiles:
            continue
        mean = [fmean(layer) for layer in zip(*profiles, strict=True)]
        axes[place].plot(range(1, len(mean) + 1), mean, color=COLOURS[norm], label=norm)
    for each_axes in axes:
        each_axes.set_xlabel("convolution, from the input")
        each_axes.legend()
    axes[0].set_ylabel("log₁₀ of ‖gradient‖/‖weights‖")
    _save(figure, path)


def correlations(found: Found, path: Path) -> None:
    """Mean |r| before and after, layer by layer, in networks trained with each norm."""
    figure, axes = _axes(2, ["every norm on the same activations", "group norm in its networks"])
    for kind, shift, colour in (("within", -0.2, "#0072B2"), ("between", 0.2, "#E69F00")):
        dots = [
            (place + shift, each["after"][kind] - each["before"][kind])
            for place, seeds in enumerate(found.applied.values())
            for each in seeds.values()
        ]
        if dots:
            axes[0].plot(
                *zip(*dots, strict=True), "o", color=colour, alpha=0.7, label=f"{kind} groups"
            )
            axes[0].legend()
    axes[0].axhline(0, color="black", linewidth=0.8)
    axes[0].set_xticks(range(len(found.applied)), list(found.applied))
    axes[0].set_ylabel("change of mean |r|, a dot a seed")
    for label, seeds in found.trained.items():
        if not label.startswith("group"):
            continue
        names = list(next(iter(seeds.values()))["layers"])
        for when, style in ((0, "--"), (1, "-")):
            mean = [fmean(each["layers"][name][when] for each in seeds.values()) for name in names]
            name = f"{('before', 'after')[when]}, {label.partition(', ')[2]}"
            axes[1].plot(range(len(names)), mean, style, marker="o", markersize=3, label=name)
        axes[1].set_xticks(range(len(names)), names, rotation=60, fontsize=7)
        axes[1].legend()
    axes[1].set_ylabel("mean |r| over all pairs")
    axes[1].set_ylim(bottom=0)
    _save(figure, path)


def convergence(found: Mapping[str, Outcome], path: Path) -> None:
    """Training loss by step."""
    figure, (axes,) = _axes(1, ["ResNet-8, batch size 32"])
    for label, arm in found.items():
        for index, seed in enumerate(arm.finished.values()):
            name = f"{label}, learning rate {arm.rate:g}" if index == 0 else None
            steps = smooth(seed.curve)
            axes.plot(*zip(*steps, strict=True), color=COLOURS[label], label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss, a line a seed")
    axes.legend()
    _save(figure, path)
