"""Synthetic datasets: one asset a cell (a generator on a source), one partition a prompt."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets import descriptions
from assets.costs import of_dataset
from assets.descriptions import hub_model
from assets.previews import GLANCE, completions, shown
from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import DATASET
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.events import materialize_each, materialized, prompt_text
from finephrase_dagster.orchestration.partitions import (
    CORPUS,
    MODEL,
    TEMPLATE,
    asset_key,
    asset_spec,
    cell_tags,
    needs,
    static,
)
from finephrase_dagster.orchestration.placement import rephrasing
from finephrase_dagster.orchestration.retries import retried
from finephrase_dagster.study.spec import Cell
from resources.rephraser import Rephraser
from resources.warehouse import Warehouse

COLUMNS = {
    "id": ("string", "of the document, as in the corpus"),
    "prompt": ("string", "the prompt's name"),
    "text": ("string", "the completion, cleaned"),
    "finish_reason": ("string", "why the engine stopped: `stop`, or `length` at max_tokens"),
    "prompt_tokens": ("int", "that the engine read"),
    "completion_tokens": ("int", "that it wrote"),
    "document_cut": ("bool", "whether the document was cut to fit the context"),
}

COUNTS = ("rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens", "documents_cut")


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
                asset_key(DATASET, cell),
                group="synthetic",
                description=descriptions.of_cell(lineage, cell),
                kinds={"vllm", "parquet"},
                owner="generation",
                tags=cell_tags(lineage, cell),
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
        results, corpus = {}, lineage.source(cell.source).folder
        warehouse.record(*datasets.values())
        for prompt, artifact in datasets.items():
            results[prompt] = _result(lineage, cell, prompt, artifact, artifact.manifest(), corpus)
        return results

    return synthetic


def _result(
    lineage: Lineage, cell: Cell, prompt: str, artifact: Artifact, manifest: Mapping[str, Any], corpus: Path
) -> dg.MaterializeResult:
    """One dataset, as its page tells it: how much, how dear, what it looks like, what it was made of."""
    pairs = completions(artifact.folder, corpus)
    completed, dataset = manifest["completed"], lineage.study.sources[cell.source].page
    model = hub_model(lineage.study.generators[cell.generator])
    return materialized(
        artifact,
        rows=completed,
        preview=shown(pairs[:1], GLANCE),
        share_completed=round(completed / manifest["rows_in"], 4) if manifest["rows_in"] else None,
        **{name: manifest[name] for name in COUNTS},
        tokens_per_completion=round(manifest["completion_tokens"] / completed, 1) if completed else None,
        **of_dataset(manifest),
        more_rows=dg.MetadataValue.md(shown(pairs)),
        prompt=prompt_text(lineage.prompts[prompt]),
        corpus=dg.MetadataValue.url(dataset) if dataset else None,
        model=dg.MetadataValue.url(model) if model else None,
        bill=dg.MetadataValue.json({**manifest["run"], "prompts": len(manifest["run"]["prompts"])}),
    )
