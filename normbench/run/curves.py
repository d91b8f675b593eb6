"""The curves of replicas that are trained together."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from normbench.data.batches import Splits
from normbench.data.sheet import sample_sheet
from normbench.errors import UnreadableError, UsageError
from normbench.files import read_json, write_json
from normbench.run.cell import Replica
from normbench.store.curves import Tracker
from normbench.store.environment import environment, gone_on, rounding
from normbench.store.results import CONFIG, ENVIRONMENT
from normbench.terminal.screen import Screen
from normbench.training.progress import Metrics, Progress


class Trackers:
    """Open curves, and what each seed trains on is written down.

    Args:
        members: the replicas.
        recorded: the numbers of those of them that have any.
        splits: the images.
        progress: where training stands: what was recorded later is cut off.
        screen: told of what cannot be written.

    Raises:
        UsageError: there are curves that cannot be gone on with.
    """

    def __init__(
        self,
        members: Sequence[Replica],
        recorded: Sequence[int],
        splits: Splits,
        progress: Progress,
        screen: Screen,
    ) -> None:
        folders = [members[number].folder for number in recorded]
        if progress.step and (said := _moved(folders, splits)):
            screen.line(said)
        self._by_replica = {
            number: _tracker(members[number], splits, progress, screen) for number in recorded
        }

    @property
    def each(self) -> list[Tracker]:
        """One a replica that has any."""
        return list(self._by_replica.values())

    def log(self, metrics: Metrics) -> None:
        """Records each replica's share of ``metrics``."""
        for replica, tracker in self._by_replica.items():
            _log(tracker, metrics, replica)

    def flush(self) -> None:
        """Has all written that was recorded, and makes sure that it survives a loss of power."""
        for tracker in self.each:
            tracker.flush()
            tracker.sync()

    def close(self) -> None:
        """Closes them."""
        for tracker in self.each:
            tracker.close()


def _tracker(member: Replica, splits: Splits, progress: Progress, screen: Screen) -> Tracker:
    folder, config = member.folder, member.cell.config
    folder.mkdir(parents=True, exist_ok=True)
    _describe(folder, splits, progress)
    hparams: dict[str, str | int | float | bool] = {
        "norm": config.norm.name,
        "batch": config.batch,
        "norm_batch": config.statistics_batch,
        "model": config.model.title,
        "data": member.cell.images.name,
        "epochs": config.epochs,
        "peak learning rate": config.optim.peak(config.batch),
        "seed": member.seed,
    }
    written = member.cell.directory / CONFIG
    try:
        return Tracker(
            folder,
            hparams,
            config=written.read_text(encoding="utf-8") if written.is_file() else "",
            images=sample_sheet(splits.train) if member.seed == config.seed else b"",
            after=progress.recorded,
            warn=screen.line,
        )
    except (OSError, ValueError) as error:
        if progress.recorded == 0:
            raise
        raise UsageError(
            f"{folder}: its curves cannot be gone on with ({error}); put a sound metrics.jsonl"
            " there, or start this cell over with normbench run --fresh"
        ) from None


def _describe(folder: Path, splits: Splits, progress: Progress) -> None:
    """Writes on what it runs: in the seed's folder, as one added later may be trained elsewhere."""
    now = environment(splits.train.pixels.device)
    write_json(folder / ENVIRONMENT, gone_on(_before(folder) if progress.step else None, now))


def _before(folder: Path) -> dict[str, Any] | None:
    """On what a seed ran last."""
    with suppress(UnreadableError):
        return read_json(folder / ENVIRONMENT)
    return None


def _moved(folders: Sequence[Path], splits: Splits) -> str:
    """What is said of trainings that go on elsewhere; "" where none does."""
    own = rounding(environment(splits.train.pixels.device))
    last = [rounding(before) for folder in folders if (before := _before(folder))]
    changed = [key for key in own if any(each[key] != own[key] for each in last)]
    if not changed:
        return ""
    return f"  goes on with other {' and '.join(changed)} than before: sums are rounded otherwise"


def _log(tracker: Tracker, metrics: Metrics, replica: int) -> None:
    """Records one replica's share of ``metrics``."""
    values = {
        "train/loss": metrics.loss[replica],
        "train/accuracy": metrics.accuracy[replica],
        "train/learning_rate": metrics.learning_rate[replica],
        "train/images_per_second": metrics.images_per_second,
    }
    if metrics.evaluation is not None:
        values["eval/loss"] = metrics.evaluation.loss[replica]
        values["eval/accuracy"] = metrics.evaluation.accuracy[replica]
    values |= {name: each[replica] for name, each in metrics.diagnosis.items()}
    tracker.log(metrics.step, metrics.epoch, values)
    if metrics.evaluation is not None:
        tracker.flush()
