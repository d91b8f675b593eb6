"""The end of a training: what the trained networks score, and each replica's weights and result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from normbench.config import Config, Precision
from normbench.data.batches import Batches, Splits
from normbench.models.inspection import memory_of_step
from normbench.models.layout import layout_of
from normbench.run.cell import Replica
from normbench.run.spent import Spent
from normbench.store.outcomes import write_outcomes
from normbench.store.results import BIG, DIVERGED, FINISHED, Result, write_result
from normbench.store.weights import WEIGHTS, write_weights
from normbench.training.loop import evaluate
from normbench.training.precise_bn import Decomposition, decompose
from normbench.training.progress import Evaluation, Progress

_MEMORY: dict[str, int | None] = {}
"""What a training step holds, by cell: its stacks need not each count it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Replicas that have been trained together.

    Attributes:
        members: which.
        recorded: the numbers of those whose results are written.
        networks: one of each.
        splits: the images.
        training: the batches.
        kept: how many numbers the optimizer keeps of each that is learned.
        check: called now and then; may raise to end it.
    """

    members: Sequence[Replica]
    recorded: Sequence[int]
    networks: Sequence[nn.Module]
    splits: Splits
    training: Batches
    kept: int
    check: Callable[[], None]

    @property
    def _config(self) -> Config:
        return self.members[0].cell.config

    @property
    def _autocast(self) -> bool:
        return self._config.precision is Precision.bf16

    def write(
        self, progress: Progress, seconds: float, running: Callable[[], int], spent: Spent
    ) -> None:
        """Writes weights and results.

        Args:
            progress: at the end.
            seconds: of training, of one seed.
            running: how many trainings share the machine now.
            spent: told what the time goes to.
        """
        with spent.on("evaluating", running()):
            test = self._test(progress)
        with spent.on("decomposing", running()):
            parts = self._decomposition()
        evaluation = progress.evaluation if self.splits.validation is not None else None
        memory, starts = self._memory(), self._starts()
        for replica in self.recorded:
            member = self.members[replica]
            write_weights(member.folder / WEIGHTS, self.networks[replica].state_dict())
            result = _result(member.seed, replica, progress, test, seconds, self.training)
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
            if result.status == FINISHED:
                result = _with_accuracies(result, replica, evaluation, parts)
                if test.correct is not None:
                    write_outcomes(member.folder, member.seed, test.correct[replica].numpy())
            write_result(member.folder, result)

    def _test(self, progress: Progress) -> Evaluation:
        """The score: the last epoch's evaluation, or with held-out images the only one on test.

        A checkpoint does not hold which images were right: going on from it evaluates once more.
        """
        last = progress.evaluation
        if self.splits.validation is None and last is not None and last.correct is not None:
            return last
        return evaluate(self.networks, self.splits.test, autocast=self._autocast, check=self.check)

    def _decomposition(self) -> Decomposition | None:
        """What the running averages cost, where the norm has them."""
        config = self._config
        return decompose(
            self.networks,
            self.training,
            self.splits.test,
            epoch=config.epochs,
            size=config.statistics_batch,
            autocast=self._autocast,
            check=self.check,
        )

    def _starts(self) -> list[tuple[float, float]]:
        """Each seed's accuracy before its norms were swapped and at once after it.

        Nothing unless training started from a file of weights.
        """
        if self._config.model.weights is None:
            return []
        own = [member.cell.start(member.seed).network for member in self.members]
        swapped = [member.build_model() for member in self.members]
        return list(zip(self._scores(own), self._scores(swapped), strict=True))

    def _scores(self, networks: Sequence[nn.Module]) -> list[float]:
        """The accuracies of networks on the test images."""
        test = self.splits.test
        for network in networks:
            network.to(device=test.pixels.device, memory_format=layout_of(network))  # type: ignore[call-overload]
        return evaluate(networks, test, autocast=self._autocast, check=self.check).accuracy

    def _memory(self) -> int | None:
        """The bytes that a training step of one seed holds; None where they cannot be counted.

        They are counted on the CPU: what has been trained on a GPU may not fit this memory.
        """
        cell = self.members[0].cell
        if cell.digest not in _MEMORY:
            size = (cell.config.batch, 3, *cell.images.image_size)
            labels = torch.zeros(size[0], dtype=torch.int64)
            try:
                model = self.members[0].build_model().train()
                found = memory_of_step(
                    model, torch.zeros(size), labels, means=self.kept, autocast=self._autocast
                )
            except (MemoryError, RuntimeError):
                found = None
            _MEMORY[cell.digest] = found
        return _MEMORY[cell.digest]


def _with_accuracies(
    result: Result, replica: int, evaluation: Evaluation | None, parts: Decomposition | None
) -> Result:
    """``result`` with the accuracies on held-out images and with other statistics."""
    if evaluation is not None:
        result = replace(result, val_accuracy=evaluation.accuracy[replica])
    if parts is not None:
        result = replace(
            result,
            test_accuracy_reestimated=parts.reestimated[replica],
            test_accuracy_batch=parts.batch[replica],
        )
    return result


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
