"""Indexed Jobs: a number of equal pods, each with an index, which Kubernetes starts, counts and replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finephrase_dagster.pods.api import Pods
from finephrase_dagster.pods.sizing import Pod

KEPT_SECONDS = 3600
"""How long Kubernetes keeps a finished Job if no process deletes it."""

INDEX = "batch.kubernetes.io/job-completion-index"
"""The label and the annotation that hold a pod's index."""


def indexed_job(
    pods: Pods,
    name: str,
    pod: Pod,
    container: Mapping[str, Any],
    *,
    count: int,
    subdomain: str | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Return a Job, as Kubernetes reads it.

    Args:
        pods: its labels and its owner.
        name: its name.
        pod: the size and placement of each pod.
        container: name, command and variables.
        count: how many pods run at once.
        subdomain: the headless service that gives the pods names.
        spec: further fields of the Job's spec, such as `backoffLimit`.
    """
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": pods.metadata(name),
        "spec": {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": count,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            **spec,
            "template": {
                "metadata": {"labels": pods.labels},
                "spec": {
                    **pod.spec(),
                    **({"subdomain": subdomain} if subdomain else {}),
                    "automountServiceAccountToken": False,
                    "containers": [{**container, **pod.container()}],
                },
            },
        },
    }
