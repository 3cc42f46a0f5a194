"""The run launcher of a cluster: dagster-k8s's, which takes an API server that is away for what it is.

Dagster's monitor starts a second worker for a run whose first it cannot see. While the API server is restarted
nothing can be seen, and every worker lives.
"""

from __future__ import annotations

from dagster import DagsterRun
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster_k8s import K8sRunLauncher
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError


class PodRunLauncher(K8sRunLauncher):
    """`dagster.yaml` names it; its settings are those of `K8sRunLauncher`."""

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        found: CheckRunHealthResult = super().check_run_worker_health(run)
        if found.status == WorkerStatus.UNKNOWN and not self._api_answers(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the Kubernetes API does not answer; looked at again")
        return found

    def _api_answers(self, run: DagsterRun) -> bool:
        namespace = self.get_container_context_for_run(run).namespace
        try:
            self._api_client.batch_api.list_namespaced_job(namespace, limit=1)
        except (HTTPError, OSError, ApiException):
            return False
        return True
