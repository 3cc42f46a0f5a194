"""The plan: what the study would run, what exists and what it costs, as an asset that starts nothing else."""

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.key import PLAN
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.asset import Check, stage_asset
from finephrase_dagster.orchestration.plan_page import CHECKS, outcomes, page_metadata
from finephrase_dagster.plan.plan import Terms, plan
from finephrase_dagster.plan.published import Published


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
        "dollars, time and disk. The sensor observe_prompts keeps it up to date. Materialize it to see the cost with "
        "other GPUs and prices; it starts nothing else.",
        kinds={"report"},
        owner="generation",
        checks=[Check(name, description) for name, description in CHECKS.items()],
    )
    def study_plan(config: Pricing) -> dg.MaterializeResult:
        price = Published.read().gpu_hour_dollars if config.gpu_hour_dollars is None else config.gpu_hour_dollars
        result = plan(lineage, Terms(gpus=config.gpus, gpu_hour_dollars=price, goodput=config.goodput))
        return dg.MaterializeResult(
            metadata=page_metadata(result),
            check_results=[
                dg.AssetCheckResult(check_name=name, severity=dg.AssetCheckSeverity.WARN, **one._asdict())
                for name, one in outcomes(result).items()
            ],
        )

    return [study_plan]
