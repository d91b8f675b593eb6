"""The pictures: a cube of activations with the elements that share one mean and variance coloured.

Drawn after figure 2 of Wu & He, "Group Normalization" (ECCV 2018, arXiv:1803.08494). Both
renderings look at the corner of element (0, 0, 0), so that every set that contains it is seen as a
solid body, and show the three faces that meet there:

    top      N x C, at hw = 0: C runs away to the left, N to the right
    left     C x H·W, at n = 0: what layer norm shares, and in part group and instance norm
    right    N x H·W, at c = 0: what batch norm shares
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from normbench.errors import UsageError
from normbench.files import write_bytes

if TYPE_CHECKING:  # Matplotlib is imported where it is used: the command line must start fast
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Shared: TypeAlias = NDArray[np.bool_]
    Place: TypeAlias = tuple[int, int]  # row, column
    Point: TypeAlias = tuple[float, float]  # inches to the right, inches up

Face = Enum("Face", ["TOP", "LEFT", "RIGHT"])


class Facet(NamedTuple):
    """The side of the voxel (n, c, hw) that lies on a visible face of the cube."""

    face: Face
    n: int
    c: int
    hw: int
    shared: bool


def visible_facets(shared: Shared) -> list[Facet]:
    """All sides of voxels that can be seen; none hides another.

    ``shared`` are booleans of shape (N, C, H·W), true where an element shares its mean and variance
    with element (0, 0, 0).
    """
    if shared.ndim != 3 or shared.size == 0:
        raise ValueError(f"shared must have shape (N, C, H·W), no axis empty; got {shared.shape}")
    num_n, num_c, num_hw = shared.shape
    seen = [(Face.RIGHT, n, 0, hw) for n in range(num_n) for hw in range(num_hw)]
    seen += [(Face.LEFT, 0, c, hw) for c in range(num_c) for hw in range(num_hw)]
    seen += [(Face.TOP, n, c, 0) for n in range(num_n) for c in range(num_c)]
    return [Facet(face, n, c, hw, bool(shared[n, c, hw])) for face, n, c, hw in seen]


# --- In the terminal ------------------------------------------------------------------------------

_MAX_COLUMNS, _MAX_LINES = 60, 20
_MARGIN = 5  # columns on the left, for "H·W"
_LATTICE = "╱│─┌┬┐├┼┤└┴┘"
_LATTICE_STYLE = "38;5;244"
_FILL = {  # the hatching, and in its stead ink and ground of the 256 colours
    Face.TOP: ("▒", "38;5;25;48;5;75"),
    Face.LEFT: ("▓", "38;5;255;48;5;32"),
    Face.RIGHT: ("█", "38;5;255;48;5;25"),
}
_ASCII = str.maketrans(_LATTICE + "·▒▓█", "/|-+++++++++" + "x:#%")


def cube_text(shared: Shared, *, color: bool, ascii: bool = False) -> str:
    """The cube for a terminal, at most 60 columns and 20 lines; best at (6, 6, 4).

    Args:
        shared: as in `visible_facets`.
        color: whether to tint the shared elements with ANSI escapes; otherwise they are hatched.
        ascii: for terminals that cannot encode box-drawing characters.

    Raises:
        ValueError: if the shape is not that of a cube, or too large to be drawn that small.
    """
    facets = visible_facets(shared)
    sketch = _Sketch(*shared.shape)
    glyphs, tints = sketch.lines(), sketch.tints(facets)
    styles = {at: _LATTICE_STYLE for at, glyph in glyphs.items() if glyph in _LATTICE}
    styles |= {at: _FILL[face][1] for at, face in tints.items()}
    if not color:  # a voxel of the right face is one column wide: its hatching covers its lines
        hatched = [at for at in tints if at not in glyphs or tints[at] is Face.RIGHT]
        glyphs |= {at: _FILL[tints[at]][0] for at in hatched}
        styles = {}
    lines = [_line(glyphs, styles, row) for row in range(sketch.num_lines)]
    return "\n".join(lines).translate(_ASCII if ascii else {})


def _line(glyphs: Mapping[Place, str], styles: Mapping[Place, str], row: int) -> str:
    """One row of the drawing, with an escape sequence around each run of equal style."""
    end = 1 + max(column for at, column in glyphs if at == row)
    runs = groupby(((row, x) for x in range(-_MARGIN, end)), lambda at: styles.get(at, ""))
    texts = [(style, "".join(glyphs.get(at, " ") for at in run)) for style, run in runs]
    return "".join(f"\x1b[{style}m{text}\x1b[0m" if style else text for style, text in texts)


class _Sketch:
    """Where things lie in the oblique drawing.

    The left face stands upright in front, its upper left corner in row ``front`` and column 0;
    N runs away from it, one row up and one column to the right per element.
    """

    def __init__(self, num_n: int, num_c: int, num_hw: int) -> None:
        self.num_n, self.num_c, self.front = num_n, num_c, num_n + 1
        for self.width, self.height in ((4, 2), (4, 1), (2, 1)):  # of a voxel; 2 is with its line
            self.edge = num_c * self.width  # column of the edge between left and right face
            self.drop = 2 * num_hw if self.height == 2 else num_hw + 1  # from upper to lower edge
            self.line_step = 2 if self.height == 2 else self.drop
            self.num_lines = self.front + self.drop + 2
            if _MARGIN + self.edge + num_n + 2 <= _MAX_COLUMNS and self.num_lines <= _MAX_LINES:
                return
        raise ValueError(f"a cube of {num_n} x {num_c} x {num_hw} is too large for a terminal")

    def lines(self) -> dict[Place, str]:
        """The lattice and the labels."""
        bottom, middle = self.front + self.drop, self.num_n // 2
        texts = [(bottom, 0, self._rule("└─┴┘")), (0, self.front, self._rule("┌─┬┐"))]
        for y in range(self.drop):
            texts += [(self.front + y, 0, self._rule("│ ││" if y % self.line_step else "├─┼┤"))]
            texts += [(1 + y, self.edge + self.front, "│")]
        for n in range(self.num_n):
            top, left = self.front - 1 - n, 1 + n
            texts += [(top, left + x, "╱") for x in range(0, self.edge, self.width)]
            slants = range(0, self.drop + 1, self.line_step)
            texts += [(top + y, left + self.edge, "╱") for y in slants]
        texts += [(self.front + self.drop // 2, -4, "H·W"), (bottom + 1, self.edge // 2, "C")]
        texts += [(bottom - middle, self.edge + 2 + middle, "N")]
        return {(y, x + i): g for y, x, text in texts for i, g in enumerate(text) if g != " "}

    def _rule(self, pattern: str) -> str:
        """A line across all channels: left end, filling, crossing, right end."""
        crossings = pattern[2].join([pattern[1] * (self.width - 1)] * self.num_c)
        return pattern[0] + crossings + pattern[3]

    def tints(self, facets: list[Facet]) -> dict[Place, Face]:
        """The places inside the shared set, with the face they lie on."""
        return {at: facet.face for facet in facets if facet.shared for at in self._places(facet)}

    def _places(self, facet: Facet) -> Iterator[Place]:
        """The places of a facet, with its upper and right line; the others are its neighbours'."""
        n, last = facet.n, 1 + facet.hw * self.height
        left = 1 + (self.num_c - 1 - facet.c) * self.width
        rows = range(last + 1 - self.height if facet.hw else 0, last + 1)
        if facet.face is Face.LEFT:
            return product((self.front + y for y in rows), range(left, left + self.width))
        if facet.face is Face.RIGHT:
            return product((self.front - 1 - n + y for y in rows), (self.edge + 1 + n,))
        return product((self.front - 1 - n,), range(left + 1 + n, left + 1 + n + self.width))


# --- On paper -------------------------------------------------------------------------------------

_PANEL = (2.5, 2.9)  # inches, like all lengths here
_CORNER = (1.32, 1.31)  # of element (0, 0, 0), from the lower left of its panel
_RISE, _HEIGHT = (0.86, 0.43), 1.02  # of the cube: N runs right and up, C left and up, H·W down
# Corners of the cube as (n, c, hw): its silhouette, then the edges where the faces meet.
_OUTLINES = (
    ((0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 1, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 1, 0), (0, 0, 0), (1, 0, 0)),
    ((0, 0, 0), (0, 0, 1)),
)
# The place of each axis' label: (n, c, hw) on the cube, and how far off it, right and up.
_AXES = (
    ("N", (0.5, 0.0, 1.0), (0.12, -0.13)),
    ("C", (0.0, 0.5, 1.0), (-0.12, -0.13)),
    ("H·W", (0.0, 1.0, 0.5), (-0.21, 0.0)),
)
_SHARED_FILL = {Face.TOP: "#56b4e9", Face.LEFT: "#0072b2", Face.RIGHT: "#005380"}  # Okabe & Ito
_EMPTY_FILL = {Face.TOP: "#fbfcfd", Face.LEFT: "#eff2f5", Face.RIGHT: "#e2e7ec"}
_SHARED_LINE, _EMPTY_LINE, _OUTLINE = "#ffffff", "#9aa5b1", "#343e48"
_TEXT, _MUTED_TEXT = "#1c232b", "#56616d"
_SUFFIXES = (".png", ".svg")


@dataclass(frozen=True, eq=False)
class CubeSpec:
    """One cube of a figure: "Group norm", "(C/G)·H·W, G = 2" (about 30 characters), the set."""

    title: str
    subtitle: str
    shared: Shared


def cube_figure(cubes: Mapping[str, CubeSpec], path: Path) -> None:
    """Writes the cubes, side by side, as PNG (200 dpi) or SVG, whichever ``path`` ends in.

    They stand on a white card: shades tell the faces apart only on a ground that is known, and
    text keeps its contrast on a dark page. The SVG has its text as text and each cube as
    ``cube-<key>``. ``path`` is replaced in one step, and equal cubes give equal bytes.

    Raises:
        UsageError: if ``path`` ends in something else or cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path}: a figure ends in {' or '.join(_SUFFIXES)}")
    if not cubes:
        raise ValueError("a figure needs at least one cube")
    with _default_style():
        _save(_draw_cubes(cubes), path)


def _draw_cubes(cubes: Mapping[str, CubeSpec]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    width, height = _PANEL[0] * len(cubes), _PANEL[1]
    figure = Figure(figsize=(width, height), facecolor="none")
    card = FancyBboxPatch((0, 0), width, height, boxstyle="round,pad=0,rounding_size=0.12")
    card.set(facecolor="white", linewidth=0, zorder=-1, transform=figure.dpi_scale_trans)
    figure.add_artist(card)
    for position, (name, cube) in enumerate(cubes.items()):
        panel = (position / len(cubes), 0, 1 / len(cubes), 1)
        axes = figure.add_axes(panel, xlim=(0, _PANEL[0]), ylim=(0, _PANEL[1]), gid=f"cube-{name}")
        axes.set_axis_off()
        _draw_cube(axes, cube)
    return figure


def _draw_cube(axes: Axes, cube: CubeSpec) -> None:
    from matplotlib.collections import PolyCollection

    # Facets do not overlap, but the lines around them do: those of shared ones come on top.
    facets = sorted(visible_facets(cube.shared), key=lambda facet: facet.shared)
    polygons = PolyCollection(
        [_corners(facet, *cube.shared.shape) for facet in facets],
        facecolors=[(_SHARED_FILL if f.shared else _EMPTY_FILL)[f.face] for f in facets],
        edgecolors=[_SHARED_LINE if f.shared else _EMPTY_LINE for f in facets],
        linewidths=0.7,
        joinstyle="round",
        clip_on=False,
    )
    axes.add_collection(polygons, autolim=False)
    for outline in _OUTLINES:
        xs, ys = zip(*(_project(*corner) for corner in outline), strict=True)
        axes.plot(xs, ys, color=_OUTLINE, linewidth=1.3, clip_on=False)
    write = partial(axes.text, ha="center", va="center", parse_math=False)
    write(_CORNER[0], 2.61, cube.title, size=12.5, color=_TEXT, weight="bold")
    write(_CORNER[0], 2.38, cube.subtitle, size=9.5, color=_MUTED_TEXT)
    for label, at, (right, up) in _AXES:
        x, y = _project(*at)
        write(x + right, y + up, label, size=10.5, color=_TEXT)


def _corners(facet: Facet, num_n: int, num_c: int, num_hw: int) -> list[Point]:
    _, n, c, hw, _ = facet
    corners = {
        Face.TOP: ((n, c, 0), (n + 1, c, 0), (n + 1, c + 1, 0), (n, c + 1, 0)),
        Face.LEFT: ((0, c, hw), (0, c + 1, hw), (0, c + 1, hw + 1), (0, c, hw + 1)),
        Face.RIGHT: ((n, 0, hw), (n + 1, 0, hw), (n + 1, 0, hw + 1), (n, 0, hw + 1)),
    }[facet.face]
    return [_project(n / num_n, c / num_c, hw / num_hw) for n, c, hw in corners]


def _project(n: float, c: float, hw: float) -> Point:
    """Where a point of the unit cube lies in its panel."""
    return _CORNER[0] + _RISE[0] * (n - c), _CORNER[1] + _RISE[1] * (n + c) - _HEIGHT * hw


@contextmanager
def _default_style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever a person's matplotlibrc says, and SVG with real text."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "normbench"})
        yield


def _save(figure: Figure, path: Path) -> None:
    """Writes ``path`` in one step, without the date and version that would change its bytes."""
    kind = path.suffix.lower()[1:]
    undated = dict.fromkeys(("Software",) if kind == "png" else ("Date", "Creator"))
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=200, metadata=undated)
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise UsageError(f"{path}: cannot write the figure, {error.strerror}") from None
