"""The web UI: Dagster's and MLflow's servers on 127.0.0.1, as child processes of one command that log to files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from finephrase_dagster.artifacts.processes import end, last_lines
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration import mlflow_links, mlflow_server, webserver
from finephrase_dagster.orchestration.stores import is_server, refuse_unusable, tracking_uri
from finephrase_dagster.rephrase import guard
from finephrase_dagster.study.paths import REPOSITORY, Paths

HOST = "127.0.0.1"
STOP_SECONDS = 10
STOP_SIGNALS = {"dagster": signal.SIGINT, "mlflow": signal.SIGTERM}
"""MLflow's server writes a stack trace when it is interrupted."""
LAST_LINES = 20


class PortsEqual(FinephraseError, exit_status=2):
    """Both servers are given the same port."""


class PortInUse(FinephraseError):
    """A port is used by another program; the message names the option that chooses another one."""


class ServerEnded(FinephraseError):
    """One of the servers ended by itself; the message has the last lines of its log."""


def serve(
    paths: Paths, *, experiment: str, dagster_home: Path, port: int, mlflow_port: int, log: Callable[[str], None]
) -> None:
    """Run both servers until interrupted; MLflow's only if `MLFLOW_TRACKING_URI` names no server.

    Logs their addresses; MLflow's leads to the students of an experiment. The servers' output goes to
    `logs/dagster.log` and `logs/mlflow.log` in the data folder.

    Raises:
        PortsEqual, PortInUse, AllowedHostsInvalid, InvalidStore, StoreUnusable: before anything is started.
        ServerEnded: a server ended by itself.
    """
    tracking, hosts = tracking_uri(paths), webserver.allowed_hosts()
    own_mlflow = not is_server(tracking)
    if own_mlflow and mlflow_port == port:
        raise PortsEqual(f"port {port} is given for both Dagster and MLflow. Choose another with --mlflow-port.")
    refuse_used_port(port, option="--port")
    refuse_unusable(paths, dagster_home)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home),
        "FINEPHRASE_STUDY": str(paths.study),
        "FINEPHRASE_DATA": str(paths.data),
        "FINEPHRASE_DAGSTER_URL": f"http://{HOST}:{port}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment[mlflow_links.INTERNAL] = f"http://{HOST}:{mlflow_port}" if own_mlflow else tracking.rstrip("/")
    commands = {"dagster": _dagster(port)}
    if own_mlflow:
        refuse_used_port(mlflow_port, option="--mlflow-port")
        paths.tracking_store.parent.mkdir(parents=True, exist_ok=True)
        # MLflow's own matter, which its log would begin with.
        environment.setdefault("PYTHONWARNINGS", "ignore:starlette.middleware.wsgi is deprecated")
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # otherwise it starts seven workers for traces
        environment["MLFLOW_BACKEND_STORE_URI"] = tracking  # an argument would be visible in `ps`
        environment["MLFLOW_ARTIFACTS_DESTINATION"] = str(paths.tracking_store.parent / "artifacts")
        # MLflow's own default accepts names such as 10.example.org. Each name goes with every port.
        names = [*("localhost", HOST), *hosts]
        environment.setdefault("MLFLOW_SERVER_ALLOWED_HOSTS", ",".join(f"{name},{name}:*" for name in names))
        environment.setdefault("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", ",".join(f"https://{name}" for name in hosts))
        commands["mlflow"] = _mlflow(mlflow_port)
    folder = paths.data / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    logs = {name: folder / f"{name}.log" for name in commands}
    dagster, mlflow = f"http://{HOST}:{port}", f"http://{HOST}:{mlflow_port}" if own_mlflow else tracking
    log(f"Dagster: {dagster} (answers once it has loaded, after some ten seconds)")
    log(f"MLflow:  {dagster}{mlflow_links.link(experiment)} (served on {mlflow})")
    log(f"Logs:    {', '.join(map(str, logs.values()))}\nPress Ctrl-C to stop.")
    servers = {name: _start(command, environment, logs[name]) for name, command in commands.items()}
    try:
        while True:
            time.sleep(0.5)
            for name, server in servers.items():
                if server.poll() is not None:
                    last = "\n".join(last_lines(logs[name], count=LAST_LINES))
                    raise ServerEnded(f"the {name} server has ended. The end of {logs[name]}:\n{last}")
    except KeyboardInterrupt:
        log("stopping")
    finally:
        for ignored in guard.IGNORED:  # so that a second Ctrl-C leaves no server behind
            signal.signal(ignored, signal.SIG_IGN)
        for name, server in servers.items():
            end(server, first=STOP_SIGNALS[name], grace_seconds=STOP_SECONDS)


def refuse_used_port(port: int, *, option: str) -> None:
    """Raise PortInUse if a local port is in use or needs privileges."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise PortInUse(f"port {port} needs privileges. Choose another with {option}.") from error
        except OSError as error:
            raise PortInUse(
                f"port {port} on {HOST} is in use. Stop the program that listens there, or choose another port with "
                f"{option}."
            ) from error


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return guard.start(command, cwd=REPOSITORY, env=environment, stdout=output)


def _dagster(port: int) -> list[str]:
    arguments = ["-w", str(REPOSITORY / "workspace.yaml"), "-h", HOST, "-p", str(port)]
    return [sys.executable, "-m", webserver.__name__, "dev", *arguments]


def _mlflow(port: int) -> list[str]:
    arguments = ["--host", HOST, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", mlflow_server.__name__, "server", *arguments]
