"""nanotron as a process: `torchrun` in nanotron's environment, its log followed, its end made sure of."""

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
from finephrase_dagster.train.nanotron.cluster import ENTRY, NanotronCluster
from finephrase_dagster.train.nanotron.config import CONFIG
from finephrase_dagster.train.training import TrainingError

LOG = "nanotron.log"
POLL_SECONDS = 0.2
GRACE_SECONDS = 45.0
"""torchrun itself gives its workers 30 s to end."""
LAST_LINES = 20
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV")
"""Variables of this environment that would lead nanotron's python astray."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def command(cluster: NanotronCluster, *, run: str, meeting: Sequence[str] = ()) -> list[str]:
    """What each node runs, in the run's folder.

    Args:
        run: a name that the nodes of one run share.
        meeting: torchrun's options for how they meet; default: at `rendezvous`, if they are several.
    """
    if not meeting and cluster.nodes > 1:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(cluster.rendezvous), "--rdzv-id", run]
    return [
        str(cluster.torchrun.absolute()),
        *("--nnodes", str(cluster.nodes), "--nproc-per-node", str(cluster.gpus), "--max-restarts", "0"),
        *(meeting or ["--standalone"]),
        str((cluster.source / ENTRY).absolute()),
        *("--config-file", CONFIG),
    ]


def variables() -> dict[str, str]:
    """The variables that nanotron needs beside those of a login."""
    return {
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # nanotron insists on it where GPUs share a matrix
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "WANDB_MODE": "disabled",  # nanotron logs there as soon as it is installed
    }


def line_for_other_nodes(cluster: NanotronCluster, folder: Path, *, run: str) -> str:
    """The shell line that starts the run on a node that this process does not run on."""
    told = " ".join(f"{name}={value}" for name, value in variables().items())
    return f"cd {shlex.quote(str(folder))} && {told} {shlex.join(command(cluster, run=run))}"


def launch(cluster: NanotronCluster, folder: Path, *, run: str, follow: Callable[[str], None]) -> None:
    """Runs nanotron in a folder that holds its `config.yaml`, until it ends.

    All that it says is appended to `nanotron.log` there. However this function is left, by a signal's
    exception too, torchrun and its workers are ended first; they also end when this process dies.

    Args:
        run: a name that the nodes of one run share.
        follow: receives each line; what it raises ends the run.

    Raises:
        TrainingError: nanotron ended with an error; with its last lines.
    """
    path = folder / LOG
    with path.open("ab") as written, path.open("rb") as read:
        begin = read.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command(cluster, run=run),
            cwd=folder,
            env=_environment(cluster, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        try:
            _follow(process, read, follow)
        finally:
            end(process, grace_seconds=GRACE_SECONDS)
        if process.returncode:
            last = "\n".join(last_lines(path, start=begin, count=LAST_LINES))
            raise TrainingError(
                f"nanotron ended with {process.returncode}. Its last lines:\n{last}\nFull log: {path}\n"
                "Started again, the run is taken up at its last checkpoint"
            )


def _environment(cluster: NanotronCluster, caller: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in caller.items() if name not in FOREIGN}
    path = f"{cluster.torchrun.parent.absolute()}{os.pathsep}{caller.get('PATH', os.defpath)}"
    return {**kept, **variables(), "PATH": path}


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _follow(process: subprocess.Popen[bytes], log: BinaryIO, follow: Callable[[str], None]) -> None:
    """Hands on whole lines until the process has ended and all of them are read."""
    rest = b""
    while True:
        ended = process.poll() is not None
        *lines, rest = (rest + log.read()).split(b"\n")
        for line in lines:
            follow(line.decode("utf-8", "replace"))
        if ended:
            return
        if not lines:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
