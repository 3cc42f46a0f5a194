"""Synthetic datasets: one asset a cell (a generator on a source), one partition a prompt."""

from collections.abc import Iterator, Mapping

import dagster as dg

from assets.previews import completions
from finephrase_dagster.events import materialize_each, materialized
from finephrase_dagster.partitions import (
    CORPUS,
    MODEL,
    TEMPLATE,
    asset_spec,
    cell_tags,
    needs,
    static,
    synthetic_key,
)
from finephrase_dagster.placement import rephrasing
from finephrase_dagster.retries import retried
from finephrase_dagster.study.artifact import Artifact
from finephrase_dagster.study.lineage import Lineage
from finephrase_dagster.study.spec import Cell
from resources.rephraser import Rephraser
from resources.warehouse import Warehouse

COLUMNS = {
    "id": "string",
    "prompt": "string",
    "text": "string",
    "finish_reason": "string",
    "prompt_tokens": "int",
    "completion_tokens": "int",
    "truncated": "bool",
}


def build_synthetic(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """One asset a cell of the study."""
    return [_cell_asset(lineage, cell) for cell in lineage.study.cells]


def _cell_asset(lineage: Lineage, cell: Cell) -> dg.AssetsDefinition:
    prompts = lineage.study.prompts_of(cell)
    upstream = {
        TEMPLATE: {prompt: prompt for prompt in prompts},
        CORPUS: dict.fromkeys(prompts, cell.source),
        MODEL: dict.fromkeys(prompts, cell.generator),
    }

    @dg.multi_asset(
        name=f"synthetic__{cell.name}",
        specs=[
            asset_spec(
                synthetic_key(cell),
                group="synthetic",
                description=f"`{cell.source}`, rephrased by `{cell.generator}`: one dataset a prompt. A run over "
                "several prompts serves all of them from one engine.",
                kinds={"vllm", "parquet"},
                owner="generation",
                tags=cell_tags(cell),
                columns=COLUMNS,
                deps=[
                    needs(TEMPLATE, {prompt: [prompt] for prompt in prompts}),
                    needs(CORPUS, {cell.source: prompts}),
                    needs(MODEL, {cell.generator: prompts}),
                ],
                skippable=True,
            )
        ],
        partitions_def=static(prompts),
        backfill_policy=dg.BackfillPolicy.single_run(),
        **rephrasing(lineage.study.generators[cell.generator]).arguments,
    )
    @retried
    def synthetic(
        context: dg.AssetExecutionContext, rephraser: Rephraser, warehouse: Warehouse
    ) -> Iterator[dg.MaterializeResult]:
        datasets = {prompt: lineage.dataset(cell, prompt) for prompt in context.partition_keys}
        try:
            rephraser.rephrase(lineage, cell, datasets, log=context.log.info)
        except Exception:
            finished = {prompt: artifact for prompt, artifact in datasets.items() if artifact.complete}
            materialize_each(context, upstream, told(finished, warehouse))  # a backfill of what failed leaves them out
            raise
        results = told(datasets, warehouse)
        if len(results) == 1:
            yield from results.values()
        else:
            materialize_each(context, upstream, results)

    def told(datasets: Mapping[str, Artifact], warehouse: Warehouse) -> dict[str, dg.MaterializeResult]:
        results = {}
        warehouse.record(*datasets.values())
        for prompt, artifact in datasets.items():
            manifest = artifact.manifest()
            results[prompt] = materialized(
                artifact,
                rows=manifest["completed"],
                preview=completions(artifact.folder, corpus=lineage.source(cell.source).folder),
                **{
                    name: manifest[name]
                    for name in (
                        "rows_in",
                        "completed",
                        "skipped",
                        "failed",
                        "prompt_tokens",
                        "completion_tokens",
                    )
                },
                tokens_per_second=manifest["run"]["tokens_per_second"],
                bill=dg.MetadataValue.json(manifest["run"]),
            )
        return results

    return synthetic
