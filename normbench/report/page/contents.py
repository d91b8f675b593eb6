"""What a report says, as blocks: first the answer, then the picture, then everything else."""

from collections import Counter
from collections.abc import Sequence

from normbench.report.compare.analysis import decomposition, leads, rivals, spread
from normbench.report.compare.comparisons import Comparison
from normbench.report.compare.published import PUBLICATIONS
from normbench.report.compare.statistics import Estimate
from normbench.report.page.appendix import method, trouble, unreadable, verdict_blocks
from normbench.report.page.document import (
    Block,
    Commands,
    Facts,
    Heading,
    Lead,
    Pictures,
    Table,
    Text,
)
from normbench.report.plots.curves import curves_drawing, leads_drawing
from normbench.report.plots.figures import (
    cost_drawing,
    error_drawing,
    published_drawing,
    split_drawing,
)
from normbench.report.read.cells import Collection
from normbench.report.read.progress import progress
from normbench.report.text.answers import answers
from normbench.report.text.fairness import fairness
from normbench.report.text.recipes import commands
from normbench.report.text.tables import (
    along_rows,
    cell_columns,
    cell_rows,
    crossing_rows,
    decomposition_rows,
    difference_rows,
    lead_rows,
)
from normbench.report.text.verdicts import judge
from normbench.report.text.wording import join, plus_minus

_DECOMPOSED = (
    "norm", "batch", "running", "anew", "of the batch", "averages cost", "lost", "to averages",
    "to the rest", "n",
)  # fmt: skip


def contents(
    collection: Collection, comparisons: Sequence[Comparison], *, papers: bool
) -> list[Block]:
    """The whole report; with ``papers``, published lines stand beside the pictures."""
    blocks: list[Block] = [Heading(1, f"normbench: {collection.name}")]
    blocks.append(Text(f"{progress(collection.cells)}.", muted=True))
    bad = [cell.folder for cell in collection.cells if cell.problem is not None]
    if bad:
        blocks.append(
            Text(f"Cannot be read, and so in nothing that follows but the last table: {join(bad)}.")
        )
    if len(comparisons) > 1:
        blocks.append(
            Text(
                f"{len(comparisons)} comparisons: cells are compared only where data set, network"
                " and recipe are the same."
            )
        )
    for number, comparison in enumerate(comparisons, start=1):
        suffix = "" if len(comparisons) == 1 else f"-{number}"
        blocks += _section(comparison, suffix, papers=papers)
    return [*blocks, *unreadable(collection), *method()]


def _section(comparison: Comparison, suffix: str, *, papers: bool) -> list[Block]:
    """One comparison, from the answer to the commands."""
    measured = any(line.measured for line in comparison.lines)
    blocks: list[Block] = [Heading(2, comparison.title), Lead(answers(comparison))]
    if measured:
        drawings = [error_drawing(comparison, f"error{suffix}")]
        if papers and comparison.axis in ("batch", "norm_batch"):
            drawings += [published_drawing(p, f"published-{p.key}{suffix}") for p in PUBLICATIONS]
        blocks.append(Pictures(drawings))
        blocks.append(Text(_caption(comparison), muted=True))
    blocks += [Heading(3, "Every cell"), Table(cell_columns(comparison), cell_rows(comparison))]
    if comparison.left_out:
        blocks.append(Text(f"The same cell again, left out: {', '.join(comparison.left_out)}."))
    blocks += [*_differences(comparison), *_decomposition(comparison, suffix)]
    if measured:
        blocks += _costs(comparison, suffix)
    blocks += [*_curves(comparison, suffix), *_leads(comparison, suffix)]
    blocks.append(Facts("What was equal", fairness(comparison)))
    blocks += [block for judgement in judge(comparison) for block in verdict_blocks(judgement)]
    blocks += trouble(comparison.cells)
    again = commands(comparison)
    if again:
        blocks += [Heading(3, "To do it again"), Commands(again)]
    return blocks


def _caption(comparison: Comparison) -> str:
    said = (
        "Large marks are means over seeds, bars their 95 % intervals (Student's t; cut off where"
        " they leave the picture), dots the seeds."
    )
    if any(line.level for line in comparison.lines):
        said += " Dashed lines are norms to which the axis means nothing: one cell each."
    return said


def _differences(comparison: Comparison) -> list[Block]:
    if comparison.axis not in ("batch", "norm_batch"):
        return _along(comparison)
    columns, rows = difference_rows(comparison)
    if not rows:
        return []
    blocks: list[Block] = [
        Heading(3, "Differences"),
        Text(
            "Test error of the first minus that of the second, in percentage points, paired by"
            " seed, with 95 % intervals: above 0 the second is better. Each interval is for"
            " itself: of twenty, one misses by chance.",
            muted=True,
        ),
        Table(columns, rows),
        *_scatter(comparison),
    ]
    crossed = crossing_rows(comparison)
    if crossed:
        blocks += [
            Table(["lines", "they cross", "lower mean error"], crossed),
            Text(
                "Crossings are interpolated on log₂ between measured places. The interval holds"
                " all places around it at which the paired difference may be 0, if the lines are"
                " straight between measured places: the farther those lie apart, the less it says.",
                muted=True,
            ),
        ]
    return blocks


def _scatter(comparison: Comparison) -> list[Block]:
    """What the differences' intervals would be with one spread for all cells."""
    found = spread(comparison)
    counts = Counter(len(p.errors) for line in comparison.lines for p in line.measured)
    if found is None:
        return []
    ((n, _),) = counts.most_common(1)
    said = (
        f"If the seeds of all cells scatter alike (standard deviation {found.deviation:.2f} points"
        f" within a cell, {found.freedom} degrees of freedom) and no seed is a lucky one for all,"
        f" every difference between two cells of {n} seed{'' if n == 1 else 's'} is ±"
        f" {found.half(n):.1f} points: less luck than in intervals from a few seeds each, for two"
        " more assumptions."
    )
    if found.correlation is not None:
        said += (
            " Seeds that two cells share correlate by"
            f" {plus_minus(Estimate(found.correlation, None, None, 1), 2)} on average; pairing"
            " gains where that is well above 0."
        )
    return [Text(said, muted=True)]


def _along(comparison: Comparison) -> list[Block]:
    """Differences along an axis of groups."""
    columns, rows = along_rows(comparison)
    if not rows:
        return []
    note = (
        "Test error less that of the same seeds at the place named, in percentage points. Each"
        " interval is for itself, and the lowest of several means is lower than it would be again."
    )
    return [
        Heading(3, "Differences"),
        Text(note, muted=True),
        Table(columns, rows),
        *_scatter(comparison),
    ]


def _decomposition(comparison: Comparison, suffix: str) -> list[Block]:
    rows = decomposition(comparison)
    if not rows:
        return []
    labels = list(dict.fromkeys(row.line.label for row in rows))
    drawings = []
    for number, label in enumerate(labels):
        mine = [row for row in rows if row.line.label == label]
        if len(mine) > 1:
            name = f"statistics{suffix}" + (f"-{number + 1}" if len(labels) > 1 else "")
            drawings.append(split_drawing(mine, comparison.axis, name))
    columns = [comparison.axis if name == "batch" else name for name in _DECOMPOSED]
    return [
        Heading(3, "What is lost to what"),
        Text(
            "The same weights, evaluated with the running averages as usual, with statistics"
            " estimated anew from training images (PreciseBN), and with those of test batches of"
            " the training size: test error in %. The last is the network as it was trained, noise"
            " and all, and no way to use it: each answer depends on its batch mates; and where only"
            " training images are padded and cropped, test images have other statistics for that"
            " alone, at any batch size. What the"
            " averages cost is the first less the second, in points. What is lost against the row"
            " called reference is lost to the averages (what they cost more here than there) or to"
            " the rest: training on noisy statistics, and whatever else the batch size changes,"
            " such as the number of steps, which group norm's change shows too.",
            muted=True,
        ),
        *([Pictures(drawings)] if drawings else []),
        Table(columns, decomposition_rows(comparison)),
    ]


def _costs(comparison: Comparison, suffix: str) -> list[Block]:
    drawing = cost_drawing(comparison, f"cost{suffix}")
    if drawing is None:
        return []
    return [
        Heading(3, "What it costs"),
        Pictures([drawing]),
        Text(
            "Training time of the median seed, without evaluation; seeds that train together share"
            f" it evenly. {_stacks(comparison)}Memory is what one training step of one seed holds."
            " Times compare only cells of one machine that did nothing else.",
            muted=True,
        ),
    ]


def _stacks(comparison: Comparison) -> str:
    """How many seeds shared a network, where it is recorded."""
    known = sorted(
        {(c.batch, r.stacked) for c in comparison.cells for r in c.finished if r.stacked}
    )
    if not known:
        return ""
    said = join([f"{stacked} at batch {batch}" for batch, stacked in known])
    return f"So many seeds were trained as one network, where it is recorded: {said}. "


def _curves(comparison: Comparison, suffix: str) -> list[Block]:
    places = [
        x for x in comparison.xs if any(line.at(x) and not line.level for line in comparison.lines)
    ]
    found = [curves_drawing(comparison, x, f"curves{suffix}-{x}") for x in places]
    drawings = [drawing for drawing in found if drawing is not None]
    if not drawings:
        return []
    note = "Thin lines are seeds, thick ones their mean where every seed that has begun has got to."
    return [Heading(3, "Curves"), Pictures(drawings), Text(note, muted=True)]


def _leads(comparison: Comparison, suffix: str) -> list[Block]:
    """How the difference of batch norm and its rival goes with the training."""
    both = rivals(comparison)
    found = [] if both is None else leads(*both)
    if both is None or not found:
        return []
    first, second = both
    held_out = comparison.settings.get("data", {}).get("val_fraction")
    said = (
        f"{'Error on the held-out images' if held_out else 'Test error'} of {first.named} less that"
        f" of {second.named} at the ends of epochs, in percentage points, paired by seed, with 95 %"
        " intervals where there are several (bands, cut off where they leave the picture): above 0"
        f" {second.named} is better. Where the learning rate falls towards the end, the middle of a"
        " training is not where a shorter one would have ended."
    )
    return [
        Heading(3, "The difference as training goes on"),
        Pictures([leads_drawing(comparison, found, f"lead{suffix}")]),
        Text(said, muted=True),
        Table(*lead_rows(comparison, found)),
    ]
