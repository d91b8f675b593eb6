"""The pictures of a report along its axis: errors, published errors, costs, learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from normbench.report.compare.comparisons import AXES, Comparison, Line
from normbench.report.compare.costs import Cost, cost, untimed
from normbench.report.compare.differences import error, reestimated
from normbench.report.compare.published import Publication
from normbench.report.compare.rates import RateLine, RateTrial
from normbench.report.compare.recipes import length
from normbench.report.compare.statistics import Estimate, estimate
from normbench.report.plots.lines import (
    PREFERRED,
    drawn,
    left_out,
    legend_below,
    name_lines,
    not_drawn,
    styles_of,
    unused,
)
from normbench.report.plots.style import (
    COLORS,
    MOST_LINES,
    Drawing,
    Look,
    Lost,
    Series,
    draw_series,
    limit,
    log2_axis,
    look,
    mark_lost,
    new_figure,
    save,
    style,
)
from normbench.report.read.cells import CellRun
from normbench.store.results import FINISHED

_IN_TABLE = "are in the table of every cell"


def error_drawing(
    comparison: Comparison, name: str, *, beside: Sequence[Comparison] = ()
) -> Drawing:
    """Test error against the axis: a line a norm, its interval over seeds, and each seed.

    The heights are those that ``beside`` needs, where it stands side by side with others.
    """
    lines = drawn(comparison)
    styles = styles_of(lines)
    series = []
    for line in lines:
        points = [point for point in line.points if point.errors]
        values = {p.x: value for p in points if (value := error(p)) is not None}
        seeds = {p.x: list(p.errors.values()) for p in points}
        series.append(Series(line.label, styles[line.label], values, seeds, line.level))
    series += _reestimated(lines, unused(styles))
    lost = [
        Lost(styles[line.label], point.x, count, len(point.cell.seeds))
        for line in lines
        for point in line.points
        if (count := _lost(point.cell))
    ]
    alt = (
        f"Test error in percent against {AXES[comparison.axis]}: {comparison.title}. Large marks"
        " are means over seeds, bars their 95 % intervals, dots the seeds. A line is dashed"
        " where it goes over more than two doublings, in which nothing was measured."
    )
    with style():
        figure, (axes,) = new_figure()
        xs = comparison.xs
        log2_axis(axes, xs, AXES[comparison.axis])
        axes.set_ylabel("test error, %")
        axes.set_title(fill(_heading(comparison), 60), loc="left", fontsize=11)
        draw_series(axes, series, xs)
        limit(axes, *_heights(beside))
        mark_lost(axes, lost)
        name_lines([axes], [series], xs)
        return save(figure, name, alt, not_drawn(comparison, _IN_TABLE))


def _heights(comparisons: Sequence[Comparison]) -> tuple[list[Estimate], list[float]]:
    """The means and the errors of all seeds in all of them."""
    points = [point for each in comparisons for line in each.lines for point in line.points]
    values = [value for point in points if (value := error(point)) is not None]
    return values, [value for point in points for value in point.errors.values()]


def _reestimated(lines: Sequence[Line], free: int) -> list[Series]:
    """Batch norm evaluated with re-estimated statistics, where the axis means something to it.

    ``free`` is a look that no line has.
    """
    found = []
    for line in lines:
        errors = {point.x: reestimated(point) for point in line.measured}
        values = {
            x: value for x, by_seed in errors.items() if (value := estimate(by_seed.values()))
        }
        if line.norm == "batch" and line.label == "batch" and not line.level and values:
            found.append(Series("batch, re-est.", free, values, {}))
    return found


def _heading(comparison: Comparison) -> str:
    """Network, images, epochs and seeds, as a picture that travels alone has to say."""
    counts = sorted({len(cell.finished) for cell in comparison.cells if cell.finished})
    said = "–".join(dict.fromkeys((str(counts[0]), str(counts[-1])))) if counts else "0"
    trained = f"{comparison.model} on {comparison.data}{length(comparison.epochs)}"
    return f"{trained}, {said} seed{'s' * (said != '1')}"


def _lost(cell: CellRun) -> int:
    """How many seeds of a cell came to a bad end."""
    return sum(r.result is not None and r.result.status != FINISHED for r in cell.seeds)


def published_drawing(publication: Publication, name: str) -> Drawing:
    """A publication's lines, in a picture of their own: other images, another network."""
    xs = sorted({x for line in publication.lines.values() for x in line})
    series = [
        Series(norm, PREFERRED.get(norm, i), {x: _exactly(v) for x, v in line.items()}, {})
        for i, (norm, line) in enumerate(publication.lines.items(), start=len(PREFERRED))
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


def cost_drawing(comparison: Comparison, name: str) -> Drawing | None:
    """Seconds an epoch and seed, and the bytes of a training step; None where nothing is known."""
    lines = drawn(comparison)
    styles = styles_of(lines)
    costs = {line.label: {p.x: cost(p.cell) for p in line.points} for line in lines}
    seconds, memory = (
        [
            Series(line.label, styles[line.label], values, {}, line.level)
            for line in lines
            if (values := {x: v for x, c in costs[line.label].items() if (v := read(c))})
        ]
        for read in (_seconds, _megabytes)
    )
    if untimed(comparison):
        seconds = []
    panels = [(s, what) for s, what in ((seconds, "seconds an epoch"), (memory, "MB a step")) if s]
    if not panels:
        return None
    with style():
        figure, grid = new_figure(rows=len(panels))
        for axes, (series, what) in zip(grid, panels, strict=True):
            log2_axis(axes, comparison.xs, AXES[comparison.axis] if axes is grid[-1] else "")
            axes.set_ylabel(what)
            if series is memory:  # it grows with the batch
                axes.set_yscale("log", base=2)
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            draw_series(axes, series, comparison.xs, limits=False)
            if series is seconds:
                most = max(v.mean for one in series for v in one.values.values())
                axes.set_ylim(0, 1.15 * most)
        name_lines(grid, [series for series, _ in panels], comparison.xs)
        shown = " and ".join(
            {"seconds an epoch": "Time", "MB a step": "Memory"}[w] for _, w in panels
        )
        alt = f"{shown} against {AXES[comparison.axis]}"
        return save(figure, name, alt, not_drawn(comparison, _IN_TABLE))


def _seconds(paid: Cost) -> Estimate | None:
    return None if paid.seconds is None else _exactly(paid.seconds)


def _megabytes(paid: Cost) -> Estimate | None:
    return None if paid.memory is None else _exactly(paid.memory / 1e6)


def _exactly(value: float) -> Estimate:
    return Estimate(value, None, None, 1)


def rates_drawing(trial: RateTrial, name: str) -> Drawing | None:
    """Error on held-out images against the learning rate: a line a norm and batch size, its best
    rate ringed; None where nothing has finished."""
    begun = [line for line in trial.lines if line.errors]
    if not begun:
        return None
    lines = begun[:MOST_LINES]
    looks = rate_looks(lines)
    values = {line.label: {r: v for r in line.errors if (v := line.at(r))} for line in lines}
    with style():
        figure, (axes,) = new_figure()
        axes.set_xscale("log", base=2)
        axes.set_xticks(trial.rates, [f"{rate:g}" for rate in trial.rates])
        axes.minorticks_off()
        axes.set_xlabel("learning rate (optim.lr)")
        axes.set_ylabel("error on held-out images, %")
        axes.set_title(fill(trial.title, 60), loc="left", fontsize=11)
        for line in lines:
            color, marker, dashes = looks[line.label]
            means = {rate: value.mean for rate, value in values[line.label].items()}
            axes.plot(
                list(means), list(means.values()), color=color, marker=marker, linestyle=dashes,
                markeredgecolor="white", markersize=7,
            )  # fmt: skip
            for rate, errors in line.errors.items():
                axes.plot(
                    [rate] * len(errors),
                    list(errors.values()),
                    ".",
                    color=color,
                    markersize=5,
                    alpha=0.5,
                )
            if line.best is not None:
                axes.plot(
                    [line.best], [means[line.best]], "o", markersize=15, markerfacecolor="none",
                    markeredgecolor=color, markeredgewidth=1.6,
                )  # fmt: skip
        legend_below(figure, looks)
        alt = f"Held-out error against learning rate, the best of each line ringed: {trial.title}"
        return save(figure, name, alt, left_out(len(begun), _IN_TABLE))


def rate_looks(lines: Sequence[RateLine]) -> dict[str, Look]:
    """A colour a norm and a dash a batch size, as long as no two lines look alike then."""
    norms = sorted({line.norm for line in lines})
    batches = sorted({line.batch for line in lines})
    places = [norms.index(line.norm) + len(COLORS) * batches.index(line.batch) for line in lines]
    looks = [look(place) for place in places]
    if len(set(looks)) < len(looks):
        looks = [look(number) for number in range(len(lines))]
    return {line.label: one for line, one in zip(lines, looks, strict=True)}
