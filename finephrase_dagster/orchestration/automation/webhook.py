"""Failure webhook: report every run that failed for good, once.

The address in `FINEPHRASE_FAILURE_WEBHOOK` is a secret: it appears in no log, tag or message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Literal

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.automation.runs import Partitions
from finephrase_dagster.rephrase.connection import fetch

WEBHOOK = "FINEPHRASE_FAILURE_WEBHOOK"
PAGES = "FINEPHRASE_DAGSTER_URL"
REPORTED_TAG = "finephrase/failure_reported"
SECONDS, TIMEOUT_SECONDS, RUNS_PER_TICK, MESSAGE_CHARACTERS = 30, 10, 20, 2000


class WebhookFailed(FinephraseError):
    """The webhook did not accept a message; it is sent again at the next tick."""


def build_failure_sensor(lineage: Lineage) -> dg.SensorDefinition:
    """Return the sensor `report_failures`, stopped by default."""

    @dg.sensor(
        name="report_failures",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Posts every run that failed and will not be retried as JSON to the address in {WEBHOOK}.",
    )
    def report_failures(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        address = os.environ.get(WEBHOOK)
        if not address:
            return dg.SkipReason(
                f"{WEBHOOK} is not set. Set it in the environment of the code location and restart it."
            )
        failed: Literal[dg.DagsterEventType.RUN_FAILURE] = dg.DagsterEventType.RUN_FAILURE
        if context.cursor is None:  # runs that failed before the sensor was started are not reported
            latest = context.instance.fetch_run_status_changes(failed, limit=1).records
            return dg.SensorResult(cursor=str(latest[0].storage_id if latest else 0))
        changes = dg.RunStatusChangeRecordsFilter(failed, after_storage_id=int(context.cursor))
        records = context.instance.fetch_run_status_changes(changes, limit=RUNS_PER_TICK, ascending=True).records
        if not records:
            return dg.SkipReason("0 failures reported")
        reported, cursor, partitions = 0, context.cursor, Partitions(items(lineage))
        for record in records:
            try:
                reported += _report(context.instance, record.event_log_entry, address, lineage, partitions)
            except WebhookFailed as error:
                context.update_cursor(cursor)
                return dg.SkipReason(f"{reported} failures reported; the next one is sent again: {error}")
            cursor = str(record.storage_id)
        context.update_cursor(cursor)
        return dg.SkipReason(f"{reported} failures reported")

    return report_failures


def _report(
    instance: dg.DagsterInstance, entry: dg.EventLogEntry, address: str, lineage: Lineage, partitions: Partitions
) -> bool:
    """Report a failed run; return whether it was still to be reported."""
    run = instance.get_run_by_id(entry.run_id)
    if run is None or REPORTED_TAG in run.tags or run.tags.get(WILL_RETRY_TAG) == "true":
        return False
    post(address, message(instance, run, entry, lineage, partitions))
    instance.add_run_tags(run.run_id, {REPORTED_TAG: "true"})  # the cursor is stored only at the end of the tick
    return True


def message(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    entry: dg.EventLogEntry,
    lineage: Lineage,
    partitions: Partitions,
) -> dict[str, Any]:
    """Return the JSON that is posted for a failed run."""
    assets = partitions.assets(run)
    names = partitions.names(run)
    pages = os.environ.get(PAGES, "").rstrip("/")
    return {
        "study": lineage.study.name,
        "run": run.run_id,
        "job": run.job_name,
        "assets": assets,
        "partitions": sorted({name.removeprefix(f"{asset}/") for asset in assets for name in names if name != asset}),
        "message": _reason(instance, run, entry)[:MESSAGE_CHARACTERS],
        "link": f"{pages}/runs/{run.run_id}" if pages else None,
    }


def post(address: str, content: Mapping[str, Any]) -> None:
    """Post JSON.

    Raises:
        WebhookFailed: the webhook did not accept it; the message does not contain the address.
    """
    try:
        response = fetch(address, TIMEOUT_SECONDS, json.dumps(content).encode())
    except ValueError:
        raise WebhookFailed(f"{WEBHOOK} is not a URL; write http://... or https://...") from None
    except (OSError, TimeoutError) as error:
        raise WebhookFailed(f"the webhook cannot be reached ({type(error).__name__})") from None
    if not 200 <= response.status < 300:
        hint = f"; set {WEBHOOK} to its new address" if 300 <= response.status < 400 else ""
        raise WebhookFailed(f"the webhook answers HTTP {response.status}{hint}")


def _reason(instance: dg.DagsterInstance, run: dg.DagsterRun, entry: dg.EventLogEntry) -> str:
    """Return the error of the failed step, else the reason why Dagster ended the run."""
    steps = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    for step in reversed(steps):
        if step.dagster_event and (error := step.dagster_event.step_failure_data.error):
            while error.cause:
                error = error.cause
            return error.message.strip()
    return (entry.dagster_event.message if entry.dagster_event else None) or entry.user_message or "the run failed"
