"""The run launcher of one machine: which runs' processes have ended."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from finephrase_dagster.artifacts.processes import this_process
from finephrase_dagster.orchestration.launcher import PROCESS_TAG, LocalRunLauncher
from finephrase_dagster.study.paths import REPOSITORY


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def begun(instance: dg.DagsterInstance, pid: int | None, **tags: str) -> dg.DagsterRun:
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags=tags)
    if pid is not None:
        instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
    return run


@pytest.mark.slow
def test_run_monitoring_fails_only_the_runs_whose_process_has_ended(instance: dg.DagsterInstance) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as dead:
            runs = {
                "alive": begun(instance, alive.pid),
                "dead": begun(instance, dead.pid),
                "unknown": begun(instance, None),
                "materialize": begun(instance, None, **{PROCESS_TAG: this_process()}),
                "abandoned": begun(instance, None, **{PROCESS_TAG: "999999999@0"}),
            }
            dead.kill()
        launcher: Any = instance.run_launcher
        assert isinstance(launcher, LocalRunLauncher)
        health = {name: launcher.check_run_worker_health(run).status for name, run in runs.items()}
        assert {name for name, status in health.items() if status == WorkerStatus.FAILED} == {"dead", "abandoned"}
        with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
            assert not any(execute_run_monitoring_iteration(workspace, logging.getLogger("test")))
        alive.kill()
    found = {name: instance.get_run_by_id(run.run_id) for name, run in runs.items()}
    assert {name for name, run in found.items() if run and run.status == dg.DagsterRunStatus.FAILURE} == {
        "dead",
        "abandoned",
    }
