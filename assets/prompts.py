"""Prompt templates: files that are observed, not made; their hash is their data version."""

import dagster as dg

from finephrase_dagster.partitions import TEMPLATE, static
from finephrase_dagster.study.lineage import Lineage
from finephrase_dagster.study.prompt import read_prompts


def build_prompts(lineage: Lineage) -> list[dg.SourceAsset]:
    """The observable asset `prompts/template`, one partition a prompt."""

    @dg.observable_source_asset(
        key=TEMPLATE,
        partitions_def=static(lineage.study.prompts),
        group_name="prompts",
        description="What a rephrasing asks for: one file a prompt under `prompts/`. Observing costs nothing "
        "and marks the datasets of an edited prompt as stale.",
        tags={"dagster/kind/markdown": ""},
    )
    def template() -> dg.DataVersionsByPartition:
        prompts = read_prompts(lineage.places.prompts, lineage.study.prompts)
        return dg.DataVersionsByPartition({name: prompt.digest for name, prompt in prompts.items()})

    return [template]
