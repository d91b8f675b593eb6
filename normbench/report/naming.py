"""Names for the lines of a picture: at their ends, or in a legend where that has no room."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from textwrap import fill
from typing import TYPE_CHECKING

from normbench.report.plotting import INK, SIZE, Look, Series, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_AT_ENDS = 8  # lines
_LONGEST_AT_ENDS = 24  # characters, which leave the lines themselves enough room


def name_lines(grid: Sequence[Axes], panels: Sequence[Sequence[Series]], xs: Sequence[int]) -> None:
    """Writes each line's label at its right end; where that needs too much room, in a legend."""
    looks = {one.label: look(one.style, level=one.level) for s in panels for one in s if one.values}
    if needs_legend(looks):
        legend_below(grid[0].figure, looks)  # type: ignore[arg-type]  # it is no part of another
        return
    for axes, series in zip(grid, panels, strict=True):
        _name_ends(axes, series, xs)


def needs_legend(labels: Collection[str]) -> bool:
    """Whether labels have no room inside of a picture."""
    return len(labels) > _MOST_AT_ENDS or max(map(len, labels), default=0) > _LONGEST_AT_ENDS


def legend_below(figure: Figure, looks: Mapping[str, Look]) -> None:
    """A legend in columns below the picture, which grows by as much; labels are never cut."""
    from matplotlib.lines import Line2D

    wrapped = {fill(label, 56): one for label, one in looks.items()}
    widest = max(len(part) for label in wrapped for part in label.splitlines())
    columns = max(1, min(4, int(SIZE[0] / (0.76 + 0.092 * widest))))
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle=dashes, markersize=6, label=label)
        for label, (color, marker, dashes) in wrapped.items()
    ]
    rows = -(-len(wrapped) // columns) * max(len(label.splitlines()) for label in wrapped)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.24 * rows)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=11,
        labelcolor=INK, handlelength=3, columnspacing=1.2, borderpad=0,
    )  # fmt: skip


def _name_ends(axes: Axes, series: Sequence[Series], xs: Sequence[int]) -> None:
    ends = [(one.values[max(one.values)].mean, one) for one in series if one.values]
    axes.get_ylim()  # settles them
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((xs[0], y))[1]) for y, _ in ends]
    order = sorted(range(len(ends)), key=lambda i: heights[i])
    gap = 0.08 if len(axes.figure.axes) == 1 else 0.145
    placed = _apart([heights[i] for i in order], gap)
    for i, height in zip(order, placed, strict=True):
        one = ends[i][1]
        axes.annotate(
            one.label,
            (1.01, height),
            xycoords="axes fraction",
            color=look(one.style).color,
            va="center",
            ha="left",
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The rising ``heights``, moved so that neighbours are ``gap`` apart and none is at the top."""
    clusters: list[list[float]] = []
    for height in heights:
        clusters.append([height])
        while len(clusters) > 1 and _low(clusters[-1], gap) < _high(clusters[-2], gap) + gap:
            last = clusters.pop()
            clusters[-1] += last
    apart = [_low(c, gap) + gap * i for c in clusters for i in range(len(c))]
    top = 0.97 - gap * (len(apart) - 1)
    return [min(height, top + gap * i) for i, height in enumerate(apart)]


def _low(cluster: Sequence[float], gap: float) -> float:
    return fmean(cluster) - gap * (len(cluster) - 1) / 2


def _high(cluster: Sequence[float], gap: float) -> float:
    return fmean(cluster) + gap * (len(cluster) - 1) / 2
