"""The pictures of a report along its axis: errors, published errors, statistics, costs."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from normbench.report.compare.analysis import Cost, Split, cost, error
from normbench.report.compare.comparisons import AXES, Comparison
from normbench.report.compare.published import Publication
from normbench.report.compare.statistics import Estimate
from normbench.report.plots.lines import PREFERRED, drawn, name_lines, not_drawn, styles_of
from normbench.report.plots.style import (
    Drawing,
    Lost,
    Series,
    draw_series,
    log2_axis,
    mark_lost,
    new_figure,
    save,
    style,
)
from normbench.report.read.cells import CellRun
from normbench.store.results import FINISHED

_IN_TABLE = "are in the table of every cell"


def error_drawing(comparison: Comparison, name: str) -> Drawing:
    """Test error against the axis: a line a norm, its interval over seeds, and each seed."""
    lines = drawn(comparison)
    styles = styles_of(lines)
    series = []
    for line in lines:
        points = [point for point in line.points if point.errors]
        values = {p.x: value for p in points if (value := error(p)) is not None}
        seeds = {p.x: list(p.errors.values()) for p in points}
        series.append(Series(line.label, styles[line.label], values, seeds, line.level))
    lost = [
        Lost(styles[line.label], point.x, count, len(point.cell.seeds))
        for line in lines
        for point in line.points
        if (count := _lost(point.cell))
    ]
    alt = f"Test error in percent against {AXES[comparison.axis]}: {comparison.title}"
    with style():
        figure, (axes,) = new_figure()
        xs = comparison.xs
        log2_axis(axes, xs, AXES[comparison.axis])
        axes.set_ylabel("test error, %")
        draw_series(axes, series, xs)
        mark_lost(axes, lost)
        name_lines([axes], [series], xs)
        return save(figure, name, alt, not_drawn(comparison, _IN_TABLE))


def _lost(cell: CellRun) -> int:
    """How many seeds of a cell came to a bad end."""
    return sum(r.result is not None and r.result.status != FINISHED for r in cell.seeds)


def published_drawing(publication: Publication, name: str) -> Drawing:
    """A publication's lines, in a picture of their own: other images, another network."""
    xs = sorted({x for line in publication.lines.values() for x in line})
    series = [
        Series(norm, PREFERRED[norm], {x: Estimate(v, None, None, 1) for x, v in line.items()}, {})
        for norm, line in publication.lines.items()
    ]
    alt = f"Published: {publication.cite}; {publication.model} on {publication.data}"
    with style():
        figure, (axes,) = new_figure()
        log2_axis(axes, xs, "images that share statistics")
        axes.set_ylabel("error, %")
        axes.set_title(f"{publication.model}, {publication.data}, published")
        draw_series(axes, series, xs)
        name_lines([axes], [series], xs)
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
        axes.set_title(fill(f"{rows[0].line.label} norm, evaluated with statistics …", 50))
        draw_series(axes, series, xs)
        name_lines([axes], [series], xs)
        return save(figure, name, alt)


def cost_drawing(comparison: Comparison, name: str) -> Drawing | None:
    """Seconds an epoch and seed, and the bytes of a training step; None where nothing is known."""
    lines = drawn(comparison)
    styles = styles_of(lines)
    costs = {line.label: {p.x: cost(p.cell) for p in line.points} for line in lines}
    seconds, held = (
        [
            Series(line.label, styles[line.label], values, {}, line.level)
            for line in lines
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
        name_lines(grid, [series for series, _ in panels], comparison.xs)
        alt = f"Time and memory against {AXES[comparison.axis]}"
        return save(figure, name, alt, not_drawn(comparison, _IN_TABLE))


def _seconds(paid: Cost) -> Estimate | None:
    return None if paid.seconds is None else _exactly(paid.seconds)


def _megabytes(paid: Cost) -> Estimate | None:
    return None if paid.memory is None else _exactly(paid.memory / 1e6)


def _exactly(value: float) -> Estimate:
    return Estimate(value, None, None, 1)
