"""The nightly budget run: what it launches within the budget, in which order, and what it leaves out with a reason."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData
from dagster._core.test_utils import create_run_for_test

from daemon_parts import CELL, PROMPTS, production, published
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration.automation.budget import Amount, InvalidBudget, NightlyBudget
from finephrase_dagster.orchestration.automation.nightly import (
    DOCUMENTS_TAG,
    GPU_HOURS_TAG,
    GPUS_TAG,
    NIGHTLY_TAG,
    UNTIL_TAG,
    Choice,
    choose,
    requests,
    spent,
)
from finephrase_dagster.plan.cost import Cost
from finephrase_dagster.plan.plan import plan
from installation import CELL as SMALL
from installation import Installation, install

BUDGET_RUN = "2030-01-01_22:00"
LIMITLESS = NightlyBudget(gpu_hours=100)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return production(tmp_path_factory.mktemp("nightly") / "installation")


@pytest.fixture
def own(installation: Installation, tmp_path: Path) -> Installation:
    """Return a copy of the installation whose study refers to the copied files."""
    copied = installation.copy(tmp_path / "installation")
    fields: dict[str, Any] = yaml.safe_load(copied.study.read_text())
    copied.write(fields)
    return copied


def chosen(own: Installation, budget: NightlyBudget, *, prices: dict[str, Cost] | None = None, **known: Any) -> Choice:
    """Return what a budget run launches; `prices` overrides the costs of prompts."""
    lineage = own.lineage
    costs = {planned.item.name: planned for planned in plan(lineage).items}
    for prompt, cost in (prices or {}).items():
        name = f"synthetic/{CELL}/{prompt}"
        costs[name] = replace(costs[name], cost=cost)
    given = {"spent": Amount(), "busy": (), "tried": (), "known": set(costs), "slots": 99, **known}
    return choose({item.name: item for item in items(lineage)}, costs, budget, **given)


def names(choice: Choice) -> list[str]:
    return [planned.item.partition or "" for some in choice.chosen.values() for planned in some]


def gpu_hours(**hours: float) -> dict[str, Cost]:
    return {prompt: Cost(documents=10, gpu_hours=hours.get(prompt, 0.0)) for prompt in PROMPTS}


def test_the_most_expensive_items_that_fit_into_the_budget_are_launched_first(installation: Installation) -> None:
    prices = gpu_hours(article=1, faq=4, math=2, table=8)
    assert names(chosen(installation, NightlyBudget(gpu_hours=100), prices=prices)) == [
        "table",
        "faq",
        "math",
        "article",
    ]
    choice = chosen(installation, NightlyBudget(gpu_hours=11), prices=prices)
    assert names(choice) == ["table", "math", "article"]
    assert choice.left_out == {"costs more than what is left of the budget": [f"synthetic/{CELL}/faq"]}


def test_spent_and_unfinished_runs_count_against_the_budget(installation: Installation) -> None:
    prices = gpu_hours(article=1, faq=4, math=2, table=8)
    choice = chosen(installation, NightlyBudget(gpu_hours=11), prices=prices, spent=Amount(gpu_hours=9.5))
    assert names(choice) == ["article"]


def test_documents_and_dollars_are_limits_too(installation: Installation) -> None:
    prices = gpu_hours(article=1, faq=4, math=2, table=8)
    assert names(chosen(installation, NightlyBudget(documents=20), prices=prices)) == ["table", "faq"]
    assert names(chosen(installation, NightlyBudget(dollars=24, gpu_hour_dollars=3), prices=prices)) == ["table"]
    assert names(chosen(installation, NightlyBudget(dollars=24, gpu_hour_dollars=3, documents=5), prices=prices)) == []


def test_a_lower_goodput_makes_every_item_cost_more_gpu_hours(installation: Installation) -> None:
    prices = gpu_hours(table=8)
    assert "table" in names(chosen(installation, NightlyBudget(gpu_hours=10), prices=prices))
    assert "table" not in names(chosen(installation, NightlyBudget(gpu_hours=10, goodput=0.5), prices=prices))


def test_an_item_that_exceeds_the_entire_budget_is_named_with_its_cost(installation: Installation) -> None:
    choice = chosen(installation, NightlyBudget(gpu_hours=5), prices=gpu_hours(table=8))
    assert choice.left_out["costs more than the entire budget (8 of 5 GPU-hours)"] == [f"synthetic/{CELL}/table"]


def test_an_item_of_unknown_cost_is_not_launched_and_the_reason_says_what_to_add(installation: Installation) -> None:
    unknown = Cost(unknown="generators.tiny: unknown throughput; add 'throughput' or 'parameters' to the study")
    choice = chosen(installation, NightlyBudget(documents=1000), prices={**gpu_hours(), "faq": unknown})
    assert "faq" not in names(choice)
    (reason,) = [reason for reason in choice.left_out if "faq" in choice.left_out[reason][0]]
    assert "its cost is unknown" in reason
    assert "add 'throughput' or 'parameters'" in reason


def test_items_that_run_or_wait_or_failed_in_this_budget_run_are_not_launched(installation: Installation) -> None:
    at = f"synthetic/{CELL}"
    known = {f"{at}/article", f"{at}/faq", f"{at}/math"}
    choice = chosen(
        installation,
        NightlyBudget(documents=99),
        prices=gpu_hours(),
        busy={f"{at}/article"},
        tried={f"{at}/faq"},
        known=known,
    )
    assert names(choice) == ["math"]
    assert choice.left_out == {
        "running or queued": [f"{at}/article"],
        "failed in this budget run; the next one retries it": [f"{at}/faq"],
        "not loaded yet: reload the code location": [f"{at}/table"],
    }


def test_later_stages_are_launched_first_and_at_most_a_set_number_of_runs_is_queued(own: Installation) -> None:
    lineage = own.lineage
    published(own, "synthetic")
    prompts = own.paths.prompts
    (prompts / "faq.md").write_text((prompts / "faq.md").read_text().replace("curious", "patient"))
    choice = chosen(own, NightlyBudget(documents=99), prices=gpu_hours(), slots=2)
    assert [planned.item.stage for some in choice.chosen.values() for planned in some] == ["audits", "audits"]
    assert len(choice.left_out["waits until other runs of this budget run have ended"]) == 2
    every = chosen(own, NightlyBudget(documents=99), prices=gpu_hours())
    runs = requests(every, NightlyBudget(documents=99), lineage, tags={NIGHTLY_TAG: BUDGET_RUN}, key="tick")
    assert [run.job_name for run in runs] == [
        *(["make__audits__tiny__documents_audit"] * 3),
        f"make__synthetic__{CELL}",
    ]
    priorities = [int(run.tags["dagster/priority"]) for run in runs]
    assert priorities == sorted(priorities, reverse=True)
    assert all(priority < 0 for priority in priorities), "runs that a person launches go first"
    assert any("prompt.template" in line for line in every.lines())


def test_neighbouring_prompts_of_a_cell_become_one_run_tagged_with_its_cost(installation: Installation) -> None:
    budget = NightlyBudget(documents=99, goodput=0.5)
    prices = gpu_hours(article=1, faq=4, math=2, table=8)
    choice = chosen(installation, budget, prices=prices, busy={f"synthetic/{CELL}/faq"})
    runs = requests(choice, budget, installation.lineage, tags={NIGHTLY_TAG: BUDGET_RUN}, key="tick")
    assert len(runs) == 2, "a run takes a stretch without a gap"
    assert runs[0].partition_key == "article"
    assert runs[1].tags["dagster/asset_partition_range_start"] == "math"
    assert runs[1].tags["dagster/asset_partition_range_end"] == "table"
    assert [(run.tags[DOCUMENTS_TAG], run.tags[GPU_HOURS_TAG], run.tags[GPUS_TAG]) for run in runs] == [
        ("10", "2", "1"),
        ("20", "20", "1"),
    ]
    assert {run.tags[NIGHTLY_TAG] for run in runs} == {BUDGET_RUN}


@pytest.mark.slow
def test_a_dataset_whose_audit_did_not_pass_holds_its_mixture_up(tmp_path: Path) -> None:
    made = install(tmp_path / "small")
    for stage in ("sources", "generators", "synthetic", "tokens", "tokens"):
        published(made, stage)
    published(made, "audits", passed=False)
    choice = chosen(made, NightlyBudget(documents=10_000))
    reason = f"blocked, because audits/{SMALL}_audit/faq failed"
    assert choice.left_out[reason] == ["mixtures/mixture/faq_and_raw"]
    assert names(choice) == ["raw"]


def record(status: dg.DagsterRunStatus, *, began: float | None, ended: float | None, **tags: str) -> dg.RunRecord:
    run = dg.DagsterRun("job", run_id="1", status=status, tags=tags)
    now = datetime.datetime.now(datetime.UTC)
    return dg.RunRecord(
        storage_id=1, dagster_run=run, create_timestamp=now, update_timestamp=now, start_time=began, end_time=ended
    )


def test_a_run_in_flight_counts_as_estimated_a_finished_one_as_it_was() -> None:
    tags = {DOCUMENTS_TAG: "10", GPU_HOURS_TAG: "2", GPUS_TAG: "4"}
    flying = record(dg.DagsterRunStatus.STARTED, began=0.0, ended=None, **tags)
    queued = record(dg.DagsterRunStatus.NOT_STARTED, began=None, ended=None, **tags)
    done = record(dg.DagsterRunStatus.SUCCESS, began=0.0, ended=900.0, **tags)
    failed = record(dg.DagsterRunStatus.FAILURE, began=0.0, ended=7200.0, **tags)
    cancelled = record(dg.DagsterRunStatus.CANCELED, began=None, ended=10.0, **tags)
    assert spent([flying, queued], 60) == Amount(documents=20, gpu_hours=4)
    assert spent([flying], 3600) == Amount(documents=10, gpu_hours=4), "it takes longer than was thought"
    assert spent([done], 9999) == Amount(documents=10, gpu_hours=1)
    assert spent([failed], 9999) == Amount(documents=10, gpu_hours=8), "a failure costs what it costs"
    assert spent([cancelled], 9999) == Amount()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DOLLARS", "many", "valid number"),
        ("GPU_HOURS", "-1", "greater than or equal to 0"),
        ("GPU_HOURS", "inf", "finite"),
        ("CRON", "at night", "cron expression of five fields"),
        ("TIMEZONE", "Here", "time zone database"),
        ("RUNS", "0", "greater than or equal to 1"),
    ],
)
def test_an_invalid_setting_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"FINEPHRASE_NIGHTLY_{name}", value)
    with pytest.raises(InvalidBudget, match=f"FINEPHRASE_NIGHTLY_{name}='{value}': .*{words}"):
        NightlyBudget.from_environment()


def test_without_a_limit_the_message_names_the_variables_that_set_one() -> None:
    with pytest.raises(InvalidBudget, match="Set FINEPHRASE_NIGHTLY_DOCUMENTS, FINEPHRASE_NIGHTLY_GPU_HOURS or"):
        NightlyBudget().limits  # noqa: B018


@pytest.fixture
def instance(own: Installation) -> Iterator[dg.DagsterInstance]:
    with own.instance() as opened:
        yield opened


def switch(instance: dg.DagsterInstance, status: InstigatorStatus) -> None:
    """Start or stop the schedule, as the web UI does."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("finephrase"), "__repository__")
    data = ScheduleInstigatorData("0 22 * * *", start_timestamp=0.0)
    state = InstigatorState(repository.get_instigator_origin("nightly_budget"), InstigatorType.SCHEDULE, status, data)
    known = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    (instance.update_instigator_state if known else instance.add_instigator_state)(state)


def launched(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
    """Record a requested run in the instance."""
    tags = {**request.tags, **({"dagster/partition": request.partition_key} if request.partition_key else {})}
    create_run_for_test(instance, job_name=request.job_name or "", status=status, tags=tags)


@pytest.mark.slow
def test_a_budget_run_launches_stage_after_stage_until_nothing_is_left(
    own: Installation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_NIGHTLY_DOCUMENTS", "30")  # each prompt has 12
    definitions = build_defs(own.lineage)
    sensor, repository = definitions.resolve_sensor_def("launch_within_budget"), definitions.get_repository_def()

    def tick() -> Any:
        return sensor.evaluate_tick(dg.build_sensor_context(instance, repository_def=repository))

    assert "the schedule 'nightly_budget' is stopped" in tick().skip_message
    switch(instance, InstigatorStatus.RUNNING)
    assert "no budget run was started yet" in tick().skip_message
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    tags = {"dagster/schedule_name": "nightly_budget", NIGHTLY_TAG: BUDGET_RUN, UNTIL_TAG: until.isoformat()}
    create_run_for_test(instance, job_name="make__study__plan", status=dg.DagsterRunStatus.SUCCESS, tags=tags)

    (first,) = tick().run_requests
    assert first.job_name == f"make__synthetic__{CELL}"
    assert first.tags[DOCUMENTS_TAG] == "24", "two prompts fit into the budget"
    launched(instance, first, dg.DagsterRunStatus.STARTED)
    message = tick().skip_message
    assert f"{BUDGET_RUN}: spent or in flight: 24 of 30 documents" in message
    assert "running or queued" in message
    assert "costs more than what is left of the budget" in message

    (run,) = instance.get_runs(dg.RunsFilter(job_name=first.job_name))
    instance.report_run_failed(run)
    (second,) = tick().run_requests
    assert second.tags["dagster/asset_partition_range_start"] == "math", "what failed waits for the next budget run"
    launched(instance, second, dg.DagsterRunStatus.SUCCESS)
    published(own, "synthetic")
    audits = tick().run_requests
    assert {request.job_name for request in audits} == {"make__audits__tiny__documents_audit"}
    assert len(audits) == len(PROMPTS), "audits cost nothing of the budget"

    switch(instance, InstigatorStatus.STOPPED)
    assert "is stopped" in tick().skip_message, "stopping the schedule pauses the budget run"
    switch(instance, InstigatorStatus.RUNNING)
    published(own, "audits")
    assert "nothing is left to do" in tick().skip_message


def test_a_budget_run_that_is_over_launches_nothing(
    own: Installation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_NIGHTLY_DOCUMENTS", "30")
    definitions = build_defs(own.lineage)
    context = dg.build_sensor_context(instance, repository_def=definitions.get_repository_def())
    switch(instance, InstigatorStatus.RUNNING)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    tags = {"dagster/schedule_name": "nightly_budget", NIGHTLY_TAG: BUDGET_RUN, UNTIL_TAG: past.isoformat()}
    create_run_for_test(instance, job_name="make__study__plan", tags=tags)
    assert "is over" in str(definitions.resolve_sensor_def("launch_within_budget").evaluate_tick(context).skip_message)


def test_the_schedule_starts_a_budget_run_only_if_a_limit_is_set(
    own: Installation, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = build_defs(own.lineage).resolve_schedule_def("nightly_budget")
    at = datetime.datetime(2030, 1, 1, 22, tzinfo=datetime.UTC)

    def tick() -> Any:
        return schedule.evaluate_tick(dg.build_schedule_context(instance, scheduled_execution_time=at))

    assert "no budget is set" in str(tick().skip_message)
    monkeypatch.setenv("FINEPHRASE_NIGHTLY_DOCUMENTS", "24")
    monkeypatch.setenv("FINEPHRASE_NIGHTLY_HOURS", "6")
    (request,) = tick().run_requests
    assert request.tags[NIGHTLY_TAG] == BUDGET_RUN
    assert request.tags[UNTIL_TAG] == "2030-01-02T04:00:00+00:00"
    switch(instance, InstigatorStatus.RUNNING)
    tags = {"dagster/schedule_name": "nightly_budget", **request.tags}
    create_run_for_test(instance, job_name="make__study__plan", tags=tags)
    at += datetime.timedelta(hours=1)
    assert "lasts until 2030-01-02T04" in str(tick().skip_message), "a budget is not spent twice"
