"""Several workers as the pods of an indexed Job of a Kubernetes cluster.

Kubernetes replaces a pod that was evicted or killed; meanwhile the others take its shards over. An index whose worker
ends with an error that a retry cannot cure is given up, and the others do its share.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kubernetes import client

from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.pods.api import Pods
from finephrase_dagster.pods.cluster import Cluster
from finephrase_dagster.pods.failure import (
    SIGNALS,
    TEMPORARY_FAILURE,
    PodFailed,
    PodLost,
    pod_failure,
    rows_kept,
    waits_for,
)
from finephrase_dagster.pods.job_manifest import indexed_job
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.production.workers import LAST_LINES, CommonProgress
from finephrase_dagster.rephrase.job import RephraseJob

COMMAND = ("python3", "-m", "finephrase_dagster.production.worker")
JOB = f"{META}/job.json"
"""The file with the job, in the folder of its first dataset, while the pods run."""

RESTARTS = 6
"""How often Kubernetes replaces a pod of each index, not counting disruptions."""

QUEUE = "kueue.x-k8s.io/queue-name"


class PodWorkers:
    """The Job of a cell's workers; `run` is a `workers.RunWorkers`."""

    def __init__(
        self, cluster: Cluster, pods: Pods, count: int, poll_seconds: float, log: Callable[[str], None]
    ) -> None:
        """Describe the Job; nothing is started yet.

        Args:
            pods: selects the pods; its label `finephrase/job` becomes part of the Job's name.
            log: receives changes of the pods' states, and the last lines of those that fail.
        """
        self.name = f"finephrase-rephrase-{pods.labels['finephrase/job']}"
        self._cluster, self._pods, self._count = cluster, pods, count
        self._poll_seconds, self._log = poll_seconds, log
        self._failures: dict[str, PodFailed | PodLost] = {}
        self._last_state = ""

    def run(self, job: RephraseJob, progress: CommonProgress) -> PodFailed | PodLost | None:
        """Run the workers until all have ended, and delete the Job; return why the last one failed.

        Raises:
            PodsRemain: a pod does not end.
        """
        folder = LocalFolder(Path(next(iter(job.targets.values())).folder))
        folder.write(JOB, job.model_dump_json().encode())
        try:
            client.BatchV1Api().create_namespaced_job(self._pods.namespace, self.job(job, str(folder.path / JOB)))
            return self._follow(progress)
        finally:
            self._pods.remove()
            folder.remove(JOB)

    def job(self, job: RephraseJob, file: str) -> dict[str, Any]:
        """Return the Job, as Kubernetes reads it, whose pods find their work in a file."""
        assert job.engine is not None
        queue = self._cluster.kueue_queue
        manifest = indexed_job(
            self._pods,
            self.name,
            Pod.of(self._cluster, job.engine.generator, image=self._cluster.images.worker),
            {"name": "engine", "command": [*COMMAND, file]},
            count=self._count,
            backoffLimitPerIndex=RESTARTS,
            podFailurePolicy={"rules": _failure_rules()},
            suspend=queue is not None,  # until Kueue admits it
        )
        if queue:
            manifest["metadata"]["labels"][QUEUE] = queue
        return manifest

    def _follow(self, progress: CommonProgress) -> PodFailed | PodLost | None:
        """Show states and progress until no pod can do any more work; return the last failure."""
        while True:
            progress.update()
            state = self._pods.job_state(self.name)  # read first, so that the last failure is among the pods
            pods = self._pods.list()
            self._record_failures(pods)
            phases = Counter(pod.status.phase for pod in pods)
            self._report(pods, phases)
            stuck = [pod for pod in pods if pod.status.phase == "Pending" and pod.metadata.name in self._failures]
            if state != "running" or (stuck and not phases["Running"]):
                break
            if phases["Succeeded"] and not phases["Running"] and progress.are_finished():
                return None  # what is still waiting for a node has nothing left to do
            time.sleep(self._poll_seconds)
        if state == "complete":
            return None
        if not self._failures:
            return PodLost(f"Job {self.name} is {state}, but rows are left and no pod failed. Finished rows are kept.")
        return list(self._failures.values())[-1]

    def _record_failures(self, pods: Sequence[Any]) -> None:
        """Log the failures of pods that had not failed before."""
        for pod in pods:
            name = pod.metadata.name
            failure = pod_failure(pod, patience_seconds=self._cluster.patience_seconds)
            if failure and name not in self._failures:
                self._failures[name] = failure.error(rows_kept(self._pods.last_lines(name, LAST_LINES)))
                self._log(str(self._failures[name]))

    def _report(self, pods: Sequence[Any], phases: Counter[str]) -> None:
        """Log the pods' states if they have changed."""
        states = [f"{count} {phase.lower()}" for phase, count in sorted(phases.items())]
        if not pods and self._cluster.kueue_queue:
            states = [f"waiting for admission by queue {self._cluster.kueue_queue}"]
        reasons = sorted(reason for pod in pods if (reason := waits_for(pod)))
        state = "; ".join([f"workers: {', '.join(states) or 'not started yet'}", *reasons[:1]])
        if state != self._last_state:
            self._last_state = state
            self._log(state)


def _failure_rules() -> list[dict[str, Any]]:
    """Return which failures are not counted, and which end an index at once; all others are counted."""
    disruption = {"type": "DisruptionTarget", "status": "True"}
    may_succeed = sorted([TEMPORARY_FAILURE, *SIGNALS])
    return [
        {"action": "Ignore", "onPodConditions": [disruption]},
        {
            "action": "FailIndex",
            "onExitCodes": {"operator": "NotIn", "values": may_succeed},
            "onPodConditions": [],  # Kubernetes 1.28 to 1.30 require the field
        },
    ]
