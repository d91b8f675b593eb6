"""``optim.lr=auto``: each cell's learning rate is chosen before it is trained.

As at the beginning of ``normbench advise``: short trainings of one seed with three rates around the
rule, then those beside the best. Held-out images decide. These trainings are ordinary cells, in
``RUNS/NAME-rates``, so that the same command goes on; the cell itself is the one with that rate.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from normbench.config import LIMITS, Config
from normbench.errors import UnfinishedError, UsageError
from normbench.launch.compose import by_key, composed, parse
from normbench.launch.planned import Cells, Planned
from normbench.registry import as_override
from normbench.run.cell import Cell
from normbench.store.rate import write_rate
from normbench.store.results import read_results
from normbench.terminal.screen import Screen

AUTO = "optim.lr=auto"

HELD_OUT = 0.1
"""The share of the training images that decide, where ``data.val_fraction`` says nothing."""

FACTORS = (0.5, 1.0, 2.0)
"""The learning rates that are tried first, as multiples of ``optim.lr``."""

EXTENSIONS = 2
"""How often others are tried beside the best."""

Composed = tuple[Config, list[str]]
"""A cell's configuration, and the overrides that compose it."""


def wanted(arguments: Sequence[str]) -> bool:
    """Whether ``optim.lr=auto`` is among the arguments.

    Raises:
        UsageError: there are rates beside it.
    """
    for text in arguments:
        key, _, value = text.partition("=")
        if key == "optim.lr" and "auto" in value.split(",") and text != AUTO:
            raise UsageError(f"{text}: auto goes alone, it tries several; write {AUTO}")
    return AUTO in arguments


def beside(best: float | None, tried: Collection[float]) -> list[float]:
    """The factors to try next: those beside the best; below all, where none is good."""
    wanted = [min(tried) / 2] if best is None else [best / 2, best * 2]
    return [factor for factor in wanted if factor not in tried]


def shortest(epochs: int) -> int:
    """The length of the first short trainings, in epochs."""
    return max(1, epochs // 8)


@dataclass(slots=True)
class _Search:
    """The search for a cell's learning rate.

    Attributes:
        config, overrides: of the cell, with the rate of the rule.
        scores: held-out accuracy by factor of that rate; None if it diverged.
        images: the number of held-out images.
        failed: a trial that failed: no rate can be chosen then.
    """

    config: Config
    overrides: list[str]
    images: int
    scores: dict[float, float | None] = field(default_factory=dict)
    failed: Planned | None = None

    @classmethod
    def of(cls, config: Config, overrides: list[str]) -> "_Search":
        data = replace(config.data, val_fraction=config.data.val_fraction or HELD_OUT)
        _, images = data.num_training(Cell.of(config).images.num_train)
        if not images:
            raise UsageError(
                f"{AUTO}: chooses on held-out images, and a share of {data.val_fraction:g} of the"
                f" training images is none; write data.val_fraction=0.2"
            )
        return cls(config, overrides, images)

    @property
    def epochs(self) -> int:
        return shortest(self.config.epochs)

    @property
    def best(self) -> float:
        """The best factor, of equal ones the smallest; the smallest, too, if all diverged."""
        return min(self.scores, key=lambda factor: (-(self.scores[factor] or 0.0), factor))

    def rate(self, factor: float) -> float:
        return float(f"{self.config.optim.lr * factor:.6g}")

    def wanted(self) -> list[float]:
        return beside(self.best, self.scores) if self.scores else list(FACTORS)

    def trial(self, factor: float) -> list[str]:
        """What composes the training that tells how good a rate is, on a seed of its own."""
        config = self.config
        return _with(
            self.overrides,
            f"optim.lr={self.rate(factor)}",
            f"epochs={self.epochs}",
            f"seed={_apart(config.seed)}",
            "seeds=1",
            f"name={as_override(f'{config.name}-rates')}",
            f"data.val_fraction={config.data.val_fraction or HELD_OUT}",
        )

    def chosen(self, screen: Screen) -> list[str]:
        """What composes the cell with the best rate; says and records how it was chosen."""
        rate = self.rate(self.best)
        said = ", ".join(
            f"{self.rate(factor):g}: " + ("diverged" if value is None else f"{1 - value:.1%}")
            for factor, value in sorted(self.scores.items())
        )
        edge = self.best in (min(self.scores), max(self.scores))
        screen.line(
            f"{self.config.norm.name}, batch {self.config.batch}: optim.lr={rate:g}; held-out error"
            f" {said}" + ("; a better one may lie beyond these" if edge else "")
        )
        return _with(self.overrides, f"optim.lr={rate}")

    def record(self, folder: Path) -> None:
        """Writes how it was chosen to the cell's folder."""
        tried = {self.rate(factor): value for factor, value in self.scores.items()}
        rate = self.rate(self.best)
        write_rate(folder, rate, tried=tried, epochs=self.epochs, images=self.images)


def _apart(seed: int) -> int:
    """A seed that a cell does not use, however many seeds it will have."""
    most = LIMITS["seeds"]
    return seed + most if seed + most < 2**31 else seed - most


class Trainer(Protocol):
    """What trains cells."""

    def train(
        self, configs: Iterable[Composed], screen: Screen, *, dry_run: bool = False
    ) -> Cells: ...


def with_best_rates(
    trainer: Trainer, cells: Iterable[Composed], screen: Screen, *, dry_run: bool = False
) -> tuple[list[Composed], list[Planned]]:
    """The cells, each once and at the best learning rate for it; and trials that failed, whose
    cells are left out.

    Args:
        trainer: trains.
        cells: at the rate of the rule.
        screen: where it is said what was chosen.
        dry_run: whether nothing may be trained; cells whose rate is open then stay as they are.

    Raises:
        UsageError: no images can be held out.
        UnfinishedError: of no cell all trials ended well: a training failed, or another process
            is at it.
    """
    once = {Cell.of(config).directory: (config, overrides) for config, overrides in cells}
    searches = [_Search.of(*cell) for cell in once.values()]
    problem: UnfinishedError | None = None
    for _ in range(1 + EXTENSIONS):
        open_ = [search for search in searches if search.failed is None]
        wanted = [(search, factor) for search in open_ for factor in search.wanted()]
        trials = [search.trial(factor) for search, factor in wanted]
        if not trials:
            break
        screen.line(f"{AUTO}: rates are tried in short trainings first", "bold")
        tried = [_composed(texts) for texts in trials]
        trained = trainer.train(tried, screen, dry_run=dry_run)
        found = {each.directory: each for each in trained}
        if dry_run and any(each.left for each in found.values()):
            screen.line("none has been chosen yet: what follows is at the default rates", "bold")
            return list(once.values()), []
        for (search, factor), (config, _) in zip(wanted, tried, strict=True):
            trial = found[Cell.of(config).directory]
            try:
                search.scores[factor] = _score(trial)
            except UnfinishedError as error:
                search.failed, problem = trial, error
    failed = {s.failed.directory: s.failed for s in searches if s.failed is not None}
    ready = [search for search in searches if search.failed is None]
    if problem is not None and not ready:
        raise problem
    chosen = [_composed(search.chosen(screen)) for search in ready]
    for search, (config, _) in zip(ready, chosen, strict=True):
        if not dry_run:
            search.record(Cell.of(config).directory)
    return chosen, list(failed.values())


def _score(trained: Planned) -> float | None:
    """The held-out accuracy of a short training; None if it diverged.

    Raises:
        UnfinishedError: it has no result.
    """
    if trained.left:
        raise UnfinishedError(f"{trained.directory}: {trained.problem} (see {trained.log})")
    seed = trained.cell.config.seed
    return next(r.val_accuracy for r in read_results(trained.directory) if r.seed == seed)


def _composed(texts: list[str]) -> Composed:
    return composed([parse(text) for text in texts]), texts


def _with(overrides: Sequence[str], *more: str) -> list[str]:
    """Overrides, of which the last of a key counts."""
    return list(by_key([*overrides, *more]).values())
