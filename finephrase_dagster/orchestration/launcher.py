"""Run launcher for one machine: Dagster's default, which also reports runs whose process has ended.

The code server that started a run notices within a second when its process ends, unless the code server ended too.
Then Dagster's default launcher would show the run as running forever.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

from finephrase_dagster.artifacts.processes import is_running, seconds_since_boot, start_time

PROCESS_TAG = ".dagster/finephrase_process"
"""Tag with the process of a run of `finephrase materialize`. The prefix hides it in the list of runs."""
ENGINE_EVENT = dg.DagsterEventType.ENGINE_EVENT
CLOCK_SECONDS = 2.0  # possible difference between the clocks of kernel and event log


class LocalRunLauncher(DefaultRunLauncher):
    """Launch runs as processes of this machine and check whether they still run."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Check whether a run's process still runs; a run without a known process counts as running."""
        if process := run.tags.get(PROCESS_TAG):
            return _health(is_running(process), process)
        records = self._instance.event_log_storage.get_logs_for_run(run.run_id, of_type=ENGINE_EVENT)
        for entry in reversed(records):
            event = entry.dagster_event
            pid = event.engine_event_data.metadata.get("pid") if event else None
            if pid is not None:
                start = start_time(int(str(pid.value)))
                latest = seconds_since_boot(entry.timestamp) + CLOCK_SECONDS  # later, the id is another's
                return _health(start is not None and start <= latest, str(pid.value))
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _health(running: bool, process: str) -> CheckRunHealthResult:
    if running:
        return CheckRunHealthResult(WorkerStatus.RUNNING)
    return CheckRunHealthResult(WorkerStatus.FAILED, f"process {process} has ended")
