"""Run a function of this library over the parts of a dataset, each in a process of its own.

The processes are new interpreters that import nothing of the caller's: a fork would copy locks that other threads hold,
and `multiprocessing` would run the caller's script again.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from finephrase_dagster.errors import FinephraseError

MOST_PROCESSES = 16
BYTES_PER_PROCESS = 4 << 20  # of files; starting a process for less takes longer than reading them
_PROGRAM = "from finephrase_dagster.audit.parallel import serve; serve()"


class ProcessLost(FinephraseError, retryable=True):
    """A process ended without a result."""


def sensible_processes(size: int) -> int:
    """Return how many processes should read so many bytes of files."""
    return max(1, min(len(os.sched_getaffinity(0)), MOST_PROCESSES, size // BYTES_PER_PROCESS))


def run_all(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return what a function returns for the arguments of each task. A single task runs in this process.

    Raises:
        FinephraseError: what the function raises.
        ProcessLost: a process was killed, or failed in another way.
    """
    if len(tasks) == 1:
        return [function(*tasks[0])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # the threads of NumPy in each process would wait for one another
    command = [sys.executable, "-c", _PROGRAM]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for task in tasks:
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, start_new_session=True)
            processes.append(process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as file:  # `_result` reports it
                pickle.dump((os.getpid(), function, task), file)
        return [_result(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _result(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    answer = process.stdout.read()
    if process.wait() or not answer:
        cause = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
        raise ProcessLost(
            f"a process of the audit ended without a result ({cause}; 9 is often a lack of memory); run it again with "
            "fewer processes (--processes 1)"
        )
    result = pickle.loads(answer)  # noqa: S301 - of a process of ours
    if isinstance(result, FinephraseError):
        raise result
    return result


def serve() -> None:
    """Read a function and its arguments from standard input, and write what it returns to standard output."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the result
    parent, function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the process that started this one
    threading.Thread(target=_end_without, args=[parent], daemon=True).start()
    try:
        result = function(*arguments)
    except FinephraseError as error:
        result = error
    with output:
        pickle.dump(result, output)


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
