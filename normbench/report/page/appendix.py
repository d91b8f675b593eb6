"""What stands at the end of a report: verdicts, what went wrong, how the numbers were made."""

from collections.abc import Sequence

from normbench.report.page.document import Block, Bullets, Folded, Heading, Table, Text
from normbench.report.read.cells import UNREADABLE, CellRun, Collection, SeedRun
from normbench.report.read.progress import state
from normbench.report.text.verdicts import Judgement
from normbench.store.results import DIVERGED, FAILED


def verdict_blocks(judgement: Judgement) -> list[Block]:
    """What one publication says, and whether it is so here."""
    publication = judgement.publication
    rows = [[v.outcome, v.statement, v.published, v.ours, v.rule] for v in judgement.verdicts]
    like = "Not like for like: " + "; ".join(judgement.unlike) + "."
    if not judgement.unlike:
        like = "Like for like in images, network, epochs and batch; other settings may differ."
    blocks: list[Block] = [
        Heading(3, f"Against {publication.cite}"),
        Text(
            f"{like} Only shapes are compared, never numbers; a fixed rule decides each, and by"
            f" how much it holds is not part of it. There: {publication.regime}; learning"
            f" rate {publication.rate}; {publication.seeds or 'an unknown number of'} seeds;"
            f" {'; '.join(publication.caveats)}."
        ),
    ]
    if rows:
        blocks.append(Table(["verdict", "what was published", "there", "here", "rule"], rows))
    if judgement.missing:
        blocks += [Text("Not asked:"), Bullets(judgement.missing)]
    return blocks


def trouble(cells: Sequence[CellRun]) -> list[Block]:
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
        Text("Their ends are in no mean and no difference.", muted=True),
    ]


def _why(run: SeedRun) -> str:
    step = None if run.result is None else run.result.diverged_at
    found = "" if step is None else f"the loss was not finite at step {step:,}"
    return run.problem or found or "not recorded"


def unreadable(collection: Collection) -> list[Block]:
    """Cells and plans that cannot be read; they are in no comparison."""
    bad = [cell for cell in collection.cells if cell.problem is not None]
    if not bad and not collection.problems:
        return []
    blocks: list[Block] = [Heading(2, "What cannot be read")]
    if bad:
        rows = [[c.folder, c.norm, str(c.batch), state(c), c.problem or ""] for c in bad]
        blocks.append(Table(["cell", "norm", "batch", "state", "why"], rows))
    return [*blocks, Bullets(collection.problems)] if collection.problems else blocks


def method() -> list[Block]:
    """How intervals, differences and rounding are to be taken."""
    return [
        Folded(
            "How the numbers were made",
            [
                Bullets(
                    [
                        "An interval is Student's t over seeds at 95 %; one seed has none. It is"
                        " for this one test set: another one of 10,000 images would move an error"
                        " of 37 % by ± 0.9 points, much of it alike for all norms.",
                        "Differences are taken seed by seed, then averaged: a seed has the same"
                        " first weights and the same images in the same order for every norm.",
                        "Seeds that diverged or failed are listed and counted, but in no mean; a"
                        " norm of which seeds diverged at a place is in no answer and no verdict on"
                        " it. One that failed, for want of memory or power, says nothing of its"
                        " norm: it is only missing.",
                        "Trained again, a seed agrees up to the rounding of float32, which training"
                        " can enlarge to a point and more of error: sums depend on how many seeds"
                        " are one network and on the threads. seeds.csv says both, where they were"
                        " recorded; stack=… threads=… repeat them.",
                        "Every seed is in seeds.csv, every cell in cells.csv, and every difference"
                        " at the end of training in differences.csv.",
                    ]
                )
            ],
        )
    ]
