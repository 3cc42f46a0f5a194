"""The web pages: Dagster's and MLflow's, served on 127.0.0.1 as child processes of one command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from finephrase_dagster.artifacts.processes import end
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.stores import is_server, refuse_unusable, tracking_uri
from finephrase_dagster.study.paths import REPOSITORY, Paths

HOST = "127.0.0.1"
STOP_SECONDS = 10


class PortInUse(FinephraseError):
    """Another program listens on a port that is wanted; the message says how to choose another."""


class PagesStopped(FinephraseError):
    """One of the servers ended by itself."""


def serve(paths: Paths, *, dagster_home: Path, port: int, mlflow_port: int, log: Callable[[str], None]) -> None:
    """Serves both until interrupted; a server that is given by `MLFLOW_TRACKING_URI` is not started.

    Raises:
        PortInUse, InvalidStore, StoreUnusable: before anything is started.
        PagesStopped: a server ended by itself.
    """
    tracking = tracking_uri(paths)
    own_mlflow = not is_server(tracking)
    refuse_used_port(port, option="--port")
    refuse_unusable(paths, dagster_home)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home),
        "FINEPHRASE_STUDY": str(paths.study),
        "FINEPHRASE_DATA": str(paths.data),
        "FINEPHRASE_DAGSTER_URL": f"http://{HOST}:{port}",
    }
    commands = {"Dagster": _dagster(port)}
    if own_mlflow:
        if mlflow_port == port:
            raise PortInUse(f"port {port} is meant for both Dagster and MLflow: choose another with --mlflow-port")
        refuse_used_port(mlflow_port, option="--mlflow-port")
        paths.tracking_store.parent.mkdir(parents=True, exist_ok=True)
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # else it starts seven workers for chat traces
        environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
        environment["MLFLOW_BACKEND_STORE_URI"] = tracking  # no argument, which `ps` would show
        environment["MLFLOW_ARTIFACTS_DESTINATION"] = str(paths.tracking_store.parent / "artifacts")
        environment.setdefault("FINEPHRASE_MLFLOW_URL", f"http://{HOST}:{mlflow_port}")
        commands["MLflow"] = _mlflow(mlflow_port)
    log(f"Dagster: http://{HOST}:{port}\nMLflow:  {f'http://{HOST}:{mlflow_port}' if own_mlflow else tracking}")
    log("Ctrl-C stops both.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers = {
        name: subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True)
        for name, command in commands.items()
    }
    try:
        while True:
            time.sleep(0.5)
            for name, server in servers.items():
                if (status := server.poll()) is not None:
                    raise PagesStopped(f"{name}'s server ended with status {status}; its last lines stand above")
    except KeyboardInterrupt:
        log("stopping")
    finally:
        for ignored in (signal.SIGINT, signal.SIGTERM):  # an impatient second Ctrl-C must not orphan a server
            signal.signal(ignored, signal.SIG_IGN)
        for server in servers.values():
            end(server, first=signal.SIGINT, grace_seconds=STOP_SECONDS)


def refuse_used_port(port: int, *, option: str) -> None:
    """Raises PortInUse where something listens on a local port already, or nobody without rights may."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise PortInUse(f"port {port} needs rights that you do not have: choose one with {option}") from error
        except OSError as error:
            raise PortInUse(
                f"port {port} on {HOST} is in use: stop the program that listens there, or choose another with {option}"
            ) from error


def _dagster(port: int) -> list[str]:
    arguments = ["-w", str(REPOSITORY / "workspace.yaml"), "-h", HOST, "-p", str(port)]
    return [sys.executable, "-m", "dagster", "dev", *arguments]


def _mlflow(port: int) -> list[str]:
    arguments = ["--host", HOST, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *arguments]
