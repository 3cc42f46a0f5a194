"""The cluster's API as our own code needs it: patient, and careful that nothing is left behind or done twice."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from kubernetes import client, config
from kubernetes.client.rest import ApiException
from urllib3 import Retry

from finephrase_dagster.pods.fate import PodsBusy, PodsRemain

GONE_SECONDS = 300.0
"""How long pods may take to end; longer than any grace period."""
POLL_SECONDS = 0.5
ENDED = ("Succeeded", "Failed")


def load() -> None:
    """Makes the cluster's API the one that clients speak to: that of the pod this runs in, else kubeconfig's.

    Clients wait up to two minutes for an API server that is restarted.
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
    """The pods, Jobs and services of a namespace that do one piece of work, found by its labels."""

    def __init__(self, namespace: str, labels: Mapping[str, str]) -> None:
        """Describes them; `load` was called before."""
        self.namespace = namespace
        self.labels = dict(labels)
        self._core = client.CoreV1Api()
        self._batch = client.BatchV1Api()

    def owner(self) -> list[dict[str, Any]]:
        """This pod as the owner of what it starts, which then ends with it; empty outside of a cluster."""
        name = os.environ.get("HOSTNAME", "")
        try:
            pod = self._core.read_namespaced_pod(name, self.namespace) if name else None
        except ApiException as error:
            if error.status != 404:
                raise
            pod = None
        return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.metadata.uid}] if pod else []

    def found(self) -> list[Any]:
        """The pods."""
        return self._core.list_namespaced_pod(self.namespace, label_selector=self._selector).items

    def clear(self, what: str) -> bool:
        """Ends what an earlier process left behind; returns whether there was something.

        Raises:
            PodsBusy: the process that started it lives.
            PodsRemain: it does not end.
        """
        pods = self.found()
        for pod in pods:
            if pod.status.phase not in ENDED and (owner := self._living_owner(pod)):
                raise PodsBusy(f"{what} is being made by pod {pod.metadata.name} for {owner}: wait for it, or stop it")
        jobs = self._batch.list_namespaced_job(self.namespace, label_selector=self._selector).items
        self.remove()
        return bool(pods or jobs)

    def remove(self) -> None:
        """Deletes all of it and waits until no pod is left.

        Raises:
            PodsRemain: a pod does not end.
        """
        for job in self._batch.list_namespaced_job(self.namespace, label_selector=self._selector).items:
            self._delete(self._batch.delete_namespaced_job, job)
        for service in self._core.list_namespaced_service(self.namespace, label_selector=self._selector).items:
            self._delete(self._core.delete_namespaced_service, service)
        for pod in self.found():
            self._delete(self._core.delete_namespaced_pod, pod)
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.found():
            if time.monotonic() > deadline:
                names = ", ".join(pod.metadata.name for pod in left)
                raise PodsRemain(f"pod {names} does not end: see that its node lives, or delete it by force")
            time.sleep(POLL_SECONDS)

    def said(self, pod: str, lines: int) -> list[str]:
        """The last lines of a pod's log; none if it never said anything."""
        try:
            answer = self._core.read_namespaced_pod_log(pod, self.namespace, tail_lines=lines, _preload_content=False)
        except ApiException:
            return []
        return answer.data.decode("utf-8", "replace").splitlines()

    @property
    def _selector(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.labels.items())

    def _delete(self, delete: Any, found: Any) -> None:
        try:
            delete(found.metadata.name, self.namespace, propagation_policy="Background")
        except ApiException as error:
            if error.status != 404:
                raise

    def _living_owner(self, pod: Any) -> str | None:
        for owner in pod.metadata.owner_references or ():
            if owner.kind != "Pod":
                continue
            try:
                found = self._core.read_namespaced_pod(owner.name, self.namespace)
            except ApiException as error:
                if error.status != 404:
                    raise
                continue
            if found.metadata.uid == owner.uid and found.status.phase not in ENDED and owner.name != _me():
                return f"pod {owner.name}"
        return None


def _me() -> str:
    return os.environ.get("HOSTNAME", "")
