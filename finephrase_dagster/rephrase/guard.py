"""Runs a command that must not outlive its caller, even if the caller is killed.

`python guard.py CALLER COMMAND ...`: CALLER is the process id of the caller, which starts the guard as the leader of a
process group and keeps the other end of its standard input open. When that end closes, the caller dies or the command
ends, the guard ends the complete group: first SIGTERM, then SIGKILL. It restarts nothing.
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
    """Run the command until it ends or its caller is gone; never returns, because the guard ends its own group, too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the group for the command's sake
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_default_signals)
    # A forked child of the caller may keep the pipe open after the caller's death, so the parent is checked, too.
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
