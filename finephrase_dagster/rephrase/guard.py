"""Runs a command that must not outlive its caller, even if the caller is killed.

`python guard.py CALLER COMMAND ...`: CALLER is the process id of the caller, which starts the guard as the leader of a
process group and keeps the other end of its standard input open. When that end closes, the caller dies or the command
ends, the guard ends the complete group: first SIGTERM, then SIGKILL. It restarts nothing.

The guard has a twin, a fork that ends the group if the guard itself is killed. How the command ended is the last line
of the guard's output.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2
NAME = "guard:"
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # sent to the group for the command's sake


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a guard that runs a command, with errors among its output; the options are those of `Popen`."""
    return subprocess.Popen(
        [sys.executable, "-P", __file__, str(os.getpid()), *command],
        stdin=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **options,
    )


def guard(caller: int, command: list[str]) -> None:
    """Run the command until it ends or its caller is gone; never returns, because the guard ends its own group, too."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    alive = _start_twin()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_default_signals)
    os.write(alive, str(process.pid).encode())
    # A forked child of the caller may keep the pipe open after the caller's death, so the parent is checked, too.
    while process.poll() is None and os.getppid() == caller:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0] and not os.read(0, 1024):
            break
    if process.poll() is not None:
        sys.stdout.write(f"{NAME} {_how_it_ended(process.returncode)}\n")
        sys.stdout.flush()
    _end_group(lambda: process.poll() is not None)


def _start_twin() -> int:
    """Fork the twin; return the pipe that the guard keeps open while it lives, and writes the command's id to."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(reading)
        return writing
    os.close(writing)
    text = b""
    while more := os.read(reading, 64):
        text += more

    def has_ended() -> bool:
        try:
            os.kill(int(text), 0)
        except (ProcessLookupError, ValueError):
            return True
        return False

    _end_group(has_ended)
    raise AssertionError("SIGKILL to the own group returned")


def _end_group(has_ended: Callable[[], bool]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if not has_ended():
            os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while not has_ended() and time.monotonic() < deadline:
            time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    reason = "; most likely the memory ran out, see `dmesg`" if status == -signal.SIGKILL else ""
    return f"error: killed by {signal.Signals(-status).name}{reason}"


def _default_signals() -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2:])
