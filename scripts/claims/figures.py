"""The three pictures of article.md."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.gradients import LAYERS
from claims.learning import smooth

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


def correlations(found: dict[str, dict[Any, Any]], path: Path) -> None:
    """Mean |r| before and after, layer by layer, in networks trained with each norm."""
    figure, axes = _axes(2, ["every norm on the same activations", "group norm in its networks"])
    applied = found["applied"]
    for place, seeds in enumerate(applied.values()):
        for kind, shift, colour in (("within", -0.2, "#0072B2"), ("between", 0.2, "#E69F00")):
            for each in seeds.values():
                change = each["after"][kind] - each["before"][kind]
                label = (
                    f"{kind} groups" if not place and each is next(iter(seeds.values())) else None
                )
                axes[0].plot(place + shift, change, "o", color=colour, alpha=0.7, label=label)
    axes[0].axhline(0, color="black", linewidth=0.8)
    axes[0].set_xticks(range(len(applied)), list(applied))
    axes[0].set_ylabel("change of mean |r|, a dot a seed")
    axes[0].legend()
    for (norm, batch), seeds in found["trained"].items():
        if norm != "group":
            continue
        names = list(next(iter(seeds.values()))["layers"])
        for when, style in ((0, "--"), (1, "-")):
            mean = [fmean(each["layers"][name][when] for each in seeds.values()) for name in names]
            label = f"{('before', 'after')[when]}, batch {batch}"
            axes[1].plot(range(len(names)), mean, style, marker="o", markersize=3, label=label)
        axes[1].set_xticks(range(len(names)), names, rotation=60, fontsize=7)
    axes[1].set_ylabel("mean |r| over all pairs")
    axes[1].set_ylim(bottom=0)
    if axes[1].lines:
        axes[1].legend()
    _save(figure, path)


def convergence(found: dict[str, Any], path: Path) -> None:
    """Training loss by step."""
    figure, (axes,) = _axes(1, ["ResNet-8, batch 32"])
    for label, arm in found.items():
        for index, lines in enumerate(arm["curves"].values()):
            name = f"{label}, rate {arm['rate']:g}" if index == 0 else None
            axes.plot(*zip(*smooth(lines), strict=True), color=COLOURS[label], label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss, a line a seed")
    axes.legend()
    _save(figure, path)
