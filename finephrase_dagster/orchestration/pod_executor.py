"""Steps as Jobs of a cluster, each watched.

dagster-k8s's own executor knows that a step's Job failed, not why, and waits for ever for an image that is not there.
`Watch` looks at the pods: a step ends with the name of its pod, the cause, and what to do. It is tried again if the
cause lay outside of it, as often as `retries.py` says, and goes on where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.plan.objects import StepFailureData, StepRetryData
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepHandler, StepHandlerContext
from dagster._utils.error import SerializableErrorInfo
from dagster_k8s import k8s_job_executor
from dagster_k8s.executor import K8sStepHandler

from finephrase_dagster.orchestration.retries import ONCE_TAG, RETRIES, wait_seconds
from finephrase_dagster.pods.cluster import Cluster
from finephrase_dagster.pods.fate import Fate, fate_of, waits_for

HEALTH_SECONDS = "FINEPHRASE_STEP_HEALTH_SECONDS"
"""The environment variable for how often pods are looked at; default 15."""

GONE_POLLS = 60
"""How often it is looked whether a deleted Job is gone, once a second."""


def build_executor(cluster: Cluster) -> dg.ExecutorDefinition:
    """dagster-k8s's executor for a cluster, watched; a run's own configuration goes before what stands here."""
    # Jobs end with the pod that started them: a run that is cancelled or lost leaves none behind.
    settings = {"job_namespace": cluster.namespace, "enable_owner_references": True}
    schema: Any = k8s_job_executor.config_schema

    @dg.executor(name="k8s", config_schema=schema, requirements=multiple_process_executor_requirements())
    def watched(context: dg.InitExecutorContext) -> Any:
        assert k8s_job_executor.executor_creation_fn is not None
        said = {name: value for name, value in context.executor_config.items() if value is not None}
        said |= {name: value for name, value in settings.items() if not said.get(name)}
        executor: Any = k8s_job_executor.executor_creation_fn(context._replace(executor_config=said))
        executor._step_handler = Watch(executor._step_handler, cluster)
        executor._check_step_health_interval_seconds = int(os.environ.get(HEALTH_SECONDS) or 15)
        return executor

    return watched


def _succeeded(pods: Sequence[Any]) -> bool:
    return all(pod.status.phase == "Succeeded" for pod in pods)


class Watch(StepHandler):
    """dagster-k8s's step handler, which also looks at why a step's pod does no more work."""

    def __init__(self, handler: K8sStepHandler, cluster: Cluster) -> None:
        self._handler = handler
        self._cluster = cluster
        self._told: set[str] = set()
        self._silent_jobs: set[str] = set()

    @property
    def name(self) -> str:
        return self._handler.name

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        return self._handler.launch_step(step_handler_context)

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        return self._handler.terminate_step(step_handler_context)

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        health = self._handler.check_step_health(step_handler_context)
        job = self._handler._get_k8s_step_job_name(step_handler_context)
        pods = self._handler._api_client.get_pods_in_job(job, self._cluster.namespace)
        patience = 0 if not health.is_healthy else self._cluster.patience_seconds
        for pod in pods:
            if fate := fate_of(pod, patience_seconds=patience):
                return self._ended(step_handler_context, job, fate)
            if (waits := waits_for(pod)) and waits not in self._told:
                self._told.add(waits)
                DagsterEvent.engine_event(self._step(step_handler_context), waits, EngineEventData())
        if not health.is_healthy and not pods:
            fate = Fate(f"the pod of Job {job} is gone: its node was lost, or it was deleted", again=True)
            return self._ended(step_handler_context, job, fate)
        return self._silent(step_handler_context, job) if pods and _succeeded(pods) else health

    def _silent(self, context: StepHandlerContext, job: str) -> CheckStepHealthResult:
        """A pod that ended well, of whose step nothing has been heard: once that is the executor's delay, not twice."""
        if job not in self._silent_jobs:
            self._silent_jobs.add(job)
            return CheckStepHealthResult.healthy()
        return self._ended(context, job, Fate(f"the pod of Job {job} ended without a word of its step", again=False))

    def _ended(self, context: StepHandlerContext, job: str, fate: Fate) -> CheckStepHealthResult:
        """Says what becomes of a step whose pod does no more work, and removes what is left of it.

        The executor hears of it through the event log, as of all that a step says itself.
        """
        api, namespace = self._handler._api_client, self._cluster.namespace
        step, attempt = self._step(context), self._attempt(context)
        again = fate.again and attempt < RETRIES and ONCE_TAG not in context.dagster_run.tags
        again = again and not step.retry_mode.disabled
        api.delete_job(job, namespace)
        error = SerializableErrorInfo(message=fate.told, stack=[], cls_name=None)
        if not again:
            DagsterEvent.step_failure_event(step, StepFailureData(error=error, user_failure_data=None))
        elif self._begun(context, attempt):
            DagsterEvent.step_retry_event(step, StepRetryData(error=error, seconds_to_wait=wait_seconds(attempt)))
        else:  # a second attempt would refuse to begin where no first one is recorded
            DagsterEvent.engine_event(step, f"{fate.told}; its step had not begun, and gets another", EngineEventData())
            self._wait_until_gone(job)
            list(self.launch_step(context))
        return CheckStepHealthResult.healthy()

    def _begun(self, context: StepHandlerContext, attempt: int) -> bool:
        """Whether an attempt of the step has begun, the first of which is 0."""
        (stats,) = context.instance.get_run_step_stats(context.dagster_run.run_id, [self._key(context)]) or (None,)
        return stats is not None and stats.start_time is not None and (stats.attempts or 1) > attempt

    def _wait_until_gone(self, job: str) -> None:
        for _ in range(GONE_POLLS):
            if self._handler._api_client.get_job_status(job, self._cluster.namespace) is None:
                return
            time.sleep(1)

    def _attempt(self, context: StepHandlerContext) -> int:
        known = context.execute_step_args.known_state
        return known.get_retry_state().get_attempt_count(self._key(context)) if known else 0

    def _step(self, context: StepHandlerContext) -> Any:
        return context.get_step_context(self._key(context))

    @staticmethod
    def _key(context: StepHandlerContext) -> str:
        (key,) = context.execute_step_args.step_keys_to_execute or ()
        return key
