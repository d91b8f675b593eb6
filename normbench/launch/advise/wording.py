"""The answer of a race in words: for the terminal, as Markdown and as a small HTML page."""

from collections.abc import Sequence
from dataclasses import fields
from html import escape

from normbench.config import Config
from normbench.launch.advise.answer import CLEAR, CLOSE, Answer, Row
from normbench.launch.advise.book import Standing
from normbench.launch.advise.odds import epochs, said_p
from normbench.report.compare.choice import CHANCE
from normbench.terminal.bars import duration
from normbench.training.adamw import AdamWConfig
from normbench.training.optim import SGDConfig

COLUMNS = (
    "norm",
    "optim.lr",
    "error in %",
    "seeds",
    "epochs",
    "p, corrected",
    "time",
    "memory",
    "",
)


def headline(answer: Answer) -> list[str]:
    """The answer in a few sentences."""
    if answer.norm is None:
        return ["no norm could be trained: all diverged; try a smaller optim.lr"]
    best, *others = [row for row in answer.rows if row.state in ("best", "close", "behind")]
    close = [row for row in others if row.state == "close"]
    if answer.verdict == CLEAR:
        said = [f"use {_choice(best)}: {_error(best)} test error"]
    elif answer.verdict == CLOSE:
        names = " and ".join(row.norm for row in [best, *close])
        said = [
            f"too close to call between {names}; ahead is {_choice(best)}: {_error(best)} error"
        ]
    else:
        said = [
            f"cannot tell for {answer.epochs} epochs: the budget pays for {best.epochs}; after"
            f" these {_choice(best)} is ahead: {_error(best)} error"
        ]
    said += [answer.chance] if answer.chance else []
    said += [f"{row.norm} norm {_error(row)}{_certainty(row)}{_price(row)}" for row in others]
    return [*said, *_outlook(answer)]


def at_chance(answer: Answer, classes: int) -> str:
    """What to say where no finalist is better than guessing among so many classes; else ""."""
    finalists = [row for row in answer.rows if row.state in ("best", "close", "behind")]
    if any(row.error is not None and 1 - row.error > CHANCE / classes for row in finalists):
        return ""
    return (
        f"these are errors of guessing among {classes} classes: nothing was learned in"
        f" {epochs(finalists[0].epochs)}, so that nothing is known of the norms; train longer"
        " (epochs=), with more images, or at another optim.lr"
    )


def _choice(row: Row) -> str:
    momentum = "" if row.momentum is None else f" norm.momentum={row.momentum:g}"
    return f"{row.norm} norm with optim.lr={row.lr or 0:g}{momentum}"


def _error(row: Row) -> str:
    if row.error is None:
        return "diverged"
    half = "" if row.half is None else f" ± {100 * row.half:.1f}"
    return f"{100 * row.error:.1f}{half} %"


def _certainty(row: Row) -> str:
    if row.p is None:
        return ""
    return f": {'worse' if row.state == 'behind' else 'not clear'} ({said_p(row.p)}, corrected)"


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
        moved = ", ".join(f"{100 * lead:+.1f} points at {epochs(n)}" for n, lead in leads.items())
        if moved and answer.verdict != CLEAR:
            said.append(f"its lead over {norm} norm in short trainings: {moved}")
    if answer.seconds is not None:
        said.append(f"a clear answer would take about {duration(answer.seconds)} more")
    elif answer.verdict == CLOSE:
        said.append("no reasonable number of seeds would tell them apart")
    for norm, seconds in answer.aside.items():
        said.append(
            f"{norm} norm is not ruled out; with {duration(seconds)} more it could be placed"
        )
    if answer.larger:
        said.append(answer.larger)
    return said


def table(answer: Answer) -> list[list[str]]:
    """A line a norm, with :data:`COLUMNS`."""
    return [
        [
            row.norm,
            "-" if row.lr is None else f"{row.lr:g}" + _momentum(row.momentum),
            _error(row).removesuffix(" %"),
            str(row.seeds),
            str(row.epochs),
            "-" if row.p is None else said_p(row.p).removeprefix("p = ").removeprefix("p "),
            f"{row.time:.2f}",
            "-" if row.memory is None else f"{row.memory:.2f}",
            row.state if not row.why else f"{row.state}: {row.why}",
        ]
        for row in answer.rows
    ]


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
    return "-" if mean is None else f"{100 * (1 - mean):.1f} ± {100 * (half or 0):.1f}"


def code(config: Config) -> str:
    """The lines of Python that put a configuration's norm into a network of one's own."""
    norm = config.norm
    changed = [
        f"{each.name}={getattr(norm, each.name)!r}".replace("'", '"')
        for each in fields(norm)
        if each.name != "name" and getattr(norm, each.name) != each.default
    ]
    given = ", ".join(changed)
    name, arguments = _optimizer(config)
    arguments += f", weight_decay={config.optim.weight_decay:g}"
    short = f"optimizer = torch.optim.{name}({arguments})"
    return (
        "from normbench import NORMS, swap_norm\n\n"
        f'model = swap_norm(model, NORMS["{norm.name}"]({given}))\n'
        + (short if len(short) <= 100 else f"optimizer = torch.optim.{name}(\n    {arguments}\n)")
    )


def _optimizer(config: Config) -> tuple[str, str]:
    """The optimizer's name in torch, and all of its arguments but the last."""
    optim, rate = config.optim, f"lr={config.optim.peak(config.batch):g}"
    if isinstance(optim, SGDConfig):
        return "SGD", f"model.parameters(), {rate}, momentum={optim.momentum:g}"
    assert isinstance(optim, AdamWConfig)
    betas = f"betas=({optim.beta1:g}, {optim.beta2:g})"
    return "AdamW", f"model.parameters(), {rate}, {betas}"


NOTE = (
    "Errors are those of the test images, ± 95 % interval over seeds; of norms that were not"
    " trained in full, those of held-out images after shorter trainings. p is corrected for"
    " comparisons and looks. Time and memory are those of a training step, beside the best norm's."
)


def to_markdown(answer: Answer) -> str:
    """The answer as a page."""
    lines = ["# Which norm?", "", *(f"- {line}" for line in headline(answer)), ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in table(answer)]
    lines += ["", NOTE]
    if answer.command:
        lines += ["", "Train it:", "", "```sh", answer.command, "```"]
        lines += ["", "In your own code:", "", "```python", answer.code, "```"]
    return "\n".join(lines) + "\n"


def to_html(answer: Answer) -> str:
    """The answer as a piece of HTML, for a page or a notebook."""
    items = "".join(f"<li>{escape(line)}</li>" for line in headline(answer))
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table(answer)
    )
    parts = [f"<ul>{items}</ul>", f"<table><tr>{head}</tr>{body}</table>", f"<p>{escape(NOTE)}</p>"]
    if answer.command:
        parts += [f"<pre>{escape(text)}</pre>" for text in (answer.command, answer.code)]
    return "\n".join(parts)


def page(answer: Answer) -> str:
    """The answer as a whole HTML page that needs nothing else."""
    style = "body{font:16px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>normbench: which norm?</title>'
        f"<style>{style}</style><h1>Which norm?</h1>\n{to_html(answer)}\n</html>\n"
    )
