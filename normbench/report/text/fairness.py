"""What was equal in a comparison and what was not: said from the records, and checked in them."""

from collections.abc import Mapping
from typing import Any

from normbench.errors import UsageError
from normbench.report.compare.comparisons import Comparison
from normbench.report.compare.costs import peak_rate
from normbench.report.compare.recipes import held_out, norm_settings
from normbench.report.compare.regimes import SIGNS
from normbench.report.read.defaults import defaults, made
from normbench.report.read.settings import groups_of
from normbench.report.text.wording import join, number
from normbench.store.environment import each_machine
from normbench.store.results import short

UNRECORDED = "not recorded: these cells have no config.yaml, so that it was equal is not known"

_MACHINE = ("processor", "gpu", "device", "threads")


def fairness(comparison: Comparison) -> list[tuple[str, str]]:
    """Names and values of the box that says what was equal."""
    settings = comparison.settings
    rows = [("images", _images(comparison)), ("epochs", _epochs(comparison))]
    rows += [("steps", _steps(comparison)), ("batch", comparison.regime)]
    if settings:
        optim = _group(settings, "optim")
        rows += [
            ("learning rate", _rate(comparison, optim)),
            ("who chose it", _chosen(comparison)),
            ("optimizer", _optimizer(optim)),
            ("weight decay", _decay(optim)),
            ("initialization", _initialization(settings)),
            ("precision", short(settings.get("precision")).strip("'")),
        ]
    else:
        rows.append(("recipe", UNRECORDED))
        rows.append(("learning rate", _rates(comparison) + " (highest in the curves)"))
    rows += [("norms", _norms(comparison)), ("seeds", _seeds(comparison))]
    rows += [("score", "test error after the last step, never of the best epoch")]
    rows += [("machine", _machine(comparison))]
    return rows


def _group(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = settings.get(name)
    return value if isinstance(value, dict) else {}


def _said(values: Mapping[str, Any], key: str) -> str:
    return short(values.get(key)).strip("'")


def _images(comparison: Comparison) -> str:
    digest = comparison.sha256
    said = f"{comparison.data}, " + (f"sha256 {digest[:12]}…" if digest else "digest not recorded")
    data = _group(comparison.settings, "data")
    if not data:
        return said + "; the same in every cell"
    limit = data.get("limit")
    said += (
        "; all training images"
        if limit is None
        else f"; at most {_said(data, 'limit')} training images"
    )
    if data.get("val_fraction"):
        said += f" but a share of {_said(data, 'val_fraction')} of all, which is held out"
    if data.get("test_limit") is not None:
        said += f"; at most {_said(data, 'test_limit')} images to test on"
    said += f"; crops after padding by {_said(data, 'pad')}" if data.get("pad") else "; no crops"
    return said + (", mirrored" if data.get("flip") else "") + "; the same in every cell"


def _epochs(comparison: Comparison) -> str:
    seen = {result.epochs for cell in comparison.cells for result in cell.finished}
    asked = "unknown" if comparison.epochs is None else f"{comparison.epochs:g}"
    if not seen:
        return f"{asked} in every cell; no seed has finished yet"
    if seen == {comparison.epochs}:
        return f"{asked}, seen in full by every finished seed (checked)"
    return f"{asked} asked for, but finished seeds saw {_list(seen)}"


def _steps(comparison: Comparison) -> str:
    by_batch: dict[int, set[int]] = {}
    for cell in comparison.cells:
        for result in cell.finished:
            by_batch.setdefault(cell.batch, set()).add(result.steps)
    if not by_batch:
        return "no seed has finished yet"
    said = ", ".join(f"{_list(steps)} at batch {b}" for b, steps in sorted(by_batch.items()))
    equal = all(len(steps) == 1 for steps in by_batch.values())
    verdict = "equal for every norm at a batch (checked)" if equal else "NOT equal at a batch"
    more = "; fewer at a larger batch, because all see the same images" if len(by_batch) > 1 else ""
    return f"{said}: {verdict}{more}"


def _list(values: set[int] | set[float]) -> str:
    return ", ".join(f"{value:,g}" if value % 1 else f"{value:,.0f}" for value in sorted(values))


def _rate(comparison: Comparison, optim: Mapping[str, Any]) -> str:
    rule = {"linear": "·batch/{}", "sqrt": "·√(batch/{})"}.get(_said(optim, "scaling"), "")
    said = " or ".join(comparison.rates) + rule.format(_said(optim, "scaling_batch"))
    said += f", rising over the first {_said(optim, 'warmup')} of the steps"
    rule_said = "one rule for every norm" if len(comparison.rates) < 2 else "each cell its own"
    said += f", then {_said(optim, 'schedule')}; {rule_said}. At its peak: "
    return said + _rates(comparison)


def _rates(comparison: Comparison) -> str:
    found = [(cell.batch, cell.norm, peak_rate(cell)) for cell in comparison.cells]
    several = len(comparison.rates) > 1
    known = {(b, f" ({norm})" if several else "", r) for b, norm, r in found if r is not None}
    said = [f"{number(rate)} at batch {batch}{norm}" for batch, norm, rate in sorted(known)]
    return ", ".join(said) or "unknown"


def _chosen(comparison: Comparison) -> str:
    optim = _group(comparison.settings, "optim")
    usual = defaults("optim", str(optim.get("name", "sgd")))
    keys = ("lr", "scaling", "scaling_batch", "schedule", "warmup")
    choices = [cell.choice for cell in comparison.cells]
    if all(choices):
        images = _list({choice["images"] for choice in choices})
        epochs = _list({choice["epochs"] for choice in choices})
        return (
            f"optim.lr=auto, for each cell on {images} held-out training images; length of the"
            f" trainings in epochs: {epochs} (rate.json)"
        )
    if len(comparison.rates) > 1:
        said = "each cell has its own rate; on which images it was chosen is not recorded"
    elif all(optim.get(key) == usual.get(key) for key in keys):
        said = "normbench's default: the learning rate was not tuned for any norm"
    else:
        said = "not the default; on which images and for which norm it was chosen is not recorded"
    if held_out(comparison.settings):
        said += "; training images were held out for such a choice"
    return said


def _optimizer(optim: Mapping[str, Any]) -> str:
    from normbench.training.optim import OPTIMS  # brings torch

    name = str(optim.get("name", "sgd"))
    try:
        plain = {key: value for key, value in optim.items() if not isinstance(value, list)}
        said = str(made(OPTIMS[name], plain).title)
    except (UsageError, KeyError, TypeError, ValueError):
        said = name
    smoothing = optim.get("label_smoothing")
    return said + (f", label smoothing {short(smoothing)}" if smoothing else "")


def _decay(optim: Mapping[str, Any]) -> str:
    scope = "on all parameters, γ and β too" if optim.get("decay_norm") else "not on γ and β"
    return f"{_said(optim, 'weight_decay')} {scope}; the same for every norm"


def _initialization(settings: Mapping[str, Any]) -> str:
    zero = "; γ of each block's last norm starts at 0, for every norm"
    said = "the weights of a seed are the same for every norm and batch size"
    return said + (zero if _group(settings, "model").get("zero_init") is True else "")


def _norms(comparison: Comparison) -> str:
    said = []
    for line in comparison.lines:
        cell = line.points[0].cell
        values = {k: v for k, v in norm_settings(cell).items() if k != comparison.axis}
        settings = [f"{k}={short(v)}".replace("'", "") for k, v in values.items()]
        if comparison.axis not in SIGNS:
            settings += groups_of(cell)
        said.append(f"{line.label} ({', '.join(settings)})" if settings else line.label)
    return "; ".join(said)


def _seeds(comparison: Comparison) -> str:
    sets: dict[tuple[int, ...], list[str]] = {}
    for line in comparison.lines:
        for point in line.own:
            if ended := tuple(r.seed for r in point.cell.finished):
                sets.setdefault(ended, []).append(line.label)
    named = [", ".join(map(str, seeds)) for seeds in sorted(sets)]
    empty = sum(not cell.finished for cell in comparison.cells)
    none = f"; none has finished in {empty} of {len(comparison.cells)} cells" if empty else ""
    if len(named) == 1:
        return f"{named[0]} finished in every cell{' that has any' if empty else ''}{none}"
    listed = (
        join(
            [
                f"({', '.join(map(str, seeds))}) of {join(list(dict.fromkeys(labels)))}"
                for seeds, labels in sorted(sets.items())
            ]
        )
        or "none"
    )
    return f"cells differ in the seeds that finished: {listed}{none}"


def _machine(comparison: Comparison) -> str:
    """On what it ran, as far as times go."""
    found = []
    begun = [
        each
        for cell in comparison.cells
        for run in cell.seeds
        if run.begun
        for each in each_machine(run.environment or cell.environment)
    ]
    for values in begun:
        if values:
            known = [f"{k} {short(values[k])}" for k in _MACHINE if values.get(k) is not None]
            versions = values.get("packages")
            torch = versions.get("torch") if isinstance(versions, dict) else None
            found.append(", ".join([*known, f"torch {short(torch)}"]).replace("'", ""))
    kinds = list(dict.fromkeys(found))
    if not kinds:
        return "not recorded: times of these cells may not be comparable"
    if len(kinds) == 1 and len(found) == len(begun):
        return f"{kinds[0]}; what else it did meanwhile is not recorded, and times depend on it"
    return f"differs between seeds, so times are not comparable: {' | '.join(kinds)}"
