"""Generators: the models that rephrase, ready on disk: packaged, downloaded from the hub, or in a folder."""

import dagster as dg

from assets import descriptions
from finephrase_dagster.artifacts.key import MODEL
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.generators.product import make_generator
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.placement import preparing
from resources.warehouse import Warehouse


def build_generators(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `generators/model`."""

    @stage_asset(
        lineage,
        MODEL,
        description=descriptions.of_generators(lineage),
        kinds={"huggingface", "pytorch"},
        owner="generation",
        partitions=lineage.study.generators,
        placement=preparing(),
    )
    def model(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name = context.partition_key
        generator, artifact = lineage.study.generators[name], lineage.generator(name)
        manifest = artifact.materialize(lambda folder: make_generator(generator, folder))
        warehouse.record(artifact)
        page = descriptions.hub_model(generator)
        return materialized(
            artifact,
            hub=dg.MetadataValue.url(page) if page else None,
            license=generator.license,
            sampling=dg.MetadataValue.json(manifest["sampling"]),
        )

    return [model]
