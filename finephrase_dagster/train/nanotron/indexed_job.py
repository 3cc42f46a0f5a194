"""nanotron on several machines of a Kubernetes cluster: one indexed Job, a pod with torchrun a node.

The Job's pods see the run's folder on the shared volume; what index 0 says is followed. A Job never outlives the
process that started it by its own doing, and one that a killed process left behind is ended before its folder is
touched: two on one folder would tear each other's checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kubernetes import client
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.processes import last_lines
from finephrase_dagster.pods.api import Pods, load
from finephrase_dagster.pods.failure import PodFailure, pod_failure
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.launch import LAST_LINES, LOG, command, variables
from finephrase_dagster.train.training import TrainingError

PORT = 29500
"""Where index 0 is met; every pod has its own address, so it is always free."""

POLL_SECONDS = 1.0
SILENT_SECONDS = 60.0
"""After so long without a line it is looked whether all pods live."""

KEPT_SECONDS = 3600
"""How long the API keeps a finished Job whose end nobody saw."""

INDEX = "batch.kubernetes.io/job-completion-index"


class IndexedJob:
    """The Job of one run's folder."""

    def __init__(self, pod: Pod, folder: Path) -> None:
        """Describes it; nothing is started yet.

        Args:
            pod: of a node.
            folder: the run's, under the path by which every pod knows it.
        """
        load()
        self._pod = pod
        self._folder = folder.absolute()
        self.name = f"finephrase-train-{fingerprint(str(self._folder))[:SHORT]}"
        self._pods = Pods(pod.cluster.namespace, {"finephrase/training": self.name})

    def clear(self) -> bool:
        """Ends what an earlier process left behind, pods and all; returns whether there was something.

        Raises:
            PodsBusy: that process lives.
        """
        return self._pods.clear(f"the training in {self._folder}")

    def run(self, cluster: NanotronCluster, *, run: str, follow: Callable[[str], None]) -> None:
        """Runs nanotron in the folder, which holds its `config.yaml`, until it ends; as `launch.launch`.

        However this is left, Job, service and pods are deleted.

        Raises:
            TrainingError: nanotron ended with an error; with the pod, the cause and its last lines.
            PodsBusy: another process trains in this folder.
        """
        self.clear()
        path = self._folder / LOG
        with path.open("ab") as written:
            begin = written.tell()
            try:
                self._create(cluster, run)
                failure = self._follow(written, follow)
                if failure is not None:
                    raise TrainingError(
                        f"nanotron ended: {failure.message}. It said last:\n{self._last_lines(path, begin)}\n"
                        f"All that index 0 said: {path}\nStarted again, the run is taken up at its last checkpoint"
                    ) from failure.error()
            finally:
                self._pods.remove()

    def service(self) -> dict[str, Any]:
        """The headless service below which the pods have names."""
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self._metadata(),
            "spec": {
                "clusterIP": "None",
                "selector": self._pods.labels,
                "publishNotReadyAddresses": True,  # they meet before any is ready
                "ports": [{"name": "rendezvous", "port": PORT}],
            },
        }

    def job(self, cluster: NanotronCluster, run: str) -> dict[str, Any]:
        """The Job, as Kubernetes writes it."""
        meeting = ["--node-rank", "$(JOB_COMPLETION_INDEX)"]
        meeting += ["--master-addr", f"{self.name}-0.{self.name}", "--master-port", str(PORT)]
        container = {
            "name": "nanotron",
            "command": command(cluster, run=run, meeting=meeting),
            "workingDir": str(self._folder),
            "env": [{"name": name, "value": value} for name, value in variables().items()],
            **self._pod.container(),
        }
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self._metadata(),
            "spec": {
                "completionMode": "Indexed",
                "completions": cluster.nodes,
                "parallelism": cluster.nodes,
                "backoffLimit": 0,  # one node lost is all of them lost; the run is taken up from its checkpoint
                "ttlSecondsAfterFinished": KEPT_SECONDS,
                "template": {
                    "metadata": {"labels": self._pods.labels},
                    "spec": {
                        **self._pod.spec(),
                        "subdomain": self.name,
                        "automountServiceAccountToken": False,
                        "containers": [container],
                    },
                },
            },
        }

    def _metadata(self) -> dict[str, Any]:
        return {"name": self.name, "labels": self._pods.labels, "ownerReferences": self._pods.owner()}

    def _create(self, cluster: NanotronCluster, run: str) -> None:
        namespace = self._pods.namespace
        client.CoreV1Api().create_namespaced_service(namespace, self.service())
        client.BatchV1Api().create_namespaced_job(namespace, self.job(cluster, run))

    def _follow(self, written: BinaryIO, follow: Callable[[str], None]) -> PodFailure | None:
        """Hands on what index 0 says until the Job has ended; returns why it failed."""
        seen = ""
        while True:
            failure = self._failure()
            over = failure is not None or self._complete()  # looked at first, so that all that was said before is read
            try:
                for stamp, line in self._lines(seen, on=not over):
                    seen = stamp
                    written.write(line + b"\n")
                    written.flush()
                    follow(line.decode("utf-8", "replace"))
            except HTTPError:  # a silence, or an API server that is restarted: the rest is read again
                continue
            if over:
                return failure
            time.sleep(POLL_SECONDS)

    def _lines(self, seen: str, *, on: bool) -> Iterator[tuple[str, bytes]]:
        """The lines of index 0 after a time stamp; with `on`, as they come, until its log ends.

        Raises:
            HTTPError: the connection ended before the log did, or nothing was said for a while.
        """
        pod = next((pod for pod in self._pods.list() if (pod.metadata.labels or {}).get(INDEX) == "0"), None)
        if pod is None or pod.status.phase == "Pending":
            return
        try:
            answer = client.CoreV1Api().read_namespaced_pod_log(
                pod.metadata.name,
                self._pods.namespace,
                follow=on,
                timestamps=True,
                _preload_content=False,
                _request_timeout=(10, SILENT_SECONDS),
            )
        except ApiException:  # it is not running yet, or has just been deleted
            return
        rest = b""
        for chunk in answer.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                stamp, _, said = line.partition(b" ")
                if (when := stamp.decode("ascii", "replace")) > seen:
                    yield when, said

    def _failure(self) -> PodFailure | None:
        """Why the run cannot go on: that of the pod that failed first, before those that were ended for it."""
        patience = self._pod.cluster.patience_seconds
        failures = [one for pod in self._pods.list() if (one := pod_failure(pod, patience_seconds=patience))]
        failures.sort(key=lambda failure: "SIGTERM" in failure.message)
        if failures:
            return failures[0]
        job = self._job()
        if job is None:
            return PodFailure(f"Job {self.name} was deleted", retryable=True)
        if any(one.type == "Failed" and one.status == "True" for one in job.status.conditions or ()):
            return PodFailure(
                f"Job {self.name} failed and its pods are gone: a node was lost, or they were deleted", retryable=True
            )
        return None

    def _complete(self) -> bool:
        job = self._job()
        return job is not None and any(
            one.type == "Complete" and one.status == "True" for one in job.status.conditions or ()
        )

    def _job(self) -> Any:
        try:
            return client.BatchV1Api().read_namespaced_job(self.name, self._pods.namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            return None

    def _last_lines(self, log: Path, begin: int) -> str:
        """Return the last lines of index 0 and of the other pods that failed."""
        lines = last_lines(log, start=begin, count=LAST_LINES)
        for pod in self._pods.list():
            index = (pod.metadata.labels or {}).get(INDEX)
            if index != "0" and pod.status.phase == "Failed":
                lines += [f"index {index}:", *self._pods.last_lines(pod.metadata.name, LAST_LINES)]
        return "\n".join(lines)
