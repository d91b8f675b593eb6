"""The lines of a picture: which, in what looks, and their names at their ends or in a legend."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import count
from statistics import fmean
from textwrap import fill
from typing import TYPE_CHECKING

from normbench.report.compare.comparisons import Comparison, Line
from normbench.report.plots.style import COLORS, INK, MOST_LINES, SIZE, Look, Series, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PREFERRED = {"batch": 0, "group": 1, "layer": 2, "instance": 3}
"""The look of a norm, as a number, wherever it is drawn."""

_MOST_AT_ENDS = 8  # lines
_LONGEST_AT_ENDS = 24  # characters, which leave the lines themselves enough room


def styles_of(lines: Sequence[Line]) -> dict[str, int]:
    """A look for each line by label, as a number: a norm keeps its own through all pictures."""
    taken: dict[str, int] = {}
    for line in lines:
        wanted = PREFERRED.get(line.norm)
        if wanted is not None and wanted not in taken.values():
            taken[line.label] = wanted
    others = [line.label for line in lines if line.label not in taken]
    free = [i for i in range(len(COLORS) + len(lines)) if i not in taken.values()]
    return taken | dict(zip(others, free, strict=False))


def unused(styles: Mapping[str, int]) -> int:
    """A look that none of these lines has, and none of the preferred norms."""
    return next(i for i in count(len(PREFERRED) + 1) if i not in styles.values())


def drawn(comparison: Comparison) -> Sequence[Line]:
    """The lines that pictures show: all, or, where they are too many, the first with a record."""
    if len(comparison.lines) <= MOST_LINES:
        return comparison.lines
    return _begun(comparison)[:MOST_LINES]


def _begun(comparison: Comparison) -> list[Line]:
    """The lines of which there is anything to draw."""
    return [
        line
        for line in comparison.lines
        if any(run.begun for p in line.points for run in p.cell.seeds)
    ]


def not_drawn(comparison: Comparison, where: str) -> str:
    """How many lines a picture leaves out, and where they are; "" if it has all."""
    return left_out(len(_begun(comparison)), where)


def left_out(count: int, where: str) -> str:
    """How many of ``count`` lines are beyond MOST_LINES, and where they are; "" where none is."""
    if count <= MOST_LINES:
        return ""
    rest = count - MOST_LINES
    said = f"Of {count} lines measured here the first {MOST_LINES} are drawn"
    return f"{said}; the other {rest} {where}."


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


def legend(axes: Axes, looks: Mapping[str, Look]) -> None:
    """A legend inside of the picture, or below it where that has no room."""
    if needs_legend(looks):
        legend_below(axes.figure, looks)  # type: ignore[arg-type]  # it is no part of another
    else:
        axes.legend(
            handles=_handles(looks), frameon=False, ncols=2, labelcolor=INK, handlelength=1.4
        )


def legend_below(figure: Figure, looks: Mapping[str, Look]) -> None:
    """A legend in columns below the picture, which grows by as much; labels are never cut."""
    wrapped = {fill(label, 56): one for label, one in looks.items()}
    widest = max(len(part) for label in wrapped for part in label.splitlines())
    columns = max(1, min(4, int(SIZE[0] / (0.76 + 0.092 * widest))))
    rows = -(-len(wrapped) // columns) * max(len(label.splitlines()) for label in wrapped)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.24 * rows)
    figure.legend(
        handles=_handles(wrapped), loc="outside lower center", ncols=columns, frameon=False,
        fontsize=11, labelcolor=INK, handlelength=3, columnspacing=1.2, borderpad=0,
    )  # fmt: skip


def _handles(looks: Mapping[str, Look]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=color, marker=marker, linestyle=dashes, markersize=6, label=label)
        for label, (color, marker, dashes) in looks.items()
    ]


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
