"""The throughput sweep: the fastest settings of each generator's engine, which its next runs and plans use."""

from collections import defaultdict

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.key import CORPUS, MODEL, SWEEP
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration import devices
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs, needs_same
from finephrase_dagster.orchestration.placement import sweeping
from finephrase_dagster.plan.published import Published
from finephrase_dagster.study.paths import resolve_path
from finephrase_dagster.throughput.summary import conclusions, tier_markdown
from finephrase_dagster.throughput.sweep_file import SWEEP_FILE, read_sweep


class Sweep(dg.Config):
    """What is measured, and at which price."""

    file: str = Field(default=str(SWEEP_FILE), description="sweep file; a relative path starts at the clone")
    gpu_hour_dollars: float | None = Field(
        default=None, ge=0, description="price of one GPU-hour; default: the published price"
    )


def build_sweep(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `throughput/sweep`, of the generators that a cell uses."""
    study = lineage.study
    sources = {cell.generator: cell.source for cell in reversed(study.cells)}  # of the first cell of each
    names = [name for name in study.generators if name in sources]
    if not names:
        return []
    uses: dict[str, list[str]] = defaultdict(list)
    for name in names:
        uses[sources[name]].append(name)

    @stage_asset(
        lineage,
        SWEEP,
        description="The fastest settings of a generator's engine, measured on this machine with the study's own "
        "documents. No other asset needs it and nothing launches it by itself. Once it is made, the generator's next "
        "runs and the plan use its settings; completions keep their distribution.",
        kinds={"vllm"},
        owner="generation",
        partitions=names,
        deps=[needs_same(MODEL), needs(CORPUS, uses)],
        placement=sweeping([study.generators[name] for name in names]),
    )
    def throughput(context: dg.AssetExecutionContext, config: Sweep) -> dg.MaterializeResult:
        from finephrase_dagster.throughput.sweep import sweep

        price = Published.read().gpu_hour_dollars if config.gpu_hour_dollars is None else config.gpu_hour_dollars
        artifact = sweep(
            lineage,
            context.partition_key,
            read_sweep(resolve_path(config.file)),
            devices=devices.machine_devices(),
            leases=devices,
            gpu_hour_dollars=price,
            log=context.log.info,
        )
        manifest = artifact.manifest()
        best, cost = manifest["best"], manifest["cost"]
        return materialized(
            artifact,
            preview="\n\n".join(map(tier_markdown, manifest["tiers"])),
            **{name: best[name] for name in ("tokens_per_second", "low", "high", "concurrency")},
            speedup=manifest["speedup"],
            measurements=cost["spent"]["measurements"],
            seconds=cost["spent"]["seconds"],
            dollars=cost["spent"]["dollars"],
            saved_seconds=cost["saved"]["seconds"],
            best=best["name"],
            engine=dg.MetadataValue.json(best["engine"]),
            conclusions=dg.MetadataValue.md("\n".join(f"- {line}" for line in conclusions(manifest))),
        )

    return [throughput]
