"""A warm process that forks: each child is a process like any other, without its start-up.

Importing torch takes seconds, and the fault matrix needs thousands of processes. This one imports
everything, starts no threads and computes nothing; then it forks a child for each line of JSON that
it reads. A child has its own process group, working folder, environment and output, and runs
``normbench`` as the installed command does, or one of the tasks in ``inside.py``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any


def serve() -> None:
    """Answers requests until standard input ends."""
    _warm()
    print("ready", flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        answer = _wait(**request["wait"]) if "wait" in request else _fork(request)
        print(json.dumps(answer), flush=True)


def _warm() -> None:
    """Imports all that a command may need."""
    import torch
    import torchvision  # noqa: F401

    from faults import inside  # noqa: F401
    from normbench import cli, report  # noqa: F401
    from normbench.launch import grid  # noqa: F401
    from normbench.launch.compose import load_config
    from normbench.run import run as experiment  # noqa: F401

    torch.set_num_threads(1)
    load_config(["norm=group", "batch=2"])  # Hydra fills its stores and its parser's tables


def _fork(request: dict[str, Any]) -> int:
    sys.stdout.flush()
    if (pid := os.fork()) != 0:
        # Parent and child both do it: the group is there before anybody is told of the process.
        with suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        code = _child(request)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _child(request: dict[str, Any]) -> int:
    from faults import inside

    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["home"])
    streams = ((0, os.devnull, os.O_RDONLY), (1, request["out"], 1), (2, request["err"], 1))
    for number, path, mode in streams:
        handle = os.open(path, mode | os.O_CREAT | os.O_APPEND if mode else mode, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, *arguments in request["faults"]:
        inside.FAULTS[name](*arguments)
    if "task" in request:
        name, *arguments = request["task"]
        inside.TASKS[name](*arguments)
        return 0
    from normbench import cli

    sys.argv = ["normbench", *request["arguments"]]
    cli.main()
    return 0


def _wait(pid: int, seconds: float) -> int | None:
    """The exit code of a child; minus the signal that killed it; None while it runs."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


if __name__ == "__main__":
    serve()
