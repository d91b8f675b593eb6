"""A training step recorded once as a CUDA graph and replayed, so that nothing is launched by hand.

At a small batch a GPU waits for the CPU to launch kernel after kernel. A graph launches them all at
once. Not measured yet: this was written without a GPU at hand, and a step that cannot be recorded
is run eagerly, with a warning.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normbench.training.alike import settings_of
from normbench.training.proof import drawn

WARM_UP = 3
"""Steps that are run eagerly first, on a stream of their own, as capturing demands."""

TrainingStep = Callable[[Tensor, Tensor], Tensor]
"""Trains one step on images and labels and returns the logits."""


def on_the_host(model: nn.Module) -> list[object]:
    """What a network may read or change beside the GPU, which a replay would not: where random
    numbers on the CPU stand, its settings, and where its buffers lie."""
    plain = (bool, int, float, str)
    settings = [
        [(key, value) for key, value in settings_of(module).items() if isinstance(value, plain)]
        for module in model.modules()
    ]
    return [drawn(), settings, [buffer.data_ptr() for buffer in model.buffers()]]


class CapturedStep:
    """Runs a step eagerly at first, then records it, then replays it.

    All steps are real: those of the warm-up train on their batches as the later ones do.

    Args:
        step: the step; from call to call it works on the same parameters, reads nothing but its
            arguments and what it finds on the device (the learning rate has to be a tensor there),
            and does not wait for the device.
        forget: drops the gradients that a step which was not recorded to its end may have left:
            nothing has computed them.
        host: what the step may change that is not on the device, see :func:`on_the_host`; where it
            does, each step has to be run.
    """

    def __init__(
        self,
        step: TrainingStep,
        forget: Callable[[], None],
        host: Callable[[], Sequence[object]] = tuple,
    ) -> None:
        self._step = step
        self._forget = forget
        self._host = host
        self._steady = True
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream()
        self._images = self._labels = self._logits = torch.empty(0)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Trains on images and labels, whose shapes never change, and returns the logits."""
        self._calls += 1
        if self._calls <= WARM_UP:
            before = self._host() if self._calls == WARM_UP else ()
            logits = self._on_side_stream(images, labels)
            self._steady = self._calls < WARM_UP or before == self._host()
            return logits
        if self._calls == WARM_UP + 1 and self._steady:
            self._record(images, labels)
        elif self._calls == WARM_UP + 1:
            self._warn("it draws random numbers, or changes the network, beside the GPU")
        if self._graph is None:
            return self._step(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._logits.clone()  # the next replay writes over it

    def _on_side_stream(self, images: Tensor, labels: Tensor) -> Tensor:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            logits = self._step(images, labels)
        current.wait_stream(self._stream)
        return logits

    def _record(self, images: Tensor, labels: Tensor) -> None:
        """Records the step on copies of its inputs; recording computes nothing."""
        self._images, self._labels = images.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._logits = self._step(self._images, self._labels)
        except RuntimeError as error:
            self._forget()
            # Where ending the recording fails as well, what made it fail is the context.
            reason = str(error.__context__ or error).partition("\n")[0]
            self._warn(reason)
            return
        self._graph = graph

    def _warn(self, reason: str) -> None:
        warnings.warn(f"the step cannot be recorded as a CUDA graph: {reason}", stacklevel=3)
