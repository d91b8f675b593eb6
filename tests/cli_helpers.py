"""What the tests of the command line share: a terminal to run it on."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

from tests.conftest import process_environment

ESCAPE = "\x1b"


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
