"""The `ui` command."""

from __future__ import annotations

from typing import Annotated

import typer

from finephrase_dagster.commands.options import StudyOption, dagster_home, paths_of
from finephrase_dagster.study.paths import require_clone

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
    from finephrase_dagster.orchestration.servers import serve

    require_clone("finephrase ui")
    paths = paths_of(study)
    read_lineage(paths)
    serve(paths, dagster_home=dagster_home(), port=port, mlflow_port=mlflow_port, log=typer.echo)
