"""The Job controller of the substitute for a Kubernetes API server: starts, counts and replaces the pods of Jobs."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubernetes_http import Object

if TYPE_CHECKING:
    from kubernetes_api import KubernetesApi

INDEX = "batch.kubernetes.io/job-completion-index"
INDEX_FAILURES = "batch.kubernetes.io/job-index-failure-count"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class JobController:
    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._numbers = itertools.count(1)
        self._ended: dict[str, tuple[list[int], list[int]]] = {}

    def start(self, job: Object) -> None:
        job["status"] = {"active": 0}
        if not job["spec"].get("suspend"):
            job["status"] = {"active": job["spec"].get("parallelism", 1), "startTime": now()}
            for index in range(job["spec"].get("completions", 1)):
                self._start_pod(job, index)

    def _start_pod(self, job: Object, index: int, failures: int = 0) -> None:
        spec, meta = job["spec"], job["metadata"]
        indexed = spec.get("completionMode") == "Indexed"
        template = json.loads(json.dumps(spec["template"]))
        labels = {**template["metadata"].get("labels", {}), "job-name": meta["name"]}
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        name = f"{meta['name']}-{index}" if indexed else meta["name"]
        pod = {
            "metadata": {
                "name": f"{name}-{next(self._numbers):05d}",
                "labels": labels,
                "annotations": {},
                "ownerReferences": [{**owner, "controller": True}],
            },
            "spec": template["spec"],
        }
        if indexed:
            pod["spec"]["hostname"] = name
            pod["metadata"]["annotations"] |= {INDEX: str(index), INDEX_FAILURES: str(failures)}
            labels[INDEX] = str(index)
            for container in pod["spec"]["containers"]:
                container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
        self._api.make("pods", meta["namespace"], pod)

    def _count_index(self, job: Object, pod: Object) -> None:
        """Update a Job with `backoffLimitPerIndex`: the rest of it continues, whatever becomes of an index.

        Kubernetes waits before it replaces a pod; here the next one starts at once.
        """
        spec, status = job["spec"], job["status"]
        index, failures = (int(pod["metadata"]["annotations"][name]) for name in (INDEX, INDEX_FAILURES))
        succeeded, failed = self._ended.setdefault(job["metadata"]["uid"], ([], []))
        action = None if pod["status"]["phase"] == "Succeeded" else _action(spec, pod)
        if action is None:
            succeeded.append(index)
        elif action == "FailIndex" or (action == "Count" and failures >= spec["backoffLimitPerIndex"]):
            failed.append(index)
        else:
            self._start_pod(job, index, failures + (action == "Count"))
        if len({*succeeded, *failed}) == spec["completions"]:
            ended = {"type": "Failed", "reason": "FailedIndexes"} if failed else {"type": "Complete"}
            status["conditions"] = [{**ended, "status": "True"}]
        status |= {"completedIndexes": _joined(succeeded), "failedIndexes": _joined(failed)}

    def count(self, pod: Object) -> None:
        """Update the Job of a pod that has ended."""
        for owner in pod["metadata"].get("ownerReferences", []):
            job = self._api.objects.get(("jobs", pod["metadata"]["namespace"], owner["name"]))
            if job is None or job["metadata"]["uid"] != owner["uid"]:
                continue
            if "backoffLimitPerIndex" in job["spec"]:
                self._count_index(job, pod)
                continue
            of_job = [pod for pod in self._api.all("pods") if owner["uid"] in _owners(pod)]
            phases = [pod["status"]["phase"] for pod in of_job]
            status = {name.lower(): phases.count(name) for name in ("Succeeded", "Failed") if name in phases}
            status["active"] = len(phases) - sum(status.values())
            if status.get("failed"):
                status["conditions"] = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]
                for other in of_job:
                    if other["status"]["phase"] in ("Pending", "Running"):
                        self._api.delete("pods", other["metadata"]["namespace"], other["metadata"]["name"], None)
            elif status["active"] == 0:
                status["conditions"] = [{"type": "Complete", "status": "True"}]
            job["status"] |= {**status, "active": status["active"] or None}


def _joined(indexes: list[int]) -> str:
    return ",".join(map(str, sorted(indexes)))


def _action(spec: Object, pod: Object) -> str:
    """Return what a Job's policy does about a failed pod: the action of the first rule that matches."""
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    conditions = {(one["type"], one["status"]) for one in pod["status"].get("conditions", [])}
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        if exit_codes := rule.get("onExitCodes"):
            assert exit_codes["values"] == sorted(set(exit_codes["values"])), "Kubernetes refuses the order"
            matches = (code in exit_codes["values"]) == (exit_codes["operator"] == "In")
        else:
            matches = any((one["type"], one.get("status", "True")) in conditions for one in rule["onPodConditions"])
        if matches:
            return str(rule["action"])
    return "Count"


def _owners(value: Object) -> set[str]:
    return {owner["uid"] for owner in value["metadata"].get("ownerReferences", [])}
