"""The pictures of a report: errors, published errors, statistics, costs, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from normbench.records import FINISHED
from normbench.report.analysis import Cost, Split, cost, error
from normbench.report.collection import CellRun
from normbench.report.comparisons import AXES, Comparison, Line
from normbench.report.plotting import (
    COLORS,
    INK,
    MARKERS,
    Drawing,
    Series,
    draw_series,
    log2_axis,
    mark_lost,
    name_ends,
    new_figure,
    save,
    style,
)
from normbench.report.published import Publication
from normbench.report.statistics import Estimate
from normbench.report.wording import axis_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PREFERRED = {"batch": 0, "group": 1, "layer": 2, "instance": 3}
_MAX_BINS = 60  # points of a curve


def error_drawing(comparison: Comparison, name: str) -> Drawing:
    """Test error against the axis: a line a norm, its interval over seeds, and each seed."""
    styles = styles_of(comparison.lines)
    series = []
    for line in comparison.lines:
        points = [point for point in line.points if point.errors]
        values = {p.x: value for p in points if (value := error(p)) is not None}
        seeds = {p.x: list(p.errors.values()) for p in points}
        series.append(Series(line.label, styles[line.label], values, seeds, line.level))
    lost = [(styles[x.label], p.x) for x in comparison.lines for p in x.points if _lost(p.cell)]
    alt = f"Test error in percent against {AXES[comparison.axis]}: {comparison.title}"
    with style():
        figure, (axes,) = new_figure()
        xs = comparison.xs
        log2_axis(axes, xs, AXES[comparison.axis])
        axes.set_ylabel("test error, %")
        draw_series(axes, series, xs)
        mark_lost(axes, lost)
        name_ends(axes, series, xs)
        return save(figure, name, alt)


def _lost(cell: CellRun) -> bool:
    """Whether a seed of a cell came to a bad end."""
    return any(r.result is not None and r.result.status != FINISHED for r in cell.seeds)


def styles_of(lines: Sequence[Line]) -> dict[str, int]:
    """A colour and marker for each line by label: a norm keeps its own through all pictures."""
    taken: dict[str, int] = {}
    for line in lines:
        wanted = _PREFERRED.get(line.norm)
        if wanted is not None and wanted not in taken.values():
            taken[line.label] = wanted
    free = [i for i in range(len(COLORS)) if i not in taken.values()]
    for number, line in enumerate(x for x in lines if x.label not in taken):
        taken[line.label] = free[number] if number < len(free) else number % len(COLORS)
    return taken


def published_drawing(publication: Publication, name: str) -> Drawing:
    """A publication's lines, in a picture of their own: other images, another network."""
    xs = sorted({x for line in publication.lines.values() for x in line})
    series = [
        Series(norm, _PREFERRED[norm], {x: Estimate(v, None, None, 1) for x, v in line.items()}, {})
        for norm, line in publication.lines.items()
    ]
    alt = f"Published: {publication.cite}; {publication.model} on {publication.data}"
    with style():
        figure, (axes,) = new_figure()
        log2_axis(axes, xs, "images that share statistics")
        axes.set_ylabel("error, %")
        axes.set_title(f"{publication.model}, {publication.data}, published")
        draw_series(axes, series, xs)
        name_ends(axes, series, xs)
        return save(figure, name, alt)


def split_drawing(rows: Sequence[Split], axis: str, name: str) -> Drawing:
    """Test error of the same weights with three kinds of statistics, of one line."""
    kinds = {
        "running averages": (0, {row.x: row.running for row in rows}),
        "estimated anew": (5, {row.x: row.reestimated for row in rows}),
        "of the batch": (4, {row.x: row.batch for row in rows if row.batch is not None}),
    }
    xs = [row.x for row in rows]
    series = [Series(label, style, values, {}) for label, (style, values) in kinds.items()]
    alt = f"Test error of the same weights of {rows[0].line.label} norm, by kind of statistics"
    with style():
        figure, (axes,) = new_figure()
        log2_axis(axes, xs, AXES[axis])
        axes.set_ylabel("test error, %")
        axes.set_title(f"{rows[0].line.label} norm, evaluated with statistics …")
        draw_series(axes, series, xs)
        name_ends(axes, series, xs)
        return save(figure, name, alt)


def cost_drawing(comparison: Comparison, name: str) -> Drawing | None:
    """Seconds an epoch and seed, and the bytes of a training step; None where nothing is known."""
    styles = styles_of(comparison.lines)
    costs = {line.label: {p.x: cost(p.cell) for p in line.points} for line in comparison.lines}
    seconds, held = (
        [
            Series(line.label, styles[line.label], values, {}, line.level)
            for line in comparison.lines
            if (values := {x: v for x, c in costs[line.label].items() if (v := read(c))})
        ]
        for read in (_seconds, _megabytes)
    )
    panels = [(s, what) for s, what in ((seconds, "seconds an epoch"), (held, "MB a step")) if s]
    if not panels:
        return None
    with style():
        figure, grid = new_figure(rows=len(panels))
        for axes, (series, what) in zip(grid, panels, strict=True):
            log2_axis(axes, comparison.xs, AXES[comparison.axis] if axes is grid[-1] else "")
            axes.set_ylabel(what)
            if series is held:  # it grows with the batch
                axes.set_yscale("log", base=2)
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            draw_series(axes, series, comparison.xs, limits=False)
            if series is seconds:
                most = max(v.mean for one in series for v in one.values.values())
                axes.set_ylim(0, 1.15 * most)
            name_ends(axes, series, comparison.xs)
        return save(figure, name, f"Time and memory against {AXES[comparison.axis]}")


def _seconds(paid: Cost) -> Estimate | None:
    return None if paid.seconds is None else _exactly(paid.seconds.mean)


def _megabytes(paid: Cost) -> Estimate | None:
    return None if paid.memory is None else _exactly(paid.memory / 1e6)


def _exactly(value: float) -> Estimate:
    return Estimate(value, None, None, 1)


def curves_drawing(comparison: Comparison, x: int, name: str) -> Drawing | None:
    """Training loss and error at the ends of epochs against epochs at one place of the axis.

    A thin line a seed and a thick one for their mean; None where nothing has been recorded.
    """
    styles = styles_of(comparison.lines)
    cells = [(line, p.cell) for line in comparison.lines if (p := line.at(x)) is not None]
    held_out = comparison.settings.get("data", {}).get("val_fraction")
    with style():
        figure, (above, below) = new_figure(rows=2)
        drawn = 0
        for line, cell in cells:
            color = COLORS[styles[line.label]]
            losses = [
                _binned([(m.epoch, m.train_loss) for m in run.curve if m.train_loss is not None])
                for run in cell.seeds
            ]
            scores = [
                {
                    m.epoch: 100 * (1 - m.eval_accuracy)
                    for m in run.curve
                    if m.eval_accuracy is not None
                }
                for run in cell.seeds
            ]
            drawn += _draw_curves(above, losses, color, "", line.label)
            drawn += _draw_curves(below, scores, color, MARKERS[styles[line.label]], line.label)
        if drawn == 0:
            return None
        above.set_ylabel("training loss")
        below.set_ylabel("error, %" if held_out else "test error, %")
        below.set_xlabel("epochs")
        above.set_title(axis_value(comparison.axis, x))
        above.legend(frameon=False, ncols=2, labelcolor=INK, handlelength=1.4)
        below.set_xlim(left=0)
        return save(figure, name, f"Curves at {axis_value(comparison.axis, x)}")


def _binned(points: Sequence[tuple[float, float]]) -> dict[float, float]:
    """At most 60 means of neighbouring points."""
    size = -(-len(points) // _MAX_BINS) or 1
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return {b[-1][0]: fmean(value for _, value in b) for b in bins}


def _draw_curves(
    axes: Axes, curves: Sequence[Mapping[float, float]], color: str, marker: str, label: str
) -> int:
    """Draws the curves of a cell's seeds and their mean, and returns how many there are."""
    curves = [curve for curve in curves if curve]
    for curve in curves:
        axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.8, alpha=0.45)
    if curves:
        common = sorted(set.intersection(*(set(curve) for curve in curves)))
        means = [fmean(curve[at] for curve in curves) for at in common]
        axes.plot(common, means, color=color, marker=marker, markersize=5, label=label)
    return len(curves)
