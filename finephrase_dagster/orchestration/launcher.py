"""The run launcher of one machine: Dagster's own, and it tells its monitoring which runs' processes are gone.

The code server that started a run notices its death within a second, but not where the server died with it: then
Dagster's default launcher leaves the run as running for ever, for it has no way to ask.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

from finephrase_dagster.artifacts.processes import is_running, seconds_since_boot, start_time

PROCESS_TAG = ".dagster/finephrase_process"
"""Of a run that `finephrase materialize` does: its process. The prefix keeps a tag from the list of runs."""
ENGINE_EVENT = dg.DagsterEventType.ENGINE_EVENT
CLOCK_SECONDS = 2.0  # by which the clocks of kernel and event log may differ


class LocalRunLauncher(DefaultRunLauncher):
    """Launches runs as processes of this machine, and knows whether they live."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process lives; a run of which that is not known counts as living."""
        if process := run.tags.get(PROCESS_TAG):
            return _health(is_running(process), process)
        records = self._instance.event_log_storage.get_logs_for_run(run.run_id, of_type=ENGINE_EVENT)
        for entry in reversed(records):
            event = entry.dagster_event
            pid = event.engine_event_data.metadata.get("pid") if event else None
            if pid is not None:
                start = start_time(int(str(pid.value)))
                latest = seconds_since_boot(entry.timestamp) + CLOCK_SECONDS  # a later process reuses the id
                return _health(start is not None and start <= latest, str(pid.value))
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _health(alive: bool, process: str) -> CheckRunHealthResult:
    if alive:
        return CheckRunHealthResult(WorkerStatus.RUNNING)
    return CheckRunHealthResult(WorkerStatus.FAILED, f"process {process} is gone")
