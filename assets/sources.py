"""Source corpora: one partition per source, written once as numbered Parquet shards."""

import dagster as dg

from assets import descriptions
from assets.previews import documents
from finephrase_dagster.artifacts.key import CORPUS
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.corpora.journal import JOURNAL
from finephrase_dagster.corpora.shards import make_corpus
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from resources.warehouse import Warehouse

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
        requirements = lineage.paths.requirements
        manifest = artifact.materialize(
            lambda folder: make_corpus(source, name, requirements, folder, context.log.info)
        )
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
