"""The `ui` command."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from finephrase_dagster.commands.options import StudyOption, dagster_home, paths_of
from finephrase_dagster.study.paths import require_clone

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.lineage import Lineage

LAST_PORT = 65535


def ui(
    study: StudyOption = None,
    port: Annotated[int, typer.Option(min=1, max=LAST_PORT, metavar="PORT", help="Port of Dagster's web UI.")] = 3000,
    mlflow_port: Annotated[
        int, typer.Option(min=1, max=LAST_PORT, metavar="PORT", help="Port of MLflow's web UI.")
    ] = 5000,
) -> None:
    """Serve the web pages of Dagster and MLflow on this machine (127.0.0.1), until you press Ctrl-C.

    \b
    Examples:
      finephrase ui
      finephrase ui --study studies/mine.yaml --port 3001 --mlflow-port 5001
    """
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.orchestration.mlflow_links import experiment_of
    from finephrase_dagster.orchestration.servers import serve

    require_clone("finephrase ui")
    paths = paths_of(study)
    lineage = read_lineage(paths)
    threading.Thread(target=_end_orphans, args=[lineage, mlflow_port], daemon=True).start()
    ports = {"port": port, "mlflow_port": mlflow_port}
    experiment = experiment_of(lineage.study.name)
    serve(paths, experiment=experiment, dagster_home=dagster_home(), **ports, log=typer.echo)


def _end_orphans(lineage: Lineage, mlflow_port: int) -> None:
    """Mark trainings that were killed in MLflow, where they would show as running forever.

    MLflow's server, if it is ours, creates missing tables before it listens; two processes cannot do so at once.
    """
    from finephrase_dagster.orchestration.stores import is_server, tracking_uri
    from resources.tracking import Unreachable, study_tracking

    while not is_server(tracking_uri(lineage.paths)):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", mlflow_port), timeout=5):
            break
        time.sleep(0.5)
    with contextlib.suppress(Unreachable):
        study_tracking(lineage).end_orphans()
