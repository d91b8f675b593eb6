"""The cube drawings: what is coloured, that it fits, and that the files are whole."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from normbench.errors import UsageError
from normbench.terminal.cubes import CubeSpec, Face, cube_figure, cube_text, visible_facets

SVG = "{http://www.w3.org/2000/svg}"
ESCAPE = re.compile("\x1b\\[[0-9;]*m")
SKY, BLUE, DEEP = "#56b4e9", "#0072b2", "#005380"  # top, left, right


def shared(norm: str, num_n: int = 6, num_c: int = 6, num_hw: int = 4) -> NDArray[np.bool_]:
    n, c, _ = np.indices((num_n, num_c, num_hw))
    sets: dict[str, NDArray[np.bool_]] = {
        "batch": c == 0,
        "layer": n == 0,
        "instance": (n == 0) & (c == 0),
        "group": (n == 0) & (c < num_c // 2),
        "none": n < 0,
    }
    return sets[norm]


# How many of the visible facets on the top, left and right face are shared, at (6, 6, 4).
SHARED_FACETS = {
    "batch": (6, 4, 24),
    "layer": (6, 24, 4),
    "instance": (1, 4, 4),
    "group": (3, 12, 4),
    "none": (0, 0, 0),
}
NORMS = pytest.mark.parametrize("norm", SHARED_FACETS)
SHAPES = pytest.mark.parametrize("shape", [(6, 6, 4), (6, 6, 5), (6, 6, 6), (1, 1, 1), (4, 10, 9)])


def cubes(*norms: str) -> Mapping[str, CubeSpec]:
    return {norm: CubeSpec(f"{norm} norm", f"over <{norm}> $x$", shared(norm)) for norm in norms}


def svg_fills(path: Path, norm: str) -> Counter[str]:
    group = ElementTree.parse(path).find(f".//{SVG}g[@id='cube-{norm}']")
    assert group is not None
    styles = [shape.get("style", "") for shape in group.iter(f"{SVG}path")]
    return Counter(fill for style in styles for fill in re.findall("fill: (#[0-9a-f]{6})", style))


@NORMS
def test_the_shared_set_shows_on_every_visible_face_it_touches(norm: str) -> None:
    facets = visible_facets(shared(norm))
    assert len(facets) == 36 + 24 + 24
    count = Counter(facet.face for facet in facets if facet.shared)
    assert (count[Face.TOP], count[Face.LEFT], count[Face.RIGHT]) == SHARED_FACETS[norm]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4), (2, 0, 4)])
def test_what_is_not_a_cube_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(N, C, H·W\), no axis empty; got \(2, "):
        cube_text(np.ones(shape, dtype=bool), color=False)


# --- In the terminal ------------------------------------------------------------------------------


def test_the_drawing_of_group_norm() -> None:
    expected = """\
            ┌───┬───┬───┬───┬───┬───┐
           ╱   ╱   ╱   ╱   ╱   ╱   ╱│
          ╱   ╱   ╱   ╱   ╱   ╱   ╱ │
         ╱   ╱   ╱   ╱   ╱   ╱   ╱ ╱│
        ╱   ╱   ╱   ╱   ╱   ╱   ╱ ╱ │
       ╱   ╱   ╱   ╱   ╱   ╱   ╱ ╱ ╱│
      ╱   ╱   ╱   ╱▒▒▒╱▒▒▒╱▒▒▒╱ ╱ ╱ │
     ├───┼───┼───┼───┼───┼───┤█╱ ╱ ╱│
     │   │   │   │▓▓▓│▓▓▓│▓▓▓│█ ╱ ╱ │
     ├───┼───┼───┼───┼───┼───┤█╱ ╱ ╱
     │   │   │   │▓▓▓│▓▓▓│▓▓▓│█ ╱ ╱
 H·W ├───┼───┼───┼───┼───┼───┤█╱ ╱
     │   │   │   │▓▓▓│▓▓▓│▓▓▓│█ ╱ N
     ├───┼───┼───┼───┼───┼───┤█╱
     │   │   │   │▓▓▓│▓▓▓│▓▓▓│╱
     └───┴───┴───┴───┴───┴───┘
                 C"""
    assert cube_text(shared("group"), color=False) == expected


@NORMS
@SHAPES
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("ascii", [False, True])
def test_the_text_fits_and_names_its_axes(
    norm: str, shape: tuple[int, int, int], color: bool, ascii: bool
) -> None:
    text = ESCAPE.sub("", cube_text(shared(norm, *shape), color=color, ascii=ascii))
    lines = text.split("\n")
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 60
    assert sorted(re.findall(r"\w+(?:·\w)?", text)) == ["C", "HxW" if ascii else "H·W", "N"]
    assert text.isascii() == ascii


@NORMS
@SHAPES
@pytest.mark.parametrize("ascii", [False, True])
def test_hatching_covers_the_shared_facets(
    norm: str, shape: tuple[int, int, int], ascii: bool
) -> None:
    text = cube_text(shared(norm, *shape), color=False, ascii=ascii)
    facets = Counter(facet.face for facet in visible_facets(shared(norm, *shape)) if facet.shared)
    assert text.count(":" if ascii else "▒") == 3 * facets[Face.TOP]  # three columns a voxel
    assert text.count("#" if ascii else "▓") == 3 * facets[Face.LEFT]
    # The lines between the voxels of the right face are covered too, where there are any.
    num_hw = shape[2]
    lines = facets[Face.RIGHT] // num_hw * (num_hw - 1) if num_hw < 6 else 0
    assert text.count("%" if ascii else "█") == facets[Face.RIGHT] + lines
    assert "\x1b" not in text


@NORMS
def test_colour_replaces_hatching(norm: str) -> None:
    text = cube_text(shared(norm), color=True)
    assert not set("▒▓█") & set(text)
    grounds = set(re.findall("48;5;([0-9]+)m", text))
    assert grounds == (set() if norm == "none" else {"75", "32", "25"})
    for line in text.split("\n"):  # no colour leaks into what stands beside the drawing
        assert line.count("\x1b[0m") == line.count("\x1b[38;")
    assert ESCAPE.sub("", text) == cube_text(shared("none"), color=False)


def test_a_cube_too_large_for_a_terminal_is_refused() -> None:
    with pytest.raises(ValueError, match="a cube of 6 x 6 x 40 is too large for a terminal"):
        cube_text(shared("batch", 6, 6, 40), color=False)


# --- On paper -------------------------------------------------------------------------------------


@NORMS
def test_png_has_its_size_and_the_highlight(norm: str, tmp_path: Path) -> None:
    path = tmp_path / "cube.png"
    cube_figure(cubes(norm), path)
    pixels = np.rint(255 * imread(path)).astype(int)
    assert pixels.shape == (580, 500, 4)
    assert pixels[0, 0, 3] == 0  # outside the round corner of the card
    assert pixels[4, 250].tolist() == [255, 255, 255, 255]
    for color, facets in zip((SKY, BLUE, DEEP), SHARED_FACETS[norm], strict=True):
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        area = int((pixels[..., :3] == rgb).all(axis=-1).sum())
        assert 200 * facets <= area <= 1600 * facets


def test_svg_keeps_titles_as_text_and_colours_each_cube(tmp_path: Path) -> None:
    path = tmp_path / "cubes.svg"
    cube_figure(cubes(*SHARED_FACETS), path)
    texts = [element.text for element in ElementTree.parse(path).iter(f"{SVG}text")]
    for norm, facets in SHARED_FACETS.items():
        assert {f"{norm} norm", f"over <{norm}> $x$"} <= set(texts)
        fills = svg_fills(path, norm)
        assert (fills[SKY], fills[BLUE], fills[DEEP]) == facets
        assert sum(fills.values()) == 84
    assert [texts.count(axis) for axis in ("N", "C", "H·W")] == [5, 5, 5]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".SVG"])
def test_equal_cubes_give_equal_bytes(suffix: str, tmp_path: Path) -> None:
    import matplotlib

    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    cube_figure(cubes("batch", "group"), first)
    with matplotlib.rc_context({"font.size": 30, "savefig.bbox": "tight", "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        cube_figure(cubes("batch", "group"), second)
        assert dict(matplotlib.rcParams) == before
    assert first.read_bytes() == second.read_bytes()
    assert b"atplotlib" not in first.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_an_existing_figure_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cube.svg"
    path.write_text("old")
    cube_figure(cubes("layer"), path)
    assert svg_fills(path, "layer")[BLUE] == 24


@pytest.mark.parametrize("name", ["cube.pdf", "cube", "cube.png.txt"])
def test_another_suffix_is_an_error_that_names_the_allowed_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{name}: a figure ends in \.png or \.svg$"):
        cube_figure(cubes("batch"), tmp_path / name)


def test_a_path_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder.png"
    file.touch()
    folder.mkdir()
    for path in (file / "cube.png", folder):
        with pytest.raises(
            UsageError, match=r"(png|svg): cannot write the figure, [A-Z].+"
        ) as error:
            cube_figure(cubes("batch"), path)
        assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == [file, folder]  # nothing half-written is left


def test_no_cubes_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one cube"):
        cube_figure({}, tmp_path / "cube.png")


def test_importing_the_module_does_not_load_matplotlib_or_numpy() -> None:
    code = "import sys, normbench.terminal.cubes; print({'matplotlib', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
