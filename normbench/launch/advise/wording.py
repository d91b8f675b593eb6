"""The answer of a race in words, and in lines of Python."""

from collections.abc import Sequence
from dataclasses import fields
from enum import Enum

from normbench.config import Config
from normbench.launch.advise.answer import CLEAR, CLOSE, Answer, Row
from normbench.launch.advise.book import ASIDE, DROPPED, Standing
from normbench.launch.advise.budget import minutes
from normbench.launch.advise.odds import CHOICE_SD, SEED_SD, SEEDS_RACED, said_p
from normbench.registry import NAMED_BY
from normbench.report.compare.choice import guessing
from normbench.report.text.wording import join
from normbench.terminal.bars import duration
from normbench.terminal.words import count, plus_minus
from normbench.training.optim import OptimConfig, Schedule

COLUMNS = (
    "norm",
    "optim.lr",
    "error, %",
    "seeds",
    "epochs",
    "p, corrected",
    "time",
    "memory",
    "result",
)

DROPPABLE = ("memory", "time", "epochs", "seeds", "p, corrected")
"""What a narrow terminal does without."""

NOTE = (
    "Errors are those of the test images, ± the 95 % interval over seeds. held-out: a norm that was"
    " not trained in full, by held-out images after a shorter training of one seed; its ± assumes"
    f" that seeds scatter by {100 * SEED_SD:g} points (SD). p is corrected for comparisons and"
    f" looks, and allows for the choice of each rate (SD {100 * CHOICE_SD:g} points). Time and"
    " memory are those of a training step of one seed, beside the best norm's."
)

WIDTH = 100
"""The most characters in a line of Python."""


def headline(answer: Answer) -> list[str]:
    """The answer in a few sentences."""
    if answer.norm is None:
        return ["no norm could be trained: all diverged; try a smaller optim.lr"]
    best, *others = [row for row in answer.rows if row.final]
    if answer.chance:  # whichever is ahead then means nothing
        errors = [f"{row.norm} norm {_error(row)}" for row in (best, *others)]
        return [answer.chance, *errors, *_outlook(answer)]
    close = [row for row in others if row.state == "close"]
    if answer.verdict == CLEAR:
        said = [f"use {_choice(best, answer.peak)}: {_error(best)} test error"]
    elif answer.verdict == CLOSE:
        names = join([row.norm for row in [best, *close]])
        said = [
            f"too close to call between {names}; ahead is {_choice(best, answer.peak)}:"
            f" {_error(best)} test error"
        ]
    else:
        said = [
            f"cannot tell for {answer.epochs} epochs: the budget pays for {best.epochs}; after"
            f" {best.epochs}, {_choice(best, answer.peak)} is ahead: {_error(best)} test error"
        ]
    said += [f"{row.norm} norm {_error(row)}{_apart(row, best)}{_price(row)}" for row in others]
    said += [
        f"{row.diverged} of {count(row.seeds, 'seed')} of {row.norm} norm diverged, which counts as"
        " 100 % error"
        for row in (best, *others)
        if row.diverged
    ]
    said += [
        f"a rate beside {norm} norm's optim.lr was not tried: it may do better"
        for norm in answer.edges
    ]
    return [*said, *_outlook(answer)]


def at_chance(answer: Answer, classes: int, images: int) -> str:
    """What to say where no finalist is better than guessing among so many classes, on so many test
    images; else ""."""
    finalists = [row for row in answer.rows if row.final]
    known = guessing(classes, images)
    if any(row.error is not None and 1 - row.error > known for row in finalists):
        return ""
    length = count(finalists[0].epochs, "epoch")
    return (
        f"these are errors of guessing among {classes} classes: nothing was learned in {length}, so"
        " that nothing is known of the norms; train longer (epochs=), with more images, or at"
        " another optim.lr"
    )


def _choice(row: Row, peak: float | None) -> str:
    momentum = "" if row.momentum is None else f" norm.momentum={row.momentum:g}"
    own = "" if peak is None or peak == row.lr else f" (a peak learning rate of {peak:.3g})"
    return f"{row.norm} norm with optim.lr={row.lr or 0:g}{own}{momentum}"


def _error(row: Row) -> str:
    if row.error is None:
        return "diverged"
    half = None if row.half is None else 100 * row.half
    return f"{plus_minus(100 * row.error, half)} %"


def _apart(row: Row, best: Row) -> str:
    """By how much a finalist is worse than the best, and how sure that is."""
    if row.p is None or row.error is None or best.error is None:
        return ""
    points = 100 * (row.error - best.error)
    sure = "" if row.state == "behind" else ", not clear"
    how = "worse" if points >= 0 else "better"
    return f": {abs(points):.1f} points {how}{sure} ({said_p(row.p)}, corrected)"


def _price(row: Row) -> str:
    """What a norm costs beside the best."""
    parts = [_relative(row.time, "time a step")]
    if row.memory is not None:
        parts.append(_relative(row.memory, "memory"))
    return "; beside the best " + ", ".join(parts)


def _relative(ratio: float, what: str) -> str:
    percent = round(100 * (ratio - 1))
    return f"the same {what}" if percent == 0 else f"{percent:+d} % {what}"


def _outlook(answer: Answer) -> list[str]:
    """How leads moved, and what more time would bring."""
    said = []
    for norm, leads in answer.leads.items():
        moved = ", ".join(
            f"{100 * lead:+.1f} points at {count(length, 'epoch')}"
            for length, lead in leads.items()
        )
        if moved and answer.verdict != CLEAR:
            said.append(f"{answer.norm} norm's lead over {norm} norm on held-out images: {moved}")
    for row in answer.rows:
        if row.state == DROPPED and row.error is not None:
            said.append(f"{row.norm} norm was dropped: {row.why} of {answer.epochs}")
    said += _missing(answer)
    for norm, seconds in answer.aside.items():
        said.append(
            f"{norm} norm is not ruled out; with {duration(seconds)} more it could be placed"
        )
    if answer.elsewhere:
        said.append(answer.elsewhere)
    return said


def _missing(answer: Answer) -> list[str]:
    """What would bring a clear answer, or why nothing would."""
    if answer.verdict == CLEAR:
        return []
    if answer.seconds is None:
        if answer.verdict != CLOSE:
            return []
        finalists = [row for row in answer.rows if row.final]
        ahead = min(finalists, key=lambda row: 1.0 if row.error is None else row.error).norm
        if ahead != answer.norm:
            return [f"held-out images have {answer.norm} norm ahead, test images {ahead} norm"]
        most = f"more than {SEEDS_RACED} seeds each"
        return [f"{most} would be needed to tell them apart: take the one that costs less"]
    again = f"the same command with --within {minutes(answer.within + answer.seconds)}"
    length = count(answer.epochs, "epoch")
    if answer.verdict != CLOSE:
        return [f"trainings of {length} take about {duration(answer.seconds)} more: {again}"]
    if answer.decided or answer.seconds == 0:
        why = ": held-out images have decided" if answer.decided else ""
        return [
            f"about {count(answer.seeds or 0, 'seed')} each would tell them apart on the test"
            f" images; the race trains no more{why}"
        ]
    return [f"a clear answer would take about {duration(answer.seconds)} more: {again}"]


def table(answer: Answer) -> list[list[str]]:
    """A line a norm, with :data:`COLUMNS`."""
    return [
        [
            row.norm,
            "-" if row.lr is None else f"{row.lr:g}" + _momentum(row.momentum),
            _error(row).removesuffix(" %") + _held_out(row),
            f"{row.seeds}, {row.diverged} diverged" if row.diverged else str(row.seeds),
            str(row.epochs),
            "-" if row.p is None else said_p(row.p).removeprefix("p = ").removeprefix("p "),
            f"{row.time:.2f}",
            "-" if row.memory is None else f"{row.memory:.2f}",
            row.state if not row.why else f"{row.state}: {row.why}",
        ]
        for row in answer.rows
    ]


def _held_out(row: Row) -> str:
    return " held-out" if row.state in (ASIDE, DROPPED) and row.error is not None else ""


def _momentum(momentum: float | None) -> str:
    return "" if momentum is None else f", momentum {momentum:g}"


def standings(found: Sequence[Standing], lr: float) -> list[list[str]]:
    """The race so far, a line a norm: norm, rate, held-out error, seeds, epochs, state."""
    return [
        [
            each.norm,
            _rate(each, lr),
            _percent(each.mean, each.half),
            str(len(each.accuracies)),
            str(each.epochs),
            f"{each.state}: {each.why}" if each.why else each.state,
        ]
        for each in found
    ]


def _rate(standing: Standing, lr: float) -> str:
    best = standing.best
    return "-" if best is None else f"{lr * best.factor:g}" + _momentum(best.momentum)


def _percent(mean: float | None, half: float | None) -> str:
    return (
        "-" if mean is None else plus_minus(100 * (1 - mean), None if half is None else 100 * half)
    )


def code(config: Config) -> str:
    """The lines of Python that put a configuration's norm into a network of one's own.

    They stand by themselves behind a line ``model = …``.
    """
    norm = config.norm
    values = {each.name: getattr(norm, each.name) for each in fields(norm)}
    changed = [
        f"{each.name}={_literal(values[each.name])}"
        for each in fields(norm)
        if each.name != NAMED_BY["norm"] and values[each.name] != each.default
    ]
    swapped = ["model", f'NORMS["{norm.name}"]({", ".join(changed)})']
    if norm.batch_dependent and config.statistics_batch != config.batch:
        swapped.append(f"norm_batch={config.norm_batch}")
    if config.model.carry:
        swapped.append("carry=True")
    optimizer, arguments = config.optim.in_torch(config.batch)
    imports = ["import torch", "from normbench import NORMS, swap_norm"]
    lines = [_call("model = swap_norm", swapped)]
    if norm.needs:
        own = "model has to be a network of normbench's own"
        lines.insert(0, f"# {norm.name} needs {norm.needs}: {own}")
    if config.optim.weight_decay and not config.optim.decay_norm:
        imports.append("from normbench.training.loop import norm_parameters")
        lines.append(_GROUPS)
        arguments = ["groups", *arguments[1:]]
    if course := _course(config.optim):
        lines.append(f"# lr is the peak: in training the learning rate {course}")
    lines.append(_call(f"optimizer = {optimizer}", arguments))
    return "\n".join([*imports, "", *lines])


def _course(optim: OptimConfig) -> str:
    """How the learning rate comes to its peak and leaves it; "" where it does neither."""
    rise = f"rises over the first {100 * optim.warmup:g} % of the steps" if optim.warmup else ""
    shares = join([f"{100 * share:g} %" for share in optim.steps_at])
    falls = {
        Schedule.linear: "falls linearly to 0",
        Schedule.cosine: "falls to 0 along a cosine",
        Schedule.step: f"is multiplied by {optim.step_factor:g} at {shares} of them",
        Schedule.constant: "",
    }
    return ", then ".join(filter(None, (rise, falls[optim.schedule])))


_GROUPS = """\
scales = set(norm_parameters(model))  # γ and β, which are not decayed
groups = [
    {"params": [p for p in model.parameters() if p not in scales]},
    {"params": [p for p in model.parameters() if p in scales], "weight_decay": 0.0},
]"""


def _literal(value: object) -> str:
    """A setting in Python; an Enum's member is as good as its text."""
    return repr(value.value if isinstance(value, Enum) else value).replace("'", '"')


def _call(function: str, arguments: Sequence[str]) -> str:
    """A call as one formats it: in a line if it fits, else its arguments in one, or in one each."""
    given = ", ".join(arguments)
    for text in (f"{function}({given})", f"{function}(\n    {given}\n)"):
        if max(map(len, text.splitlines())) <= WIDTH:
            return text
    return f"{function}(\n" + "".join(f"    {each},\n" for each in arguments) + ")"
