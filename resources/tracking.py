"""MLflow as a resource: the store in which students are recorded, and what training sends to it.

`nested_runs.py` says which runs there are. The resource uses `MlflowClient`, so nothing is global: no active run stays
open, and no other asset of the same process inherits an environment.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from filelock import FileLock
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration import mlflow_links
from finephrase_dagster.orchestration.stores import (
    bypass_proxies,
    exclusive,
    is_postgres,
    is_server,
    printable,
    tracking_uri,
    with_driver,
)
from finephrase_dagster.train.job import LossCallback, LossPoint
from resources.nested_runs import CURVES, NestedRuns
from resources.stream import Send, Stream, Unreachable, within
from resources.student_record import RunDescription, StudentRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

SQLITE = "sqlite:///"


class Tracking(dg.ConfigurableResource):
    """The MLflow store in which students and their scores are recorded."""

    uri: str = Field(description="an MLflow server, or a database: sqlite:///<file>, postgresql:///<name>")
    experiment: str = Field(description="experiment of the study's runs")
    question: str = Field(default="", description="the study's question, for the experiment's page")
    artifacts: str = Field(description="folder of the runs' files; a server stores them itself")
    web_url: str = Field(description="address of the server's web pages, for links; empty: the MLflow of this web UI")
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

    def complete(self, records: Sequence[StudentRecord]) -> list[str]:
        """Complete the runs of finished students of one arm, or create them; return their ids.

        A run that shows all of its record stays as it is.
        """
        with self.runs() as runs:
            return runs.complete(records)

    @contextlib.contextmanager
    def failures_explained(self) -> Iterator[None]:
        """Raise Unreachable for any error of the store in such a block; the clients of various stores raise any."""
        try:
            yield
        except FinephraseError:
            raise
        except Exception as error:
            raise Unreachable(self._failure(error)) from error

    def end_orphans(self) -> list[str]:
        """Mark as killed the runs of trainings whose process has ended; return their names.

        Raises:
            Unreachable: the store does not answer.
        """
        if self.uri.startswith(SQLITE) and not Path(self.uri.removeprefix(SQLITE)).exists():
            return []
        with self.failures_explained(), self.runs() as runs:
            return runs.end_orphans()

    @contextlib.contextmanager
    def runs(self) -> Iterator[NestedRuns]:
        """Yield the experiment's runs; one process of this installation at a time.

        Raises:
            filelock.Timeout: another process needs longer than an asset waits for MLflow.
        """
        client = self.client()
        lock = Path(self.artifacts).absolute().with_name("recording.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=self._patience):
            yield NestedRuns(client, self._experiment_id(client))

    def attempt(self, artifact: Artifact, call: Callable[[], T], *, warn: Callable[[str], None]) -> T | None:
        """Return the result of a call to the store; None, with a warning, if it fails or takes too long."""
        try:
            return within(self._patience, artifact.fingerprint, call)
        except Unreachable as error:
            warn(f"{self._failure(error)}. To record it later, run: finephrase results mlflow")
            return None

    def _begin(self, artifact: Artifact, about: RunDescription) -> Send:
        """Open the run of an artifact in training; return a function that sends the points that it lacks."""
        from mlflow.entities import Metric

        with self.runs() as runs:
            run_id = runs.begin(artifact, about)
        client = self.client()
        known = {metric.step for metric in client.get_metric_history(run_id, CURVES[0])}

        def send(points: Sequence[LossPoint]) -> None:
            now = int(time.time() * 1000)
            fresh = [point for point in points if point.step not in known]
            metrics = [Metric(name, getattr(point, name), now, point.step) for point in fresh for name in CURVES]
            if metrics:
                client.log_batch(run_id, metrics=metrics)
            known.update(point.step for point in fresh)

        return send

    def _end(self, artifact: Artifact, *, interrupted: bool) -> None:
        with self.runs() as runs:
            runs.end(artifact, "KILLED" if interrupted else "FAILED")

    def _failure(self, error: Exception) -> str:
        return f"cannot write to MLflow at {printable(self.uri)}: {' '.join(str(error).split())[:200]}"

    def page(self, name: str, text: str) -> str | None:
        """Store a page of the whole study in a run of its own, in place of an earlier one; return the run's address."""
        with self.runs() as runs:
            run_id = runs.store_page(name, text)
        return self._address(mlflow_links.PAGE_TAG, name, run_id)

    def link(self, artifact: Artifact, run_id: str | None) -> str | None:
        """Return the address of the web page of an artifact's run; None if the run was not recorded on a server."""
        return self._address(mlflow_links.FINGERPRINT_TAG, artifact.fingerprint, run_id)

    def comparison(self) -> str:
        """Return the address of the web page with the current run of each student, best macro score first."""
        if not self.web_url:
            return mlflow_links.link(self.experiment)
        return mlflow_links.experiment_page(self.web_url, self._experiment_id(self.client()))

    @property
    def _patience(self) -> float:
        """Return how long to wait; creating a SQLite store takes long on a busy machine."""
        return self.patience * (10 if self.uri.startswith(SQLITE) else 1)

    def _address(self, tag: str, value: str, run_id: str | None) -> str | None:
        """Return the address of the page of a run, which a tag identifies; on a server, None without the run's id."""
        if not self.web_url:
            return mlflow_links.link(self.experiment, tag, value)
        if run_id is None:
            return None
        return mlflow_links.run_page(self.web_url, self._experiment_id(self.client()), run_id)

    def _experiment_id(self, client: MlflowClient) -> str:
        """Return the id of the experiment; create it if necessary, and bring its tags up to date."""
        from mlflow.exceptions import MlflowException

        tags = mlflow_links.experiment_tags(self.question)
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            for name, text in tags.items() - experiment.tags.items():
                client.set_experiment_tag(experiment.experiment_id, name, text)
            return experiment.experiment_id
        location = None if is_server(self.uri) else Path(self.artifacts).resolve().as_uri()
        try:
            return client.create_experiment(self.experiment, artifact_location=location, tags=tags)
        except MlflowException:
            experiment = client.get_experiment_by_name(self.experiment)  # another process has created it
            if experiment is None:
                raise
            return experiment.experiment_id


def study_tracking(lineage: Lineage, uri: Any = None) -> Tracking:
    """Return the resource of a study; `uri` is what its web page shows in place of the store's address."""
    address = tracking_uri(lineage.paths)
    return Tracking(
        uri=uri or address,
        experiment=mlflow_links.experiment_of(lineage.study.name),
        question=lineage.study.description,
        artifacts=str(lineage.paths.tracking_store.parent / "artifacts"),
        web_url=address if is_server(address) else "",
    )


@cache
def _create_tables(uri: str) -> None:
    """Create a database's tables if it has none; MLflow itself cannot do that in several processes at once."""
    from mlflow import MlflowClient

    with exclusive(uri):
        MlflowClient(tracking_uri=with_driver(uri))
