"""What a report says, as blocks: the answer and its picture first, everything else folded below."""

from collections.abc import Sequence

from normbench.report.compare.choice import all_at_chance, choices
from normbench.report.compare.comparisons import NAMES, Comparison
from normbench.report.compare.costs import otherwise, untimed
from normbench.report.compare.published import PUBLICATIONS
from normbench.report.compare.rates import RateTrial
from normbench.report.compare.regimes import SIGNS
from normbench.report.page.document import (
    Block,
    Bullets,
    Code,
    Facts,
    First,
    Folded,
    Heading,
    Pictures,
    Sentences,
    Table,
    Text,
)
from normbench.report.page.sides import side_by_side
from normbench.report.plots.curves import curves_drawing
from normbench.report.plots.figures import (
    cost_drawing,
    error_drawing,
    published_drawing,
    rates_drawing,
)
from normbench.report.read.cells import CellRun, Collection
from normbench.report.read.seeds import UNREADABLE, SeedRun
from normbench.report.read.states import overview, state
from normbench.report.text.commands import commands
from normbench.report.text.fairness import fairness
from normbench.report.text.findings import findings
from normbench.report.text.grid import RATE_COLUMNS, grid, rate_rows
from normbench.report.text.tables import (
    DECOMPOSED,
    STARTED,
    cell_columns,
    cell_rows,
    crossing_rows,
    decomposition_rows,
    difference_table,
    started_rows,
    without_empty,
)
from normbench.report.text.verdicts import RULE_TEXT, VERDICT_COLUMNS, judge, like, verdict_rows
from normbench.report.text.wording import join
from normbench.store.results import DIVERGED, FAILED
from normbench.terminal.words import count

_DRAWN = ("wu-he-2018", "befranke-groupnorm", "switchable-2018-one-gpu")
"""Publications with batch and group norm over several batch sizes."""

_METHOD = Folded(
    "How the numbers were made",
    [
        Bullets(
            [
                "Intervals are Student's t over seeds at 95 %; one seed has none. They are for this"
                " one test set: another of 10,000 images adds about ± 0.9 points at 30 % error."
                " Where each image's outcome is recorded, the tables say what it makes of them;"
                " clear is meant for these images.",
                "Differences between cells are Welch's. Only evaluations of the same weights are"
                " paired.",
                "How many more seeds would tell: with a probability of 80 %, if difference and"
                " spread are as measured. Differences that were just found tend to be too large, so"
                " that it may take more.",
                "Seeds that diverged or failed are listed and in no mean; a norm of which seeds"
                " diverged at a place is in no comparison there.",
                "Trained again, a seed agrees up to the rounding of float32, which training can"
                " enlarge to a point or two of error: sums depend on how many seeds are one network"
                " and on the threads, both in seeds.csv. stack=… threads=… repeat them.",
                "Every seed is in seeds.csv, every cell in cells.csv, every difference in"
                " differences.csv.",
            ]
        )
    ],
)
"""How intervals, differences and rounding are to be taken."""


def contents(
    collection: Collection,
    comparisons: Sequence[Comparison],
    trials: Sequence[RateTrial],
    *,
    papers: bool,
    beside: Sequence[str] = (),
) -> list[Block]:
    """The whole report.

    Args:
        collection: all cells.
        comparisons, trials: what they make.
        papers: whether pictures of published lines stand beside the published numbers.
        beside: the names of two folders to be put side by side; empty: there is one.
    """
    blocks: list[Block] = [Heading(1, f"normbench: {collection.name}")]
    blocks.append(Text(f"{overview(collection.cells)}.", muted=True))
    bad = [cell.folder for cell in collection.unreadable]
    if bad:
        blocks.append(Text(f"Cannot be read: {join(bad)}; the reasons are at the end."))
    several = len(comparisons) > 1
    if beside:
        blocks += side_by_side(beside, comparisons)
    elif several:
        rule = "only cells with the same data set, network and recipe are compared"
        blocks.append(Text(f"{len(comparisons)} comparisons: {rule}."))
    for n, comparison in enumerate(comparisons, start=1):
        blocks += _section(comparison, f"-{n}" if several else "", papers=papers)
    for n, trial in enumerate(trials, start=1):
        blocks += _trial(trial, "rates" if len(trials) == 1 else f"rates-{n}")
    return [*blocks, *_unreadable(collection), _METHOD]


def _section(comparison: Comparison, suffix: str, *, papers: bool) -> list[Block]:
    """One comparison, from the answer to the commands."""
    blocks: list[Block] = [Heading(2, comparison.title)]
    columns, rows = grid(comparison)
    said = findings(comparison)
    measured = any(line.measured for line in comparison.lines)
    drawings = [error_drawing(comparison, f"error{suffix}")] if measured else []
    if rows and drawings:
        blocks.append(First(_table(columns, rows), drawings[0], said))
    else:
        blocks += [*([Pictures(drawings)] if drawings else []), Sentences(said)]
    if rows:
        blocks.append(Text(_grid_note(comparison), muted=True))
    blocks += [*_started(comparison), *_trouble(comparison.cells)]
    cells: list[Block] = [_table(cell_columns(comparison), cell_rows(comparison))]
    if comparison.left_out:
        cells.append(Text(f"The same cell again, left out: {', '.join(comparison.left_out)}."))
    blocks.append(Folded("Every cell", cells))
    sure = not all_at_chance(comparison.cells)
    if sure:
        blocks += [*_differences(comparison), *_decomposition(comparison)]
    blocks += [*_costs(comparison, suffix), *_curves(comparison, suffix)]
    blocks.append(Folded("What was equal, and what was not", [Facts(fairness(comparison))]))
    if again := commands(comparison):
        blocks.append(Folded("Commands that train it again", [Code(again)]))
    return [*blocks, *(_published(comparison, suffix, papers=papers) if sure else [])]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(*without_empty(columns, rows))


def _started(comparison: Comparison) -> list[Block]:
    """What swapping the norms of given weights costs, and what training gives back."""
    rows = started_rows(comparison)
    if not rows:
        return []
    epochs = "" if comparison.epochs is None else f" of {comparison.epochs:g} epochs"
    note = (
        "Test error in % of the weights that training started from (model.weights): before their"
        f" norms were swapped, at once after it, and now, after the training{epochs}."
    )
    columns = ["norm", NAMES[comparison.axis], *STARTED]
    return [Heading(3, "From given weights"), Table(columns, rows), Text(note, muted=True)]


def _grid_note(comparison: Comparison) -> str:
    why = untimed(comparison)
    said = (
        "Lead: by how many points of test error the runner-up is worse. Clear: every other norm"
        " that was measured there is, with all differences of this comparison taken together (Holm,"
        " 95 %); a lead whose own interval does not hold 0 can be unclear."
    )
    if any(run.outcomes is not None for cell in comparison.cells for run in cell.seeds):
        said += " New images: the interval if another test set were drawn as well."
    if why:
        return f"{said} Memory is a training step's, over batch norm's; no times, because {why}."
    found = choices(comparison)
    if all(choice.memory is None and choice.time is None for choice in found):
        return said  # there is no batch norm to compare with
    said += " Time and memory: of an epoch and of a training step, over batch norm's"
    open_times = any(choice.time is None for choice in found)
    other = "; no time where batch norm's seeds were stacked otherwise or had other threads"
    return f"{said}{other if open_times and otherwise(comparison) else ''}."


def _differences(comparison: Comparison) -> list[Block]:
    columns, rows = difference_table(comparison)
    if not rows:
        return []
    marked = any("paired" in row[columns.index("how sure")] for row in rows)
    but = ", but for rows marked so, whose cells hold the same weights" if marked else ""
    note = (
        "Test error in percentage points with 95 % intervals (Welch: seeds of different cells are"
        f" not paired{but}); above 0 the first has the higher error. Alone: each interval by"
        f" itself. Together: all rows of this table at once (Holm, {count(len(rows), 'row')});"
        " clear where that one does not hold 0. The intervals decide together; how large several"
        " differences are together, they say a little less often than in 95 % of cases."
    )
    blocks: list[Block] = [Text(note, muted=True), Table(columns, rows)]
    crossed = crossing_rows(comparison) if comparison.axis not in SIGNS else []
    if crossed:
        said = (
            "Crossings lie on a straight line over log₂ between measured places; where only one of"
            " two lines was measured, the other lies on such a line as well. Their intervals are"
            " from resampled means of every cell, unpaired."
        )
        blocks += [Table(["lines", "they cross"], crossed), Text(said, muted=True)]
    return [Folded("Differences and crossings", blocks)]


def _decomposition(comparison: Comparison) -> list[Block]:
    rows = decomposition_rows(comparison)
    if not rows:
        return []
    note = (
        "Test error in % of the same weights with running averages, with statistics re-estimated"
        " from training images (PreciseBN), and with those of test batches of the training size."
        " What the averages cost is the first less the second, paired because the weights are the"
        " same; r is the correlation over seeds. Losses are against the reference (Welch): to the"
        " averages, what they cost more here than there; to the rest, noisy statistics in training"
        " and whatever else the batch size changes."
    )
    columns = ["norm", NAMES[comparison.axis], *DECOMPOSED]
    return [Folded("What is lost to what", [Text(note, muted=True), Table(columns, rows)])]


def _costs(comparison: Comparison, suffix: str) -> list[Block]:
    drawing = cost_drawing(comparison, f"cost{suffix}")
    if drawing is None:
        return []
    note = (
        "Training time of the median seed, without evaluation; seeds trained as one network share"
        " it evenly. Memory is what one training step of one seed takes."
    )
    if other := otherwise(comparison):
        note += f" Times are not all comparable: {other}."
    if why := untimed(comparison):
        note = f"Memory is what one training step of one seed takes. No times: {why}."
    return [Folded("What it costs", [Pictures([drawing]), Text(note, muted=True)])]


def _curves(comparison: Comparison, suffix: str) -> list[Block]:
    places = [
        x for x in comparison.xs if any(line.at(x) and not line.level for line in comparison.lines)
    ]
    found = [curves_drawing(comparison, x, f"curves{suffix}-{x}") for x in places]
    drawings = [drawing for drawing in found if drawing is not None]
    if not drawings:
        return []
    note = (
        "Thin lines are seeds, thick ones their mean. Where the learning rate falls towards the"
        " end, the middle of a training is not where a shorter one would have ended."
    )
    return [Folded("Curves", [Pictures(drawings), Text(note, muted=True)])]


def _published(comparison: Comparison, suffix: str, *, papers: bool) -> list[Block]:
    """What publications say, and whether it is so here."""
    blocks: list[Block] = []
    for judgement in judge(comparison):
        publication = judgement.publication
        blocks += [
            Heading(3, f"{publication.cite}: {publication.model} on {publication.data}"),
            Text(like(judgement)),
            Table(VERDICT_COLUMNS, verdict_rows(judgement)),
        ]
    if blocks:
        blocks.insert(0, Text(RULE_TEXT, muted=True))
    if papers and comparison.axis not in SIGNS:
        drawn = [p for p in PUBLICATIONS if p.key in _DRAWN]
        blocks.append(Pictures([published_drawing(p, f"published-{p.key}{suffix}") for p in drawn]))
    return [Folded("Against published numbers", blocks)] if blocks else []


def _trial(trial: RateTrial, name: str) -> list[Block]:
    """Learning rates tried on held-out images."""
    drawing = rates_drawing(trial, name)
    note = (
        "The best rate has the lowest mean error on held-out training images, among the rates with"
        " the most seeds; the test images play no part. Beside the next best stands whether the two"
        " differ clearly (Welch, 95 %, each pair by itself)."
    )
    table = Table(RATE_COLUMNS, rate_rows(trial))
    first: Block = table if drawing is None else First(table, drawing)
    blocks: list[Block] = [Heading(2, trial.title), first, Text(note, muted=True)]
    return [*blocks, *_trouble(trial.cells)]


def _trouble(cells: Sequence[CellRun]) -> list[Block]:
    """The seeds that came to a bad end, each with its reason."""
    rows = [
        [cell.folder, str(run.seed), run.state, _why(run)]
        for cell in cells
        for run in cell.seeds
        if run.state in (DIVERGED, FAILED, UNREADABLE)
    ]
    if not rows:
        return []
    return [
        Heading(3, "What went wrong"),
        Table(["cell", "seed", "state", "why"], rows),
        Text("These seeds are in no mean and no difference.", muted=True),
    ]


def _why(run: SeedRun) -> str:
    step = None if run.result is None else run.result.diverged_at
    found = "" if step is None else f"the loss was not finite at step {step:,}"
    return run.problem or found or "not recorded"


def _unreadable(collection: Collection) -> list[Block]:
    """Cells and plans that cannot be read; they are in no comparison."""
    bad = collection.unreadable
    if not bad and not collection.problems:
        return []
    blocks: list[Block] = [Heading(2, "What cannot be read")]
    if bad:
        rows = [[c.folder, c.norm, str(c.batch), state(c), c.problem or ""] for c in bad]
        blocks.append(Table(["cell", "norm", "batch", "state", "why"], rows))
    return [*blocks, Bullets(collection.problems)] if collection.problems else blocks
