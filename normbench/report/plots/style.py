"""How the pictures of a report look: colours, axes, lines with intervals, files.

Equal input gives equal bytes. Every colour of a picture is one of THEME, so that a page can give it
another value in the dark; on its own a picture stands on a white ground. Lines differ in marker as
well as in colour, and the colours can be told apart without red or green (after Okabe & Ito 2008,
darkened for a white ground). Where lines are more than colours, they differ in how they are broken.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from normbench.report.compare.statistics import Estimate

if TYPE_CHECKING:  # Matplotlib is imported where it is used: the command line must start fast
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, _MUTED, _GRID, _GROUND = "#1c232b", "#56616d", "#dde2e8", "#ffffff"
COLORS = ("#cc5500", "#0072b2", "#00805f", "#a8498a", "#8f6400", "#5b3fb5", "#4a4a4a", "#b3123d")
_DARK = ("#ff9248", "#5eb3f0", "#3ccf9f", "#ea9bcb", "#e6b422", "#b09cff", "#c9c9c9", "#ff7d97")
MARKERS = "osD^vPXh"

Dashes: TypeAlias = Literal["-", ":", "-.", "--"] | tuple[float, tuple[float, ...]]
_LINES: tuple[Dashes, ...] = ("-", ":", "-.")
_LEVELS: tuple[Dashes, ...] = ("--", (0, (9, 3)), (0, (2, 1.2)))  # all of them plainly dashed

MOST_LINES = len(COLORS) * len(_LINES)
"""In one picture; more could not be told apart."""

THEME: Mapping[str, tuple[str, str]] = {
    "ink": (INK, "#e8edf2"),
    "muted": (_MUTED, "#9fabb8"),
    "grid": (_GRID, "#333c46"),
    "ground": (_GROUND, "#151a20"),
    **{f"line{i}": both for i, both in enumerate(zip(COLORS, _DARK, strict=True))},
}
"""For each part of a picture its colour on a light and on a dark page."""

SIZE = (6.2, 4.1)  # inches; at a phone's width its text is still some ten pixels high
_MARGIN = 1.35  # of the axis, as a factor

FAR = 4
"""Between places farther apart than by this factor nothing was measured: the line is dashed."""

_FAR_DASHES = (0.0, (3.0, 4.0))


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture.

    Attributes:
        name: of its files, without the ending.
        alt: what it shows, in words.
        svg: a whole SVG document.
        png: the same as PNG, 160 dots an inch.
        note: what it leaves out, or "".
    """

    name: str
    alt: str
    svg: str = field(repr=False)
    png: bytes = field(repr=False)
    note: str = ""

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


class Look(NamedTuple):
    """What tells a line from others; a level line has no marker."""

    color: str
    marker: str
    dashes: Dashes


def look(number: int, *, level: bool = False) -> Look:
    """The look of a line by its ``Series.style``; no two below MOST_LINES are alike."""
    again, color = divmod(number % MOST_LINES, len(COLORS))
    # Points of one colour are told apart too, wherever their lines cannot be followed.
    marker = MARKERS[(color + 3 * again) % len(MARKERS)]
    if level:
        return Look(COLORS[color], "", _LEVELS[again])
    return Look(COLORS[color], marker, _LINES[again])


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

    width, height = SIZE
    figure = Figure(figsize=(width, height * (1 if rows == 1 else 1.25)), layout="constrained")
    return figure, list(figure.subplots(rows, sharex=True, squeeze=False)[:, 0])


def log2_axis(axes: Axes, xs: Sequence[int], label: str) -> None:
    """A horizontal axis in powers of two, with a tick at each of ``xs``."""
    labelled = _with_room(xs)
    axes.set_xscale("log", base=2)
    axes.set_xticks(labelled, [str(x) for x in labelled])
    axes.set_xticks([x for x in xs if x not in labelled], [], minor=True)
    axes.set_xlabel(label)
    axes.set_xlim(xs[0] / _MARGIN, xs[-1] * _MARGIN)


def _with_room(xs: Sequence[int]) -> list[int]:
    """Those of the rising ``xs`` whose labels do not touch."""
    inches = 4.2 / log2(_MARGIN**2 * xs[-1] / xs[0])  # for each doubling

    def apart(left: int, right: int) -> bool:
        return inches * log2(right / left) >= 0.06 * len(f"{left}{right}") + 0.08

    kept = [xs[0]]
    for x in xs[1:]:
        if apart(kept[-1], x) and (x == xs[-1] or apart(x, xs[-1])):
            kept.append(x)
    return kept


def draw_series(
    axes: Axes, series: Sequence[Series], xs: Sequence[int], *, limits: bool = True
) -> None:
    """Draws lines with error bars and seeds, side by side where they share an x."""
    for one in series:
        if one.level and one.values:
            _draw_level(axes, one, xs)
    lines = [one for one in series if one.values and not one.level]
    step = _step(len(lines), xs)
    for number, one in enumerate(lines):
        color, marker, dashes = look(one.style)
        shift = 2 ** (step * (number - (len(lines) - 1) / 2)) if one.seeds else 1.0
        places = sorted(one.values)
        at = [x * shift for x in places]
        means = [one.values[x].mean for x in places]
        halves = [one.values[x].half or 0.0 for x in places]
        bars = {"elinewidth": 1.4, "capsize": 3.5, "markersize": 7, "markeredgewidth": 1.0}
        axes.errorbar(
            at,
            means,
            halves if any(halves) else None,
            color=color,
            marker=marker,
            linestyle="none",
            markeredgecolor=_GROUND,
            zorder=2.5,
            **bars,  # type: ignore[arg-type]
        )
        for i, (left, right) in enumerate(pairwise(places)):
            far = right > FAR * left
            axes.plot(
                at[i : i + 2], means[i : i + 2], color=color,
                linestyle=_FAR_DASHES if far else dashes, alpha=0.6 if far else 1.0,
            )  # fmt: skip
        for x, place in zip(places, at, strict=True):
            values = one.seeds.get(x, ())
            axes.plot([place] * len(values), values, ".", color=color, markersize=5, alpha=0.5)
    if limits:
        estimates = [value for one in series for value in one.values.values()]
        limit(axes, estimates, [y for one in series for ys in one.seeds.values() for y in ys])


def _step(lines: int, xs: Sequence[int]) -> float:
    """How far apart lines stand at an x, in doublings: they stay far from the next x, and inside.

    All of them together take up at most 0.7 of the way from one x to the next.
    """
    nearest = min((log2(right / left) for left, right in pairwise(xs)), default=1.0)
    return min(0.07, 0.7 * min(nearest, 1.0) / max(lines - 1, 1))


def _draw_level(axes: Axes, one: Series, xs: Sequence[int]) -> None:
    """Draws a line across the axis, in its interval as a band."""
    color, _, dashes = look(one.style, level=True)
    value = next(iter(one.values.values()))
    axes.plot([xs[0], xs[-1]], [value.mean] * 2, color=color, linestyle=dashes)
    if value.low is not None and value.high is not None:
        axes.axhspan(value.low, value.high, color=color, alpha=0.12, linewidth=0)


def limit(axes: Axes, values: Sequence[Estimate], seeds: Sequence[float]) -> None:
    """Shows all means and seeds, and of the intervals no more than leaves them readable."""
    points = [*(value.mean for value in values), *seeds]
    if not points:
        return
    low, high = min(points), max(points)
    room = max(0.6 * (high - low), 0.5)
    ends = [v.mean - (v.half or 0.0) for v in values] + [v.mean + (v.half or 0.0) for v in values]
    bottom, top = max(min(ends, default=low), low - room), min(max(ends, default=high), high + room)
    pad = 0.06 * (max(top, high) - min(bottom, low) or 1.0)
    axes.set_ylim(min(bottom, low) - pad, max(top, high) + pad)


class Lost(NamedTuple):
    """Seeds of a line that came to a bad end at a place: ``bad`` of ``total``."""

    style: int
    x: int
    bad: int
    total: int


def mark_lost(axes: Axes, places: Sequence[Lost]) -> None:
    """Crosses at the top, below one another: so many seeds diverged or failed here."""
    met: Counter[int] = Counter()
    for style, x, bad, total in places:
        height = 0.98 - 0.07 * met[x]
        met[x] += 1
        axes.annotate(
            f"× {bad}/{total}",
            (x, height),
            xycoords=axes.get_xaxis_transform(),
            color=look(style).color,
            fontweight="bold",
            ha="center",
            va="top",
            annotation_clip=False,
        )
    if places:
        axes.set_xlabel(f"{axes.get_xlabel()}    (× seeds diverged or failed)")


def save(figure: Figure, name: str, alt: str, note: str = "") -> Drawing:
    """Saves without the date and version that would change the bytes."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator")))
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Drawing(name, alt, svg.getvalue(), png.getvalue(), note)
