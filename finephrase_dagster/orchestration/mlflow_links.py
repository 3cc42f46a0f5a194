"""Links to MLflow's pages, for Dagster's.

MLflow's address and its runs' ids change: another port, a new store. A link to `PATH` leads to Dagster's own web
server, which looks the run up by a tag and redirects to its page. Without such a server, links hold address and id.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any
from urllib.parse import parse_qs, urlencode

from finephrase_dagster.artifacts.key import CHECKPOINT
from finephrase_dagster.orchestration.stores import CONNECT_SECONDS
from finephrase_dagster.rephrase.connection import fetch

PATH = "/finephrase/mlflow"
PAGE_TAG = "finephrase.page"
FINGERPRINT_TAG = "finephrase.fingerprint"
SUPERSEDED_TAG = "finephrase.superseded"
PUBLIC, INTERNAL = "FINEPHRASE_MLFLOW_URL", "FINEPHRASE_MLFLOW_SERVER"
"""Variables of the web server: MLflow's address for browsers, and for the web server itself."""
TRAINING_VIEW = "workflowType=machine_learning"  # otherwise the pages open as those of chat traces
STUDENTS = f"tags.`dagster.asset` = '{CHECKPOINT.asset}' AND tags.`{SUPERSEDED_TAG}` IS NULL"
VIEW = "finephrase"
"""The view of an experiment that links open, as the tag that MLflow's own button for sharing a view writes."""
SETTINGS = ("params.`data_seed`", "params.`model_seed`", "tags.`finephrase.mixture`")
"""The columns after the scores: parameters and tags."""
CHARTS = ("loss", "macro", "micro")
"""The charts that come first; MLflow adds one for every other metric."""
HOW_TO_READ = (
    "Each run is a student: a mixture trained with one pair of seeds. Runs of the same mixture differ only by their "
    "seeds, so a difference between mixtures counts only if it is larger than that. To see the means over seeds with "
    "their verdicts (`finephrase.verdict`), search for `tags.finephrase.kind = 'arm'`. The second button above the "
    "list shows loss curves."
)
FOUND, NOT_FOUND, BAD_GATEWAY = 302, 404, 502


def experiment_of(study: str) -> str:
    """Return the name of a study's experiment."""
    return f"finephrase/{study}"


def link(experiment: str, tag: str | None = None, value: str = "") -> str:
    """Return a link to the run that a tag identifies, or to the students of an experiment."""
    return f"{PATH}?{urlencode({'experiment': experiment, **({tag: value} if tag else {})})}"


def run_page(url: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_VIEW}"


def experiment_page(url: str, experiment_id: str) -> str:
    """Return the address of the page with the current run of each student, best macro score first."""
    return f"{url.rstrip('/')}/#/experiments/{experiment_id}/runs?{TRAINING_VIEW}&viewStateShareKey={VIEW}"


def experiment_tags(question: str) -> dict[str, str]:
    """Return the tags of a study's experiment: its kind, what its page says, and the view that links open."""
    charts = [
        {
            **{"uuid": metric, "metricKey": metric, "displayName": metric, "metricSectionId": VIEW, "type": "LINE"},
            **{"runsCountToCompare": 10, "range": {}, "isGenerated": True, "useGlobalXaxisKey": True},
        }
        for metric in CHARTS
    ]
    view = {
        "searchFilter": STUDENTS,
        "orderByKey": "metrics.`macro`",
        "orderByAsc": False,
        "selectedColumns": [*(f"metrics.`{name}`" for name in (*CHARTS[1:], "final_loss")), *SETTINGS],
        "compareRunCharts": charts,
        "compareRunSections": [{"uuid": VIEW, "name": "Model metrics", "display": True, "isReordered": True}],
        "isAccordionReordered": True,
    }
    return {
        # Without it, MLflow shows the experiment as one of chat traces.
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": f"{question}\n\n{HOW_TO_READ}".strip(),
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


async def answer(query: bytes) -> tuple[int, str]:
    """Return the status of the answer to a request for a link, and the address that it leads to, or a message."""
    fields = {name: values[0] for name, values in parse_qs(query.decode("latin-1")).items()}
    try:
        address = await asyncio.to_thread(_look_up, fields)
    except (OSError, ValueError, KeyError) as error:
        return BAD_GATEWAY, f"MLflow does not answer ({error}). Start it with: finephrase ui"
    if address is None:
        return NOT_FOUND, "MLflow has no such run. To record what exists, run: finephrase results mlflow"
    return FOUND, address


def _look_up(fields: dict[str, str]) -> str | None:
    """Return the address of the page that a link's fields describe; None if MLflow does not have it."""
    server, experiment = os.environ[INTERNAL], fields.pop("experiment", "")
    public = os.environ.get(PUBLIC, server)
    quoted = experiment.replace("'", "")
    experiments = _post(server, "experiments/search", {"filter": f"name = '{quoted}'", "max_results": 1})
    ids = [found["experiment_id"] for found in experiments.get("experiments", [])]
    tag = next((name for name in fields if name in (PAGE_TAG, FINGERPRINT_TAG)), None)
    if not ids or tag is None:
        return experiment_page(public, ids[0]) if ids else None
    value = fields[tag].replace("'", "")
    wanted = {
        "experiment_ids": ids,
        "filter": f"tags.`{tag}` = '{value}'",
        "max_results": 100,
        "order_by": ["attributes.start_time DESC"],
    }
    runs = _post(server, "runs/search", wanted).get("runs", [])
    runs.sort(key=lambda run: any(each["key"] == SUPERSEDED_TAG for each in run["data"].get("tags", [])))
    return run_page(public, ids[0], runs[0]["info"]["run_id"]) if runs else None


def _post(server: str, call: str, body: dict[str, Any]) -> dict[str, Any]:
    response = fetch(f"{server}/api/2.0/mlflow/{call}", CONNECT_SECONDS, json.dumps(body).encode())
    return dict(json.loads(response.body))
