"""Trains some replicas as one network, and writes each one's records."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from threading import Event

from torch import Tensor, nn

from normbench.config import Config, Precision
from normbench.data.batches import Batches, Splits
from normbench.models.layout import layout_of
from normbench.run.autosave import Saver
from normbench.run.cell import Replica
from normbench.run.curves import Trackers
from normbench.run.ending import Ending
from normbench.run.spent import Spent
from normbench.store.results import RESULT
from normbench.terminal.screen import Screen
from normbench.training.cuda_graph import WARM_UP, CapturedStep
from normbench.training.dropout import seed_dropout
from normbench.training.loop import (
    EVALUATION_BATCH,
    networks_of,
    norm_parameters,
    step_functions,
    train,
)
from normbench.training.optim import OptimConfig, build_stacked
from normbench.training.optimizer import Optimizer
from normbench.training.progress import Metrics, Progress
from normbench.training.stacking import stack


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
        models = [member.build_model() for member in members]
        model = models[0] if len(models) == 1 else stack(models, proven=True)
        device = splits.train.pixels.device
        model = model.to(device=device, memory_format=layout_of(model))  # type: ignore[call-overload]
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
        """What trains one step, as in training, and waits for its end, to be timed."""
        batches, number = self.training.batches(), count()
        draw_for = seed_dropout(self.model, self.training.seeds)
        _, train_on = step_functions(
            self.model,
            self.training,
            self.optimizer,
            self.config.optim,
            autocast=self.autocast,
        )

        def step() -> None:
            images, labels = next(batches)
            draw_for(next(number))
            train_on(images, labels).sum().item()

        if isinstance(train_on, CapturedStep):
            for _ in range(WARM_UP + 1):  # until it is recorded
                step()
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

        def check() -> None:
            if stop.is_set():
                raise StoppedError

        saver = Saver(self.members, self, warn=screen.line)
        progress = self._resume(saver, screen)
        recorded = self._recorded(progress)
        for number in recorded:  # of a training that failed: reports would still tell of it
            (self.members[number].folder / RESULT).unlink(missing_ok=True)
        trackers = Trackers(self.members, recorded, self.splits, progress, screen)
        try:
            with closing(self._steps(progress, screen, check)) as steps:
                for metrics in steps:
                    if metrics is not None:
                        trackers.log(metrics)
                        together = running()
                        saver.seconds += metrics.seconds / (len(self.members) * together)
                        spent.add("training", metrics.seconds / together)
                        spent.add("evaluating", metrics.evaluation_seconds / together)
                    check()
                    if saver.due(progress):
                        saver.save(progress, trackers.each)
            trackers.flush()  # before the results say that all is there
            kept = len(self.optimizer.buffer_names)
            ending = Ending(
                self.members, recorded, self.networks, self.splits, self.training, kept, check
            )
            ending.write(progress, saver.seconds, running, spent)
        except StoppedError:
            saver.save(progress, trackers.each)
            raise
        finally:
            trackers.close()
        saver.clear()

    def _steps(
        self, progress: Progress, screen: Screen, check: Callable[[], None]
    ) -> Generator[Metrics | None, None, None]:
        """What training yields, while it is shown how far it is."""
        config = self.config
        evaluation = self.splits.validation or self.splits.test
        with screen.training(
            self.label,
            steps=config.epochs * self.training.steps,
            epochs=config.epochs,
            tested=len(evaluation) * len(self.members),
            evaluate_every=config.evaluate_every,
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
                    bar.update(metrics)
                yield metrics

    def _recorded(self, progress: Progress) -> list[int]:
        """The numbers of the members whose records are written.

        One that was finished alone, or has left the stack since it was begun, is trained along all
        the same: without it, the others' sums would be taken in another order.
        """
        first, begun = self.members[0], progress.step > 0
        return [
            number
            for number, member in enumerate(self.members)
            if not (member.done or (begun and member.left(first)))
        ]

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
        own = self.model.state_dict()
        weights = {f"model.{name}": value for name, value in own.items()}
        unsaved = {f"{_UNSAVED}{k}": v for k, v in self.model.named_buffers() if k not in own}
        return weights | unsaved | self.optimizer.state()

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
        for name, buffer in [*self.model.named_buffers()]:
            value = tensors.get(f"{_UNSAVED}{name}", buffer)
            if value.shape == buffer.shape:
                buffer.copy_(value)
            else:  # it has grown
                path, _, own = name.rpartition(".")
                setattr(self.model.get_submodule(path), own, value.to(buffer))
        self.optimizer.restore(tensors)


_UNSAVED = "buffer."
"""What buffers begin with in a checkpoint that a network does not save (``persistent=False``)."""


def _few(seeds: Sequence[int]) -> str:
    """The seeds in a few characters."""
    said = ", ".join(map(str, seeds))
    return said if len(said) <= 16 else f"{seeds[0]}, … {seeds[-1]} ({len(seeds)})"
