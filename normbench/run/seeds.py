"""Trains some replicas as one network, and writes each one's records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event, Lock

import torch
from torch import Tensor, nn

from normbench.config import Config, Precision
from normbench.data.batches import Batches, Splits
from normbench.data.sheet import sample_sheet
from normbench.errors import UsageError
from normbench.files import write_json
from normbench.models.inspection import memory_of_step
from normbench.run.autosave import Saver
from normbench.run.cell import Replica
from normbench.run.spent import Spent
from normbench.store.curves import Tracker
from normbench.store.environment import environment
from normbench.store.outcomes import write_outcomes
from normbench.store.results import BIG, DIVERGED, FINISHED, Result, write_result
from normbench.store.weights import WEIGHTS, write_weights
from normbench.terminal.screen import Screen
from normbench.training.loop import (
    EVALUATION_BATCH,
    evaluate,
    networks_of,
    norm_parameters,
    step_function,
    train,
)
from normbench.training.optim import OptimConfig, build_stacked
from normbench.training.optimizer import Optimizer
from normbench.training.precise_bn import Decomposition, decompose
from normbench.training.progress import Evaluation, Metrics, Progress
from normbench.training.stacking import stack

_BUILDING = Lock()


class StoppedError(Exception):
    """Training was told to stop before its end."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """Some replicas, ready to be trained: a network, or a stack of them.

    Attributes:
        members: which; their configurations differ in learning rate and weight decay alone.
        splits: the images.
        model: maps [N, K·3, H, W] to [N, K·classes].
        networks: the replicas as K networks that share the model's tensors.
        training: the batches.
        optimizer: of the model.
    """

    members: Sequence[Replica]
    splits: Splits
    model: nn.Module
    networks: Sequence[nn.Module]
    training: Batches
    optimizer: Optimizer

    @classmethod
    def of(cls, members: Sequence[Replica], splits: Splits) -> "Replicas":
        """Builds the networks of ``members``, stacked where there are several.

        That these networks can be stacked has to be proven before, see
        :func:`normbench.training.stacking.stack`.
        """
        config = members[0].cell.config
        with _BUILDING:  # layers draw their first weights from the process's random state
            models = [member.build_model() for member in members]
            model = models[0] if len(models) == 1 else stack(models, proven=True)
        device = splits.train.pixels.device
        model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        seeds = [member.seed for member in members]
        optims = [member.cell.config.optim for member in members]
        return cls(
            members=members,
            splits=splits,
            model=model,
            networks=networks_of(model),
            training=Batches(splits.train, seeds=seeds, batch=config.batch, flip=config.data.flip),
            optimizer=build_stacked(optims, model, norm_parameters(model)),
        )

    @property
    def config(self) -> Config:
        """What is trained, but for learning rate and weight decay."""
        return self.members[0].cell.config

    @property
    def optims(self) -> list[OptimConfig]:
        """The members' learning rates and weight decays."""
        return [member.cell.config.optim for member in self.members]

    @property
    def autocast(self) -> bool:
        """Whether convolutions and products are computed in bfloat16."""
        return self.config.precision is Precision.bf16

    def stepper(self) -> Callable[[], None]:
        """What trains one step and waits for its end, to be timed."""
        batches = self.training.batches()
        train_on = step_function(
            self.model,
            self.training,
            self.optimizer,
            self.config.optim,
            autocast=self.autocast,
        )

        def step() -> None:
            images, labels = next(batches)
            train_on(images, labels).sum().item()

        return step

    def train(self, screen: Screen, stop: Event, running: Callable[[], int], spent: Spent) -> None:
        """Trains to the end, from the last checkpoint if there is one, and writes the records.

        Args:
            screen: where progress is shown.
            stop: ends training after the step, once it is set; a checkpoint is written then.
            running: how many such trainings share the machine now, this one counted.
            spent: told what the time goes to.

        Raises:
            StoppedError: ``stop`` was set.
            UsageError: there are checkpoints and all are damaged.
        """
        config = self.config

        def check() -> None:
            if stop.is_set():
                raise StoppedError

        saver = Saver(self.members, self, warn=screen.line)
        progress = self._resume(saver, screen)
        steps = config.epochs * self.training.steps
        # One may have been finished alone, and is trained along with its stack all the same.
        trackers = {
            number: _open_tracker(member, self.splits, progress, screen)
            for number, member in enumerate(self.members)
            if not member.done
        }
        try:
            self._say_where(trackers)
            evaluation = self.splits.validation or self.splits.test
            with screen.training(
                self.label,
                steps=steps,
                epochs=config.epochs,
                tested=len(evaluation) * len(self.members),
            ) as bar:

                def tested() -> None:
                    check()
                    bar.tested(EVALUATION_BATCH)

                for metrics in train(
                    self.model,
                    self.training,
                    self.optimizer,
                    self.optims,
                    epochs=config.epochs,
                    evaluation=evaluation,
                    networks=self.networks,
                    evaluate_every=config.evaluate_every,
                    progress=progress,
                    autocast=self.autocast,
                    check=tested,
                ):
                    if metrics is not None:
                        for replica, tracker in trackers.items():
                            _log(tracker, metrics, replica)
                        together = running()
                        saver.seconds += metrics.seconds / (len(self.members) * together)
                        spent.add("training", metrics.seconds / together)
                        spent.add("evaluating", metrics.evaluation_seconds / together)
                        bar.update(metrics)
                    check()
                    if saver.due(progress):
                        saver.save(progress, trackers.values())
            for tracker in trackers.values():  # before the results say that all is there
                tracker.flush()
            self._write_results(progress, saver.seconds, check, running, spent)
        except StoppedError:
            saver.save(progress, trackers.values())
            raise
        finally:
            for tracker in trackers.values():
                tracker.close()
        saver.clear()

    def _say_where(self, replicas: Iterable[int]) -> None:
        """Writes on what the seeds train: one that is added later may be trained elsewhere."""
        where = environment(self.splits.train.pixels.device)
        for replica in replicas:
            write_json(self.members[replica].folder / "environment.json", where)

    def _resume(self, saver: Saver, screen: Screen) -> Progress:
        """Where training stands: as in the last checkpoint, or at the beginning."""
        progress = Progress(self.training, self.config.optim.label_smoothing)
        if saver.resume(progress):
            epoch = progress.step / self.training.steps
            screen.line(f"  {self.label}  goes on after step {progress.step:,}, epoch {epoch:.2f}")
        return progress

    @property
    def label(self) -> str:
        """The replicas in a few characters."""
        seeds = [member.seed for member in self.members]
        if len({member.cell.digest for member in self.members}) > 1:
            return f"{len(seeds)} replicas"
        return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {_few(seeds)}"

    def state(self) -> dict[str, Tensor]:
        """Weights, buffers and what the optimizer knows of the past."""
        weights = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return weights | self.optimizer.state()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what :meth:`state` gave.

        Raises:
            RuntimeError, KeyError, ValueError: it is of another network.
        """
        weights = {
            name.removeprefix("model."): value
            for name, value in tensors.items()
            if name.startswith("model.")
        }
        self.model.load_state_dict(weights)
        self.optimizer.restore(tensors)

    def _write_results(
        self,
        progress: Progress,
        seconds: float,
        check: Callable[[], None],
        running: Callable[[], int],
        spent: Spent,
    ) -> None:
        """Writes weights and results; ``seconds`` are those of one seed."""
        held = progress.evaluation if self.splits.validation is not None else None
        with spent.on("evaluating", running()):
            test = self._test(progress, check)
        with spent.on("decomposing", running()):
            parts = self._decomposition(check)
        memory = self._memory()
        starts = self._starts(check)
        for replica, member in enumerate(self.members):
            folder, seed = member.folder, member.seed
            if member.done:
                continue
            write_weights(folder / WEIGHTS, self.networks[replica].state_dict())
            result = _result(seed, replica, progress, test, seconds, self.training)
            if result.status == FINISHED and held is not None:
                result = replace(result, val_accuracy=held.accuracy[replica])
            if result.status == FINISHED and parts is not None:
                result = replace(
                    result,
                    test_accuracy_reestimated=parts.reestimated[replica],
                    test_accuracy_batch=parts.batch[replica],
                )
            before, swapped = starts[replica] if starts else (None, None)
            result = replace(
                result,
                test_accuracy_before=before,
                test_accuracy_swapped=swapped,
                memory_bytes=memory,
                stacked=len(self.members),
                threads=torch.get_num_threads(),
                test_images=len(self.splits.test),
            )
            if result.status == FINISHED and test.correct is not None:
                write_outcomes(folder, seed, test.correct[replica].numpy())
            write_result(folder, result)

    def _test(self, progress: Progress, check: Callable[[], None]) -> Evaluation:
        """The score: the last epoch's evaluation, or with held-out images the only one on test.

        A checkpoint does not hold which images were right: going on from it evaluates once more.
        """
        last = progress.evaluation
        if self.splits.validation is None and last is not None and last.correct is not None:
            return last
        return evaluate(self.networks, self.splits.test, autocast=self.autocast, check=check)

    def _decomposition(self, check: Callable[[], None]) -> Decomposition | None:
        """What the running averages cost, where the norm has them."""
        config = self.config
        return decompose(
            self.networks,
            self.training,
            self.splits.test,
            epoch=config.epochs,
            size=config.norm_batch or config.batch,
            autocast=self.autocast,
            check=check,
        )

    def _starts(self, check: Callable[[], None]) -> list[tuple[float, float]]:
        """Each seed's accuracy before its norms were swapped and at once after it.

        Nothing unless training started from a file of weights.
        """
        if self.config.model.weights is None:
            return []
        with _BUILDING:
            own = [member.cell.start(member.seed).network for member in self.members]
            swapped = [member.build_model() for member in self.members]
        return list(zip(self._scores(own, check), self._scores(swapped, check), strict=True))

    def _scores(self, networks: Sequence[nn.Module], check: Callable[[], None]) -> list[float]:
        """The accuracies of networks on the test images."""
        test = self.splits.test
        for network in networks:
            network.to(device=test.pixels.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return evaluate(networks, test, autocast=self.autocast, check=check).accuracy

    def _memory(self) -> int:
        """The bytes that a training step of one seed holds."""
        size = (self.config.batch, 3, *self.members[0].cell.images.image_size)
        labels = torch.zeros(size[0], dtype=torch.int64)
        with _BUILDING:
            model = self.members[0].build_model().train()
        means = len(self.optimizer.buffer_names)
        return memory_of_step(model, torch.zeros(size), labels, means=means)


def _few(seeds: Sequence[int]) -> str:
    """The seeds in a few characters."""
    said = ", ".join(map(str, seeds))
    return said if len(said) <= 16 else f"{seeds[0]}, … {seeds[-1]} ({len(seeds)})"


def _result(
    seed: int,
    replica: int,
    progress: Progress,
    test: Evaluation,
    seconds: float,
    training: Batches,
) -> Result:
    """How one replica ended."""
    loss, diverged_at = test.loss[replica], progress.diverged[replica]
    if diverged_at is None and not loss <= BIG:  # what a record cannot hold is no result
        diverged_at = progress.step
    finished = diverged_at is None
    train_loss = progress.epoch_loss[replica]
    return Result(
        seed=seed,
        status=FINISHED if finished else DIVERGED,
        test_accuracy=test.accuracy[replica] if finished else None,
        test_loss=loss if finished else None,
        train_loss=train_loss if train_loss <= BIG else None,
        train_accuracy=progress.epoch_accuracy[replica] if finished else None,
        epochs=progress.step / training.steps,
        steps=progress.step,
        seconds=seconds,
        images_per_second=progress.step * training.batch / seconds,
        diverged_at=diverged_at,
    )


def _open_tracker(member: Replica, splits: Splits, progress: Progress, screen: Screen) -> Tracker:
    folder, config = member.folder, member.cell.config
    folder.mkdir(parents=True, exist_ok=True)
    hparams: dict[str, str | int | float | bool] = {
        "norm": config.norm.name,
        "batch": config.batch,
        "norm_batch": config.norm_batch or config.batch,
        "model": config.model.title,
        "data": member.cell.images.name,
        "epochs": config.epochs,
        "peak learning rate": config.optim.peak(config.batch),
        "seed": member.seed,
    }
    written = member.cell.directory / "config.yaml"
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
