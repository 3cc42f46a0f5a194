"""Source corpora: one partition a source, written once as numbered Parquet shards."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg

from assets import descriptions
from assets.previews import documents
from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.fingerprint import SHORT
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.corpora.progress import PROGRESS
from finephrase_dagster.corpora.shards import write_corpus
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import CORPUS, asset_spec, static
from finephrase_dagster.orchestration.placement import preparing
from finephrase_dagster.orchestration.retries import retried
from resources.warehouse import Warehouse

SHARD_DOCUMENTS = 10_000
COLUMNS = {
    "id": ("string", "the same at every reading"),
    "text": ("string", "the document"),
    "sha256": ("string", "of the text"),
    "source": ("string", "where it stood: a file, a package, a row"),
}


def build_sources(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The asset `sources/corpus`."""

    @dg.multi_asset(
        name="corpus",
        specs=[
            asset_spec(
                CORPUS,
                group="sources",
                description=descriptions.of_sources(lineage),
                kinds={"parquet"},
                owner="corpora",
                columns=COLUMNS,
            )
        ],
        partitions_def=static(lineage.study.sources),
        **preparing().arguments,
    )
    @retried
    def corpus(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name = context.partition_key
        artifact = lineage.source(name)
        manifest = artifact.materialize(lambda folder: _write(lineage, name, folder, context.log.info))
        (artifact.folder / PROGRESS).unlink(missing_ok=True)  # the manifest says it all
        warehouse.record(artifact)
        return materialized(
            artifact,
            rows=manifest["rows"],
            preview=documents(artifact.folder, rows=1),
            tokens=manifest["tokens"],
            tokens_basis=manifest["tokens_basis"],
            characters=manifest["characters"],
            text_bytes=manifest["text_bytes"],
            seconds=manifest["seconds"],
            more_rows=dg.MetadataValue.md(documents(artifact.folder)),
            hub=dg.MetadataValue.url(page) if (page := lineage.study.sources[name].page) else None,
            license=getattr(lineage.study.sources[name], "license", None),
            dropped=dg.MetadataValue.json(manifest["dropped"]),
        )

    return [corpus]


def _write(lineage: Lineage, name: str, folder: Path, log: Callable[[str], None]) -> Contents:
    reader = read_source(lineage.study.sources[name], name, requirements=lineage.paths.requirements)
    facts = write_corpus(reader, folder, shard_documents=SHARD_DOCUMENTS, log=log)
    return Contents(files=(), facts=facts.figures, version=facts.content[:SHORT])
