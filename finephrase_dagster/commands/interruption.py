"""How signals end the command: at once while it loads, later as Ctrl-C does, so that its children are stopped.

It imports little, because it is the first thing that the command does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

MESSAGE = "interrupted; what is finished is kept. Run the same command again to resume."
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TERMINALS = (4, 5, 136)  # the kernel's numbers of terminals: consoles, the process's own, and pseudo-terminals

received: list[int] = []
"""The signals that arrived since `raise_interrupts`."""


def end_at_once() -> None:
    """Let each signal end the process with a message; nothing has been started yet."""
    _handle(_end)


def raise_interrupts() -> None:
    """Let each signal raise KeyboardInterrupt in the main thread."""
    _handle(_interrupt)
    sys.unraisablehook = _interrupt_again


def ignore() -> None:
    """Let no signal disturb the end of the process."""
    _handle(signal.SIG_IGN)


def _handle(handler: Any) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, and in the background of a script
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{MESSAGE}\n".encode())
    os._exit(1)


def _interrupt(number: int, _: FrameType | None) -> None:
    received.append(number)
    if number == signal.SIGHUP:
        _leave_terminal()
        signal.raise_signal(signal.SIGINT)  # for whoever handles Ctrl-C at present
        return
    raise KeyboardInterrupt


def _interrupt_again(unraisable: Any) -> None:
    """Repeat an interrupt that arrived where no exception can be raised, such as in a finalizer of a library.

    It is a KeyboardInterrupt, or while Dagster runs a step its DagsterExecutionInterruptedError.
    """
    if "Interrupt" in unraisable.exc_type.__name__:
        repeated = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        repeated.daemon = True
        repeated.start()
    elif not received:
        sys.__unraisablehook__(unraisable)


def _leave_terminal() -> None:
    """Discard what is still printed on the terminal, which is closed, so that printing is no error."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the shell and the kernel both send it
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in [int(link.name) for link in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            status = os.fstat(number)
            if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in TERMINALS:
                os.dup2(nowhere, number)
