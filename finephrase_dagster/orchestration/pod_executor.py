"""Executor that runs each step as a Kubernetes Job and watches the Job's pods.

dagster-k8s's own executor sees that a step's Job failed but not why, and waits forever for an image that does not
exist. `PodWatcher` reads the pods: the step's failure names the pod, the cause and the next action. The step is
retried and resumes if the cause lay outside of it, as often as `retries.py` allows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
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
from finephrase_dagster.pods.failure import PodFailure, pod_failure, waits_for

HEALTH_SECONDS = "FINEPHRASE_STEP_HEALTH_SECONDS"
"""Environment variable: seconds between two checks of the pods; default 15."""

DELETE_SECONDS = 60
"""How long to wait until a deleted Job is gone."""


def build_executor(cluster: Cluster) -> dg.ExecutorDefinition:
    """Return dagster-k8s's executor with a `PodWatcher`; a run's own configuration takes precedence."""
    # Kubernetes deletes a step's Job with the pod of its run, also when the run is canceled or its pod is lost.
    settings = {"job_namespace": cluster.namespace, "enable_owner_references": True}
    schema: Any = k8s_job_executor.config_schema

    @dg.executor(name="k8s", config_schema=schema, requirements=multiple_process_executor_requirements())
    def watched(context: dg.InitExecutorContext) -> Any:
        assert k8s_job_executor.executor_creation_fn is not None
        config = {name: value for name, value in context.executor_config.items() if value is not None}
        config |= {name: value for name, value in settings.items() if not config.get(name)}
        executor: Any = k8s_job_executor.executor_creation_fn(context._replace(executor_config=config))
        executor._step_handler = PodWatcher(executor._step_handler, cluster)
        executor._check_step_health_interval_seconds = int(os.environ.get(HEALTH_SECONDS) or 15)
        return executor

    return watched


class PodWatcher(StepHandler):
    """dagster-k8s's step handler, which also finds out why a step's pod failed."""

    def __init__(self, handler: K8sStepHandler, cluster: Cluster) -> None:
        self._handler = handler
        self._cluster = cluster
        self._reported: set[str] = set()
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
            if failure := pod_failure(pod, patience_seconds=patience):
                return self._handle(step_handler_context, job, failure)
            if (waits := waits_for(pod)) and waits not in self._reported:
                self._reported.add(waits)
                DagsterEvent.engine_event(self._step(step_handler_context), waits, EngineEventData())
        if not health.is_healthy and not pods:
            lost = PodFailure(f"the pod of Job {job} is gone: its node was lost, or it was deleted", retryable=True)
            return self._handle(step_handler_context, job, lost)
        have_succeeded = pods and all(pod.status.phase == "Succeeded" for pod in pods)
        return self._silent(step_handler_context, job) if have_succeeded else health

    def _silent(self, context: StepHandlerContext, job: str) -> CheckStepHealthResult:
        """Handle a step whose pod succeeded without reporting the step's end.

        At the first check the event may still be on its way; at the second it counts as a failure.
        """
        if job not in self._silent_jobs:
            self._silent_jobs.add(job)
            return CheckStepHealthResult.healthy()
        return self._handle(
            context,
            job,
            PodFailure(f"the pod of Job {job} ended without reporting the end of its step", retryable=False),
        )

    def _handle(self, context: StepHandlerContext, job: str, failure: PodFailure) -> CheckStepHealthResult:
        """Retry or fail a step whose pod failed, and delete its Job.

        The executor learns of it from the event log, as of every event of a step.
        """
        api, namespace = self._handler._api_client, self._cluster.namespace
        step, attempt = self._step(context), self._attempt(context)
        retry = failure.retryable and attempt < RETRIES and ONCE_TAG not in context.dagster_run.tags
        retry = retry and not step.retry_mode.disabled
        api.delete_job(job, namespace)
        error = SerializableErrorInfo(message=failure.message, stack=[], cls_name=None)
        if not retry:
            DagsterEvent.step_failure_event(step, StepFailureData(error=error, user_failure_data=None))
        elif self._begun(context, attempt):
            DagsterEvent.step_retry_event(step, StepRetryData(error=error, seconds_to_wait=wait_seconds(attempt)))
        else:  # Dagster refuses a second attempt if no first one is recorded
            DagsterEvent.engine_event(
                step, f"{failure.message}; its step had not begun and gets another pod", EngineEventData()
            )
            self._wait_until_gone(job)
            list(self.launch_step(context))
        return CheckStepHealthResult.healthy()

    def _begun(self, context: StepHandlerContext, attempt: int) -> bool:
        """Return whether an attempt of the step, counted from 0, has begun."""
        (stats,) = context.instance.get_run_step_stats(context.dagster_run.run_id, [self._key(context)]) or (None,)
        return stats is not None and stats.start_time is not None and (stats.attempts or 1) > attempt

    def _wait_until_gone(self, job: str) -> None:
        for _ in range(DELETE_SECONDS):
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
