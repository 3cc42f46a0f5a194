"""Synthetic datasets: one asset per cell (a generator on a source), one partition per prompt."""

from collections.abc import Iterator, Mapping

import dagster as dg

from assets import descriptions
from assets.costs import of_dataset
from assets.descriptions import hub_model
from assets.previews import GLANCE, completions, pairs_markdown
from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import CORPUS, DATASET, MODEL, TEMPLATE
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.sweep import running_generator
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialize_each, materialized, prompt_text
from finephrase_dagster.orchestration.partitions import asset_key, needs
from finephrase_dagster.orchestration.placement import rephrasing
from finephrase_dagster.study.component import Cell
from resources.rephraser import Rephraser
from resources.warehouse import Warehouse

COLUMNS = {
    "id": ("string", "the id of the document, as in the corpus"),
    "prompt": ("string", "the name of the prompt"),
    "text": ("string", "the completion, cleaned"),
    "finish_reason": ("string", "why the engine stopped: `stop`, or `length` at max_tokens"),
    "prompt_tokens": ("int", "tokens that the engine read"),
    "completion_tokens": ("int", "tokens that the engine generated"),
    "document_cut": ("bool", "whether the document was cut to fit the context"),
    "cleaned": ("string", "the cleaning rules that removed something"),
}
ROLLOUTS = {"rollouts": ("int", "how often the row was drawn; the best rollout is kept")}

COUNTS = ("rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens", "documents_cut")


def build_synthetic(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return one asset per cell of the study."""
    return [_cell_asset(lineage, cell) for cell in lineage.study.cells]


def _cell_asset(lineage: Lineage, cell: Cell) -> dg.AssetsDefinition:
    prompts = lineage.study.prompts_of(cell)
    upstream = {
        TEMPLATE: {prompt: prompt for prompt in prompts},
        CORPUS: dict.fromkeys(prompts, cell.source),
        MODEL: dict.fromkeys(prompts, cell.generator),
    }
    most, _ = lineage.study.rollouts_of(cell)
    inputs = {asset_key(kind): partitions for kind, partitions in upstream.items()}

    @stage_asset(
        lineage,
        DATASET,
        cell,
        description=descriptions.of_cell(lineage, cell),
        kinds={"vllm", "parquet"},
        owner="generation",
        partitions=prompts,
        columns=COLUMNS if most == 1 else COLUMNS | ROLLOUTS,
        deps=[needs(kind, _by_input(partitions)) for kind, partitions in upstream.items()],
        placement=rephrasing(running_generator(lineage, cell.generator)),
        single_run=True,
    )
    def synthetic(
        context: dg.AssetExecutionContext, rephraser: Rephraser, warehouse: Warehouse
    ) -> Iterator[dg.MaterializeResult]:
        datasets = {prompt: lineage.dataset(cell, prompt) for prompt in context.partition_keys}
        try:
            rephraser.rephrase(lineage, cell, datasets, log=context.log.info)
        except Exception:
            finished = {prompt: artifact for prompt, artifact in datasets.items() if artifact.complete}
            # Recorded, so that a backfill of the failed partitions leaves them out.
            materialize_each(context, inputs, record(finished, warehouse))
            raise
        results = record(datasets, warehouse)
        if len(results) == 1:
            yield from results.values()
        else:
            materialize_each(context, inputs, results)

    def record(datasets: Mapping[str, Artifact], warehouse: Warehouse) -> dict[str, dg.MaterializeResult]:
        for artifact in datasets.values():
            artifact.label()
        warehouse.record(*datasets.values())
        return {prompt: _result(lineage, cell, prompt, artifact) for prompt, artifact in datasets.items()}

    return synthetic


def _by_input(inputs: Mapping[str, str]) -> dict[str, list[str]]:
    """Return, by input partition, the partitions that use it."""
    return {used: [prompt for prompt in inputs if inputs[prompt] == used] for used in inputs.values()}


def _result(lineage: Lineage, cell: Cell, prompt: str, artifact: Artifact) -> dg.MaterializeResult:
    """Return what the page of a dataset shows: counts, cost, example rows, and what it was made of."""
    manifest = artifact.manifest()
    completed, cost, recipe = manifest["completed"], manifest["run"], manifest["recipe"]
    pairs = completions(artifact.folder, lineage.source(cell.source).folder)
    corpus = lineage.study.sources[cell.source].page
    model = hub_model(lineage.study.generators[cell.generator])
    return materialized(
        artifact,
        rows=completed,
        preview=pairs_markdown(pairs[:1], GLANCE),
        share_completed=round(completed / manifest["rows_in"], 4) if manifest["rows_in"] else None,
        **{name: manifest[name] for name in COUNTS},
        **{f"discarded_{name}": count for name, count in manifest["discarded"].items() if count},
        tokens_per_completion=round(manifest["completion_tokens"] / completed, 1) if completed else None,
        **of_dataset(manifest),
        more_rows=dg.MetadataValue.md(pairs_markdown(pairs)),
        sampling=", ".join(f"{name} {value}" for name, value in recipe["sampling"].items()),
        prompt=prompt_text(lineage.prompts[prompt]),
        corpus=dg.MetadataValue.url(corpus) if corpus else None,
        model=dg.MetadataValue.url(model) if model else None,
        run_cost=dg.MetadataValue.json({**cost, "prompts": len(cost["prompts"])}),
    )
