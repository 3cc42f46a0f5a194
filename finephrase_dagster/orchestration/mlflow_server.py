"""MLflow's web server, whose pages open in the view of training runs.

MLflow's pages begin with chat traces, also those of an experiment that is marked as model development, unless the
address or the browser's storage asks for training runs. This server sends MLflow's own page with a script that makes
training runs the default of a browser that has not chosen yet.
`python -m finephrase_dagster.orchestration.mlflow_server` takes the arguments of `mlflow`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MLFLOW_APP = "mlflow.server.fastapi_app:app"
DEFAULTS = {"mlflow.workflowType_v1": "machine_learning", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True}
"""What MLflow's pages find in the storage of a browser that has not chosen: the view, and that the panel of the
assistant, which takes a third of the page, has been opened once."""
SCRIPT = (
    "<script>try { for (const [name, value] of Object.entries("
    f"{json.dumps(DEFAULTS)})) localStorage.getItem(name) ?? localStorage.setItem(name, JSON.stringify(value)) "
    "} catch {}</script>"
)


def create_app() -> Any:
    """Return MLflow's ASGI application with the script in its page."""
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app

    index = Path(pages.static_folder or "") / "index.html"

    def serve() -> Any:
        page = index.read_text(encoding="utf-8").replace("<head>", f"<head>{SCRIPT}", 1)
        return pages.response_class(page, mimetype="text/html", headers={"Cache-Control": "no-cache"})

    pages.view_functions["serve"] = serve
    return app


def main() -> None:
    """Run `mlflow`, with the application of this module in place of MLflow's."""
    import mlflow.server
    from mlflow.cli import cli

    start = mlflow.server._exec_cmd
    ours = ["--factory", f"{__spec__.name}:{create_app.__name__}"]

    def start_ours(command: list[str], **options: Any) -> Any:
        return start([word for part in command for word in (ours if part == MLFLOW_APP else [part])], **options)

    mlflow.server._exec_cmd = start_ours  # type: ignore[assignment]
    cli()


if __name__ == "__main__":
    main()
