"""MLflow as a resource: one run a trained student, found again by its artifact's fingerprint.

It speaks through `MlflowClient`, so nothing is global: no active run that stays open, no environment
that another asset of the same process would inherit.
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
from finephrase_dagster.orchestration.stores import exclusive, is_postgres, is_server, printable, with_driver
from finephrase_dagster.train.job import LossCallback, LossPoint
from resources.stream import Send, Stream, Unreachable, within

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

FINGERPRINT_TAG = "finephrase.fingerprint"
TRAINING_VIEW = "workflowType=machine_learning"  # else the pages open as those of chat traces
UNFINISHED = {PRE_DECAY_CHECKPOINT: " (pre-decay)", EARLY_STUDENT: " (early)"}
"""What stands behind a run's name where its student is not at its end."""
CURVES = ("loss", "learning_rate")
SQLITE = "sqlite:///"
VALUE_LIMIT = 500  # characters that MLflow's stores keep of a parameter


@dataclass(frozen=True, kw_only=True)
class About:
    """What a run says of itself beside its curve."""

    tags: Mapping[str, str]
    params: Mapping[str, Any]


class Tracking(dg.ConfigurableResource):
    """Where the ablations are recorded."""

    uri: str = Field(description="an MLflow server, or a database: sqlite:///<file>, postgresql:///<name>")
    experiment: str = Field(description="the experiment of the study's runs")
    artifacts: str = Field(description="folder of the runs' files; a server keeps them itself")
    web_url: str = Field(description="where the store's web pages are served, for links")
    seconds: float = Field(default=2.0, gt=0, description="between two batches of a loss curve")
    patience: float = Field(
        default=10.0,
        gt=0,
        description="seconds that an asset waits for a server at its end; a file gets ten times as many",
    )

    def client(self) -> MlflowClient:
        """A client of the store; a file's folder is made."""
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # a new store tells of every table it makes
        if self.uri.startswith(SQLITE):
            Path(self.uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        if is_postgres(self.uri):
            _make_tables(self.uri)
        return MlflowClient(tracking_uri=with_driver(self.uri))

    @contextlib.contextmanager
    def watched(self, artifact: Artifact, about: About, *, warn: Callable[[str], None]) -> Iterator[LossCallback]:
        """Yields what takes the points of a training's loss curve to the artifact's run while it trains.

        The run is RUNNING meanwhile and stays so: `complete` ends it when the artifact is there. If the block
        raises, it is FAILED, or KILLED where the training was interrupted. Training is never kept waiting, nor
        ended, by a store that is not there: it is warned of once.
        """
        import mlflow  # noqa: F401  # here, for a thread that imports it beside one that imports torch meets halves

        stream = Stream(artifact.fingerprint, lambda: self._begin(artifact, about), every=self.seconds)
        warned = False

        def follow(point: LossPoint) -> None:
            nonlocal warned
            stream.follow(point)
            if stream.trouble and not warned:
                warned = True
                warn(f"{self._untold(stream.trouble)}; training goes on, and what is missing there is told at its end")

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
                warn(self._untold(error))

    def complete(
        self,
        artifact: Artifact,
        about: About,
        *,
        curve: Sequence[Mapping[str, Any]],
        metrics: Mapping[str, float],
        files: Mapping[str, object],
        seconds: float,
    ) -> str:
        """The id of the artifact's finished run, which is made, or completed, where it is not there yet.

        Args:
            curve: points with `step`, `loss` and `learning_rate`; those that the run has not are added.
            metrics: without steps.
            files: what to store under a file's name.
            seconds: that the training took.
        """
        if (done := self.finished(artifact)) is not None:
            return done
        run_id = self._open(artifact, about, seconds=seconds)
        for name in CURVES:
            self.log_curve(run_id, name, [(point["step"], point[name]) for point in curve])
        self.log_scores(run_id, metrics)
        for name, content in files.items():
            self.log_file(run_id, name, content)
        self.client().set_terminated(run_id, "FINISHED")
        return run_id

    def attempt(self, artifact: Artifact, tell: Callable[[], T], *, warn: Callable[[str], None]) -> T | None:
        """What `tell` gives; None, with a warning, if the store is not there or takes too long."""
        try:
            return within(self._patience, artifact.fingerprint, tell)
        except Unreachable as error:
            warn(f"{self._untold(error)}; to tell it later, materialise {artifact.name} in the web UI")
            return None

    def finished(self, artifact: Artifact) -> str | None:
        """The id of the artifact's finished run, if there is one."""
        runs = self._runs(self.client(), artifact)
        return next((run.info.run_id for run in runs if run.info.status == "FINISHED"), None)

    def _begin(self, artifact: Artifact, about: About) -> Send:
        """Opens the run of an artifact that is being made; gives what sends it the points that it has not."""
        from mlflow.entities import Metric

        client = self.client()
        if (outdated := self.finished(artifact)) is not None:  # its files were deleted, for it to be made again
            client.delete_run(outdated)
        run_id = self._open(artifact, about, seconds=0.0)
        there = {metric.step for metric in client.get_metric_history(run_id, CURVES[0])}

        def send(points: Sequence[LossPoint]) -> None:
            now = int(time.time() * 1000)
            fresh = [point for point in points if point.step not in there]
            metrics = [Metric(name, getattr(point, name), now, point.step) for point in fresh for name in CURVES]
            if metrics:
                client.log_batch(run_id, metrics=metrics)
            there.update(point.step for point in fresh)

        return send

    def _open(self, artifact: Artifact, about: About, *, seconds: float) -> str:
        """The id of the artifact's unfinished run, or of a fresh one; it is RUNNING from then on."""
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
            params=[Param(name, str(value)[:VALUE_LIMIT]) for name, value in about.params.items()],
            tags=[RunTag(name, value) for name, value in about.tags.items()],
        )
        return run_id

    def _end(self, artifact: Artifact, *, interrupted: bool) -> None:
        client = self.client()
        for run in self._runs(client, artifact)[:1]:
            client.set_terminated(run.info.run_id, "KILLED" if interrupted else "FAILED")

    def _untold(self, error: Exception) -> str:
        return f"MLflow at {printable(self.uri)} is not told ({' '.join(str(error).split())[:200]})"

    def log_curve(self, run_id: str, name: str, points: Iterable[tuple[int, float]]) -> None:
        """Logs a metric at many steps, but for those that it has already."""
        from mlflow.entities import Metric

        client, now = self.client(), int(time.time() * 1000)
        there = {metric.step for metric in client.get_metric_history(run_id, name)}
        metrics = [Metric(name, value, now, step) for step, value in points if step not in there]
        for first in range(0, len(metrics), 1000):  # the store's limit for one batch
            client.log_batch(run_id, metrics=metrics[first : first + 1000])

    def log_scores(self, run_id: str, scores: Mapping[str, float]) -> None:
        """Logs metrics without steps, unless they are there; a colon, which some stores refuse, becomes a dot."""
        from mlflow.entities import Metric

        client, now = self.client(), int(time.time() * 1000)
        there = client.get_run(run_id).data.metrics
        named = {name.replace(":", "."): value for name, value in scores.items()}
        fresh = [Metric(name, value, now, 0) for name, value in named.items() if there.get(name) != value]
        if fresh:
            client.log_batch(run_id, metrics=fresh)

    def log_file(self, run_id: str, name: str, content: object) -> None:
        """Stores text, or any other value as JSON, under a file name."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
        self.client().log_text(run_id, text, name)

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

    @property
    def _patience(self) -> float:
        """A file is there or is not; making the store in it takes a busy machine its time."""
        return self.patience * (10 if self.uri.startswith(SQLITE) else 1)

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

    def _runs(self, client: MlflowClient, artifact: Artifact) -> list[Run]:
        """The artifact's runs, the latest first."""
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
    """A run's name: the student run's, with what is not its end said behind it."""
    return f"{artifact.key.run}{UNFINISHED.get(artifact.key.kind, '')}"


@cache
def _make_tables(uri: str) -> None:
    """Makes a database's tables where there are none, which MLflow cannot do in several processes at once."""
    from mlflow import MlflowClient

    with exclusive(uri):
        MlflowClient(tracking_uri=with_driver(uri))
