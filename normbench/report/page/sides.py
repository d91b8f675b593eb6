"""Two folders side by side: their pictures, and each norm's error in both."""

from collections.abc import Sequence

from normbench.report.compare.comparisons import AXES, Comparison
from normbench.report.page.document import Block, Heading, Pictures, Table, Text
from normbench.report.plots.figures import error_drawing
from normbench.report.text.beside import beside, diverged_in, only_in
from normbench.report.text.wording import join


def side_by_side(names: Sequence[str], comparisons: Sequence[Comparison]) -> list[Block]:
    """Two folders side by side: their pictures, and each norm's error in both.

    Of each folder, the first comparison of a network and images, over a setting, of which the other
    one has a comparison too.
    """
    of = [[c for c in comparisons if f"{c.experiment}/".startswith(f"{name}/")] for name in names]
    pairs = [(a, b) for a in of[0] for b in of[1] if _alike(a) == _alike(b)]
    head = Heading(2, "Side by side")
    if not pairs:
        have = [join(sorted({_about(c) for c in found})) or "nothing" for found in of]
        said = f"{names[0]} compares {have[0]}; {names[1]}, {have[1]}"
        return [head, Text(f"These two have nothing to be put side by side: {said}.")]
    first, second = pairs[0]
    pictures = [
        error_drawing(c, f"beside-{n}", beside=pairs[0]) for n, c in enumerate(pairs[0], start=1)
    ]
    columns, rows = beside(pairs[0])
    note = f"First: {first.title}. Second: {second.title}."
    if rows:
        note += (
            " Test error in %, and the second less the first in points (Welch, 95 %): below 0 the"
            " second is better. Together: all rows of this table at once (Holm); where both have"
            " the same seeds of the same training, what they differ by is rounding."
        )
    for name, own, other in (("first", first, second), ("second", second, first)):
        if alone := only_in(own, other):
            note += f" Only in the {name}: {join(alone)}."
        if lost := diverged_in(own, other):
            note += f" No row where seeds diverged in the {name}: {join(lost)}."
    if len(pairs) > 1:
        note += " Both have more in common, which stands below by itself."
    blocks: list[Block] = [head, Pictures(pictures), Text(note, muted=True)]
    return [*blocks, Table(columns, rows)] if rows else blocks


def _alike(comparison: Comparison) -> tuple[str | None, ...]:
    """What has to be the same in two comparisons for their errors to stand side by side."""
    return comparison.axis, comparison.model, comparison.data, comparison.sha256


def _about(comparison: Comparison) -> str:
    """The same in words."""
    digest = "content unknown" if comparison.sha256 is None else comparison.sha256[:8]
    return f"{comparison.model} on {comparison.data} ({digest}) over {AXES[comparison.axis]}"
