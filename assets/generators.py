"""Generators: the models that rephrase, ready on disk; trained here, or fetched from the hub."""

from functools import partial

import dagster as dg

from assets import descriptions
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.generators.product import make_generator
from finephrase_dagster.orchestration.devices import leased_here
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import CORPUS, MODEL, asset_spec, needs, static
from finephrase_dagster.orchestration.placement import making_models
from finephrase_dagster.orchestration.retries import retried
from finephrase_dagster.study.spec import Study
from resources.warehouse import Warehouse


def build_generators(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The asset `generators/model`."""

    @dg.multi_asset(
        name="model",
        specs=[
            asset_spec(
                MODEL,
                group="generators",
                description=descriptions.of_generators(lineage),
                kinds={"huggingface", "pytorch"},
                owner="generation",
                deps=[needs(CORPUS, _trained_on(lineage.study))],
            )
        ],
        partitions_def=static(lineage.study.generators),
        **making_models().arguments,
    )
    @retried
    def model(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name = context.partition_key
        artifact = lineage.generator(name)
        log = context.log.info
        device = partial(leased_here, f"the training of {name}", log=log)
        manifest = artifact.materialize(lambda folder: make_generator(lineage, name, folder, log=log, device=device))
        warehouse.record(artifact)
        generator = lineage.study.generators[name]
        page = descriptions.hub_model(generator)
        return materialized(
            artifact,
            **{figure: manifest.get(figure) for figure in ("parameters", "tokens_per_second", "final_loss", "seconds")},
            hub=dg.MetadataValue.url(page) if page else None,
            license=generator.license,
            sampling=dg.MetadataValue.json(manifest["sampling"]),
        )

    return [model]


def _trained_on(study: Study) -> dict[str, list[str]]:
    return {
        source: [
            name
            for name, generator in study.generators.items()
            if generator.trained_here and generator.embedded and source in generator.embedded.sources
        ]
        for source in study.sources
    }
