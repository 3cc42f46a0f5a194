"""What became of a pod: why it ended or cannot start, in words that name it, and whether another try may go better."""

from __future__ import annotations

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
TRY_AGAIN = 75
"""The exit status of work that says itself that another try may go better (`os.EX_TEMPFAIL`)."""

SIGNALS = {137: "killed (SIGKILL)", 143: "told to end (SIGTERM)"}
CRASHES = {134: "aborted (SIGABRT)", 135: "a bus error (SIGBUS), as where /dev/shm is full", 139: "crashed (SIGSEGV)"}


class PodFailed(FinephraseError):
    """A pod failed by what ran in it, or by how it was asked for; the message names it and the cause."""


class PodUnfit(PodFailed):
    """A pod failed by how it was asked for, whatever was to run in it: no image, too little memory."""


class PodLost(FinephraseError, retryable=True):
    """A pod was lost through no fault of what ran in it; the message names it and the cause."""


class PodsBusy(FinephraseError, retryable=True):
    """The same work is being done by pods whose owner lives."""


class PodsRemain(FinephraseError, retryable=True):
    """Pods that were told to end are still there."""


@dataclass(frozen=True)
class Fate:
    """Why a pod will do no more work.

    Attributes:
        told: one sentence that names the pod, the cause and the next action.
        again: whether the cause lies outside of what ran in it, so that another try may succeed.
        unfit: whether the cause lies in how the pod was asked for.
    """

    told: str
    again: bool
    unfit: bool = False

    def error(self, more: str = "") -> PodFailed | PodLost:
        """What is raised of it."""
        kind = PodLost if self.again else PodUnfit if self.unfit else PodFailed
        return kind(f"{self.told}{more}")


def fate_of(pod: Any, *, patience_seconds: float = 0) -> Fate | None:
    """The fate of a pod, a `kubernetes.client.V1Pod`; None while it may still do its work, and if it has done it.

    Args:
        patience_seconds: how long a pod may be unable to start, for a registry that is away for a moment.
    """
    name, status = pod.metadata.name, pod.status
    disrupted = [one for one in status.conditions or () if one.type == "DisruptionTarget" and one.status == "True"]
    if status.phase == "Failed" and (status.reason in REMOVED or disrupted):
        reason = status.reason or disrupted[0].reason
        said = f" ({status.message})" if status.message else ""
        return Fate(f"pod {name} was taken from its node: {reason}{said}", again=True)
    for container in status.container_statuses or ():
        ended, waiting = container.state.terminated, container.state.waiting
        if ended is not None and ended.exit_code != 0:
            return _ended(name, ended.exit_code, ended.reason)
        if waiting is not None and waiting.reason in CANNOT_START and _age(pod) >= patience_seconds:
            said = f": {waiting.message}" if waiting.message else ""
            told = f"pod {name} cannot start: {waiting.reason}{said}; {_remedy(waiting.reason)}"
            return Fate(told, again=False, unfit=True)
    if status.phase == "Failed":
        return Fate(f"pod {name} failed: {status.reason or 'no reason is given'}", again=True)
    return None


def waits_for(pod: Any) -> str | None:
    """Why a pod is on no node yet, in the scheduler's words; None if it is, or if the scheduler said nothing."""
    for condition in pod.status.conditions or () if pod.status.phase == "Pending" else ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"pod {pod.metadata.name} waits for a node: {condition.message or condition.reason}"
    return None


def _ended(name: str, code: int, reason: str | None) -> Fate:
    if reason == "OOMKilled":
        told = f"pod {name} ran out of memory (OOMKilled): raise 'memory' in the cluster file"
        return Fate(told, again=False, unfit=True)
    if code in SIGNALS:
        return Fate(f"pod {name} was {SIGNALS[code]}, exit code {code}", again=True)
    said = f" with {CRASHES[code]}" if code in CRASHES else ""
    return Fate(f"pod {name} ended{said} with exit code {code}", again=code == TRY_AGAIN)


def _remedy(reason: str) -> str:
    if reason == "CreateContainerConfigError":
        return "make what it refers to, or correct 'environment' in the cluster file"
    if "Image" in reason:
        return "correct 'images' or 'pull_secrets' in the cluster file, or push the image"
    return "see `kubectl describe pod`"


def _age(pod: Any) -> float:
    began = pod.metadata.creation_timestamp
    return (datetime.now(UTC) - began).total_seconds() if began else 0.0
