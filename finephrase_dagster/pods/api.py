"""The cluster's API: find, wait for and delete the pods, Jobs and services of one piece of work."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kubernetes import client, config
from kubernetes.client.rest import ApiException
from urllib3 import Retry

from finephrase_dagster.pods.failure import PodsBusy, PodsRemain

GONE_SECONDS = 300.0
"""Time that deleted pods may take to end; longer than any grace period."""
POLL_SECONDS = 0.5
ENDED = ("Succeeded", "Failed")
JobState = Literal["running", "complete", "failed", "deleted"]


def load() -> None:
    """Configure the Kubernetes client: the cluster of this pod, else the one that kubeconfig names.

    Clients retry for up to two minutes while an API server restarts.
    """
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config()
    else:
        config.load_kube_config(os.environ.get("KUBECONFIG"))
    patient = client.Configuration.get_default_copy()
    patient.retries = Retry(total=20, connect=12, read=3, backoff_factor=0.5, backoff_max=15)
    patient.no_proxy = patient.no_proxy or os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
    client.Configuration.set_default(patient)


class Pods:
    """The pods, Jobs and services of a namespace that do one piece of work, selected by their labels."""

    def __init__(self, namespace: str, labels: Mapping[str, str]) -> None:
        """Describe them; call `load` first."""
        self.namespace = namespace
        self.labels = dict(labels)
        self._core = client.CoreV1Api()
        self._batch = client.BatchV1Api()

    def owner(self) -> Sequence[dict[str, Any]]:
        """Return the owner reference to this pod; empty outside a pod. Kubernetes deletes what a deleted pod owns."""
        name = os.environ.get("HOSTNAME", "")
        try:
            pod = self._core.read_namespaced_pod(name, self.namespace) if name else None
        except ApiException as error:
            if error.status != 404:
                raise
            pod = None
        return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.metadata.uid}] if pod else []

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the metadata of an object that belongs to this work and to this pod."""
        return {"name": name, "labels": dict(self.labels), "ownerReferences": self.owner()}

    def job_state(self, name: str) -> JobState:
        """Return what has become of a Job."""
        try:
            job = self._batch.read_namespaced_job(name, self.namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            return "deleted"
        conditions = {one.type for one in job.status.conditions or () if one.status == "True"}
        return "complete" if "Complete" in conditions else "failed" if "Failed" in conditions else "running"

    def list(self) -> Sequence[Any]:
        """Return the pods."""
        return self._core.list_namespaced_pod(self.namespace, label_selector=self._selector).items

    def clear(self, what: str) -> bool:
        """Delete what an earlier process left behind; return whether there was anything.

        Args:
            what: what the pods make, for error messages.

        Raises:
            PodsBusy: the pod that started them still runs.
            PodsRemain: a pod does not end.
        """
        pods = self.list()
        for pod in pods:
            if pod.status.phase not in ENDED and (owner := self._running_owner(pod)):
                raise PodsBusy(
                    f"{what} is being materialized by pod {pod.metadata.name}, started by pod {owner}. "
                    f"Wait until it ends, or stop it: kubectl delete pod {owner}"
                )
        jobs = self._batch.list_namespaced_job(self.namespace, label_selector=self._selector).items
        self.remove()
        return bool(pods or jobs)

    def remove(self) -> None:
        """Delete all of it and wait until no pod is left.

        Raises:
            PodsRemain: a pod does not end.
        """
        for job in self._batch.list_namespaced_job(self.namespace, label_selector=self._selector).items:
            self._delete(self._batch.delete_namespaced_job, job)
        for service in self._core.list_namespaced_service(self.namespace, label_selector=self._selector).items:
            self._delete(self._core.delete_namespaced_service, service)
        for pod in self.list():
            self._delete(self._core.delete_namespaced_pod, pod)
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.list():
            if time.monotonic() > deadline:
                names = " ".join(pod.metadata.name for pod in left)
                raise PodsRemain(
                    f"pod {names} does not end. Check its node, or delete it: kubectl delete pod {names} --force"
                )
            time.sleep(POLL_SECONDS)

    def last_lines(self, pod: str, count: int) -> Sequence[str]:
        """Return the last lines of a pod's log; none if it has no log."""
        try:
            answer = self._core.read_namespaced_pod_log(pod, self.namespace, tail_lines=count, _preload_content=False)
        except ApiException:
            return []
        return answer.data.decode("utf-8", "replace").splitlines()

    @property
    def _selector(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.labels.items())

    def _delete(self, delete: Any, resource: Any) -> None:
        try:
            delete(resource.metadata.name, self.namespace, propagation_policy="Background")
        except ApiException as error:
            if error.status != 404:
                raise

    def _running_owner(self, pod: Any) -> str | None:
        """Return the name of another pod that started a pod and still runs."""
        for owner in pod.metadata.owner_references or ():
            if owner.kind != "Pod":
                continue
            try:
                current = self._core.read_namespaced_pod(owner.name, self.namespace)
            except ApiException as error:
                if error.status != 404:
                    raise
                continue
            if current.metadata.uid != owner.uid or current.status.phase in ENDED:
                continue
            if owner.name != os.environ.get("HOSTNAME"):
                return str(owner.name)
        return None
