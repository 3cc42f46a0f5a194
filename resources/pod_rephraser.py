"""The rephraser of a cluster where each engine has a pod of its own, without Dagster: it gets its job through Pipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.key import DATASET
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.pods.cluster import Cluster, cluster_from_environment
from finephrase_dagster.pods.failure import PodFailed, PodLost, pod_failure, rows_kept
from finephrase_dagster.pods.sizing import Pod
from finephrase_dagster.study.component import Cell
from resources.rephraser import Rephraser, record_expected_cost

if TYPE_CHECKING:
    from dagster_k8s import PipesK8sClient

    from finephrase_dagster.pods.api import Pods
    from finephrase_dagster.rephrase.job import RephraseJob

COMMAND = ["python3", "-m", "finephrase_dagster.rephrase.worker"]
LAST_LINES = 20
MESSAGE = '{"__dagster_pipes_version"'  # begins the lines of a log that are Pipes' own


class PodRephraser(Rephraser):
    """Runs each job in a pod with an engine. The generator and the cluster file determine the pod's size."""

    poll_seconds: float = Field(default=5.0, gt=0, description="seconds between two looks at the pod")

    def _run(
        self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], log: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """Run all prompts together, in one pod, or in the pods of an indexed Job.

        Raises:
            PodFailed, PodLost: the message names the pod and the cause.
            PodsBusy: another step writes the same datasets.
        """
        from finephrase_dagster.pods.api import Pods, load

        job = self._job(lineage, cell, datasets)
        if len(manifests := job.manifests()) == len(job.targets):
            return manifests
        cluster = cluster_from_environment()
        assert cluster is not None, "FINEPHRASE_CLUSTER names no cluster"
        load()
        folders = sorted(target.folder for target in job.targets.values())
        pods = Pods(cluster.namespace, {"finephrase/job": fingerprint(folders)[:SHORT]})
        record_expected_cost(lineage, job, datasets.values())
        if pods.clear("/".join(DATASET.asset_path(cell.name))):
            log("ended the pods of an earlier attempt; their finished rows are kept")
        if self.workers > 1:
            from finephrase_dagster.production.pod_workers import PodWorkers

            return self._run_workers(job, log, PodWorkers(cluster, pods, self.workers, self.poll_seconds, log).run)
        self.send(job, cluster, pods)
        return _finished(job, lineage)

    def send(self, job: RephraseJob, cluster: Cluster, pods: Pods) -> None:
        """Have a pod execute a job, and remove the pod afterwards, whatever the outcome.

        Raises:
            PodFailed, PodLost: the message names the pod and the cause, with the last lines of its log.
        """
        from dagster_k8s.client import DagsterK8sError

        from finephrase_dagster.rephrase.worker import JOB

        assert job.engine is not None
        pod = Pod.of(cluster, job.engine.generator, image=cluster.images.worker)
        container = {"name": "engine", "command": COMMAND, **pod.container()}
        try:
            self._client().run(
                context=dg.AssetExecutionContext.get(),
                extras={JOB: job.model_dump(mode="json")},
                namespace=cluster.namespace,
                base_pod_meta={"labels": pods.labels, "ownerReferences": pods.owner()},
                base_pod_spec={**pod.spec(), "automountServiceAccountToken": False, "containers": [container]},
                delete_pod_on_completion=False,  # its state tells why it failed
            )
        except DagsterK8sError as error:
            raise _failure(pods, error) from error
        finally:
            pods.remove()

    def _client(self) -> PipesK8sClient:
        from dagster_k8s import PipesK8sClient

        from finephrase_dagster.pods.api import load

        class Client(PipesK8sClient):
            def _load_k8s_config(self) -> None:
                load()

        return Client(poll_interval=float(self.poll_seconds))


def _finished(job: RephraseJob, lineage: Lineage) -> dict[str, dict[str, Any]]:
    """Return all manifests of a job that a pod has executed."""
    manifests = job.manifests()
    if missing := sorted(set(job.targets) - set(manifests)):
        raise PodFailed(
            f"the pod reports success, but {job.targets[missing[0]].folder} is not complete here: mount the volume "
            f"that holds {lineage.paths.data} in all pods ('volumes' in the cluster file)"
        )
    return manifests


def _failure(pods: Pods, error: Exception) -> Exception:
    """Return the error that says why the pod failed, with the last lines of its log."""
    for pod in pods.list():
        if failure := pod_failure(pod):
            lines = [line for line in pods.last_lines(pod.metadata.name, LAST_LINES) if not line.startswith(MESSAGE)]
            return failure.error(rows_kept(lines))
    return PodLost(f"the engine's pod does not exist any more, or never did: {error}. Finished rows are kept.")
