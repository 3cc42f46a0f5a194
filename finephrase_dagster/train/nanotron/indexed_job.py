"""nanotron on several machines of a Kubernetes cluster: one indexed Job, with one torchrun pod per node.

The Job's pods see the run's folder on the shared volume; the log of index 0 is followed. This process deletes the Job
when it ends. A Job that a killed process left behind is deleted before its folder is used again: two Jobs on one folder
would corrupt each other's checkpoints.
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
from finephrase_dagster.pods.job_manifest import INDEX, indexed_job
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.train.job import TrainingError
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.launch import LAST_LINES, LOG, VARIABLES, command

PORT = 29500
"""The port of index 0. Every pod has its own address, so the port is always free."""

POLL_SECONDS = 1.0
SILENT_SECONDS = 60.0
"""After so long without a line, the state of all pods is checked."""


class IndexedJob:
    """The Job of one run's folder."""

    def __init__(self, pod: Pod, folder: Path) -> None:
        """Connect to the cluster; nothing is started yet.

        Args:
            folder: the run's folder, under the path that all pods have.
        """
        load()
        self._pod = pod
        self._folder = folder.absolute()
        self.name = f"finephrase-train-{fingerprint(str(self._folder))[:SHORT]}"
        self._pods = Pods(pod.cluster.namespace, {"finephrase/training": self.name})

    def clear(self) -> bool:
        """Delete what an earlier process left behind, with its pods; return whether there was anything.

        Raises:
            PodsBusy: that process is still running.
        """
        return self._pods.clear(f"the training in {self._folder}")

    def run(self, cluster: NanotronCluster, *, run: str, on_line: Callable[[str], None]) -> None:
        """Run nanotron in the folder, which holds its `config.yaml`, until it ends; like `launch.launch`.

        Job, service and pods are deleted before this method returns or raises.

        Raises:
            TrainingError: nanotron ended with an error; the message has the pod, the cause and the last lines.
            PodsBusy: another process trains in this folder.
        """
        self.clear()
        path = self._folder / LOG
        with path.open("ab") as output:
            start = path.stat().st_size
            try:
                self._create(cluster, run)
                failure = self._follow(output, on_line)
                if failure is not None:
                    raise TrainingError(
                        f"nanotron ended: {failure.message}. Its last lines:\n{self._last_lines(path, start)}\n"
                        f"The complete log of index 0 is {path}. Start the run again to resume from its last checkpoint"
                    ) from failure.error()
            finally:
                self._pods.remove()

    def service(self) -> dict[str, Any]:
        """Return the headless service that gives the pods their names."""
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self._pods.metadata(self.name),
            "spec": {
                "clusterIP": "None",
                "selector": self._pods.labels,
                "publishNotReadyAddresses": True,  # the pods meet before any of them is ready
                "ports": [{"name": "rendezvous", "port": PORT}],
            },
        }

    def job(self, cluster: NanotronCluster, run: str) -> dict[str, Any]:
        """Return the Job, as Kubernetes reads it."""
        rendezvous = ["--node-rank", "$(JOB_COMPLETION_INDEX)"]
        rendezvous += ["--master-addr", f"{self.name}-0.{self.name}", "--master-port", str(PORT)]
        container = {
            "name": "nanotron",
            "command": command(cluster, run=run, rendezvous=rendezvous),
            "workingDir": str(self._folder),
            "env": [{"name": name, "value": value} for name, value in VARIABLES.items()],
        }
        return indexed_job(
            self._pods,
            self.name,
            self._pod,
            container,
            count=cluster.nodes,
            subdomain=self.name,
            backoffLimit=0,  # without one node the others cannot go on; the run resumes from its checkpoint
        )

    def _create(self, cluster: NanotronCluster, run: str) -> None:
        namespace = self._pods.namespace
        client.CoreV1Api().create_namespaced_service(namespace, self.service())
        client.BatchV1Api().create_namespaced_job(namespace, self.job(cluster, run))

    def _follow(self, output: BinaryIO, on_line: Callable[[str], None]) -> PodFailure | None:
        """Hand on the log of index 0 until the Job has ended; return why it failed."""
        last = ""
        while True:
            failure = self._failure()
            # Checked first, so that the log is read to its end.
            ended = failure is not None or self._pods.job_state(self.name) == "complete"
            try:
                for stamp, line in self._lines(last, follow=not ended):
                    last = stamp
                    output.write(line + b"\n")
                    output.flush()
                    on_line(line.decode("utf-8", "replace"))
            except HTTPError:  # nothing for a while, or the API server restarts: the rest is read again
                continue
            if ended:
                return failure
            time.sleep(POLL_SECONDS)

    def _lines(self, after: str, *, follow: bool) -> Iterator[tuple[str, bytes]]:
        """Yield the lines of index 0 after a time stamp; with `follow`, also new ones until its log ends.

        Raises:
            HTTPError: the connection ended before the log did, or there was no line for a while.
        """
        pod = next((pod for pod in self._pods.list() if (pod.metadata.labels or {}).get(INDEX) == "0"), None)
        if pod is None or pod.status.phase == "Pending":
            return
        try:
            answer = client.CoreV1Api().read_namespaced_pod_log(
                pod.metadata.name,
                self._pods.namespace,
                follow=follow,
                timestamps=True,
                _preload_content=False,
                _request_timeout=(10, SILENT_SECONDS),
            )
        except ApiException:  # the pod is not running yet, or has just been deleted
            return
        rest = b""
        for chunk in answer.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                stamp, _, content = line.partition(b" ")
                if (time_stamp := stamp.decode("ascii", "replace")) > after:
                    yield time_stamp, content

    def _failure(self) -> PodFailure | None:
        """Return why the run failed: the cause of the first pod to fail, not of those that were ended because of it."""
        patience = self._pod.cluster.patience_seconds
        failures = [one for pod in self._pods.list() if (one := pod_failure(pod, patience_seconds=patience))]
        failures.sort(key=lambda failure: "SIGTERM" in failure.message)
        if failures:
            return failures[0]
        state = self._pods.job_state(self.name)
        if state == "deleted":
            return PodFailure(f"Job {self.name} was deleted", retryable=True)
        if state == "failed":
            return PodFailure(
                f"Job {self.name} failed and its pods are gone: a node was lost, or they were deleted", retryable=True
            )
        return None

    def _last_lines(self, log: Path, start: int) -> str:
        """Return the last lines of index 0, and of the other pods that failed."""
        lines = last_lines(log, start=start, count=LAST_LINES)
        for pod in self._pods.list():
            index = (pod.metadata.labels or {}).get(INDEX)
            if index != "0" and pod.status.phase == "Failed":
                lines += [f"index {index}:", *self._pods.last_lines(pod.metadata.name, LAST_LINES)]
        return "\n".join(lines)
