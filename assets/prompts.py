"""Prompt templates: files that are observed, not made; the hash of a prompt's text is its data version."""

import dagster as dg

from assets import descriptions
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.events import observed_prompts
from finephrase_dagster.orchestration.partitions import TEMPLATE, static


def build_prompts(lineage: Lineage) -> list[dg.SourceAsset]:
    """Return the observable asset `prompts/template`, with one partition per prompt."""

    @dg.observable_source_asset(
        key=TEMPLATE,
        partitions_def=static(lineage.study.prompts),
        group_name="prompts",
        description=descriptions.of_prompts(lineage),
        tags={"dagster/kind/markdown": "", "dagster/kind/file": ""},
    )
    def template(context: dg.OpExecutionContext) -> dg.DataVersionsByPartition:
        for _, observation in observed_prompts(lineage):
            context.log_event(observation)
        return dg.DataVersionsByPartition({})  # Dagster's own observations would hold the version alone

    return [template]
