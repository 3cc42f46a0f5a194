"""MLflow as a resource: one MLflow run per trained student, identified by its artifact's fingerprint.

It uses `MlflowClient`, so nothing is global: no active run stays open, and no other asset of the same process inherits
an environment.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import EARLY_STUDENT, PRE_DECAY_CHECKPOINT
from finephrase_dagster.orchestration.stores import (
    bypass_proxies,
    exclusive,
    is_postgres,
    is_server,
    printable,
    with_driver,
)
from finephrase_dagster.train.job import LossCallback, LossPoint
from resources.stream import Send, Stream, Unreachable, within

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

PAGE_TAG = "finephrase.page"
FINGERPRINT_TAG = "finephrase.fingerprint"
TRAINING_VIEW = "workflowType=machine_learning"  # otherwise the pages open as those of chat traces
UNFINISHED = {PRE_DECAY_CHECKPOINT: " (pre-decay)", EARLY_STUDENT: " (early)"}
"""Suffixes of the names of runs whose students are not fully trained."""
CURVES = ("loss", "learning_rate")
SQLITE = "sqlite:///"
VALUE_LIMIT = 500  # characters of a parameter that MLflow's stores keep


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """Tags and parameters of an MLflow run."""

    tags: Mapping[str, str]
    params: Mapping[str, Any]


class Tracking(dg.ConfigurableResource):
    """The MLflow store in which students and their scores are recorded."""

    uri: str = Field(description="an MLflow server, or a database: sqlite:///<file>, postgresql:///<name>")
    experiment: str = Field(description="experiment of the study's runs")
    artifacts: str = Field(description="folder of the runs' files; a server stores them itself")
    web_url: str = Field(description="address of the store's web pages, for links")
    seconds: float = Field(default=2.0, gt=0, description="seconds between two batches of a loss curve")
    patience: float = Field(
        default=10.0,
        gt=0,
        description="seconds that an asset waits for a server; ten times as many for a file",
    )

    def client(self) -> MlflowClient:
        """Return a client of the store; create the folder of a file."""
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # a new store logs every table that it creates
        if self.uri.startswith(SQLITE):
            Path(self.uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        if is_server(self.uri):
            bypass_proxies(self.uri)
        if is_postgres(self.uri):
            _create_tables(self.uri)
        return MlflowClient(tracking_uri=with_driver(self.uri))

    @contextlib.contextmanager
    def recording(
        self, artifact: Artifact, description: RunDescription, *, warn: Callable[[str], None]
    ) -> Iterator[LossCallback]:
        """Yield a function that sends points of a loss curve to the artifact's run while it trains.

        The run's status is RUNNING until `complete` ends it; FAILED if the block raises, KILLED if it was interrupted.
        A store that does not answer neither delays nor ends the training; the function `warn` is called once.
        """
        import mlflow  # noqa: F401  # imported here, because imports of mlflow and torch in two threads collide

        stream = Stream(artifact.fingerprint, lambda: self._begin(artifact, description), every=self.seconds)
        warned = False

        def follow(point: LossPoint) -> None:
            nonlocal warned
            stream.follow(point)
            if stream.error and not warned:
                warned = True
                warn(f"{self._failure(stream.error)}; training continues, and missing points are sent at its end")

        try:
            yield follow
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | dg.DagsterExecutionInterruptedError)
            with contextlib.suppress(Unreachable):
                stream.close(self._patience)
                within(self._patience, artifact.fingerprint, lambda: self._end(artifact, interrupted=interrupted))
            raise
        try:
            stream.close(self._patience)
        except Unreachable as error:
            if not warned:
                warn(self._failure(error))

    def complete(
        self,
        artifact: Artifact,
        description: RunDescription,
        *,
        curve: Sequence[Mapping[str, Any]],
        metrics: Mapping[str, float],
        files: Mapping[str, object],
        seconds: float,
    ) -> str:
        """Complete the artifact's run, or create it; return its id. A finished run stays as it is.

        Args:
            curve: points with `step`, `loss` and `learning_rate`; points that the run lacks are added.
            metrics: metrics without steps.
            files: content by file name.
            seconds: duration of the training.
        """
        if (finished := self.finished(artifact)) is not None:
            return finished
        run_id = self._open(artifact, description, seconds=seconds)
        for name in CURVES:
            self.log_curve(run_id, name, [(point["step"], point[name]) for point in curve])
        self.log_scores(run_id, metrics)
        for name, content in files.items():
            self.log_file(run_id, name, content)
        self.client().set_terminated(run_id, "FINISHED")
        return run_id

    def attempt(self, artifact: Artifact, call: Callable[[], T], *, warn: Callable[[str], None]) -> T | None:
        """Return the result of a call to the store; None, with a warning, if it fails or takes too long."""
        try:
            return within(self._patience, artifact.fingerprint, call)
        except Unreachable as error:
            warn(f"{self._failure(error)}. To record it later, materialize {artifact.name} in the web UI.")
            return None

    def finished(self, artifact: Artifact) -> str | None:
        """Return the id of the artifact's finished run; None if there is none."""
        runs = self._runs(self.client(), artifact)
        return next((run.info.run_id for run in runs if run.info.status == "FINISHED"), None)

    def _begin(self, artifact: Artifact, description: RunDescription) -> Send:
        """Open the run of an artifact in training; return a function that sends the points that it lacks."""
        from mlflow.entities import Metric

        client = self.client()
        if (outdated := self.finished(artifact)) is not None:  # its files were deleted, so it is trained again
            client.delete_run(outdated)
        run_id = self._open(artifact, description, seconds=0.0)
        known = {metric.step for metric in client.get_metric_history(run_id, CURVES[0])}

        def send(points: Sequence[LossPoint]) -> None:
            now = int(time.time() * 1000)
            fresh = [point for point in points if point.step not in known]
            metrics = [Metric(name, getattr(point, name), now, point.step) for point in fresh for name in CURVES]
            if metrics:
                client.log_batch(run_id, metrics=metrics)
            known.update(point.step for point in fresh)

        return send

    def _open(self, artifact: Artifact, description: RunDescription, *, seconds: float) -> str:
        """Resume the artifact's unfinished run, or create one; return its id."""
        from mlflow.entities import Param, RunTag

        client = self.client()
        unfinished = self._runs(client, artifact)
        if unfinished:
            run_id = unfinished[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = client.create_run(
                self._experiment_id(client),
                start_time=int((time.time() - seconds) * 1000),
                run_name=_name(artifact),
                tags={FINGERPRINT_TAG: artifact.fingerprint},
            ).info.run_id
        client.log_batch(
            run_id,
            params=[Param(name, str(value)[:VALUE_LIMIT]) for name, value in description.params.items()],
            tags=[RunTag(name, value) for name, value in description.tags.items()],
        )
        return run_id

    def _end(self, artifact: Artifact, *, interrupted: bool) -> None:
        client = self.client()
        for run in self._runs(client, artifact)[:1]:
            client.set_terminated(run.info.run_id, "KILLED" if interrupted else "FAILED")

    def _failure(self, error: Exception) -> str:
        return f"cannot write to MLflow at {printable(self.uri)}: {' '.join(str(error).split())[:200]}"

    def log_curve(self, run_id: str, name: str, points: Iterable[tuple[int, float]]) -> None:
        """Log a metric at many steps; steps that the run has already are skipped."""
        from mlflow.entities import Metric

        client, now = self.client(), int(time.time() * 1000)
        known = {metric.step for metric in client.get_metric_history(run_id, name)}
        metrics = [Metric(name, value, now, step) for step, value in points if step not in known]
        for first in range(0, len(metrics), 1000):  # MLflow's limit for one batch
            client.log_batch(run_id, metrics=metrics[first : first + 1000])

    def log_scores(self, run_id: str, scores: Mapping[str, float]) -> None:
        """Log metrics without steps; values that the run has already are skipped.

        A colon in a name, which some stores refuse, becomes a dot.
        """
        from mlflow.entities import Metric

        client, now = self.client(), int(time.time() * 1000)
        known = client.get_run(run_id).data.metrics
        named = {name.replace(":", "."): value for name, value in scores.items()}
        fresh = [Metric(name, value, now, 0) for name, value in named.items() if known.get(name) != value]
        if fresh:
            client.log_batch(run_id, metrics=fresh)

    def log_file(self, run_id: str, name: str, content: object) -> None:
        """Store text, or any other value as JSON, under a file name."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
        self.client().log_text(run_id, text, name)

    def page(self, name: str, text: str) -> str:
        """Store a page of the whole study in a run of its own, in place of an earlier one; return the run's address."""
        client = self.client()
        experiment = self._experiment_id(client)
        found = client.search_runs([experiment], filter_string=f"tags.`{PAGE_TAG}` = '{name}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
        else:
            run_id = client.create_run(experiment, run_name=name, tags={PAGE_TAG: name}).info.run_id
        self.log_file(run_id, name, text)
        client.set_terminated(run_id, "FINISHED")
        return self.link(run_id)

    def link(self, run_id: str) -> str:
        """Return the address of the run's web page."""
        experiment = self.client().get_run(run_id).info.experiment_id
        return f"{self._pages}/{experiment}/runs/{run_id}?{TRAINING_VIEW}"

    def comparison(self) -> str:
        """Return the address of the web page with all runs, best macro score first."""
        order = "orderByKey=metrics.%60macro%60&orderByAsc=false"
        return f"{self._pages}/{self._experiment_id(self.client())}/runs?{TRAINING_VIEW}&{order}"

    @property
    def _pages(self) -> str:
        return f"{self.web_url.rstrip('/')}/#/experiments"

    @property
    def _patience(self) -> float:
        """Return how long to wait; creating a SQLite store takes long on a busy machine."""
        return self.patience * (10 if self.uri.startswith(SQLITE) else 1)

    def _experiment_id(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            return experiment.experiment_id
        location = None if is_server(self.uri) else Path(self.artifacts).resolve().as_uri()
        try:
            # Without this tag, MLflow shows the experiment as one of chat traces.
            return client.create_experiment(
                self.experiment,
                artifact_location=location,
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        except MlflowException:
            experiment = client.get_experiment_by_name(self.experiment)  # another process has created it
            if experiment is None:
                raise
            return experiment.experiment_id

    def _runs(self, client: MlflowClient, artifact: Artifact) -> list[Run]:
        """Return the artifact's runs, the latest first."""
        return list(
            client.search_runs(
                [self._experiment_id(client)],
                filter_string=(
                    f"tags.`{FINGERPRINT_TAG}` = '{artifact.fingerprint}' AND attributes.run_name = '{_name(artifact)}'"
                ),
                order_by=["attributes.start_time DESC"],
            )
        )


def _name(artifact: Artifact) -> str:
    """Return the name of a run: the student run's, with a suffix if the student is not fully trained."""
    return f"{artifact.key.run}{UNFINISHED.get(artifact.key.kind, '')}"


@cache
def _create_tables(uri: str) -> None:
    """Create a database's tables if it has none; MLflow itself cannot do that in several processes at once."""
    from mlflow import MlflowClient

    with exclusive(uri):
        MlflowClient(tracking_uri=with_driver(uri))
