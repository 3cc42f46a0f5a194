"""Source corpora: one partition per source, written once as numbered Parquet shards."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg

from assets import descriptions
from assets.previews import documents
from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.fingerprint import SHORT
from finephrase_dagster.artifacts.key import CORPUS
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.corpora.journal import JOURNAL
from finephrase_dagster.corpora.shards import write_corpus
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from resources.warehouse import Warehouse

SHARD_DOCUMENTS = 10_000
COLUMNS = {
    "id": ("string", "the document's id, the same every time the source is read"),
    "text": ("string", "the document"),
    "sha256": ("string", "hash of the text"),
    "source": ("string", "where the document comes from: a file, a package or a row"),
}
FIGURES = ("tokens", "tokens_basis", "characters", "text_bytes", "seconds")


def build_sources(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `sources/corpus`."""

    @stage_asset(
        lineage,
        CORPUS,
        description=descriptions.of_sources(lineage),
        kinds={"parquet"},
        owner="corpora",
        partitions=lineage.study.sources,
        columns=COLUMNS,
    )
    def corpus(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name = context.partition_key
        source, artifact = lineage.study.sources[name], lineage.source(name)
        manifest = artifact.materialize(lambda folder: _write(lineage, name, folder, context.log.info))
        (artifact.folder / JOURNAL).unlink(missing_ok=True)  # the manifest holds the same figures
        warehouse.record(artifact)
        page = source.page
        return materialized(
            artifact,
            rows=manifest["rows"],
            preview=documents(artifact.folder, rows=1),
            **{figure: manifest[figure] for figure in FIGURES},
            more_rows=dg.MetadataValue.md(documents(artifact.folder)),
            hub=dg.MetadataValue.url(page) if page else None,
            license=getattr(source, "license", None),
            dropped=dg.MetadataValue.json(manifest["dropped"]),
        )

    return [corpus]


def _write(lineage: Lineage, name: str, folder: Path, log: Callable[[str], None]) -> Contents:
    reader = read_source(lineage.study.sources[name], name, requirements=lineage.paths.requirements)
    facts = write_corpus(reader, folder, shard_documents=SHARD_DOCUMENTS, log=log)
    return Contents(files=(), facts=facts.figures, version=facts.content[:SHORT])
