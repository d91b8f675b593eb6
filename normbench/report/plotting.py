"""How the pictures of a report look: colours, axes, lines with intervals, labels, files.

Equal input gives equal bytes. Every colour of a picture is one of THEME, so that a page can give it
another value in the dark; on its own a picture stands on a white ground. Lines differ in marker as
well as in colour, and the colours can be told apart without red or green (after Okabe & Ito 2008,
darkened for a white ground).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from normbench.report.statistics import Estimate

if TYPE_CHECKING:  # Matplotlib is imported where it is used: the command line must start fast
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, _MUTED, _GRID, _GROUND = "#1c232b", "#56616d", "#dde2e8", "#ffffff"
COLORS = ("#cc5500", "#0072b2", "#00805f", "#a8498a", "#8f6400", "#5b3fb5", "#4a4a4a", "#b3123d")
_DARK = ("#ff9248", "#5eb3f0", "#3ccf9f", "#ea9bcb", "#e6b422", "#b09cff", "#c9c9c9", "#ff7d97")
MARKERS = "osD^vPXh"

THEME: Mapping[str, tuple[str, str]] = {
    "ink": (INK, "#e8edf2"),
    "muted": (_MUTED, "#9fabb8"),
    "grid": (_GRID, "#333c46"),
    "ground": (_GROUND, "#151a20"),
    **{f"line{i}": both for i, both in enumerate(zip(COLORS, _DARK, strict=True))},
}
"""For each part of a picture its colour on a light and on a dark page."""

_SIZE = (6.2, 4.1)  # inches; at a phone's width its text is still some ten pixels high


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture.

    Attributes:
        name: of its files, without the ending.
        alt: what it shows, in words.
        svg: a whole SVG document.
        png: the same as PNG, 160 dots an inch.
    """

    name: str
    alt: str
    svg: str = field(repr=False)
    png: bytes = field(repr=False)

    def inline(self) -> str:
        """The SVG element for an HTML page that defines the variables of THEME.

        It refers to nothing outside the page, and its ids are its own.
        """
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        for part, (light, _) in THEME.items():
            svg = svg.replace(light, f"var(--{part})")
        return re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1).strip()


class Series(NamedTuple):
    """A line to draw: estimates in % by x; ``style`` counts colours and markers."""

    label: str
    style: int
    values: Mapping[int, Estimate]
    seeds: Mapping[int, Sequence[float]]
    level: bool = False


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever a person's matplotlibrc says, in the report's look."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "normbench",
                "font.size": 13,
                "axes.titlesize": 13,
                "axes.edgecolor": _MUTED,
                "axes.labelcolor": INK,
                "axes.titlecolor": INK,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.color": _GRID,
                "grid.linewidth": 0.8,
                "text.color": INK,
                "text.parse_math": False,
                "xtick.color": _MUTED,
                "ytick.color": _MUTED,
                "lines.linewidth": 2.0,
                "figure.facecolor": _GROUND,
                "axes.facecolor": "none",
            }
        )
        yield


def new_figure(rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure with ``rows`` panels above one another, in the context of :func:`style`."""
    from matplotlib.figure import Figure

    width, height = _SIZE
    figure = Figure(figsize=(width, height * (1 if rows == 1 else 1.25)), layout="constrained")
    return figure, list(figure.subplots(rows, sharex=True, squeeze=False)[:, 0])


def log2_axis(axes: Axes, xs: Sequence[int], label: str) -> None:
    """A horizontal axis in powers of two, with a tick at each of ``xs``."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [str(x) for x in xs])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_xlim(xs[0] / 1.35, xs[-1] * 1.35)


def draw_series(
    axes: Axes, series: Sequence[Series], xs: Sequence[int], *, limits: bool = True
) -> None:
    """Draws lines with error bars and seeds, side by side where they share an x."""
    for number, one in enumerate(series):
        if not one.values:
            continue
        color, marker = COLORS[one.style], MARKERS[one.style]
        shift = 2 ** (0.07 * (number - (len(series) - 1) / 2)) if one.seeds else 1.0
        places = sorted(one.values)
        means = [one.values[x].mean for x in places]
        if one.level:
            value = one.values[places[0]]
            axes.plot([xs[0], xs[-1]], [value.mean] * 2, color=color, linestyle="--")
            if value.low is not None and value.high is not None:
                axes.axhspan(value.low, value.high, color=color, alpha=0.12, linewidth=0)
            continue
        at = [x * shift for x in places]
        halves = [one.values[x].half or 0.0 for x in places]
        bars = {"elinewidth": 1.4, "capsize": 3.5, "markersize": 7, "markeredgewidth": 1.0}
        axes.errorbar(
            at,
            means,
            halves if any(halves) else None,
            color=color,
            marker=marker,
            markeredgecolor=_GROUND,
            **bars,  # type: ignore[arg-type]
        )
        for x, place in zip(places, at, strict=True):
            values = one.seeds.get(x, ())
            axes.plot([place] * len(values), values, ".", color=color, markersize=5, alpha=0.5)
    if limits:
        _limit(axes, series)


def _limit(axes: Axes, series: Sequence[Series]) -> None:
    """Shows all means and seeds, and of the intervals no more than leaves them readable."""
    values = [v for one in series for v in one.values.values()]
    points = [v.mean for v in values] + [
        y for one in series for ys in one.seeds.values() for y in ys
    ]
    if not points:
        return
    low, high = min(points), max(points)
    room = max(0.6 * (high - low), 0.5)
    ends = [v.mean - (v.half or 0.0) for v in values] + [v.mean + (v.half or 0.0) for v in values]
    bottom, top = max(min(ends, default=low), low - room), min(max(ends, default=high), high + room)
    pad = 0.06 * (max(top, high) - min(bottom, low) or 1.0)
    axes.set_ylim(min(bottom, low) - pad, max(top, high) + pad)


def mark_lost(axes: Axes, places: Sequence[tuple[int, int]]) -> None:
    """Crosses at the top: a seed diverged or failed here."""
    for style, x in places:
        axes.plot(
            [x],
            [1.0],
            "x",
            color=COLORS[style],
            markersize=9,
            markeredgewidth=2.2,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    if places:
        axes.set_title("× a seed diverged or failed", loc="right", color=_MUTED, fontsize=11)


def name_ends(axes: Axes, series: Sequence[Series], xs: Sequence[int]) -> None:
    """Writes each line's label at its right end; where ends are close, apart from one another."""
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
            color=COLORS[one.style],
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


def save(figure: Figure, name: str, alt: str) -> Drawing:
    """Saves without the date and version that would change the bytes."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator")))
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Drawing(name, alt, svg.getvalue(), png.getvalue())
