"""The pictures of a report along the training: losses and errors against epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from normbench.report.compare.comparisons import Comparison, axis_value
from normbench.report.compare.recipes import held_out
from normbench.report.plots.lines import drawn, legend, not_drawn, styles_of
from normbench.report.plots.style import (
    Drawing,
    Look,
    look,
    new_figure,
    save,
    style,
)
from normbench.report.read.cells import CellRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_BINS = 60  # points of a curve
_MOST = 6  # pictures of curves, lines of differences
_ON_DISK = "are in metrics.jsonl in each seed's folder, and in TensorBoard"


def curves_drawing(comparison: Comparison, x: int, name: str) -> Drawing | None:
    """Training loss and error at the ends of epochs against epochs at one place of the axis.

    A thin line a seed and a thick one for their mean; None where nothing has been recorded, and at
    most places where they are many.
    """
    places = _recorded_places(comparison)
    if x not in _spread(places, _MOST):
        return None
    lines = drawn(comparison)
    styles = styles_of(lines)
    with style():
        figure, (above, below) = new_figure(rows=2)
        looks = {}
        for line in lines:
            point = line.at(x)
            if point is not None and _has_curve(point.cell):
                looks[line.label] = look(styles[line.label])
                _draw_cell(above, below, point.cell, line.label, looks[line.label])
        above.set_ylabel("training loss")
        of_test = not held_out(comparison.settings)
        below.set_ylabel("test error, %" if of_test else "held-out error, %")
        _epochs(below)
        above.set_title(axis_value(comparison.axis, x))
        legend(above, looks)
        notes = [_left_out(places), not_drawn(comparison, _ON_DISK)]
        alt = f"Curves at {axis_value(comparison.axis, x)}"
        return save(figure, name, alt, " ".join(note for note in notes if note))


def _epochs(axes: Axes) -> None:
    """A horizontal axis of epochs, which are counted in whole numbers wherever there is room."""
    axes.set_xlabel("epochs")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", steps=[1, 2, 5, 10])


def _has_curve(cell: CellRun) -> bool:
    """Whether there is anything of a cell that a curve can show."""
    return any(
        m.train_loss is not None or m.eval_accuracy is not None
        for run in cell.seeds
        for m in run.curve
    )


def _recorded_places(comparison: Comparison) -> list[int]:
    """The places of the axis that have a cell of their own and a curve."""
    points = [(line, point) for line in drawn(comparison) for point in line.points]
    own = {point.x for line, point in points if not line.level}
    return sorted(own & {point.x for _, point in points if _has_curve(point.cell)})


def _spread(places: Sequence[int], most: int) -> list[int]:
    """The first, the last, and evenly many of the places between, ``most`` at most."""
    if len(places) <= most:
        return list(places)
    return [places[round(i * (len(places) - 1) / (most - 1))] for i in range(most)]


def _left_out(places: Sequence[int]) -> str:
    """How many places have no picture of curves, and where their curves are; "" if all have one."""
    if len(places) <= _MOST:
        return ""
    return (
        f"Of {len(places)} places of the axis {_MOST} are drawn: the smallest, the largest"
        f" and some evenly between. The curves of all places {_ON_DISK}."
    )


def _draw_cell(above: Axes, below: Axes, cell: CellRun, label: str, how: Look) -> None:
    """Draws a cell's losses above and its errors below."""
    begun = [run for run in cell.seeds if run.begun]
    losses = [
        _binned([(m.epoch, m.train_loss) for m in run.curve if m.train_loss is not None])
        for run in begun
    ]
    errors = [
        {m.epoch: 100 * (1 - m.eval_accuracy) for m in run.curve if m.eval_accuracy is not None}
        for run in begun
    ]
    _draw_curves(above, losses, label, how._replace(marker=""))
    _draw_curves(below, errors, label, how)


def _binned(points: Sequence[tuple[float, float]]) -> dict[float, float]:
    """At most 60 means of neighbouring points."""
    size = -(-len(points) // _MAX_BINS) or 1
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return {b[-1][0]: fmean(value for _, value in b) for b in bins}


def _draw_curves(
    axes: Axes, curves: Sequence[Mapping[float, float]], label: str, how: Look
) -> None:
    """Draws the curves of a cell's seeds and their mean."""
    color, marker, dashes = how
    for curve in curves:
        axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.8, alpha=0.45)
    drawn = [curve for curve in curves if curve]
    if drawn:
        longest = max(len(curve) for curve in drawn)
        curves = [curve for curve in drawn if 2 * len(curve) > longest]  # not what broke off early
        common = sorted(set.intersection(*(set(curve) for curve in curves)))
        means = [fmean(curve[at] for curve in curves) for at in common]
        axes.plot(
            common, means, color=color, marker=marker, linestyle=dashes, markersize=5, label=label
        )
