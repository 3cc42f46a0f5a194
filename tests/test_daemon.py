"""Backfills through Dagster's real daemon: killed workers, canceled runs, failed prompts.

All tests share one daemon, because it starts slowly.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData

from daemon_parts import (
    CELL_KEY,
    PROMPTS,
    Endpoint,
    backfilled,
    daemon,
    ended,
    endpoint,
    production,
    until,
)
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration.placement import priority
from installation import Installation

pytestmark = pytest.mark.slow

CONCURRENCY = 4


@dataclass(frozen=True)
class Running:
    """A daemon on an installation, and the endpoint for its rephrasing."""

    installation: Installation
    endpoint: Endpoint

    def runs(self, backfill: str) -> list[dg.DagsterRun]:
        with self.installation.instance() as instance:
            return list(instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill})))

    def not_made(self, backfill: str) -> list[str]:
        """Return the partitions that the web UI's 'Re-execute from failure' launches for a backfill."""
        with self.installation.instance() as instance:
            found = instance.get_backfill(backfill)
            assert found is not None
            data = found.get_asset_backfill_data(build_defs(self.installation.lineage).resolve_asset_graph())
        left = data.target_subset - data.materialized_subset
        return sorted(one.partition_key or "" for one in left.iterate_asset_partitions())

    def started(self, backfill: str) -> tuple[dg.DagsterRun, int]:
        """Return a backfill's run and its process id, once it sends requests."""
        started = dg.DagsterRunStatus.STARTED
        run = until(lambda: next((run for run in self.runs(backfill) if run.status == started), None))
        until(lambda: len(self.endpoint.documents) > self.endpoint.allowed)
        with self.installation.instance() as instance:
            events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        pids = [
            entry.dagster_event.engine_event_data.metadata["pid"].value
            for entry in events
            if entry.dagster_event and "pid" in entry.dagster_event.engine_event_data.metadata
        ]
        return run, int(str(pids[-1]))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    installation = production(tmp_path_factory.mktemp("daemon") / "installation", documents=24)
    with endpoint() as server:
        (installation.root / "endpoints").write_text(server.url)
        with daemon(installation, CONCURRENCY=str(CONCURRENCY)):
            yield Running(installation, server)


def materialized(installation: Installation) -> set[str]:
    with installation.instance() as instance:
        return set(instance.get_materialized_partitions(CELL_KEY))


def test_a_partition_completes_after_its_worker_is_killed_and_repeats_only_requests_in_flight(
    running: Running,
) -> None:
    running.endpoint.allowed = 2 * CONCURRENCY
    backfill = backfilled(running.installation, CELL_KEY, ["article"])
    run, pid = running.started(backfill)
    until(lambda: len(running.endpoint.documents) == 3 * CONCURRENCY)  # one third of them is in flight
    os.kill(pid, signal.SIGKILL)
    running.endpoint.allowed = math.inf
    assert ended(running.installation, backfill) == BulkActionStatus.COMPLETED_SUCCESS
    runs = running.runs(backfill)
    assert len(runs) == 2
    assert {one.status for one in runs} == {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS}
    assert next(one for one in runs if one.run_id != run.run_id).parent_run_id == run.run_id
    asked = running.endpoint.documents
    assert len(set(asked)) == 24
    assert 0 < len(asked) - len(set(asked)) <= CONCURRENCY
    assert running.installation.lineage.dataset(running.installation.lineage.study.cells[0], "article").complete


def test_a_canceled_run_frees_its_slot_for_the_run_that_waits(running: Running) -> None:
    running.endpoint.allowed = len(running.endpoint.documents)
    first = backfilled(running.installation, CELL_KEY, ["faq"])
    run, _ = running.started(first)
    second = backfilled(running.installation, CELL_KEY, ["math"])
    queued = until(lambda: running.runs(second))
    with running.installation.instance() as instance:
        until(lambda: instance.get_run_by_id(queued[0].run_id).status == dg.DagsterRunStatus.QUEUED)  # type: ignore[union-attr]
        assert instance.event_log_storage.get_concurrency_info("gpu_1") is not None
        assert instance.run_launcher.terminate(run.run_id)
    running.endpoint.allowed = math.inf
    assert ended(running.installation, second) == BulkActionStatus.COMPLETED_SUCCESS
    with running.installation.instance() as instance:
        cancelled = instance.get_run_by_id(run.run_id)
        assert cancelled is not None
        assert cancelled.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
        until(lambda: instance.event_log_storage.get_concurrency_info("gpu_1").claimed_slots == [])


def test_if_one_prompt_of_a_run_fails_the_others_are_recorded_and_it_alone_is_launched_again(running: Running) -> None:
    lineage = running.installation.lineage
    cell = lineage.study.cells[0]
    blocked = lineage.dataset(cell, "table").folder
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file in the place of the dataset's folder")
    path = running.installation.paths.prompts / "math.md"
    path.write_text(path.read_text().replace("the text above", "the text shown above"))  # so that math is stale, too
    backfill = backfilled(running.installation, CELL_KEY, list(PROMPTS))
    assert ended(running.installation, backfill) == BulkActionStatus.COMPLETED_FAILED
    assert running.installation.lineage.dataset(cell, "math").complete, "a failed prompt does not affect the others"
    done = materialized(running.installation)
    assert "table" not in done
    blocked.unlink()
    left = running.not_made(backfill)
    assert left == sorted(set(PROMPTS) - done), "what 'Re-execute from failure' launches"
    again = backfilled(running.installation, CELL_KEY, left)
    assert ended(running.installation, again) == BulkActionStatus.COMPLETED_SUCCESS
    (run,) = running.runs(again)
    assert run.tags["dagster/asset_partition_range_start"] == run.tags["dagster/asset_partition_range_end"] == "table"
    assert materialized(running.installation) == set(PROMPTS)


def test_the_sensor_launches_the_audit_of_a_new_dataset(running: Running) -> None:
    lineage = running.installation.lineage
    cell = lineage.study.cells[0]
    with running.installation.instance() as instance:
        (observer,) = [one for one in instance.all_instigator_state() if one.instigator_name == "observe_prompts"]
        origin = observer.origin.repository_origin.get_instigator_origin("launch_ready_audits")
        data = SensorInstigatorData(sensor_type=SensorType.AUTOMATION)
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
        instance.add_instigator_state(state)
        until(lambda: [tick for tick in instance.get_ticks(origin.get_id(), state.selector_id) if tick.is_completed])
    path = running.installation.paths.prompts / "article.md"
    path.write_text(path.read_text().replace("magazine", "newspaper"))
    fresh = running.installation.lineage
    assert not fresh.dataset(cell, "article").complete
    backfilled(running.installation, CELL_KEY, ["article"])
    until(lambda: fresh.dataset(cell, "article").complete and fresh.audit(cell, "article").complete)
    with running.installation.instance() as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": "launch_ready_audits"}))
    assert [run.tags["dagster/partition"] for run in runs] == ["article"]
    assert runs[0].tags["dagster/priority"] == priority("audits")["dagster/priority"]
