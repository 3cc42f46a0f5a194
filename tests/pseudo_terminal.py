"""A command in a terminal of its own: a pseudo-terminal that the command's session has as its controlling one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence


class Terminal:
    """The terminal; its output is read by a thread."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], columns: int, lines: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            env={**environment, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.output = b""
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the last process on the terminal has ended
            while not self._closing.is_set():
                if select.select([self._master], [], [], 0.1)[0]:
                    self.output += os.read(self._master, 65536)

    def wait_for(self, true: Callable[[bytes], bool], seconds: float = 60) -> None:
        """Wait until the output fulfils a condition."""
        deadline = time.monotonic() + seconds
        while not true(self.output):
            assert self.process.poll() is None or not self._reader.is_alive(), self.output.decode(errors="replace")
            assert time.monotonic() < deadline, self.output.decode(errors="replace")
            time.sleep(0.05)

    def close(self) -> None:
        """Close the window: the kernel sends SIGHUP to the command."""
        if not self._closing.is_set():
            self._closing.set()
            self._reader.join()
            os.close(self._master)

    def result(self, seconds: float = 300) -> tuple[int, str]:
        """Wait for the end; return the status and all output."""
        status = self.process.wait(seconds)
        self._reader.join(10)
        return status, self.output.decode(errors="replace")


@contextlib.contextmanager
def terminal(
    command: Sequence[str], environment: Mapping[str, str], *, columns: int = 100, lines: int = 30
) -> Iterator[Terminal]:
    """Run a command in a terminal, which is closed at the end."""
    opened = Terminal(command, environment, columns, lines)
    try:
        yield opened
    finally:
        opened.close()
        with contextlib.suppress(ProcessLookupError):
            if opened.process.poll() is None:
                opened.process.kill()
        opened.process.wait()
