"""Run launcher for Kubernetes: dagster-k8s's, which tolerates an API server that does not answer.

Dagster's run monitoring starts a second worker for a run whose first worker it cannot find. While the API server
restarts, no worker can be found although all of them run.
"""

from __future__ import annotations

from dagster import DagsterRun
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster_k8s import K8sRunLauncher
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError


class PodRunLauncher(K8sRunLauncher):
    """Run launcher with the settings of `K8sRunLauncher`; set it in `dagster.yaml`."""

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        if health.status == WorkerStatus.UNKNOWN and not self._api_answers(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the Kubernetes API does not answer")
        return health

    def _api_answers(self, run: DagsterRun) -> bool:
        namespace = self.get_container_context_for_run(run).namespace
        try:
            self._api_client.batch_api.list_namespaced_job(namespace, limit=1)
        except (HTTPError, OSError, ApiException):
            return False
        return True
