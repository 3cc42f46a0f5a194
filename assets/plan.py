"""The plan: what the study would run, what exists and what it costs, as an asset that starts nothing else."""

from collections.abc import Iterable

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.key import PLAN
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.asset import Check, stage_asset
from finephrase_dagster.plan.plan import Plan, Terms, plan
from finephrase_dagster.plan.published import Published
from finephrase_dagster.plan.text import plan_markdown, stale_markdown

COSTS = ("gpu_hours", "dollars", "wall_hours")


class Pricing(dg.Config):
    """The assumptions that costs are computed with."""

    gpus: int = Field(default=1, ge=1, description="number of GPUs that work at the same time")
    gpu_hour_dollars: float | None = Field(
        default=None, ge=0, description="price of one GPU-hour; default: the published price"
    )
    goodput: float = Field(default=1.0, gt=0, le=1, description="share of the GPUs' time spent working; 1 is ideal")


def build_plan(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `study/plan` with its two checks."""

    @stage_asset(
        lineage,
        PLAN,
        description="What is current, stale and missing, and what the rest would cost: documents, tokens, GPU-hours, "
        "dollars, time and disk. Materialize it to see the study's present state; it starts nothing else.",
        kinds={"report"},
        owner="generation",
        checks=[
            Check("current", "every item is complete by its current recipe"),
            Check("priced", "the cost of every item that would run is known"),
        ],
    )
    def study_plan(config: Pricing) -> dg.MaterializeResult:
        price = Published.read().gpu_hour_dollars if config.gpu_hour_dollars is None else config.gpu_hour_dollars
        terms = Terms(gpus=config.gpus, gpu_hour_dollars=price, goodput=config.goodput)
        result = plan(lineage, terms)
        total = result.as_json()["total"]
        return dg.MaterializeResult(
            metadata={
                "to_do": total["partitions"],
                "exists": total["exists"]["partitions"],
                **({} if result.unknown else {name: total[name] for name in COSTS}),  # a part is not the sum
                "disk_bytes": total["disk_bytes"],
                "plan": dg.MetadataValue.md(plan_markdown(result)),
                "stale": dg.MetadataValue.md(stale_markdown(result)),
                **({"warnings": dg.MetadataValue.md(_listed(result.warnings))} if result.warnings else {}),
            },
            check_results=[_current(result), _priced(result)],
        )

    return [study_plan]


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _current(result: Plan) -> dg.AssetCheckResult:
    total = result.as_json()["total"]
    return dg.AssetCheckResult(
        check_name="current",
        passed=not total["partitions"],
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{total['stale']} stale, {total['missing']} missing, {total['exists']['partitions']} current, "
        f"{total['failed']} audits failed",
        metadata={"stale": dg.MetadataValue.md(stale_markdown(result))},
    )


def _priced(result: Plan) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="priced",
        passed=not result.unknown,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(result.unknown) or f"{result.dollars:,.2f} dollars for what would run",
    )
