"""Early stop: students compared after their first steps, so that only the best are trained to their end."""

import dagster as dg

from assets.previews import tasks
from assets.training import student_asset
from finephrase_dagster.artifacts.key import EARLY_SCORES, EARLY_STUDENT
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import needs_same
from finephrase_dagster.orchestration.placement import evaluating
from resources.evaluator import Evaluator
from resources.warehouse import Warehouse


def build_early(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the assets `early/student` and `early/scores` of a study with an early stop."""
    if not lineage.study.rivals:
        return []
    student = student_asset(
        lineage,
        EARLY_STUDENT,
        description="A student after the first steps on its mixture. The best students continue from here.",
        runs=lineage.study.rivals,
        artifact=lineage.early,
        train=lambda trainer: trainer.train_early,
    )
    return [student, _scores(lineage)]


def _scores(lineage: Lineage) -> dg.AssetsDefinition:
    runs = lineage.study.rivals

    @stage_asset(
        lineage,
        EARLY_SCORES,
        description="The scores that decide which students are trained to their end.",
        kinds={"huggingface"},
        owner="evaluation",
        partitions=runs,
        deps=[needs_same(EARLY_STUDENT)],
        placement=evaluating(),
    )
    def scores(context: dg.AssetExecutionContext, evaluator: Evaluator, warehouse: Warehouse) -> dg.MaterializeResult:
        run, log = context.partition_key, context.log.info
        artifact = lineage.early_scores(run)
        manifest = artifact.materialize(lambda folder: evaluator.evaluate_early(lineage, run, folder, log=log))
        warehouse.record(artifact)
        return materialized(
            artifact,
            macro=manifest["macro"],
            micro=manifest["micro"],
            **manifest["categories"],
            preview=tasks(manifest),
        )

    return scores
