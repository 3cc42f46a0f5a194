"""The release: the datasets of a study as they are published, one configuration per partition."""

from collections import defaultdict

import dagster as dg

from finephrase_dagster.artifacts.key import AUDIT, DATASET, RELEASE
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.release import release_artifact
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs
from finephrase_dagster.release.content import COLUMNS, ORIGIN
from finephrase_dagster.release.export import materialize_configuration
from finephrase_dagster.release.publish import check_release
from resources.warehouse import Warehouse


def build_release(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `release/dataset`, of a study that is released."""
    released = lineage.study.released
    if not released:
        return []
    uses: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for configuration, components in released.items():
        for component in components:
            uses[component.cell or ""][component.prompt or ""].append(configuration)

    cells = {lineage.study.cell(cell): used for cell, used in uses.items()}
    deps = [needs(kind, used, cell=cell) for kind in (DATASET, AUDIT) for cell, used in cells.items()]

    @stage_asset(
        lineage,
        RELEASE,
        description="The released datasets: Parquet files of bounded size, each row with its origin. "
        "`finephrase release` adds the dataset card and uploads them if it is told to.",
        kinds={"parquet"},
        owner="generation",
        partitions=released,
        deps=deps,
        columns={name: (str(type_), text) for name, (type_, text) in {**COLUMNS, **ORIGIN}.items()},
    )
    def dataset(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        configuration = context.partition_key
        check_release(lineage, [configuration])
        manifest = materialize_configuration(lineage, configuration, context.log.info)
        artifact = release_artifact(lineage, configuration)
        warehouse.record(artifact)
        return materialized(
            artifact,
            rows=manifest["rows"],
            completion_tokens=manifest["completion_tokens"],
            files=len(manifest["files"]),
            datasets=", ".join(component.name for component in released[configuration]),
            content=manifest["content"],
        )

    return [dataset]
