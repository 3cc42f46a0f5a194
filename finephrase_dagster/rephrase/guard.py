"""Runs a command that must not outlive the process that wants it.

`python guard.py CALLER COMMAND ...`: the caller, whose process id it is, starts it as the leader of a
process group and keeps the other end of its standard input. When that end closes, the caller dies or the
command ends, the whole group is ended: SIGTERM, then SIGKILL. Not a supervisor: it restarts nothing.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2


def guard(caller: int, command: list[str]) -> None:
    """Runs the command until it ends or nobody wants it; never returns, for it ends its own group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the group's signal is for the command
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_default_signals)
    # A forked child of the caller may hold the pipe's other end open, so its death is looked for too.
    while process.poll() is None and os.getppid() == caller:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0] and not os.read(0, 1024):
            break
    if process.poll() is None:
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)


def _default_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2:])
