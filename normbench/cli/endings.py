"""How a command ends: mistakes, full disks and interruptions are one line each, and an exit code.

Ctrl-C is heard from the first import on. It raises an exception, so that half-written files are
put away; a second later the process is gone in any case, for a library may swallow exceptions.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from threading import Timer
from types import FrameType
from typing import NoReturn

from normbench.errors import UnfinishedError, UsageError

PATIENCE = 1.0
"""Seconds between an interruption and leaving in any case."""

_OUTSIDE = (UsageError, UnfinishedError, OSError)
"""Errors that have a cause outside of the program."""

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class _Terminated(BaseException):
    """SIGTERM; like KeyboardInterrupt, it passes every handler of errors."""


class _Interruption:
    """The signal that ends a command, and what is said of it.

    Args:
        hint: said after the signal's word.
    """

    def __init__(self, hint: str = "") -> None:
        self._line = f"; {hint}\n" if hint else "\n"
        self._said = False
        self._timer: Timer | None = None
        self.received: signal.Signals | None = None

    def hear(self, signum: int, frame: FrameType | None) -> None:
        """Handles a signal: the first one counts."""
        if self.received is not None:
            return
        self.received = signal.Signals(signum)
        if _is_importing(frame):
            self._leave()
        sys.unraisablehook = lambda _: None  # an exception in a finalizer would be more lines
        self._timer = Timer(PATIENCE, self._leave)
        self._timer.daemon = True
        self._timer.start()
        raise KeyboardInterrupt if signum == signal.SIGINT else _Terminated

    def end(self) -> NoReturn:
        """Says what has been heard, and exits."""
        sys.exit(self._say())

    def close(self) -> None:
        """Forgets about leaving in any case."""
        if self._timer is not None:
            self._timer.cancel()

    def _say(self) -> int:
        received = self.received or signal.SIGINT
        if not self._said:
            self._said = True
            sys.stderr.write(f"normbench: {_WORDS[received]}{self._line}")
            sys.stderr.flush()
        return 128 + received

    def _leave(self) -> NoReturn:
        """Ends the process, whatever it is doing."""
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h")  # a live bar hides the cursor
        os._exit(self._say())


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: its C code may make anything of an exception."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


@contextmanager
def process() -> Iterator[None]:
    """The life of the process; after it the work is done, and nothing is interrupted any more."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # Greek letters must not end a command
            stream.reconfigure(errors="replace")
    try:
        with one_line():
            yield
    finally:
        for each in _WORDS:
            signal.signal(each, signal.SIG_IGN)


@contextmanager
def one_line(interrupted: str = "") -> Iterator[None]:
    """Turns every ending into one line: mistakes into exit code 2, what the machine refuses into
    1, interruptions into 130 or 143.

    Args:
        interrupted: what to say to a person who has interrupted, after that it is so.
    """
    interruption = _Interruption(interrupted)
    heard = [each for each in _WORDS if signal.getsignal(each) is not signal.SIG_IGN]  # nohup's
    previous = {each: signal.signal(each, interruption.hear) for each in heard}
    try:
        yield
        if interruption.received:  # a library has swallowed the exception
            interruption.end()
    except SystemExit:
        if interruption.received:  # Typer makes an exit code of an interruption, and says nothing
            interruption.end()
        raise
    except (Exception, KeyboardInterrupt, _Terminated) as error:
        # A library that is interrupted may make an error of its own of it.
        if interruption.received or _has(error, KeyboardInterrupt):
            interruption.end()
        _end_with(error)
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        interruption.close()


def _end_with(error: BaseException) -> NoReturn:
    """Says an error that has a cause outside of the program in one line; raises the others."""
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        text = ascii(error.object[max(0, error.start - 30) : error.end + 30])
        error = UsageError(f"{text}: records hold UTF-8 alone, and a name here is none: rename it")
    # `normbench norms | head` closes a pipe: Typer ends it quietly.
    if isinstance(error, BrokenPipeError) or not isinstance(error, _OUTSIDE):
        raise error
    if isinstance(error, UnfinishedError):
        line = f"not finished: {error}"
    elif isinstance(error, UsageError):
        line = str(error)
    else:
        where = "" if error.filename is None else f"{error.filename}: "  # such as a full disk
        line = f"{where}{error.strerror or error}"
    sys.stderr.write(f"normbench: {line}\n")
    sys.exit(2 if isinstance(error, UsageError) else 1)


def _has(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error is of a kind, or comes from one that is."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None
