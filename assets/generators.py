"""Generators: the models that rephrase, ready on disk; trained here or downloaded from the hub."""

from functools import partial

import dagster as dg

from assets import descriptions
from finephrase_dagster.artifacts.key import CORPUS, MODEL
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.generators.product import make_generator
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.devices import leased_here
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs
from finephrase_dagster.orchestration.placement import making_models
from finephrase_dagster.study.spec import Study
from resources.warehouse import Warehouse

FIGURES = ("parameters", "tokens_per_second", "final_loss", "seconds")


def build_generators(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `generators/model`."""

    @stage_asset(
        lineage,
        MODEL,
        description=descriptions.of_generators(lineage),
        kinds={"huggingface", "pytorch"},
        owner="generation",
        partitions=lineage.study.generators,
        deps=[needs(CORPUS, _trained_on(lineage.study))],
        placement=making_models(),
    )
    def model(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name, log = context.partition_key, context.log.info
        generator, artifact = lineage.study.generators[name], lineage.generator(name)
        device = partial(leased_here, f"the training of {name}", log=log)
        manifest = artifact.materialize(lambda folder: make_generator(lineage, name, folder, log=log, device=device))
        warehouse.record(artifact)
        page = descriptions.hub_model(generator)
        return materialized(
            artifact,
            **{figure: manifest.get(figure) for figure in FIGURES},
            hub=dg.MetadataValue.url(page) if page else None,
            license=generator.license,
            sampling=dg.MetadataValue.json(manifest["sampling"]),
        )

    return [model]


def _trained_on(study: Study) -> dict[str, list[str]]:
    """Return, by source, the generators that are trained on it."""
    return {
        source: [
            name
            for name, generator in study.generators.items()
            if generator.trained_here and generator.embedded and source in generator.embedded.sources
        ]
        for source in study.sources
    }
