"""The first table: which norm at which batch size, or which learning rate."""

from normbench.report.compare.choice import Choice, all_at_chance, choices
from normbench.report.compare.comparisons import NAMES, Comparison
from normbench.report.compare.rates import RateLine, RateTrial
from normbench.report.compare.statistics import welch
from normbench.report.read.states import settled
from normbench.report.text.wording import number, plus_minus, ratio, size, wider
from normbench.terminal.words import fixed


def grid(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and a row a batch size: which norm, its error, its lead, how sure, what it costs.

    No rows where every cell is at chance, and on an axis of groups.
    """
    if comparison.axis not in ("batch", "norm_batch") or all_at_chance(comparison.cells):
        return [], []
    found = choices(comparison)
    new = " (new images)" if any(choice.error_new is not None for choice in found) else ""
    columns = [
        NAMES[comparison.axis], "lowest error", f"error, %{new}", f"lead{new}", "over", "how sure",
        "time", "memory",
    ]  # fmt: skip
    return columns, [_grid_row(choice) for choice in found]


def _grid_row(choice: Choice) -> list[str]:
    lead = "-" if choice.ahead is None else size(choice.ahead) + wider(choice.ahead_new)
    over = "-" if choice.second is None else choice.second.label
    said = plus_minus(choice.error) + wider(choice.error_new)
    costs = ratio(choice.time), ratio(choice.memory)
    return [str(choice.x), choice.best.label, said, lead, over, sureness(choice), *costs]


def sureness(choice: Choice) -> str:
    """``clear``, or how many more seeds would tell."""
    if not choice.learned:
        return "no better than guessing"
    if choice.second is None:
        return "nothing to compare"
    if choice.doubt is None:
        return "clear"
    over = "" if choice.doubt is choice.second else f" against {choice.doubt.label}"
    return f"unclear{over}: {choice.more}"


RATE_COLUMNS = (
    *("norm", "batch size", "best optim.lr", "held-out error, %", "n"),
    *("next best (its error, %)", "note"),
)


def rate_rows(trial: RateTrial) -> list[list[str]]:
    """A row a norm and batch size: the best learning rate by held-out error."""
    rows = []
    for line in trial.lines:
        best = line.best
        if best is None:
            rows.append([_named(line), str(line.batch), "-", "-", "0", "-", "not finished yet"])
            continue
        value = line.at(best)
        n = 0 if value is None else value.n
        means = {  # fewer seeds may have a lower mean by luck, or because others diverged
            r: other.mean
            for r in line.errors
            if (other := line.at(r)) and r != best and other.n >= n
        }
        following = min(means, key=lambda rate: means[rate], default=None)
        told = "-"
        if following is not None:
            apart = welch(line.errors[following], line.errors[best])
            word = "clear" if apart is not None and apart.clear else "unclear"
            told = f"{number(following)} ({fixed(means[following], 1)}, {word})"
        note = "" if line.inside else _edge(line)
        note = note if all(settled(cell) for cell in line.cells.values()) else "not finished yet"
        row = [_named(line), str(line.batch), number(best), plus_minus(value), str(n), told, note]
        rows.append(row)
    return rows


def _edge(line: RateLine) -> str:
    """What to try where the best rate is the lowest or the highest of those tried."""
    if len(line.cells) == 1:
        return "the only one tried"
    lowest = line.best == min(line.cells)
    return "the lowest tried: try lower ones" if lowest else "the highest tried: try higher ones"


def _named(line: RateLine) -> str:
    return f"{line.norm}, {line.variant}" if line.variant else line.norm
