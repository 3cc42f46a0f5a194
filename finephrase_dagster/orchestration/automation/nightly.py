"""The nightly budget run: materialize what is missing or stale within a budget, the most expensive items first.

At its time the schedule `nightly_budget` starts a budget run by materializing the plan. Until the budget run ends,
the sensor `launch_within_budget` launches Dagster runs for the items whose inputs exist: items further down the graph
first, then the most expensive ones; never what is already running or queued, and never more than the budget has left.
The results are the inputs of the next stage, so each tick of the sensor gets further. No state is kept: the files
show what is left to do and the tags of the Dagster runs show what was spent, so an interrupted budget run resumes.
"""

from __future__ import annotations

import datetime
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus

from finephrase_dagster.artifacts.graph import Item, failed_audits, items, ready
from finephrase_dagster.artifacts.key import PLAN, STAGES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.orchestration.automation.budget import Amount, InvalidBudget, NightlyBudget, tag_number, total
from finephrase_dagster.orchestration.automation.runs import UNFINISHED, Partitions, in_flight, range_tags
from finephrase_dagster.orchestration.jobs import job_of
from finephrase_dagster.orchestration.placement import gpus_of, priority
from finephrase_dagster.plan.plan import Planned, plan
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.prompt import PromptError

SCHEDULE, SENSOR = "nightly_budget", "launch_within_budget"
NIGHTLY_TAG, UNTIL_TAG = "finephrase/nightly_run", "finephrase/nightly_until"
DOCUMENTS_TAG, GPU_HOURS_TAG, GPUS_TAG = "finephrase/documents", "finephrase/gpu_hours", "finephrase/gpus"
PLAN_JOB = job_of("/".join(PLAN.path))
SECONDS = 60
NAMED = 10
"""How many items a tick's message names for each reason."""


@dataclass
class Choice:
    """What a tick launches, and why it leaves out the rest.

    Attributes:
        chosen: items with their costs by asset, in the order in which they are launched.
        left_out: names of items that have their inputs but are not launched, by the reason.
    """

    chosen: dict[str, list[Planned]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)

    def lines(self) -> Iterator[str]:
        """Return the lines of the tick's message."""
        for asset, chosen in self.chosen.items():
            stale = [planned.state for planned in chosen if planned.state.status == "stale"]
            reasons = {reason for state in stale for reason in state.reasons}
            why = f" ({'; '.join(sorted(reasons))[:200]})" if reasons else ""
            yield f"launched: {asset} {_some([one.item.partition or '' for one in chosen])}".rstrip() + why
        for reason, names in self.left_out.items():
            yield f"{reason}: {_some(names)}"


def choose(
    graph: Mapping[str, Item],
    costs: Mapping[str, Planned],
    budget: NightlyBudget,
    *,
    spent: Amount,
    busy: Iterable[str],
    tried: Iterable[str],
    known: Container[str],
    slots: int,
) -> Choice:
    """Choose what to launch now.

    Args:
        costs: the plan's items by name.
        spent: what this budget run has spent; unfinished Dagster runs count with their estimate.
        busy: names of items that are running or queued.
        tried: names of items that failed in this budget run.
        known: names of items that the code location has loaded.
        slots: how many Dagster runs may be added.
    """
    choice, busy, tried = Choice(), set(busy), set(tried)
    for item in graph.values():
        if not item.needs or costs[item.name].state.status in ("current", "stopped"):
            continue
        if audits := failed_audits(item, graph):
            choice.leave_out(f"blocked, because {', '.join(audits)} failed", item.name)
    able = [costs[item.name] for item in ready(graph)]
    runs = 0
    for group in _groups(able):
        chosen = []
        for planned in group:
            name, amount = planned.item.name, budget.amount(planned)
            if name not in known:
                choice.leave_out("not loaded yet: reload the code location", name)
            elif name in busy:
                choice.leave_out("running or queued", name)
            elif name in tried:
                choice.leave_out("failed in this budget run; the next one retries it", name)
            elif planned.cost.unknown:
                choice.leave_out(f"not launched because its cost is unknown: {planned.cost.unknown}", name)
            elif exceeded := budget.exceeded(amount):
                choice.leave_out(f"costs more than the entire budget ({', '.join(exceeded)})", name)
            elif budget.exceeded(spent + amount):
                choice.leave_out("costs more than what is left of the budget", name)
            elif runs >= slots:
                choice.leave_out("waits until other runs of this budget run have ended", name)
            else:
                chosen.append(planned)
                spent += amount
        if chosen:
            choice.chosen.setdefault(chosen[0].item.asset, []).extend(chosen)
            runs += 1
    return choice


def requests(
    choice: Choice, budget: NightlyBudget, lineage: Lineage, *, tags: Mapping[str, str], key: str
) -> list[dg.RunRequest]:
    """Return the requests for the runs of a choice."""
    partitions = Partitions(items(lineage))
    heaviest: dict[str, float] = {}
    for chosen in choice.chosen.values():
        stage = chosen[0].item.stage
        heaviest[stage] = max([heaviest.get(stage, 0.0), *map(_weight, chosen)])
    launches = []
    for asset, chosen in choice.chosen.items():
        by_partition = {planned.item.partition or "": planned for planned in chosen}
        for names in partitions.runs(asset, by_partition):
            some = [by_partition[name] for name in names]
            amount = total(map(budget.amount, some))
            stage, weight = some[0].item.stage, max(map(_weight, some))
            one = names[0] if len(names) == 1 and names[0] else None
            launches.append(
                dg.RunRequest(
                    run_key=f"{key} {asset} {names[0]}",
                    job_name=job_of(asset),
                    partition_key=one,
                    tags={
                        **tags,
                        **(range_tags(names) if len(names) > 1 else {}),
                        **priority(stage, share=weight / heaviest[stage] if heaviest[stage] else 0.0),
                        DOCUMENTS_TAG: str(amount.documents),
                        GPU_HOURS_TAG: f"{amount.gpu_hours:.6g}",
                        GPUS_TAG: str(gpus_of(some[0].item, lineage)),
                    },
                )
            )
    return launches


def spent(records: Iterable[dg.RunRecord], now: float) -> Amount:
    """Return what the Dagster runs of a budget run cost.

    A finished run counts with the time that it held its GPUs, an unfinished one with its estimate or with what it
    has used already, whichever is more.
    """
    return total(_cost(record, now) for record in records)


def _cost(record: dg.RunRecord, now: float) -> Amount:
    run = record.dagster_run
    documents, estimate = int(tag_number(run.tags, DOCUMENTS_TAG)), tag_number(run.tags, GPU_HOURS_TAG)
    if run.is_finished and record.start_time is None:  # canceled in the queue
        return Amount()
    held = 0.0
    if estimate and record.start_time is not None:
        seconds = (record.end_time or now) - record.start_time
        held = tag_number(run.tags, GPUS_TAG) * seconds / 3600
    return Amount(documents=documents, gpu_hours=held if run.is_finished else max(estimate, held))


def build_nightly(
    lineage: Lineage, jobs: Sequence[dg.UnresolvedAssetJobDefinition]
) -> tuple[dg.ScheduleDefinition, dg.SensorDefinition]:
    """Return the schedule that starts a budget run and the sensor that launches its runs, both stopped by default."""
    try:
        settings = NightlyBudget.from_environment()
    except InvalidBudget:
        settings = NightlyBudget()  # each tick reports what is invalid

    @dg.schedule(
        name=SCHEDULE,
        cron_schedule=settings.cron,
        execution_timezone=settings.timezone,
        job=next(job for job in jobs if job.name == PLAN_JOB),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Starts a nightly budget run: materializes the plan, after which the sensor `{SENSOR}` launches "
        "what is missing or stale within the budget. Stopping this schedule ends the current budget run; Dagster runs "
        "that were launched continue.",
    )
    def start_budget_run(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            budget = NightlyBudget.from_environment()
            budget.limits  # noqa: B018 - raises if no limit is set
        except InvalidBudget as error:
            return dg.SkipReason(str(error))
        start = context.scheduled_execution_time
        current = _current_budget_run(context.instance, start)
        if isinstance(current, dict):
            return dg.SkipReason(f"the budget run {current[NIGHTLY_TAG]} lasts until {current[UNTIL_TAG]}")
        until = start + datetime.timedelta(hours=budget.hours)
        return dg.RunRequest(tags={NIGHTLY_TAG: start.strftime("%Y-%m-%d_%H:%M"), UNTIL_TAG: until.isoformat()})

    @dg.sensor(
        name=SENSOR,
        jobs=list(jobs),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Launches items that are missing or stale and have their inputs, within the budget, while a budget "
        f"run lasts that the schedule `{SCHEDULE}` started.",
    )
    def launch_within_budget(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = datetime.datetime.now(datetime.UTC)
        tags = _current_budget_run(context.instance, now)
        if isinstance(tags, str):
            return dg.SkipReason(tags)
        try:
            budget, fresh = NightlyBudget.from_environment(), read_lineage(lineage.paths).snapshot()
            return _tick(context, budget, lineage, fresh, tags, now)
        except (InvalidBudget, StudyError, PromptError) as error:
            return dg.SkipReason(str(error))

    return start_budget_run, launch_within_budget


def _tick(
    context: dg.SensorEvaluationContext,
    budget: NightlyBudget,
    loaded: Lineage,
    fresh: Lineage,
    tags: Mapping[str, str],
    now: datetime.datetime,
) -> dg.SensorResult | dg.SkipReason:
    known = {item.name for item in items(loaded)}
    graph = {item.name: item for item in items(fresh)}
    records = context.instance.get_run_records(dg.RunsFilter(tags={NIGHTLY_TAG: tags[NIGHTLY_TAG]}))
    spending = spent(records, now.timestamp())
    partitions = Partitions(items(loaded))
    assert context.repository_def is not None
    running = [record for record in records if record.dagster_run.status in UNFINISHED]
    failed = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    choice = choose(
        graph,
        {planned.item.name: planned for planned in plan(fresh, budget.terms).items},
        budget,
        spent=spending,
        busy=in_flight(context.instance, partitions, context.repository_def.asset_graph),
        tried={
            name
            for record in records
            if record.dagster_run.status in failed
            for name in partitions.names(record.dagster_run)
        },
        known=known,
        slots=budget.runs - len(running),
    )
    lines = [f"{tags[NIGHTLY_TAG]}: spent or in flight: {budget.describe(spending)}", *choice.lines()]
    for line in lines:
        context.log.info(line)
    if not choice.chosen:
        return dg.SkipReason("\n".join([*lines, *([] if running or choice.left_out else ["nothing is left to do"])]))
    return dg.SensorResult(run_requests=requests(choice, budget, fresh, tags=tags, key=now.isoformat()))


def _current_budget_run(instance: dg.DagsterInstance, now: datetime.datetime) -> dict[str, str] | str:
    """Return the tags of the current budget run, or the reason why there is none."""
    states = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    statuses = [state.status for state in states if state.instigator_name == SCHEDULE]
    if InstigatorStatus.RUNNING not in statuses:
        return f"the schedule {SCHEDULE!r} is stopped. Start it: at its next tick it starts a budget run"
    started = instance.get_runs(dg.RunsFilter(tags={"dagster/schedule_name": SCHEDULE}), limit=1)
    tags = (
        {name: started[0].tags[name] for name in (NIGHTLY_TAG, UNTIL_TAG) if name in started[0].tags} if started else {}
    )
    if len(tags) < 2:
        return f"no budget run was started yet; the schedule {SCHEDULE!r} starts one at its next tick"
    if now > datetime.datetime.fromisoformat(tags[UNTIL_TAG]):
        return f"the budget run {tags[NIGHTLY_TAG]} is over; the schedule {SCHEDULE!r} starts the next one"
    return tags


def _groups(launchable: Iterable[Planned]) -> list[list[Planned]]:
    """Group items that share a run or an engine, in the order in which they are launched."""
    groups: dict[str, list[Planned]] = {}
    for planned in launchable:
        item = planned.item
        groups.setdefault(item.asset if item.stage == "synthetic" else item.name, []).append(planned)
    for group in groups.values():
        group.sort(key=_weight, reverse=True)
    return sorted(
        groups.values(), key=lambda group: (STAGES.index(group[0].item.stage), sum(map(_weight, group))), reverse=True
    )


def _weight(planned: Planned) -> float:
    """Return how many hours an item takes, on a GPU or without."""
    return planned.cost.gpu_hours + planned.cost.hours


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
