"""Materialising a study: just what is missing or stale, stage by stage, in this process.

The files decide what there is to do: an artifact of today's recipe is reused, whatever Dagster's instance
remembers; where the two differ, the asset runs, finds its artifact and tells Dagster. No daemon is needed.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import dagster as dg
from dagster._core.definitions.data_version import extract_data_version_from_entry
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from finephrase_dagster.artifacts.graph import Item, items, state
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.processes import is_running, this_process
from finephrase_dagster.orchestration.automation.observer import changed_prompts
from finephrase_dagster.orchestration.jobs import job_of
from finephrase_dagster.orchestration.launcher import PROCESS_TAG
from finephrase_dagster.orchestration.retries import NO_SPACE, ONCE_TAG

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass
class Outcome:
    """What a materialisation did: names of items."""

    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.failed and not self.waiting


def materialize_study(
    lineage: Lineage,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    log: Callable[[str], None],
    engines_kept: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Outcome:
    """Materializes what is missing or stale. A failure is reported and holds up only what depends on it.

    Args:
        engines_kept: a block within which engines outlive their runs; entered once per stage.
    """
    end_abandoned_runs(instance)
    for observation in changed_prompts(lineage, instance):
        instance.report_runless_asset_event(observation)
    outcome = Outcome()
    with interrupts_noted() as raise_if_interrupted:
        for _, of_stage in groupby(items(lineage), key=lambda item: item.stage):
            with engines_kept():
                for asset, of_asset in groupby(of_stage, key=lambda item: item.asset):
                    for group in _runs_of(_to_do(list(of_asset), instance, outcome, log)):
                        _run(asset, group, definitions, instance, outcome, log)
                        raise_if_interrupted()
    return outcome


@contextlib.contextmanager
def interrupts_noted() -> Iterator[Callable[[], None]]:
    """Yields what raises KeyboardInterrupt if an interrupt arrived since the block began.

    Dagster holds interrupts back while it writes its events, and forgets one that it still holds when a run
    ends. Python writes every signal's number into a pipe, whoever handles the signal, so nothing is lost there.
    """
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield lambda: None
        return
    arrived, writing = socket.socketpair()
    with arrived, writing:
        arrived.setblocking(False)
        writing.setblocking(False)

        def raise_if_interrupted() -> None:
            with contextlib.suppress(BlockingIOError):
                if {signal.SIGINT, signal.SIGTERM} & set(arrived.recv(4096)):
                    raise KeyboardInterrupt

        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield raise_if_interrupted
        finally:
            signal.set_wakeup_fd(before)


def _to_do(
    of_asset: Sequence[Item],
    instance: dg.DagsterInstance,
    outcome: Outcome,
    log: Callable[[str], None],
) -> list[list[Item]]:
    """The items of one asset that must run, in stretches without a gap."""
    stretches: list[list[Item]] = [[]]
    for item in of_asset:
        found = state(item)
        if found.status == "waiting":
            outcome.waiting.append(item.name)
            stretches.append([])
        elif found.status == "stopped":
            log(f"{item.name}: {found.reasons[0]}")
            outcome.stopped.append(item.name)
            stretches.append([])
        elif found.status == "current" and _recorded(item, instance):
            outcome.reused.append(item.name)
            stretches.append([])
        else:
            if found.status == "stale":
                log(f"{item.name} is stale: {'; '.join(found.reasons)}")
            stretches[-1].append(item)
    return [stretch for stretch in stretches if stretch]


def _recorded(item: Item, instance: dg.DagsterInstance) -> bool:
    key = dg.AssetKey(item.key.path)
    record = instance.get_latest_data_version_record(key, False, item.partition)
    version = extract_data_version_from_entry(record.event_log_entry) if record else None
    return version is not None and version.value == item.artifact().version


def _runs_of(stretches: Sequence[list[Item]]) -> Iterator[list[Item]]:
    """One run a partition; for rephrasing one run a stretch, whose prompts share an engine."""
    for stretch in stretches:
        if stretch[0].stage == "synthetic":
            yield stretch
        else:
            yield from ([item] for item in stretch)


def _run(
    asset: str,
    group: list[Item],
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    outcome: Outcome,
    log: Callable[[str], None],
) -> None:
    partitions = [item.partition for item in group if item.partition]
    name = f"{asset} {', '.join(partitions)}".strip()
    tags = {PROCESS_TAG: this_process(), ONCE_TAG: "true"}
    if len(partitions) > 1:
        tags |= {
            ASSET_PARTITION_RANGE_START_TAG: partitions[0],
            ASSET_PARTITION_RANGE_END_TAG: partitions[-1],
        }
    started = time.monotonic()
    log(f"{name} ...")
    result = definitions.resolve_job_def(job_of(asset)).execute_in_process(
        instance=instance,
        partition_key=partitions[0] if len(partitions) == 1 else None,
        tags=tags,
        run_config={"loggers": {"progress": {}}},
        raise_on_error=False,
    )
    if result.success:
        outcome.made += [item.name for item in group]
        log(f"{name}: done in {time.monotonic() - started:.1f} s")
        return
    kind, message, causes = _error(result)
    if any(words in causes for words in NO_SPACE) and "make room" not in message:
        message += "; make room, or set FINEPHRASE_DATA to a larger disk, and run again: what is finished is kept"
    if kind == dg.DagsterExecutionInterruptedError.__name__:
        raise KeyboardInterrupt
    for item in group:
        if item.stage == "synthetic" and item.artifact().complete:
            outcome.made.append(item.name)  # another prompt of the run failed
        else:
            outcome.failed[item.name] = message
    log(f"{name}: failed: {message}")


def _error(result: dg.ExecuteInProcessResult) -> tuple[str, str, str]:
    """What a stage raised: its name, its message in one line, and all that it was caused by."""
    for event in result.all_events:
        if event.is_step_failure and (error := event.step_failure_data.error):
            if error.cls_name == dg.DagsterExecutionStepExecutionError.__name__ and error.cause:
                error = error.cause
            name = error.cls_name or "Error"
            message = " ".join(re.sub(rf"^([\w.]*\.)?{name}: ", "", error.message).split())
            return name, message.partition(" [SQL: ")[0], error.to_string()
    return "Error", "the run failed; its log is in the web UI", ""


def end_abandoned_runs(instance: dg.DagsterInstance) -> None:
    """Marks as failed the runs whose process is gone, which would otherwise show as running for ever."""
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        process = run.tags.get(PROCESS_TAG)
        if process is None:
            continue
        if not is_running(process):
            instance.report_run_failed(run, "Its process ended before the run did.")
