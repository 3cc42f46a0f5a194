"""Run nanotron as a process: start `torchrun` in nanotron's environment, follow its log, end all its processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from finephrase_dagster.artifacts.processes import end, last_lines
from finephrase_dagster.train.job import TrainingError
from finephrase_dagster.train.nanotron.cluster import ENTRY, NanotronCluster
from finephrase_dagster.train.nanotron.config import CONFIG

LOG = "nanotron.log"
POLL_SECONDS = 0.2
GRACE_SECONDS = 45.0
"""torchrun itself gives its workers 30 s to end."""
LAST_LINES = 20
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV")
"""Variables of this environment that would make nanotron's python import from here."""
VARIABLES = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # nanotron insists on it where GPUs share a matrix
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "WANDB_MODE": "disabled",  # nanotron logs there as soon as it is installed
}
"""The variables that nanotron needs in addition to those of a login."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def command(cluster: NanotronCluster, *, run: str, rendezvous: Sequence[str] = ()) -> list[str]:
    """Return the command that each node runs in the run's folder.

    Args:
        run: a name that the nodes of one run share.
        rendezvous: torchrun's options for how the nodes meet; default: at the cluster's `rendezvous`, if there are
            several.
    """
    if not rendezvous and cluster.nodes > 1:
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(cluster.rendezvous), "--rdzv-id", run]
    return [
        str(cluster.torchrun.absolute()),
        *("--nnodes", str(cluster.nodes), "--nproc-per-node", str(cluster.gpus), "--max-restarts", "0"),
        *(rendezvous or ["--standalone"]),
        str((cluster.source / ENTRY).absolute()),
        *("--config-file", CONFIG),
    ]


def line_for_other_nodes(cluster: NanotronCluster, folder: Path, *, run: str) -> str:
    """Return the shell line that starts the run on the nodes where this process does not run."""
    variables = " ".join(f"{name}={value}" for name, value in VARIABLES.items())
    return f"cd {shlex.quote(str(folder))} && {variables} {shlex.join(command(cluster, run=run))}"


def launch(cluster: NanotronCluster, folder: Path, *, run: str, on_line: Callable[[str], None]) -> None:
    """Run nanotron in a folder that holds its `config.yaml`, until it ends.

    Its output is appended to `nanotron.log` there. torchrun and its workers are ended before this function returns or
    raises, also on a signal's exception, and they end when this process dies.

    Args:
        run: a name that the nodes of one run share.
        on_line: receives each line; an exception of it ends the run.

    Raises:
        TrainingError: nanotron ended with an error; the message has its last lines.
    """
    path = folder / LOG
    with path.open("ab") as output, path.open("rb") as log:
        start = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command(cluster, run=run),
            cwd=folder,
            env=_environment(cluster, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        try:
            _read_lines(process, log, on_line)
        finally:
            end(process, grace_seconds=GRACE_SECONDS)
        if process.returncode:
            tail = "\n".join(last_lines(path, start=start, count=LAST_LINES))
            raise TrainingError(
                f"nanotron ended with exit status {process.returncode}. Its last lines:\n{tail}\nThe complete log is "
                f"{path}. Start the run again to resume from its last checkpoint"
            )


def _environment(cluster: NanotronCluster, caller: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in caller.items() if name not in FOREIGN}
    path = f"{cluster.torchrun.parent.absolute()}{os.pathsep}{caller.get('PATH', os.defpath)}"
    return {**kept, **VARIABLES, "PATH": path}


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _read_lines(process: subprocess.Popen[bytes], log: BinaryIO, on_line: Callable[[str], None]) -> None:
    """Hand on complete lines until the process has ended and all of them are read."""
    rest = b""
    while True:
        ended = process.poll() is not None
        *lines, rest = (rest + log.read()).split(b"\n")
        for line in lines:
            on_line(line.decode("utf-8", "replace"))
        if ended:
            return
        if not lines:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
