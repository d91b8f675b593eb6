"""The curves of replicas that are trained together."""

from collections.abc import Iterable, Sequence

from normbench.data.batches import Splits
from normbench.data.sheet import sample_sheet
from normbench.errors import UsageError
from normbench.files import write_json
from normbench.run.cell import Replica
from normbench.store.curves import Tracker
from normbench.store.environment import environment
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
        recorded: Iterable[int],
        splits: Splits,
        progress: Progress,
        screen: Screen,
    ) -> None:
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
    # Here, not in the cell's folder: a seed that is added later may be trained elsewhere.
    write_json(folder / ENVIRONMENT, environment(splits.train.pixels.device))
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
