"""What the tests of the command line share: a terminal to run it on."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import process_environment

ESCAPE = "\x1b"


# Imports once what the commands of sys.argv need; each is then a process of its own.
SEVERAL = """
import os, sys
from normbench.cli import app, main
from normbench.launch import compose
from normbench.models import inspection
from normbench.terminal import catalog, screen
for command in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv = ["normbench", *command.split()]
        try:
            main()
        except SystemExit as left:
            sys.stdout.flush()
            os._exit(left.code or 0)
    assert os.wait()[1] == 0, command
    print("end of", command, flush=True)
"""


def lists_on_terminal(
    library: Path, home: Path, columns: int, commands: Sequence[str]
) -> dict[str, list[str]]:
    """The lines that each of ``commands`` sends to a terminal, without colours."""
    sent = on_terminal(sys.executable, library, home, columns, "-c", SEVERAL, *commands)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent).replace("\r\n", "\n")
    found = {}
    for command in commands:
        said, end, plain = plain.partition(f"end of {command}\n")
        assert end
        found[command] = said.splitlines()
    return found


def on_terminal(script: str, library: Path, home: Path, columns: int, *arguments: str) -> str:
    """What ``normbench`` sends to a terminal ``columns`` wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = process_environment(library) | {"TERM": "xterm-256color"}
    environment.pop("COLUMNS")
    process = subprocess.Popen(
        [script, *arguments], cwd=home, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    received = bytearray()
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 1.0)[0]:
                try:
                    chunk = os.read(master, 65536)
                except OSError:  # the other end is closed
                    break
                if not chunk:
                    break
                received += chunk
        assert process.wait(timeout=10) == 0, received.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return received.decode("utf-8")
