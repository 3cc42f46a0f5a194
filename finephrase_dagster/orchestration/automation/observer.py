"""The observer of a study's files: it runs by default, starts no run and costs nothing.

An edited prompt marks its datasets as stale, and the page of `study/plan` shows the plan as it is now.
"""

from __future__ import annotations

import dagster as dg

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.events import observed_prompts, recorded_version
from finephrase_dagster.orchestration.partitions import TEMPLATE
from finephrase_dagster.orchestration.plan_page import plan_events
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.prompt import PromptError

OBSERVE_SECONDS = 60


def changed_prompts(lineage: Lineage, instance: dg.DagsterInstance) -> list[dg.AssetObservation]:
    """Return an observation for every prompt file that differs from its last observation."""
    return [
        observation
        for prompt, observation in observed_prompts(lineage)
        if recorded_version(instance, TEMPLATE, prompt.name) != prompt.digest
    ]


def build_observer(lineage: Lineage) -> dg.SensorDefinition:
    """Return the sensor that observes prompt files and the plan."""

    @dg.sensor(
        name="observe_prompts",
        minimum_interval_seconds=OBSERVE_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Observes the prompt files, and brings the page of study/plan up to date. It starts no run and "
        "costs nothing, so it is the only one that runs by default.",
    )
    def observe_prompts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            changed = changed_prompts(lineage, context.instance)
        except (PromptError, StudyError) as error:
            return dg.SkipReason(str(error))
        try:
            digest, events = plan_events(read_lineage(lineage.paths), context.cursor)  # of the files as they are now
        except FinephraseError as error:
            if not changed:
                return dg.SkipReason(str(error))
            return dg.SensorResult(asset_events=changed, cursor=context.cursor)
        if not (changed or events):
            return dg.SkipReason("no prompt file has changed, nor has the plan")
        return dg.SensorResult(asset_events=[*changed, *events], cursor=digest)

    return observe_prompts
