"""The commands that make the cells of a comparison again."""

import shlex
from collections.abc import Mapping
from typing import Any

from normbench.registry import as_override
from normbench.report.compare.comparisons import Comparison
from normbench.report.compare.recipes import NO_PART, norm_settings
from normbench.report.read.cells import CellRun
from normbench.report.read.defaults import defaults

_DATA_SOURCES = ("cifar10", "cifar100", "synthetic")


def commands(comparison: Comparison) -> list[str]:
    """``normbench sweep`` where the cells are a full grid of norms and batches, else runs.

    Empty where the configuration is not recorded.
    """
    cells = [cell for cell in comparison.cells if cell.settings]
    threads = {cell.settings.get("threads") for cell in cells}
    same = (
        f" threads={as_override(threads.pop())}"
        if len(threads) == 1 and None not in threads
        else ""
    )
    tails = {_tail(cell) for cell in cells}
    pairs = {(cell.norm, cell.batch) for cell in cells}
    norms = list(dict.fromkeys(cell.norm for cell in cells))
    batches = sorted({cell.batch for cell in cells})
    if len(cells) > 1 and len(tails) == 1 and len(pairs) == len(cells) == len(norms) * len(batches):
        head = f"norm={','.join(norms)} batch={','.join(map(str, batches))}"
        return [f"normbench sweep {head}{tails.pop()}{same}"]
    heads = [f"normbench run norm={cell.norm} batch={cell.batch}" for cell in cells]
    return [f"{head}{_tail(cell)}{same}" for head, cell in zip(heads, cells, strict=True)]


def _tail(cell: CellRun) -> str:
    """Every other setting of a cell that is not the default, as overrides."""
    words = []
    settings = cell.settings
    if cell.norm_batch != cell.batch:
        words.append(f"norm_batch={cell.norm_batch}")
    words += _changed("norm", norm_settings(cell), defaults("norm", cell.norm))
    model = _group(settings, "model")
    name = str(model.get("name"))
    words += [] if name == "resnet" else [f"model={name}"]
    words += _changed("model", model, defaults("model", name))
    words += _data(cell)
    optim = _group(settings, "optim")
    name = str(optim.get("name", "sgd"))
    words += [] if name == "sgd" else [f"optim={name}"]
    words += _changed("optim", optim, defaults("optim", name))
    skipped = NO_PART | {"norm", "model", "data", "optim", "batch", "norm_batch"}
    usual = {"precision": "float32"}
    for key, value in settings.items():
        if key not in skipped and not isinstance(value, dict) and usual.get(key) != value:
            words.append(f"{key}={as_override(value)}")
    seeds = [run.seed for run in cell.seeds]
    if seeds and seeds[0]:
        words.append(f"seed={seeds[0]}")
    if len(seeds) > 1:
        words.append(f"seeds={seeds[-1] - seeds[0] + 1}")
    return "".join(f" {shlex.quote(word)}" for word in words)


def _data(cell: CellRun) -> list[str]:
    """The data set by the name it was found under, so that ``auto`` finds the same again."""
    data = _group(cell.settings, "data")
    if cell.data in _DATA_SOURCES:
        words = [f"data={cell.data}"]
    else:
        words = ["data=images", f"data.name={as_override(cell.data)}"]
    rest = {k: v for k, v in data.items() if k not in ("source", "name")}
    return words + _changed("data", rest, defaults("data", "images"))


def _group(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = settings.get(name)
    return value if isinstance(value, dict) else {}


def _changed(group: str, values: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    return [
        f"{group}.{key}={as_override(value)}"
        for key, value in values.items()
        if key != "name" and not (key in usual and usual[key] == value)
    ]
