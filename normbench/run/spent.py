"""What the time of a command goes to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from time import perf_counter

PARTS = ("start", "arranging", "training", "evaluating", "decomposing", "writing")


class Spent:
    """Seconds of one run by what they went to; ``writing`` is what no other part has counted.

    Args:
        since: when the run began, by ``perf_counter``; now by default.
    """

    def __init__(self, since: float | None = None) -> None:
        self._since = perf_counter() if since is None else since
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._lock = Lock()

    def add(self, part: str, seconds: float) -> None:
        """Counts ``seconds``; of things done side by side, each its share of the clock's."""
        with self._lock:
            self._seconds[part] += seconds

    def started(self) -> None:
        """Counts all time so far as the start."""
        self.add("start", perf_counter() - self._since)

    @contextmanager
    def on(self, part: str, side_by_side: int = 1) -> Iterator[None]:
        """Counts the time within it, of which it has a share where others run beside it."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add(part, (perf_counter() - start) / side_by_side)

    def seconds(self) -> Mapping[str, float]:
        """The seconds of each part so far; they add up to the whole."""
        with self._lock:
            found = dict(self._seconds)
        rest = perf_counter() - self._since - sum(found.values())
        return found | {"writing": max(0.0, rest)}
