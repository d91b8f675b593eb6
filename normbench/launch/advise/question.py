"""What a race is about: the settings that were typed, and the cells that they make."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from normbench.config import PLACES
from normbench.errors import UsageError
from normbench.launch.advise.budget import Heat
from normbench.launch.compose import by_key, load_config, split_launcher
from normbench.launch.grid import compose_launcher
from normbench.launch.hints import check_arguments
from normbench.launch.rates import AUTO
from normbench.norms import NORMS
from normbench.run.cell import Cell
from normbench.run.views import one_position
from normbench.store.advice import Plan
from normbench.terminal.screen import Screen


@dataclass(frozen=True, slots=True)
class Question:
    """What a race is about.

    Attributes:
        settings: by key, as they were typed.
        launcher: how cells are spread.
        norms: the names of the norms.
    """

    settings: dict[str, str]
    launcher: list[str]
    norms: list[str]

    @classmethod
    def of(cls, overrides: Sequence[str], norms: Sequence[str]) -> "Question":
        """Reads what was typed.

        Raises:
            UsageError: it is no question.
        """
        launcher, settings = split_launcher(overrides)
        check_arguments("advise", settings)
        typed = by_key(settings)
        if typed.get("optim.lr") == AUTO:
            raise UsageError(f"{AUTO}: advise chooses the rate; leave it out")
        for norm in norms:
            if norm not in NORMS:
                raise UsageError(f"--norms {norm}: unknown norm; choose from {', '.join(NORMS)}")
        if len(set(norms)) < 2:
            raise UsageError(
                f"--norms {','.join(norms)}: a race takes two norms or more, for example"
                " batch,group"
            )
        if launcher:
            compose_launcher(launcher)
        own = {"name": "name=advise", "data.val_fraction": "data.val_fraction=0.1"}
        return cls(own | typed, launcher, list(dict.fromkeys(norms)))

    def overrides(self, norm: str) -> list[str]:
        """What composes a cell; settings of a norm go to the norms that have them."""
        own = [text for key, text in self.settings.items() if has(norm, key)]
        return [f"norm={norm}", *own]

    def cell(self, plan: Plan, heat: Heat) -> list[str]:
        """What composes the cell of a heat."""
        candidate = heat.candidate
        every = [
            *self.overrides(candidate.norm),
            f"optim.lr={plan.lr * candidate.factor:.6g}",
            f"epochs={heat.epochs}",
            f"seed={heat.seed}",
            f"seeds={heat.seeds}",
        ]
        if candidate.momentum is not None:
            every.append(f"norm.momentum={candidate.momentum:.6g}")
        return list(by_key(every).values())

    def fitting(self, screen: Screen) -> tuple["Question", list[Cell]]:
        """The same for the norms that the network, its images and the batch can have, a cell each.

        Raises:
            UsageError: fewer than two can; or something else about the settings.
        """
        refused: dict[str, UsageError] = {}
        cells, notes = self._cells(), dict[str | None, None]()
        for cell in cells:
            try:
                notes[one_position(cell, cell.check_fit())] = None
            except UsageError as error:
                refused[cell.config.norm.name] = error
        kept = [norm for norm in self.norms if norm not in refused]
        if len(kept) < 2:
            raise next(iter(refused.values()))
        for norm, why in refused.items():
            screen.line(f"{norm} norm is left out: {why}")
        for note in filter(None, notes):
            screen.line(f"note: {note}")
        fits = [cell for cell in cells if cell.config.norm.name in kept]
        return replace(self, norms=kept), fits

    def _cells(self) -> list[Cell]:
        for key, text in self.settings.items():
            if not any(has(norm, key) for norm in self.norms):
                name = key.removeprefix("norm.")
                raise UsageError(f"{text}: none of {', '.join(self.norms)} has {name}")
        found = [Cell.of(load_config(self.overrides(norm))) for norm in self.norms]
        fraction = found[0].config.data.val_fraction
        if not found[0].config.data.num_training(found[0].images.num_train)[1]:
            raise UsageError(
                f"data.val_fraction={fraction}: advise chooses on held-out images; write"
                " data.val_fraction=0.1, or leave it out"
            )
        return found

    def digest(self, cells: Sequence[Cell]) -> str:
        """SHA-256 (hex) of all that the answer depends on but the budget."""
        text = json.dumps([[cell.digest for cell in cells], cells[0].config.seed])
        return hashlib.sha256(text.encode()).hexdigest()

    def is_of(self, plan: Plan, cells: Sequence[Cell]) -> bool:
        """Whether a plan is about it, in whatever order the norms were named."""
        named = {cell.config.norm.name: cell for cell in cells}
        if named.keys() != set(plan.norms):
            return False
        return plan.question == self.digest([named[norm] for norm in plan.norms])

    @property
    def said(self) -> list[str]:
        """The settings that are part of the question, for people."""
        return [text for key, text in self.settings.items() if key not in PLACES]


def has(norm: str, key: str) -> bool:
    """Whether a norm has a setting, if that is one of norms."""
    group, _, name = key.partition(".")
    return group != "norm" or name in NORMS[norm].__dataclass_fields__
