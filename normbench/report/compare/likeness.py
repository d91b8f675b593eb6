"""In what a comparison and a publication differ: why shapes are compared, and no numbers."""

from collections.abc import Mapping

from normbench.report.compare.analysis import typical
from normbench.report.compare.comparisons import Comparison
from normbench.report.compare.published import Publication
from normbench.report.read.groups import groups_of, has_groups
from normbench.store.results import short


def unlike(comparison: Comparison, publication: Publication) -> list[str]:
    """In what our comparison and theirs differ, as far as the records say."""
    found = []
    if comparison.data not in publication.names:
        found.append(f"images: {publication.data} there, {comparison.data} here")
    data = comparison.settings.get("data")
    for name in ("limit", "val_fraction"):
        if isinstance(data, Mapping) and data.get(name):
            found.append(f"training images: all there, data.{name}={short(data[name])} here")
    if comparison.model != publication.model:
        found.append(f"network: {publication.model} there, {comparison.model} here")
    if comparison.epochs != publication.epochs:
        here = "unknown" if comparison.epochs is None else f"{comparison.epochs:g}"
        found.append(f"epochs: {publication.epochs} there, {here} here")
    optim = comparison.settings.get("optim")
    for name, there in (("weight_decay", publication.decay), ("schedule", "step")):
        value = optim.get(name) if isinstance(optim, Mapping) else None
        said = short(value).strip("'")
        if value not in (None, there):
            found.append(f"{name.replace('_', ' ')}: {there} there, {said} here")
    group = typical(comparison, "group")
    swept = comparison.axis in publication.sweeps
    if publication.groups is not None and group is not None and not swept:
        cell = group.points[0].cell
        if not has_groups(cell, publication.groups):
            found += [
                f"group norm: {publication.groups} groups there, {here} here"
                for here in groups_of(cell)
            ]
    ratios = {
        c.batch // c.norm_batch
        for line in comparison.lines
        if line.batch_dependent
        for c in (p.cell for p in line.points)
    }
    if ratios and ratios != {publication.ratio}:
        found.append(f"batch: there {publication.regime}; here {comparison.regime}")
    return found
