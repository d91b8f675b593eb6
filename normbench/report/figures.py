"""The pictures of a report: errors, published errors, statistics, costs, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from textwrap import fill
from typing import TYPE_CHECKING

from normbench.records import FINISHED
from normbench.report.analysis import Cost, Split, cost, error
from normbench.report.collection import CellRun
from normbench.report.comparisons import AXES, Comparison, Line
from normbench.report.naming import legend_below, name_lines, needs_legend
from normbench.report.plotting import (
    COLORS,
    INK,
    MOST_LINES,
    Drawing,
    Look,
    Lost,
    Series,
    draw_series,
    log2_axis,
    look,
    mark_lost,
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
_MOST_CURVES = 6  # pictures of curves


def error_drawing(comparison: Comparison, name: str) -> Drawing:
    """Test error against the axis: a line a norm, its interval over seeds, and each seed."""
    lines = _drawn(comparison)
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
        return save(figure, name, alt, _not_drawn(comparison, _IN_TABLE))


def _lost(cell: CellRun) -> int:
    """How many seeds of a cell came to a bad end."""
    return sum(r.result is not None and r.result.status != FINISHED for r in cell.seeds)


def styles_of(lines: Sequence[Line]) -> dict[str, int]:
    """A look for each line by label, as a number: a norm keeps its own through all pictures."""
    taken: dict[str, int] = {}
    for line in lines:
        wanted = _PREFERRED.get(line.norm)
        if wanted is not None and wanted not in taken.values():
            taken[line.label] = wanted
    others = [line.label for line in lines if line.label not in taken]
    free = [i for i in range(len(COLORS) + len(lines)) if i not in taken.values()]
    return taken | dict(zip(others, free, strict=False))


def _drawn(comparison: Comparison) -> Sequence[Line]:
    """The lines that pictures show: all, or, where they are too many, the first with a record."""
    if len(comparison.lines) <= MOST_LINES:
        return comparison.lines
    return _begun(comparison)[:MOST_LINES]


def _begun(comparison: Comparison) -> list[Line]:
    """The lines of which there is anything to draw."""
    return [
        line
        for line in comparison.lines
        if any(run.result or run.curve for p in line.points for run in p.cell.seeds)
    ]


_IN_TABLE = "are in the table of every cell"
_ON_DISK = "are in metrics.jsonl in each seed's folder, and in TensorBoard"


def _not_drawn(comparison: Comparison, where: str) -> str:
    """How many lines a picture leaves out, and where they are; "" if it has all."""
    count = len(_begun(comparison))
    if count <= MOST_LINES:
        return ""
    rest = count - MOST_LINES
    said = f"Of {count} lines measured here the first {MOST_LINES} are drawn"
    return f"{said}; the other {rest} {where}."


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
    lines = _drawn(comparison)
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
        return save(figure, name, alt, _not_drawn(comparison, _IN_TABLE))


def _seconds(paid: Cost) -> Estimate | None:
    return None if paid.seconds is None else _exactly(paid.seconds.mean)


def _megabytes(paid: Cost) -> Estimate | None:
    return None if paid.memory is None else _exactly(paid.memory / 1e6)


def _exactly(value: float) -> Estimate:
    return Estimate(value, None, None, 1)


def curves_drawing(comparison: Comparison, x: int, name: str) -> Drawing | None:
    """Training loss and error at the ends of epochs against epochs at one place of the axis.

    A thin line a seed and a thick one for their mean; None where nothing has been recorded, and at
    most places where they are many.
    """
    places = _recorded_places(comparison)
    if x not in _spread(places, _MOST_CURVES):
        return None
    lines = _drawn(comparison)
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
        held_out = comparison.settings.get("data", {}).get("val_fraction")
        below.set_ylabel("error, %" if held_out else "test error, %")
        below.set_xlabel("epochs")
        above.set_title(axis_value(comparison.axis, x))
        if needs_legend(looks):
            legend_below(figure, looks)
        else:
            above.legend(frameon=False, ncols=2, labelcolor=INK, handlelength=1.4)
        below.set_xlim(left=0)
        notes = [_left_out(places), _not_drawn(comparison, _ON_DISK)]
        alt = f"Curves at {axis_value(comparison.axis, x)}"
        return save(figure, name, alt, " ".join(note for note in notes if note))


def _has_curve(cell: CellRun) -> bool:
    """Whether there is anything of a cell that a curve can show."""
    return any(
        m.train_loss is not None or m.eval_accuracy is not None
        for run in cell.seeds
        for m in run.curve
    )


def _recorded_places(comparison: Comparison) -> list[int]:
    """The places of the axis that have a cell of their own and a curve."""
    points = [(line, point) for line in _drawn(comparison) for point in line.points]
    own = {point.x for line, point in points if not line.level}
    return sorted(own & {point.x for _, point in points if _has_curve(point.cell)})


def _spread(places: Sequence[int], most: int) -> list[int]:
    """The first, the last, and evenly many of the places between, ``most`` at most."""
    if len(places) <= most:
        return list(places)
    return [places[round(i * (len(places) - 1) / (most - 1))] for i in range(most)]


def _left_out(places: Sequence[int]) -> str:
    """How many places have no picture of curves, and where their curves are; "" if all have one."""
    if len(places) <= _MOST_CURVES:
        return ""
    return (
        f"Of {len(places)} places of the axis {_MOST_CURVES} are drawn: the smallest, the largest"
        f" and some evenly between. The curves of all places {_ON_DISK}."
    )


def _draw_cell(above: Axes, below: Axes, cell: CellRun, label: str, how: Look) -> None:
    """Draws a cell's losses above and its errors below."""
    losses = [
        _binned([(m.epoch, m.train_loss) for m in run.curve if m.train_loss is not None])
        for run in cell.seeds
    ]
    errors = [
        {m.epoch: 100 * (1 - m.eval_accuracy) for m in run.curve if m.eval_accuracy is not None}
        for run in cell.seeds
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
    curves = [curve for curve in curves if curve]
    for curve in curves:
        axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.8, alpha=0.45)
    if curves:
        common = sorted(set.intersection(*(set(curve) for curve in curves)))
        means = [fmean(curve[at] for curve in curves) for at in common]
        axes.plot(
            common, means, color=color, marker=marker, linestyle=dashes, markersize=5, label=label
        )
