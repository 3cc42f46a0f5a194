"""Source corpora: one partition a source, written once as numbered Parquet shards."""

from pathlib import Path

import dagster as dg

from assets.previews import documents
from finephrase_dagster.corpora.shards import write_corpus
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.events import materialized
from finephrase_dagster.partitions import CORPUS, asset_spec, static
from finephrase_dagster.study.artifact import Product
from finephrase_dagster.study.fingerprint import SHORT
from finephrase_dagster.study.lineage import Lineage
from resources.warehouse import Warehouse

SHARD_DOCUMENTS = 10_000
COLUMNS = {"id": "string", "text": "string", "sha256": "string", "source": "string"}


def build_sources(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The asset `sources/corpus`."""

    @dg.multi_asset(
        name="corpus",
        specs=[
            asset_spec(
                CORPUS,
                group="sources",
                description="Raw text to rephrase and to mix: documents with stable ids and a content hash, in "
                "numbered Parquet shards.",
                kinds={"parquet"},
                owner="corpora",
                columns=COLUMNS,
            )
        ],
        partitions_def=static(lineage.study.sources),
    )
    def corpus(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name = context.partition_key
        artifact = lineage.source(name)
        manifest = artifact.made_by(lambda folder: _write(lineage, name, folder))
        warehouse.record(artifact)
        return materialized(
            artifact,
            rows=manifest["rows"],
            preview=documents(artifact.folder),
            characters=manifest["characters"],
            dropped=dg.MetadataValue.json(manifest["dropped"]),
        )

    return [corpus]


def _write(lineage: Lineage, name: str, folder: Path) -> Product:
    rows = read_source(lineage.study.sources[name], name, requirements=lineage.places.requirements)
    facts = write_corpus(rows, folder, shard_documents=SHARD_DOCUMENTS, name=name)
    return Product(
        files=facts.files,
        facts={
            "rows": facts.rows,
            "characters": facts.characters,
            "text_bytes": facts.bytes,
            "dropped": facts.dropped,
            "order": facts.order,
        },
        version=facts.content[:SHORT],
    )
