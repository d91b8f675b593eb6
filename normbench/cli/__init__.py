"""The command line; the only part that knows Typer.

Nothing heavy is imported before a command needs it, so that ``--help`` is there in a blink.

From the top down::

    app.py           all commands, and what they have in common
    training.py      run, sweep, show, advise, diagnose
    records.py       runs, report, tensorboard
    catalog.py       norms, data
    completion.py    completion of keys and values in bash and zsh
    endings.py       mistakes and interruptions: one line, one exit code
"""

import atexit
import os
import signal
import sys
import threading
from pathlib import Path
from time import perf_counter

SPINS = "10000"
"""How often a thread of OpenMP looks for work before it sleeps. The library's 300,000 keep the
cores from other commands: of two at once on two cores each took four times as long as alone, and
takes twice as long with this."""


def _leave(*_: object) -> None:
    os.write(2, b"normbench: interrupted\n")
    os._exit(130)


def command() -> None:
    """The process of the ``normbench`` command: :func:`main`, and no wait after it.

    Python takes half a second to take PyTorch apart. Nothing is left to do for it: what was
    registered for the end is called and output is flushed here, and files are closed before.
    """
    code: object = 0
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before; nobody wants to read
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    try:
        main()
    except SystemExit as end:
        code = end.code
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    if all(each.daemon for each in others) and isinstance(code, int | None):
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # Python says so itself
            sys.exit(code)
        os._exit(code or 0)
    sys.exit(code)  # type: ignore[arg-type]


def main() -> None:
    """What the ``normbench`` command does."""
    began = perf_counter()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup wants it
        signal.signal(signal.SIGINT, _leave)  # until there is something to put away
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    from normbench.cli import endings

    with endings.process():
        from normbench.cli.app import app

        app(obj=began)
