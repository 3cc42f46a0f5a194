"""Pod failures: why a pod ended or cannot start, in words that name it, and whether a retry may succeed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finephrase_dagster.errors import FinephraseError

REMOVED = ("Evicted", "Preempting", "Preempted", "NodeLost", "NodeShutdown", "Terminated", "Shutdown", "NodeAffinity")
CANNOT_START = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
TEMPORARY_FAILURE = 75
"""Exit status by which a process reports that a retry may succeed (`os.EX_TEMPFAIL`)."""

SIGNALS = {130: "interrupted (SIGINT)", 137: "killed (SIGKILL)", 143: "terminated (SIGTERM)"}
CRASHES = {134: "SIGABRT", 135: "SIGBUS, as when /dev/shm is full", 139: "SIGSEGV"}


class PodFailed(FinephraseError):
    """A pod failed because of the program in it or of its configuration; the message names pod and cause."""


class PodMisconfigured(PodFailed):
    """A pod failed because of its configuration, whatever program was to run: no image, too little memory."""


class PodLost(FinephraseError, retryable=True):
    """A pod was lost for reasons outside of it, such as its node; the message names pod and cause."""


class PodsBusy(FinephraseError, retryable=True):
    """Pods of a process that is still running do the same work."""


class PodsRemain(FinephraseError, retryable=True):
    """Pods that were deleted still exist."""


@dataclass(frozen=True)
class PodFailure:
    """Why a pod will do no more work.

    Attributes:
        message: names the pod, the cause and the next action.
        retryable: whether the cause lies outside of the pod, so that a retry may succeed.
        misconfigured: whether the cause lies in the pod's configuration.
    """

    message: str
    retryable: bool
    misconfigured: bool = False

    def error(self, details: str = "") -> PodFailed | PodLost:
        """Return the error to raise, with details after the message."""
        kind = PodLost if self.retryable else PodMisconfigured if self.misconfigured else PodFailed
        return kind(f"{self.message}{details}")


def rows_kept(lines: Sequence[str]) -> str:
    """Return what follows the message of a rephrasing pod's failure: that rows are kept, and the last lines."""
    return ". Finished rows are kept." + ("\nLast lines of its log:\n" + "\n".join(lines) if lines else "")


def pod_failure(pod: Any, *, patience_seconds: float = 0) -> PodFailure | None:
    """Return why a pod failed or cannot start; None if it may still succeed, or has.

    Args:
        pod: a `kubernetes.client.V1Pod`.
        patience_seconds: how long a pod may be unable to start, so that a short outage of a registry is no failure.
    """
    name, status = pod.metadata.name, pod.status
    disrupted = [one for one in status.conditions or () if one.type == "DisruptionTarget" and one.status == "True"]
    if status.phase == "Failed" and (status.reason in REMOVED or disrupted):
        reason = status.reason or disrupted[0].reason
        details = f" ({status.message})" if status.message else ""
        return PodFailure(f"pod {name} was removed from its node: {reason}{details}", retryable=True)
    for container in status.container_statuses or ():
        ended, waiting = container.state.terminated, container.state.waiting
        if ended is not None and ended.exit_code != 0:
            return _exit_failure(name, ended.exit_code, ended.reason)
        if waiting is not None and waiting.reason in CANNOT_START and _age_seconds(pod) >= patience_seconds:
            details = f": {waiting.message}" if waiting.message else ""
            message = f"pod {name} cannot start: {waiting.reason}{details}. {_remedy(waiting.reason)}"
            return PodFailure(message, retryable=False, misconfigured=True)
    if status.phase == "Failed":
        return PodFailure(f"pod {name} failed: {status.reason or 'Kubernetes gives no reason'}", retryable=True)
    return None


def waits_for(pod: Any) -> str | None:
    """Return the scheduler's reason why a pod has no node yet; None if it has one or the scheduler gives no reason."""
    for condition in pod.status.conditions or () if pod.status.phase == "Pending" else ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"pod {pod.metadata.name} waits for a node: {condition.message or condition.reason}"
    return None


def _exit_failure(name: str, code: int, reason: str | None) -> PodFailure:
    if reason == "OOMKilled":
        message = f"pod {name} ran out of memory (OOMKilled). Raise 'memory' in the cluster file"
        return PodFailure(message, retryable=False, misconfigured=True)
    if code in SIGNALS:
        return PodFailure(f"pod {name} was {SIGNALS[code]}, exit code {code}", retryable=True)
    crash = f" ({CRASHES[code]})" if code in CRASHES else ""
    return PodFailure(f"pod {name} ended with exit code {code}{crash}", retryable=code == TEMPORARY_FAILURE)


def _remedy(reason: str) -> str:
    if reason == "CreateContainerConfigError":
        return "Create the missing object, or correct 'environment' in the cluster file"
    if "Image" in reason:
        return "Correct 'images' or 'pull_secrets' in the cluster file, or push the image"
    return "Run `kubectl describe pod` for details"


def _age_seconds(pod: Any) -> float:
    created = pod.metadata.creation_timestamp
    return (datetime.now(UTC) - created).total_seconds() if created else 0.0
