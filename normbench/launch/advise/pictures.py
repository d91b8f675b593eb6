"""Pictures of errors with their 95 % intervals, in the look of a report."""

from collections.abc import Sequence
from typing import NamedTuple

from normbench.report.compare.statistics import Estimate
from normbench.report.plots.lines import PREFERRED, name_lines
from normbench.report.plots.style import (
    MOST_LINES,
    THEME,
    Drawing,
    Series,
    draw_series,
    log2_axis,
    look,
    new_figure,
    save,
    style,
)


class Error(NamedTuple):
    """An error to draw.

    Attributes:
        norm: the norm's name.
        label: what stands beside it.
        mean: 0..1.
        half: half its 95 % interval; None with one seed.
        seeds: each seed's, 0..1, where they are drawn too.
        batch: the batch size.
        full: whether it may be held against the others: measured on test images, after full
            trainings.
    """

    norm: str
    label: str
    mean: float
    half: float | None
    seeds: Sequence[float] = ()
    batch: int = 0
    full: bool = True

    @property
    def percent(self) -> Estimate:
        """In %, with its interval."""
        mean, half = 100 * self.mean, None if self.half is None else 100 * self.half
        low, high = (None, None) if half is None else (mean - half, mean + half)
        return Estimate(mean, low, high, len(self.seeds))


def by_batch(errors: Sequence[Error]) -> Drawing | None:
    """Test error against the batch size, a line a norm; none where there is no error."""
    norms = list(dict.fromkeys(error.norm for error in errors))[:MOST_LINES]
    series = []
    for norm in norms:
        points = {error.batch: error for error in errors if error.norm == norm}
        values = {batch: error.percent for batch, error in points.items()}
        seeds = {batch: [100 * e for e in error.seeds] for batch, error in points.items()}
        series.append(Series(norm, _look(norm, norms), values, seeds))
    if not series:
        return None
    xs = sorted({batch for one in series for batch in one.values})
    with style():
        figure, (axes,) = new_figure()
        log2_axis(axes, xs, "batch size")
        axes.set_ylabel("test error, %")
        draw_series(axes, series, xs)
        name_lines([axes], [series], xs)
        alt = (
            "Test error in percent against batch size. Large marks are means over seeds, bars their"
            " 95 % intervals, dots the seeds."
        )
        return save(figure, "compared", alt)


def by_norm(errors: Sequence[Error]) -> Drawing | None:
    """The error of each norm, below one another, the first at the top; none where there is none.

    Those that are not ``full`` are grey.
    """
    if not errors:
        return None
    norms = list(dict.fromkeys(error.norm for error in errors))
    with style():
        figure, (axes,) = new_figure()
        figure.set_figheight(1.0 + 0.42 * len(errors))
        for place, error in enumerate(errors):
            color, marker, _ = look(_look(error.norm, norms))
            value = error.percent
            axes.errorbar(
                [value.mean], [place], xerr=None if value.half is None else [value.half],
                color=color if error.full else THEME["muted"][0], marker=marker, linestyle="none",
                markeredgecolor=THEME["ground"][0], markersize=9, elinewidth=1.8, capsize=4,
            )  # fmt: skip
        axes.set_yticks(range(len(errors)), [error.label for error in errors])
        axes.set_ylim(len(errors) - 0.5, -0.5)
        axes.set_xlabel("error, %")
        alt = "Error of each norm in percent, means over seeds with their 95 % intervals."
        return save(figure, "answer", alt)


def _look(norm: str, norms: Sequence[str]) -> int:
    """A norm's own look, or one that no other of ``norms`` has."""
    others = [each for each in norms if each not in PREFERRED]
    return PREFERRED[norm] if norm in PREFERRED else len(PREFERRED) + others.index(norm)
