"""Materializing a study: obstacles are named, and runs of ended processes are closed."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import dagster as dg
import pytest

from finephrase_dagster.orchestration.launcher import PROCESS_TAG
from finephrase_dagster.orchestration.materialize import end_abandoned_runs
from installation import install


@pytest.mark.slow
def test_an_artifact_that_another_process_writes_is_named(tmp_path: Path) -> None:
    made = install(tmp_path / "installation")
    with contextlib.ExitStack() as held:
        for source in made.lineage.study.sources:
            held.enter_context(made.lineage.source(source).claim())
        outcome, _ = made.materialize()
    assert set(outcome.failed) == {"sources/corpus/package_readmes", "sources/corpus/language_reference"}
    for name, message in outcome.failed.items():
        assert message == f"{name} is being written by another process. Wait until that process ends, or stop it."
    assert outcome.made == ["generators/model/rephraser"]  # which needs no source
    assert not outcome.complete


@pytest.mark.slow
def test_only_runs_whose_process_has_ended_are_recorded_as_failed() -> None:
    with dg.instance_for_test() as instance:
        job = dg.GraphDefinition(name="job").to_job()
        gone = [
            instance.create_run_for_job(job, status=status, tags={PROCESS_TAG: "999999999@0"})
            for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED)
        ]
        elsewhere = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        end_abandoned_runs(instance)
        found = {run.run_id: run.status for run in instance.get_runs()}
    assert {found[run.run_id] for run in gone} == {dg.DagsterRunStatus.FAILURE}
    assert found[elsewhere.run_id] == dg.DagsterRunStatus.STARTED


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_dagster_writes_its_last_event_of_a_run_stops_after_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    made = install(tmp_path / "installation")
    write = dg.DagsterInstance.handle_new_event

    def interrupted(instance: dg.DagsterInstance, entry: dg.EventLogEntry, **options: object) -> None:
        write(instance, entry, **options)
        if entry.dagster_event is not None and entry.dagster_event.event_type_value == "STEP_SUCCESS":
            os.kill(os.getpid(), sent)

    monkeypatch.setattr(dg.DagsterInstance, "handle_new_event", interrupted)
    before = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(KeyboardInterrupt):
            made.materialize()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert len(list(made.paths.data.rglob("manifest.json"))) == 1
