"""Processes: whether one still runs, how a child is ended, and the last lines of what it logged."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

TAIL_BYTES = 65_536


def this_machine() -> str:
    """Return a name for this machine until its next boot; each container with process ids of its own has another."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"


def this_process() -> str:
    """Return a name for this process, `<pid>@<start>`, that no later process of this machine gets."""
    return f"{os.getpid()}@{start_time(os.getpid())}"


def is_running(process: str) -> bool:
    """Return whether the process with a name (see `this_process`) has not ended yet."""
    pid, _, start = process.partition("@")
    return pid.isdigit() and str(start_time(int(pid))) == start


def start_time(pid: int) -> float | None:
    """Return when a process started, in seconds since the machine's boot; None if there is no such process.

    Seconds since the boot stay the same when somebody sets the clock.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return round(process.create_time() - psutil.boot_time(), 2)
    return None


def seconds_since_boot(moment: float) -> float:
    """Convert seconds since the epoch to seconds since the machine's boot."""
    return moment - psutil.boot_time()


def end(child: subprocess.Popen[bytes], *, grace_seconds: float, first: signal.Signals = signal.SIGTERM) -> None:
    """End a child process that leads a process group, and everything that it started.

    The group gets the signal `first`. Processes that still run after `grace_seconds` are killed, also those that left
    the group.
    """
    deadline = time.monotonic() + grace_seconds
    family = _descendants(child.pid)
    _signal_group(child.pid, first)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_seconds)
    _, survivors = psutil.wait_procs(family, timeout=max(0.0, deadline - time.monotonic()))
    for survivor in survivors:
        with contextlib.suppress(psutil.NoSuchProcess):
            survivor.kill()
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def last_lines(log: Path, *, start: int = 0, count: int = 1_000) -> list[str]:
    """Return the last lines of a log file, looking back no further than byte `start` and 64 KiB."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return [f"(the log cannot be read: {error})"]
    return text.rstrip().splitlines()[-count:]


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)
