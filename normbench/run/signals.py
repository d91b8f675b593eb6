"""Signals while something is at work that wants to be put away first.

The first SIGTERM or Ctrl-C asks; a later one leaves at once. Whoever has not come to rest within
five seconds of the first is left too: what has been saved by then is whole.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

PATIENCE = 4.5
"""Seconds between being asked to leave and leaving in any case."""

TOGETHER = 1.0
"""Seconds within which two signals are one: a terminal's Ctrl-C reaches a worker of a sweep, and
then the sweep asks it too."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def asking(ask: Callable[[], None]) -> Iterator[None]:
    """Within it, the first SIGINT or SIGTERM calls ``ask``, and takes effect at the end.

    At the end, whatever the body did, a signal that came is given to the handler from before: for
    example Python's, which raises KeyboardInterrupt. A signal that was ignored stays ignored. In
    threads other than the first, where Python allows no handlers, nothing changes.

    Args:
        ask: makes the body come to its end soon; called between any two of its instructions.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    first = 0.0
    timer = threading.Timer(PATIENCE, lambda: _leave(received[0]))
    timer.daemon = True

    def handle(signum: int, _frame: FrameType | None) -> None:
        nonlocal first
        if received:
            if monotonic() - first > TOGETHER:
                _leave(signum)
            return
        first = monotonic()
        received.append(signum)
        timer.start()
        ask()

    heard = [each for each in SIGNALS if signal.getsignal(each) not in (signal.SIG_IGN, None)]
    previous: dict[int, Any] = {each: signal.signal(each, handle) for each in heard}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        if received:
            timer.cancel()
            signal.raise_signal(received[0])


def _leave(signum: int) -> None:
    """Ends this process now, as a shell expects of a process ended by ``signum``."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h")  # a live bar hides the cursor
        sys.stdout.flush()
    os._exit(128 + signum)
