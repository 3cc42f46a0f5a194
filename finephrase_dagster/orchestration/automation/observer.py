"""The observer of prompt files: an edited file marks its datasets as stale. It costs nothing and runs by default."""

from __future__ import annotations

import dagster as dg

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.events import observed_prompts, recorded_version
from finephrase_dagster.orchestration.partitions import TEMPLATE
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
    """Return the sensor that observes prompt files."""

    @dg.sensor(
        name="observe_prompts",
        minimum_interval_seconds=OBSERVE_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Observes the prompt files. It starts no run and costs nothing, so it is the only one that runs by "
        "default.",
    )
    def observe_prompts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            changed = changed_prompts(lineage, context.instance)
        except PromptError as error:
            return dg.SkipReason(str(error))
        if not changed:
            return dg.SkipReason("no prompt file has changed")
        return dg.SensorResult(asset_events=changed)

    return observe_prompts
