"""MLflow as a resource: one run a checkpoint, found again by the checkpoint's fingerprint.

It speaks through `MlflowClient`, so nothing is global: no active run that stays open, no environment
that another asset of the same process would inherit.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.stores import alone, is_postgres, is_server, with_driver
from finephrase_dagster.study.artifact import Artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FINGERPRINT_TAG = "finephrase.fingerprint"
TRAINING_VIEW = "workflowType=machine_learning"  # else the pages open as those of chat traces
SQLITE = "sqlite:///"
VALUE_LIMIT = 500  # characters that MLflow's stores keep of a parameter


class Tracking(dg.ConfigurableResource):
    """Where the ablations are recorded."""

    uri: str = Field(description="an MLflow server, or a database: sqlite:///<file>, postgresql:///<name>")
    experiment: str = Field(description="the experiment of the study's runs")
    artifacts: str = Field(description="folder of the runs' files; a server keeps them itself")
    web_url: str = Field(description="where the store's web pages are served, for links")

    def client(self) -> MlflowClient:
        """A client of the store; a file's folder is made."""
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # a new store tells of every table it makes
        if self.uri.startswith(SQLITE):
            Path(self.uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        if is_postgres(self.uri):
            _make_tables(self.uri)
        return MlflowClient(tracking_uri=with_driver(self.uri))

    def start(self, checkpoint: Artifact, *, tags: Mapping[str, str], params: Mapping[str, Any], seconds: float) -> str:
        """The id of a fresh run of a checkpoint that took so many seconds.

        A run of it that never finished is removed.
        """
        from mlflow.entities import Param, RunTag

        client = self.client()
        for earlier in self._runs(client, checkpoint):
            client.delete_run(earlier.info.run_id)
        run = client.create_run(
            self._experiment_id(client),
            start_time=int((time.time() - seconds) * 1000),
            run_name=checkpoint.partition,
            tags={FINGERPRINT_TAG: checkpoint.fingerprint},
        )
        client.log_batch(
            run.info.run_id,
            params=[Param(name, str(value)[:VALUE_LIMIT]) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        return run.info.run_id

    def finished(self, checkpoint: Artifact) -> str | None:
        """The id of the checkpoint's finished run, if there is one."""
        runs = self._runs(self.client(), checkpoint)
        return next((run.info.run_id for run in runs if run.info.status == "FINISHED"), None)

    def log_curve(self, run_id: str, name: str, points: Iterable[tuple[int, float]]) -> None:
        """Logs a metric at many steps."""
        from mlflow.entities import Metric

        metrics = [Metric(name, value, 0, step) for step, value in points]
        for first in range(0, len(metrics), 1000):  # the store's limit for one batch
            self.client().log_batch(run_id, metrics=metrics[first : first + 1000])

    def log_scores(self, run_id: str, scores: Mapping[str, float]) -> None:
        """Logs metrics without steps; a name's colon, which MLflow refuses on some stores, becomes a dot."""
        for name, value in scores.items():
            self.client().log_metric(run_id, name.replace(":", "."), value)

    def log_file(self, run_id: str, name: str, content: object) -> None:
        """Stores text, or any other value as JSON, under a file name."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
        self.client().log_text(run_id, text, name)

    def finish(self, run_id: str) -> None:
        self.client().set_terminated(run_id, "FINISHED")

    def link(self, run_id: str) -> str:
        """The run's web page."""
        experiment = self.client().get_run(run_id).info.experiment_id
        return f"{self._pages}/{experiment}/runs/{run_id}?{TRAINING_VIEW}"

    def comparison(self) -> str:
        """The web page with all runs, best macro score first."""
        order = "orderByKey=metrics.%60macro%60&orderByAsc=false"
        return f"{self._pages}/{self._experiment_id(self.client())}/runs?{TRAINING_VIEW}&{order}"

    @property
    def _pages(self) -> str:
        return f"{self.web_url.rstrip('/')}/#/experiments"

    def _experiment_id(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        location = None if is_server(self.uri) else Path(self.artifacts).resolve().as_uri()
        try:
            # Without its kind MLflow opens an experiment as one of chat traces.
            return client.create_experiment(
                self.experiment,
                artifact_location=location,
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        except MlflowException:
            found = client.get_experiment_by_name(self.experiment)  # another process made it meanwhile
            if found is None:
                raise
            return found.experiment_id

    def _runs(self, client: MlflowClient, checkpoint: Artifact) -> list[Run]:
        return list(
            client.search_runs(
                [self._experiment_id(client)],
                filter_string=(
                    f"tags.`{FINGERPRINT_TAG}` = '{checkpoint.fingerprint}' "
                    f"AND attributes.run_name = '{checkpoint.partition}'"
                ),
            )
        )


@cache
def _make_tables(uri: str) -> None:
    """Makes a database's tables where there are none, which MLflow cannot do in several processes at once."""
    from mlflow import MlflowClient

    with alone(uri):
        MlflowClient(tracking_uri=with_driver(uri))
