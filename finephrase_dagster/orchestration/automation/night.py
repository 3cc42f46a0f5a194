"""The night: what is missing or stale is made within a budget, the heaviest first, as far as it comes.

The schedule `nightly` opens a night by making the plan, which shows what there is to do. While the night lasts, the
sensor `night` launches what has its inputs: further down the graph first, then the heavy first, never what is running
or queued already, never more than the budget leaves. What it launches makes the inputs of the next stage, so the
night goes on by itself. The files say what there is to do, and the runs' tags what was spent, so nothing else is
remembered: a night that was interrupted goes on.
"""

from __future__ import annotations

import datetime
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus

from finephrase_dagster.artifacts.graph import Item, failed_audits, items, ready
from finephrase_dagster.artifacts.key import STAGES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.orchestration.automation.budget import Amount, BudgetWrong, Night, number, total
from finephrase_dagster.orchestration.automation.runs import UNFINISHED, Partitions, in_flight, range_tags
from finephrase_dagster.orchestration.jobs import job_of
from finephrase_dagster.orchestration.partitions import PLAN
from finephrase_dagster.orchestration.placement import gpus_of, priority
from finephrase_dagster.plan.plan import Planned, plan
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.prompt import PromptError

SCHEDULE, SENSOR = "nightly", "night"
NIGHT_TAG, UNTIL_TAG = "finephrase/night", "finephrase/night_until"
DOCUMENTS_TAG, GPU_HOURS_TAG, GPUS_TAG = "finephrase/documents", "finephrase/gpu_hours", "finephrase/gpus"
PLAN_JOB = job_of("/".join(PLAN.path))
SECONDS = 60
SAID = 10
"""How many items of a kind the tick names."""


@dataclass
class Choice:
    """What a tick launches, and why it leaves out the rest.

    Attributes:
        chosen: items with their costs, by asset, those that go first before the others.
        left_out: names of items that could be made, by the reason why they are not.
    """

    chosen: dict[str, list[Planned]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)

    def lines(self) -> Iterator[str]:
        """What is to be said of it."""
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
    night: Night,
    *,
    spent: Amount,
    busy: Iterable[str],
    tried: Iterable[str],
    known: Container[str],
    slots: int,
) -> Choice:
    """What is launched now.

    Args:
        graph: the items by name.
        costs: the plan's items by name.
        spent: by the runs of this night, those in flight by what they will take.
        busy: names of what is running or queued.
        tried: names of what failed this night.
        known: names of what the code location has loaded.
        slots: runs that may be added.
    """
    choice, busy, tried = Choice(), set(busy), set(tried)
    for item in graph.values():
        if not item.needs or costs[item.name].state.status in ("current", "stopped"):
            continue
        if audits := failed_audits(item, graph):
            choice.leave_out(f"cannot be made, for {', '.join(audits)} did not pass", item.name)
    able = [costs[item.name] for item in ready(graph)]
    runs = 0
    for group in _groups(able):
        chosen = []
        for planned in group:
            name, amount = planned.item.name, night.amount(planned)
            if name not in known:
                choice.leave_out("not loaded yet: reload the code location", name)
            elif name in busy:
                choice.leave_out("running or queued", name)
            elif name in tried:
                choice.leave_out("failed this night; the next one tries again", name)
            elif planned.cost.unknown:
                choice.leave_out(f"not priced, so never launched: write {planned.cost.unknown}", name)
            elif too_much := night.exceeded(amount):
                choice.leave_out(f"needs more than a whole night has ({', '.join(too_much)})", name)
            elif night.exceeded(spent + amount):
                choice.leave_out("does not fit into what is left of the budget", name)
            elif runs >= slots:
                choice.leave_out("waits until runs of this night have ended", name)
            else:
                chosen.append(planned)
                spent += amount
        if chosen:
            choice.chosen.setdefault(chosen[0].item.asset, []).extend(chosen)
            runs += 1
    return choice


def requests(
    choice: Choice, night: Night, lineage: Lineage, *, tags: Mapping[str, str], key: str
) -> list[dg.RunRequest]:
    """The runs of a choice: one a partition; for rephrasing one a stretch, whose prompts share an engine."""
    partitions = Partitions(items(lineage))
    heaviest: dict[str, float] = {}
    for chosen in choice.chosen.values():
        stage = chosen[0].item.stage
        heaviest[stage] = max([heaviest.get(stage, 0.0), *map(_weight, chosen)])
    found = []
    for asset, chosen in choice.chosen.items():
        by_partition = {planned.item.partition or "": planned for planned in chosen}
        stretches: Sequence[Sequence[str]] = [[partition] for partition in by_partition]
        if chosen[0].item.stage == "synthetic":
            stretches = partitions.stretches(asset, by_partition)
        for stretch in stretches:
            some = [by_partition[partition] for partition in stretch]
            amount = total(map(night.amount, some))
            stage, weight = some[0].item.stage, max(map(_weight, some))
            one = stretch[0] if len(stretch) == 1 and stretch[0] else None
            found.append(
                dg.RunRequest(
                    run_key=f"{key} {asset} {stretch[0]}",
                    job_name=job_of(asset),
                    partition_key=one,
                    tags={
                        **tags,
                        **(range_tags(stretch) if len(stretch) > 1 else {}),
                        **priority(stage, share=weight / heaviest[stage] if heaviest[stage] else 0.0),
                        DOCUMENTS_TAG: str(amount.documents),
                        GPU_HOURS_TAG: f"{amount.gpu_hours:.6g}",
                        GPUS_TAG: str(gpus_of(some[0].item, lineage.study)),
                    },
                )
            )
    return found


def spent(records: Iterable[dg.RunRecord], now: float) -> Amount:
    """What the runs of a night took, and will take.

    A run in flight takes what was estimated, or what it has taken already where that is more; a finished one the
    time that it held its GPUs.
    """
    return total(_taken(record, now) for record in records)


def _taken(record: dg.RunRecord, now: float) -> Amount:
    run = record.dagster_run
    documents, estimate = int(number(run.tags, DOCUMENTS_TAG)), number(run.tags, GPU_HOURS_TAG)
    if run.is_finished and record.start_time is None:  # it was cancelled in the queue
        return Amount()
    held = 0.0
    if estimate and record.start_time is not None:
        seconds = (record.end_time or now) - record.start_time
        held = number(run.tags, GPUS_TAG) * seconds / 3600
    return Amount(documents=documents, gpu_hours=held if run.is_finished else max(estimate, held))


def build_night(
    lineage: Lineage, jobs: Sequence[dg.UnresolvedAssetJobDefinition]
) -> tuple[dg.ScheduleDefinition, dg.SensorDefinition]:
    """The schedule that opens a night and the sensor that carries it through, both stopped by default."""
    try:
        settings = Night.from_environment()
    except BudgetWrong:
        settings = Night()  # the ticks say what is wrong

    @dg.schedule(
        name=SCHEDULE,
        cron_schedule=settings.cron,
        execution_timezone=settings.timezone,
        job=next(job for job in jobs if job.name == PLAN_JOB),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Opens a night: makes the plan, and lets the sensor `{SENSOR}` launch what it says within the "
        "budget. Stopped, it ends the night that is open; what runs then may finish.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            night = Night.from_environment()
            night.limits  # noqa: B018 - raises where none is set
        except BudgetWrong as error:
            return dg.SkipReason(str(error))
        began = context.scheduled_execution_time
        open_now = _open_night(context.instance, began)
        if isinstance(open_now, dict):
            return dg.SkipReason(f"the night {open_now[NIGHT_TAG]} lasts until {open_now[UNTIL_TAG]}")
        until = began + datetime.timedelta(hours=night.hours)
        return dg.RunRequest(tags={NIGHT_TAG: began.strftime("%Y-%m-%d_%H:%M"), UNTIL_TAG: until.isoformat()})

    @dg.sensor(
        name=SENSOR,
        jobs=list(jobs),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"While a night lasts that `{SCHEDULE}` opened: launches what is missing or stale and has its "
        "inputs, within the budget.",
    )
    def go_on(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = datetime.datetime.now(datetime.UTC)
        night = _open_night(context.instance, now)
        if isinstance(night, str):
            return dg.SkipReason(night)
        try:
            settings, fresh = Night.from_environment(), read_lineage(lineage.paths)
            return _tick(context, settings, lineage, fresh, night, now)
        except (BudgetWrong, StudyError, PromptError) as error:
            return dg.SkipReason(str(error))

    return nightly, go_on


def _tick(
    context: dg.SensorEvaluationContext,
    night: Night,
    loaded: Lineage,
    fresh: Lineage,
    tags: Mapping[str, str],
    now: datetime.datetime,
) -> dg.SensorResult | dg.SkipReason:
    known = {item.name for item in items(loaded)}
    graph = {item.name: item for item in items(fresh)}
    records = context.instance.get_run_records(dg.RunsFilter(tags={NIGHT_TAG: tags[NIGHT_TAG]}))
    used = spent(records, now.timestamp())
    partitions = Partitions(items(loaded))
    assert context.repository_def is not None
    running = [record for record in records if record.dagster_run.status in UNFINISHED]
    failed = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    choice = choose(
        graph,
        {planned.item.name: planned for planned in plan(fresh, night.terms).items},
        night,
        spent=used,
        busy=in_flight(context.instance, partitions, context.repository_def.asset_graph),
        tried={
            name
            for record in records
            if record.dagster_run.status in failed
            for name in partitions.names(record.dagster_run)
        },
        known=known,
        slots=night.runs - len(running),
    )
    lines = [f"{tags[NIGHT_TAG]}: {night.told(used)} are spent or in flight", *choice.lines()]
    for line in lines:
        context.log.info(line)
    if not choice.chosen:
        return dg.SkipReason("\n".join([*lines, *([] if running or choice.left_out else ["nothing is left to do"])]))
    return dg.SensorResult(run_requests=requests(choice, night, fresh, tags=tags, key=now.isoformat()))


def _open_night(instance: dg.DagsterInstance, now: datetime.datetime) -> dict[str, str] | str:
    """The tags of the night that is open, or why none is."""
    states = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    on = [state.status for state in states if state.instigator_name == SCHEDULE]
    if not any(status == InstigatorStatus.RUNNING for status in on):
        return f"the schedule {SCHEDULE!r} is stopped: start it, and it opens the next night"
    opened = instance.get_runs(dg.RunsFilter(tags={"dagster/schedule_name": SCHEDULE}), limit=1)
    tags = {name: opened[0].tags[name] for name in (NIGHT_TAG, UNTIL_TAG) if name in opened[0].tags} if opened else {}
    if len(tags) < 2:
        return f"no night was opened yet; the schedule {SCHEDULE!r} does, at its next tick"
    if now > datetime.datetime.fromisoformat(tags[UNTIL_TAG]):
        return f"the night {tags[NIGHT_TAG]} is over; the schedule {SCHEDULE!r} opens the next"
    return tags


def _groups(able: Iterable[Planned]) -> list[list[Planned]]:
    """What becomes a run, or several of one engine, in the order in which it is launched."""
    groups: dict[str, list[Planned]] = {}
    for planned in able:
        item = planned.item
        groups.setdefault(item.asset if item.stage == "synthetic" else item.name, []).append(planned)
    for group in groups.values():
        group.sort(key=_weight, reverse=True)
    return sorted(
        groups.values(), key=lambda group: (STAGES.index(group[0].item.stage), sum(map(_weight, group))), reverse=True
    )


def _weight(planned: Planned) -> float:
    """How long it takes, on a GPU or without."""
    return planned.cost.gpu_hours + planned.cost.hours


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SAID]) + (f" and {len(names) - SAID} more" if len(names) > SAID else "")
