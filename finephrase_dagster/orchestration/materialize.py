"""Materialize what is missing or stale in a study, stage by stage, in this process. No daemon is needed.

The files decide what to do: an artifact with the current recipe is reused. If Dagster's instance does not know its
version, the asset runs, reuses the artifact and records it.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import dagster as dg
from dagster._core.storage.tags import MAX_RETRIES_TAG

from finephrase_dagster.artifacts.graph import Item, failed_audits, items, state
from finephrase_dagster.artifacts.key import AUDIT
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.processes import is_running, this_process
from finephrase_dagster.artifacts.verification import ArtifactDamaged, check_artifact
from finephrase_dagster.orchestration.automation.observer import changed_prompts
from finephrase_dagster.orchestration.automation.runs import UNFINISHED, Partitions, range_tags
from finephrase_dagster.orchestration.events import is_recorded
from finephrase_dagster.orchestration.jobs import job_of
from finephrase_dagster.orchestration.launcher import PROCESS_TAG
from finephrase_dagster.orchestration.progress import RunEnded, RunStarted, Settled, report
from finephrase_dagster.orchestration.retries import NO_SPACE, ONCE_TAG
from finephrase_dagster.orchestration.run_origin import show_runs_in_location
from finephrase_dagster.release.publish import ReleaseRefused, check_release
from finephrase_dagster.study.component import Component
from finephrase_dagster.train.admission import AuditNotPassed, check_mixture, is_overridden, refusal


@dataclass
class Outcome:
    """The names of the items that were materialized, reused, failed, wait for an input, or were stopped early."""

    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds by stage."""

    @property
    def complete(self) -> bool:
        return not self.failed and not self.waiting


def materialize_study(
    lineage: Lineage,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    log: Callable[[str], None],
    only: Collection[str] | None = None,
    keep_going: bool = True,
    engines_kept: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Outcome:
    """Materialize what is missing or stale; a failure affects only what depends on it.

    Args:
        only: the names of the items to look at, all upstream items among them. Default: all.
        keep_going: whether to continue, after a failure, with what does not depend on it.
        engines_kept: returns a context in which engines outlive their runs; entered once per stage.
    """
    end_abandoned_runs(instance)
    show_runs_in_location(instance)
    for observation in changed_prompts(lineage, instance):
        instance.report_runless_asset_event(observation)
    lineage = lineage.snapshot()
    outcome, partitions = Outcome(), Partitions(items(lineage))
    graph = {item.name: item for item in items(lineage) if only is None or item.name in only}
    with noting_interrupts() as raise_if_interrupted:
        for _, of_stage in groupby(graph.values(), key=lambda item: item.stage):
            with engines_kept():
                for asset, of_asset in groupby(of_stage, key=lambda item: item.asset):
                    if outcome.failed and not keep_going:
                        return outcome
                    lineage.forget_missing()
                    chosen = {
                        item.partition or "": item
                        for item in of_asset
                        if _is_admitted(item, lineage, graph, outcome)
                        and _is_due(item, definitions, instance, outcome, log)
                    }
                    for names in partitions.runs(asset, chosen):
                        try:
                            _run(asset, [chosen[name] for name in names], definitions, instance, outcome, log)
                        finally:
                            raise_if_interrupted()
                        if outcome.failed and not keep_going:
                            return outcome
                    for item in graph.values():
                        if item.asset == asset and (reason := _failed_audit(lineage, item)):
                            outcome.failed[item.name] = reason
    return outcome


@contextlib.contextmanager
def noting_interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function that repeats an interrupt that arrived since the block began, for the handler from before.

    Dagster delays interrupts while it writes events and drops one that is still delayed when a run ends. Python
    writes the number of every signal into a pipe, whichever handler is set, so here none is lost.
    """
    if threading.current_thread() is not threading.main_thread():  # signals arrive in the main thread only
        yield lambda: None
        return
    arrived, writing = socket.socketpair()
    with arrived, writing:
        arrived.setblocking(False)
        writing.setblocking(False)

        def raise_if_interrupted() -> None:
            with contextlib.suppress(BlockingIOError):
                if numbers := {signal.SIGINT, signal.SIGTERM} & set(arrived.recv(4096)):
                    signal.raise_signal(min(numbers))

        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield raise_if_interrupted
        finally:
            signal.set_wakeup_fd(before)


def _is_admitted(item: Item, lineage: Lineage, graph: Mapping[str, Item], outcome: Outcome) -> bool:
    """Return whether no failed audit forbids an item that is missing; if one does, record it in the outcome."""
    if not failed_audits(item, graph) or state(item).status == "current":
        return True
    if item.key.mixture is None and item.key.configuration is None:
        outcome.waiting.append(item.name)
        return False
    try:
        if item.key.mixture:
            check_mixture(lineage, item.key.mixture, lambda line: None)
        else:
            check_release(lineage, [item.key.configuration or ""])
    except (AuditNotPassed, ReleaseRefused) as error:
        outcome.failed[item.name] = str(error)
    return False


def _failed_audit(lineage: Lineage, item: Item) -> str | None:
    """Return why the dataset of an audit may not be used, with the next action; None if there is no reason."""
    key = item.key
    if key.kind is not AUDIT or state(item).status != "current":
        return None
    dataset = Component(source=key.source or "", generator=key.generator, prompt=key.prompt)
    return None if is_overridden(lineage.study, dataset.name) else refusal(lineage, dataset)


def _is_due(
    item: Item,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    outcome: Outcome,
    log: Callable[[str], None],
) -> bool:
    """Return whether an item must run; if not, record the reason in the outcome."""
    current = state(item)
    if current.status == "waiting" and not item.needs:  # a folder of the study that does not exist
        outcome.failed[item.name] = current.reasons[0]
    elif current.status == "waiting":
        outcome.waiting.append(item.name)
    elif current.status == "stopped":
        log(f"{item.name}: {current.reasons[0]}")
        outcome.stopped.append(item.name)
    elif current.status == "current" and _is_recorded(item, definitions, instance):
        try:
            check_artifact(item.artifact())
            item.artifact().label()  # another study may have made it; `gc` keeps what a study labels
            outcome.reused.append(item.name)
        except ArtifactDamaged as error:
            outcome.failed[item.name] = str(error)
    else:
        if current.status == "stale":
            log(f"{item.name} is stale: {'; '.join(current.reasons)}")
        return True
    if current.status != "waiting":
        report(Settled(item=item))
    return False


def _is_recorded(item: Item, definitions: dg.Definitions, instance: dg.DagsterInstance) -> bool:
    """Return whether Dagster shows the item as current."""
    key = dg.AssetKey(item.key.path)
    code = definitions.resolve_asset_graph().get(key).code_version
    return is_recorded(instance, key, item.partition, version=item.artifact().version, code=code)


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
    tags = {PROCESS_TAG: this_process(), ONCE_TAG: "true", MAX_RETRIES_TAG: "0"}
    if len(partitions) > 1:
        tags |= range_tags(partitions)
    started = time.monotonic()
    log(f"{name} ...")
    report(RunStarted(name=name, items=tuple(group)))
    result = definitions.resolve_job_def(job_of(asset)).execute_in_process(
        instance=instance,
        partition_key=partitions[0] if len(partitions) == 1 else None,
        tags=tags,
        run_config={"loggers": {"progress": {}}},
        raise_on_error=False,
    )
    seconds = time.monotonic() - started
    outcome.seconds[group[0].stage] += seconds
    if result.success:
        outcome.made += [item.name for item in group]
        log(f"{name}: done in {seconds:.1f} s")
        report(RunEnded(name=name, items=tuple(group), seconds=seconds))
        return
    kind, message, causes = _error(result)
    if any(words in causes for words in NO_SPACE) and "make room" not in message.lower():
        message += ". Make room, or set FINEPHRASE_DATA to a larger disk, then run the same command again to resume."
    if kind == dg.DagsterExecutionInterruptedError.__name__:
        raise KeyboardInterrupt
    for item in group:
        if item.stage == "synthetic" and item.artifact().complete:
            outcome.made.append(item.name)  # another prompt of the run failed
        else:
            outcome.failed[item.name] = message
    log(f"{name}: failed: {message}")
    report(RunEnded(name=name, items=tuple(group), seconds=seconds, error=message))


def _error(result: dg.ExecuteInProcessResult) -> tuple[str, str, str]:
    """Return the class name and one-line message of a stage's error, and the text of the error with its causes."""
    for event in result.all_events:
        if event.is_step_failure and (error := event.step_failure_data.error):
            if error.cls_name == dg.DagsterExecutionStepExecutionError.__name__ and error.cause:
                error = error.cause
            name = error.cls_name or "Error"
            message = " ".join(re.sub(rf"^([\w.]*\.)?{name}: ", "", error.message).split())
            return name, message.partition(" [SQL: ")[0], error.to_string()
    return "Error", "the run failed; its log is in the web UI", ""


def end_abandoned_runs(instance: dg.DagsterInstance) -> None:
    """Record as failed the runs whose process has ended, which would otherwise show as running forever."""
    for run in instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED))):
        process = run.tags.get(PROCESS_TAG)
        if process is not None and not is_running(process):
            instance.report_run_failed(run, "The run's process ended before the run did.")
